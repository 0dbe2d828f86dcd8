"""A training step of ResNet-50 at 224 pixels: our loop against a plain one around torchvision's.

Synthetic batches: ours takes bytes, as its loader delivers them, the other normalised floats.
"""

from collections.abc import Iterable, Iterator

import torch
import torchvision.models as models
from torch import Tensor

from benchmarks import measure
from benchmarks.loops import recipe_for, seconds_per_step, train_ours, train_plain
from benchmarks.measure import Comparison, Settings, arithmetic_floor
from common.distributed import World
from common.sampling import MicroBatch
from pretrain.networks import build_network
from pretrain.task import Batch

LOOPS = ("ours", "torchvision")
WARM_UP = 2
CLASSES = 1000


def sizes(settings: Settings) -> tuple[str, int, int, int, int]:
    """Return the network, images of a step, their side, steps, and processes of each side."""
    if settings.tiny:
        return "resnet18", 2, 32, 4, 1
    return (
        ("resnet50", 64, 224, 40, 3)
        if settings.device.type == "cuda"
        else ("resnet50", 4, 224, 7, 2)
    )


def one(settings: Settings) -> float:
    """Train with one loop in this process; return its seconds per step."""
    network, batch, side, steps, _ = sizes(settings)
    device = settings.device
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator).to(device)
    shape = (batch, side, side, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    pixels = pixels.permute(0, 3, 1, 2).to(device)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for _ in micro_batches:
            yield pixels, labels

    recipe = recipe_for("resnet50", batch, "fp32")
    if settings.loop == "ours":
        built = build_network(network, CLASSES)
        starts = train_ours(recipe, built, steps * batch, load, World(device))
    else:
        images: Tensor = pixels.contiguous().float() / 127.5 - 1
        stock = models.get_model(network, weights=None)
        decay = recipe.optimization.weight_decay
        starts = train_plain(stock, [(images, labels)] * steps, decay, device)
    return seconds_per_step(starts, WARM_UP)


def run(settings: Settings) -> list[Comparison]:
    """Time both loops in turn, each in a process of its own."""
    network, batch, side, _, rounds = sizes(settings)
    shared = ["imagenet", *settings.flags()]
    stock = models.get_model(network, weights=None)
    images = torch.randn(batch, 3, side, side)
    return [
        Comparison(
            case=f"{network}, {side} px, batch {batch}, a step, fp32",
            seconds=measure.in_processes(
                {loop: [*shared, "--loop", loop] for loop in LOOPS}, rounds
            ),
            faster={"torchvision": 1.0},
            floor=arithmetic_floor(lambda: stock(images).sum().backward(), torch.device("cpu")),
        )
    ]
