"""Training loops side by side: ours as the commands run it, and plain ones as tutorials write them.

Each returns when its steps began; a process of its own times it, since ours sets the allocator.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common import allocator
from common.distributed import World
from common.sampling import MicroBatch
from common.settings import Focus
from common.train_loop import Options, Stage, train
from pretrain.augment import CIFAR10_MEAN, CIFAR10_STD, ResidentImages
from pretrain.image_sets import PixelSet
from pretrain.networks import build_network
from pretrain.recipes import RECIPES, Recipe
from pretrain.task import Batch, classification_loss

Load = Callable[[Iterable[MicroBatch]], Iterator[Batch]]
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


def random_images(count: int) -> PixelSet:
    """Make a set in the shape of CIFAR-10."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return PixelSet(pixels, rng.integers(0, 10, count), tuple("abcdefghij"))


def seconds_per_step(starts: list[float], warm_up: int) -> float:
    """Take the mean over the steps after the warm-up; when the last one ended is not known."""
    return (starts[-1] - starts[warm_up]) / (len(starts) - 1 - warm_up)


def train_ours(
    recipe: Recipe,
    network: nn.Module,
    num_images: int,
    load: Load,
    world: World,
    steps: int | None = None,
) -> list[float]:
    """Train an epoch as `python -m pretrain train` does; return when its steps began."""
    if world.device.type == "cpu":
        allocator.keep_freed_memory()
    starts: list[float] = []
    stage = Stage(
        model=network.to(world.device).to(memory_format=torch.channels_last),
        num_images=num_images,
        load=load,
        loss=classification_loss(recipe),
        evaluate=lambda model: {"val_accuracy": 0.0},
        metric="val_accuracy",
        at_step=lambda done: starts.append(time.perf_counter()),
    )
    train(stage, recipe.optimization, Focus(), world, None, Options(stop_step=steps))
    return starts


def recipe_for(network: str, batch: int, precision: Precision) -> Recipe:
    """Return the recipe of a network with this batch, for one epoch."""
    recipe = RECIPES[RECIPE_OF[network]]()
    short = replace(
        recipe.optimization, batch_size=batch, epochs=1, milestones=(), precision=precision
    )
    return replace(recipe, optimization=short)


def our_cifar(
    network: str, data: PixelSet, batch: int, precision: Precision, device: torch.device
) -> list[float]:
    """Train on images that lie on the device."""
    recipe = recipe_for(network, batch, precision)
    resident = ResidentImages(data, recipe.images.padding, seed=0, device=device)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for micro_batch in micro_batches:
            yield resident.train_batch(micro_batch.epoch, micro_batch.indices)

    built = build_network(network, len(data.classes), block=recipe.block)
    return train_ours(recipe, built, len(data.labels), load, World(device))


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


def plain_cifar(network: str, data: PixelSet, batch: int, device: torch.device) -> list[float]:
    """Train with a DataLoader of transformed pictures."""
    loader = DataLoader(Pictures(data), batch_size=batch, shuffle=True, num_workers=2)
    recipe = recipe_for(network, batch, "fp32")
    built = build_network(network, len(data.classes), block=recipe.block)
    return train_plain(built, loader, recipe.optimization.weight_decay, device)


def train_plain(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    weight_decay: float,
    device: torch.device,
) -> list[float]:
    """Train a pass with a loop as tutorials write it; return when its steps began."""
    network = network.to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay
    )
    total_loss, correct, starts = 0.0, 0, []
    for images, labels in batches:
        starts.append(time.perf_counter())
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum().item())
    print(f"loss {total_loss:.3f}, {correct} correct")
    return starts
