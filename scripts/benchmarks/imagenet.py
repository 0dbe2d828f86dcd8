"""A training step of ResNet-50 at 224 pixels: our loop against a plain one around torchvision's.

Synthetic batches: ours takes bytes, as its loader delivers them, the other normalised floats. On a
GPU both in bfloat16, and the plain one in channels_last too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import torch
import torchvision.models as models

from benchmarks import measure
from benchmarks.floors import count_training, floors, rates
from benchmarks.loops import Side, recipe_for, sides_of, train_ours, train_plain
from benchmarks.measure import Comparison, Run, Settings
from benchmarks.timing import StepTimes
from common.images.sampling import MicroBatch
from common.processes.ranks import World
from pretrain.data.splits import Batch
from pretrain.networks import build_network

ON_CPU = ("ours", "torchvision")
ON_GPU = ("ours", "ours-graphed", "ours-tuned", "torchvision", "torchvision-channels_last")
COMPILED = ("ours-compiled", "ours-compiled-tuned", "ours-compiled-graphed")
LOOPS = tuple(dict.fromkeys((*ON_CPU, *ON_GPU, *COMPILED)))
CLASSES = 1000
FEW = 4
"""Batches that take turns."""
PUBLISHED = (7140.0, "MLPerf Training, ResNet-50 on MXNet and DALI, a GPU of an H100 machine")


@dataclass(frozen=True)
class Case:
    """A network, images of a step and their side; steps, regions, and processes of each side."""

    network: str
    batch: int
    side: int
    steps: int
    rounds: int
    regions: int = 1
    warm_up: int = 2


CPU_CASE = Case("resnet50", 4, 224, 4, 2)
GPU_CASE = Case("resnet50", 256, 224, 20, 1, regions=5, warm_up=10)
TINY = Case("resnet18", 2, 32, 1, 1)


def choose(settings: Settings) -> Case:
    """Return the case of this machine."""
    if settings.tiny:
        return TINY
    return GPU_CASE if settings.device.type == "cuda" else CPU_CASE


def one(settings: Settings) -> Run:
    """Train with one loop in this process."""
    case, device, side = choose(settings), settings.device, Side.of(settings)
    torch.backends.cudnn.benchmark = side.tuned
    times = StepTimes(device, case.steps, case.regions, case.warm_up)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (case.batch,), generator=generator).to(device)
    shape = (case.batch, case.side, case.side, 3)
    few = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(FEW)]
    pixels = [images.to(device).permute(0, 3, 1, 2) for images in few]

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for images, _ in zip(cycle(pixels), micro_batches, strict=False):
            yield images, labels

    recipe = recipe_for("resnet50", case.batch, side.precision, graphed=side.graphed)
    if side.loop == "ours":
        network = build_network(case.network, CLASSES)
        train_ours(recipe, network, load, World(device), times, side.backend)
    else:
        last = str(settings.loop).endswith("channels_last")
        layout = torch.channels_last if last else torch.contiguous_format
        batches = [
            ((images.float() / 127.5 - 1).contiguous(memory_format=layout), labels)
            for images in pixels
        ]
        stock = models.get_model(case.network, weights=None).to(memory_format=layout)
        decay = recipe.optimization.weight_decay
        endless = islice(cycle(batches), times.batches)
        train_plain(stock, endless, decay, side.precision, device, times)
    return Run.of(times, device)


def run(settings: Settings) -> Iterator[Comparison]:
    """Time the loops in turn, each in a process of its own."""
    case, cuda = choose(settings), settings.device.type == "cuda"
    names = sides_of(settings, ON_CPU, ON_GPU, COMPILED)
    shared = ["imagenet", *settings.flags()]
    runs = measure.in_processes({name: [*shared, "--loop", name] for name in names}, case.rounds)
    work = count_training(partial(_forward, case), bf16=cuda)
    precision = "bf16" if cuda else "fp32"
    yield measure.of_runs(
        runs,
        case=f"{case.network}, {case.side} px, batch {case.batch}, a step, {precision}",
        faster={"torchvision": 1.0} if "torchvision" in names else {},
        **floors(work, rates(settings.device)),
        images=case.batch,
        published=PUBLISHED if case is GPU_CASE else None,
    )


def _forward(case: Case) -> measure.Call:
    stock = models.get_model(case.network, weights=None)
    images = torch.randn(case.batch, 3, case.side, case.side)
    return lambda: stock(images).sum()
