"""Training loops side by side: ours as the commands run it, and plain ones as tutorials write them.

Each gets a `StepTimes`, which takes their times by the batches that they ask for; a process of its
own runs it, since ours sets the allocator. No plain loop waits for a value at each step: on a GPU
that would compare the waiting.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import Settings
from benchmarks.timing import StepTimes
from common.command.flags import Options
from common.images.sampling import MicroBatch
from common.processes import launcher, memory
from common.processes.ranks import World
from common.recipe import Focus
from common.training.loop import train
from common.training.task import Task
from pretrain.data.augment import CIFAR10_MEAN, CIFAR10_STD, ResidentImages
from pretrain.data.image_sets import PixelSet
from pretrain.data.splits import Batch
from pretrain.networks import build_network
from pretrain.recipes import RECIPES, Recipe
from pretrain.task import classification_loss

Load = Callable[[Iterable[MicroBatch]], Iterator[Any]]
Precision = Literal["fp32", "bf16"]
RECIPE_OF = {
    "cifar-resnet20": "cifar10-resnet20",
    "cifar-resnet56": "cifar10-resnet56",
    "cifar-resnet110": "cifar10-resnet110",
    "vgg19-bn": "cifar10-vgg19",
    "densenet100-bc": "cifar10-densenet100",
    "wrn-28-10": "cifar10-wrn28",
    "resnet50": "imagenet-resnet50",
}
"""Network to the recipe whose settings ours takes."""


@dataclass(frozen=True)
class Side:
    """How a loop runs."""

    loop: str
    """Which loop."""
    precision: Precision
    """Bfloat16 on a GPU, float32 on a CPU, unless the side's name says bf16."""
    graphed: bool
    """With CUDA graphs; on a CPU, which has none, without."""
    tuned: bool
    """Whether cuDNN tries its kernels first and keeps the fastest."""
    backend: str | None
    """What `torch.compile` compiles with; None does not compile."""

    @staticmethod
    def of(settings: Settings) -> "Side":
        """Read the words of a name such as "ours-compiled-graphed"."""
        loop, *words = str(settings.loop).split("-")
        cuda = settings.device.type == "cuda"
        backend = "eager" if settings.tiny else "inductor"
        return Side(
            loop=loop,
            precision="bf16" if cuda or "bf16" in words else "fp32",
            graphed=cuda and "graphed" in words,
            tuned="tuned" in words,
            backend=backend if "compiled" in words else None,
        )


def sides_of(
    settings: Settings, cpu: tuple[str, ...], gpu: tuple[str, ...], compiled: tuple[str, ...]
) -> tuple[str, ...]:
    """Choose the sides that a device is for, or the compiled ones if these are asked for."""
    if settings.compiled:
        return compiled
    return gpu if settings.device.type == "cuda" else cpu


def random_images(count: int) -> PixelSet:
    """Make a set in the shape of CIFAR-10."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return PixelSet(pixels, rng.integers(0, 10, count), tuple("abcdefghij"))


def train_ours(
    recipe: Recipe,
    network: nn.Module,
    load: Load,
    world: World,
    times: StepTimes,
    backend: str | None = None,
    finish: Callable[[Any], Batch] = lambda batch: batch,
) -> None:
    """Train an epoch as `python -m pretrain train` does.

    Args:
        recipe: Its settings.
        network: The network.
        load: Yields what `finish` makes batches of.
        world: This process.
        times: Of the steps.
        backend: Of torch.compile; None compiles nothing.
        finish: Part of a step, and so of its graph.
    """
    if world.device.type == "cpu":
        memory.keep_freed_memory()
    network.to(world.device).to(memory_format=torch.channels_last)
    if backend:
        network.compile(dynamic=False, backend=backend)
    task = Task(
        model=network,
        num_images=times.batches * recipe.optimization.batch_size,
        load=lambda micro_batches: times.watch(load(micro_batches)),
        loss=classification_loss(recipe, finish),
        evaluate=lambda model: {"val_accuracy": 0.0},
        metric="val_accuracy",
    )
    train(task, replace(recipe, focus=Focus()), Options(), world, None)


def recipe_for(network: str, batch: int, precision: Precision, *, graphed: bool = False) -> Recipe:
    """Return the recipe of a network with this batch, for one epoch."""
    recipe = RECIPES[RECIPE_OF[network]]()
    short = replace(
        recipe.optimization,
        batch_size=batch,
        epochs=1,
        milestones=(),
        precision=precision,
        cuda_graphs=graphed,
    )
    return replace(recipe, optimization=short)


def our_cifar(
    network: str, data: PixelSet, batch: int, side: Side, device: torch.device, times: StepTimes
) -> None:
    """Train on images that lie on the device."""
    recipe = recipe_for(network, batch, side.precision, graphed=side.graphed)
    resident = ResidentImages(data, recipe.images.padding, seed=0, device=device)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor]]:
        for micro_batch in micro_batches:
            yield (resident.draw(micro_batch.epoch, micro_batch.indices),)

    built = build_network(network, len(data.classes), block=recipe.block)
    train_ours(
        recipe,
        built,
        load,
        World(device),
        times,
        side.backend,
        lambda loaded: resident.take(*loaded),
    )


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


def plain_cifar(
    network: str, data: PixelSet, batch: int, side: Side, device: torch.device, times: StepTimes
) -> None:
    """Train with a DataLoader of transformed pictures."""
    loader = DataLoader(
        Pictures(data),
        batch_size=batch,
        shuffle=True,
        num_workers=min(8, launcher.usable_cores()),
        pin_memory=device.type == "cuda",
    )
    recipe = recipe_for(network, batch, side.precision)
    built = build_network(network, len(data.classes), block=recipe.block)
    train_plain(built, loader, recipe.optimization.weight_decay, side.precision, device, times)


def fed_cifar(network: str, batch: int, side: Side, device: torch.device, times: StepTimes) -> None:
    """Train on a few batches that lie on the device, whole and normalised: nothing to load."""
    labels = torch.randint(0, 10, (batch,), device=device)
    few = [(torch.randn(batch, 3, 32, 32, device=device), labels) for _ in range(4)]
    batches = islice(cycle(few), times.batches)
    recipe = recipe_for(network, batch, side.precision)
    built = build_network(network, 10, block=recipe.block)
    train_plain(built, batches, recipe.optimization.weight_decay, side.precision, device, times)


def train_plain(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    weight_decay: float,
    precision: Precision,
    device: torch.device,
    times: StepTimes,
) -> None:
    """Train a pass as tutorials do, but for the sums, which stay on the device."""
    network = network.to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay
    )
    total_loss, correct = (torch.zeros((), device=device) for _ in range(2))
    for images, labels in times.watch(batches):
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.detach() * len(labels)
        correct += (logits.detach().argmax(1) == labels).sum()
    print(f"loss {total_loss.item():.3f}, {correct.item():.0f} correct")
