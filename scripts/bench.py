"""Benchmarks: ours and the alternative in turn, in one call, on random data; medians.

python scripts/bench.py layer      FocusedDropout against x * 1.0, forward and backward, CPU
python scripts/bench.py score      VOC metric, and pycocotools, on the size of VOC2007 test
python scripts/bench.py cifar      training a ResNet-20: our loop against a plain one, CPU
python scripts/bench.py checkpoint saving and going on, beside a plain torch.save
python scripts/bench.py retinanet  training and detecting: ours against torchvision's, CPU or GPU
"""

import argparse
import importlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common import FocusedDropout, allocator
from common.distributed import World
from common.sampling import MicroBatch
from common.settings import Focus, Optimization
from common.train_loop import Options, Stage, train
from detect.coco_score import score_coco
from detect.detections import Detections, GroundTruth
from detect.voc import VOC_CLASSES
from detect.voc_score import score_voc
from pretrain.augment import CIFAR10_MEAN, CIFAR10_STD, ResidentImages
from pretrain.image_sets import PixelSet
from pretrain.networks import build_network
from pretrain.recipes import Images, Recipe
from pretrain.task import classification_loss

ELSEWHERE = ("checkpoint", "retinanet")
"""Those in files of their own, bench_NAME.py beside this one."""
CPU = torch.device("cpu")
BATCH = 128
STEPS = 30
WARM_UP = 5
ROUNDS = 3


def seconds(call: Callable[[], object], repeats: int) -> str:
    """Time a call; return the median and the range."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f}, n={repeats})"


def synthetic(num_images: int, num_detections: int) -> tuple[GroundTruth, Detections]:
    """Make three objects an image, and detections: half near an object, half anywhere."""
    rng = np.random.default_rng(0)
    num_objects = 3 * num_images
    image = np.repeat(np.arange(num_images), 3)
    label = rng.integers(0, len(VOC_CLASSES), num_objects)
    corner = rng.integers(0, 250, (num_objects, 2))
    box = np.hstack([corner, corner + rng.integers(20, 200, (num_objects, 2))]).astype(np.float64)
    truth = GroundTruth(
        classes=VOC_CLASSES,
        image_ids=tuple(f"{number:06}" for number in range(num_images)),
        sizes=np.full((num_images, 2), 500),
        image=image,
        label=label,
        box=box,
        difficult=rng.random(num_objects) < 0.2,
    )
    source = rng.integers(0, num_objects, num_detections)
    near = rng.random(num_detections) < 0.5
    shift = rng.normal(0, np.where(near, 8, 120)[:, None], (num_detections, 2))
    detections = Detections(
        image=image[source],
        label=np.where(near, label[source], rng.integers(0, len(VOC_CLASSES), num_detections)),
        score=rng.random(num_detections),
        box=box[source] + np.hstack([shift, shift]),
    )
    return truth, detections


def score() -> None:
    """Time both metrics on 4,952 images with 200,000 detections of 20 classes."""
    truth, detections = synthetic(4952, 200_000)
    print("4,952 images, 14,856 objects, 200,000 detections, 20 classes")
    print(f"score_voc   {seconds(lambda: score_voc(truth, detections), 7)}")
    print(f"score_coco  {seconds(lambda: score_coco(truth, detections), 1)}  (pycocotools)")


def layer() -> None:
    """Time forward and backward of the active layer and of a copy, in turn, on one thread."""
    torch.set_num_threads(1)
    focused = FocusedDropout().train()
    focused.active = True
    for shape in ((128, 128, 16, 16), (32, 1024, 14, 14)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).relu().to(memory_format=layout).requires_grad_()
            gradient = torch.randn(shape).to(memory_format=layout)
            times: dict[str, list[float]] = {"x * 1.0": [], "layer": []}
            for _ in range(83):
                for name, call in (("x * 1.0", lambda x: x * 1.0), ("layer", focused)):
                    start = time.perf_counter()
                    call(x).backward(gradient)
                    times[name].append(time.perf_counter() - start)
                    x.grad = None
            copy, ours = (1e3 * statistics.median(seen[3:]) for seen in times.values())
            print(
                f"{'x'.join(map(str, shape)):15} {str(layout)[6:]:17} "
                f"x * 1.0 {copy:.1f} ms, layer {ours:.1f} ms, ratio {ours / copy:.2f}"
            )


def random_images(count: int) -> PixelSet:
    """Make a set in the shape of CIFAR-10."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return PixelSet(pixels, rng.integers(0, 10, count), tuple("abcdefghij"))


def images_per_second(starts: list[float], warm_up: int) -> float:
    """Take the rate from the times at which steps began, those of the warm-up left out."""
    return BATCH * (len(starts) - 1 - warm_up) / (starts[-1] - starts[warm_up])


def our_loop(data: PixelSet, precision: Literal["fp32", "bf16"]) -> list[float]:
    """Train an epoch as `python -m pretrain train` does; return when its steps began."""
    allocator.keep_freed_memory()
    recipe = Recipe(
        network="cifar-resnet20",
        images=Images(dataset="cifar10", size=32, crop="pad"),
        optimization=Optimization(lr=0.1, batch_size=BATCH, epochs=1, precision=precision),
    )
    network = build_network(recipe.network, len(data.classes))
    resident = ResidentImages(data, recipe.images.padding, seed=0, device=CPU)
    starts: list[float] = []

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        for micro_batch in micro_batches:
            yield resident.train_batch(micro_batch.epoch, micro_batch.indices)

    stage = Stage(
        model=network.to(memory_format=torch.channels_last),
        num_images=len(data.labels),
        load=load,
        loss=classification_loss(recipe),
        evaluate=lambda model: {"val_accuracy": 0.0},
        metric="val_accuracy",
        at_step=lambda done: starts.append(time.perf_counter()),
    )
    train(stage, recipe.optimization, Focus(), World(CPU), None, Options())
    return starts


class Pictures(Dataset[tuple[Tensor, int]]):
    """The same images as most code keeps them: in PIL, transformed one by one."""

    def __init__(self, data: PixelSet) -> None:
        self._data = data
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._data.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._transform(Image.fromarray(self._data.pixels[index]))
        return image, int(self._data.labels[index])


def plain_loop(data: PixelSet) -> list[float]:
    """Train an epoch with a loop as tutorials write it; return when its steps began."""
    loader = DataLoader(Pictures(data), batch_size=BATCH, shuffle=True, num_workers=2)
    network = build_network("cifar-resnet20", len(data.classes)).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    total_loss, correct, starts = 0.0, 0, []
    for images, labels in loader:
        starts.append(time.perf_counter())
        optimizer.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum().item())
    print(f"loss {total_loss / len(data.labels):.3f} accuracy {correct / len(data.labels):.3f}")
    return starts


LOOPS: dict[str, Callable[[PixelSet], list[float]]] = {
    "plain": plain_loop,
    "ours": lambda data: our_loop(data, "fp32"),
    "ours-bf16": lambda data: our_loop(data, "bf16"),
}


def one_loop(name: str, threads: int) -> None:
    """Time a loop in this process and print its rate."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    print(images_per_second(LOOPS[name](random_images(STEPS * BATCH)), WARM_UP))


def cifar(threads: int) -> None:
    """Time the loops in turn, each in a process of its own: the allocator is set for a process."""
    rates: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(ROUNDS):
        for name, seen in rates.items():
            command = [sys.executable, __file__, "cifar", "--threads", str(threads), "--loop", name]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seen.append(float(child.stdout.splitlines()[-1]))
    print(f"ResNet-20, batch {BATCH}, {threads} threads, steps {WARM_UP + 1} to {STEPS - 1}")
    for name, seen in rates.items():
        ratios = [rate / plain for rate, plain in zip(seen, rates["plain"], strict=True)]
        print(
            f"{name:10} {spread(seen, '.0f')} images/s, {spread(ratios, '.2f')} times plain, "
            f"n={ROUNDS}"
        )


def spread(values: list[float], form: str) -> str:
    """Write the median and the range."""
    low, high = (format(bound(values), form) for bound in (min, max))
    return f"{statistics.median(values):{form}} ({low} to {high})"


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["layer", "score", "cifar", *ELSEWHERE]
    parser.add_argument("name", choices=names, help="what to measure")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cifar: CPU threads")
    parser.add_argument("--loop", choices=LOOPS, help="cifar: one loop only, in this process")
    arguments = parser.parse_args()
    if arguments.loop:
        one_loop(arguments.loop, arguments.threads)
        return
    print(f"{platform.machine()}, torch {torch.__version__}, numpy {np.__version__}")
    if arguments.name == "cifar":
        cifar(arguments.threads)
    elif arguments.name in ELSEWHERE:
        importlib.import_module(f"bench_{arguments.name}").run()
    else:
        {"layer": layer, "score": score}[arguments.name]()


if __name__ == "__main__":
    main()
