"""Classification as the training loop sees it: data, loss and metrics of a recipe."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from common.images.loading import SkipBad, stream
from common.images.sampling import MicroBatch
from common.images.transfer import transferred
from common.optimization.optimizer import autocast, eager_if
from common.processes.ranks import World, sum_over_ranks
from common.processes.signals import stop_asked
from pretrain.data.augment import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    CIFAR100_STD,
    ResidentImages,
    eval_image,
    normalize,
    train_image,
)
from pretrain.data.datasets import load
from pretrain.data.gpu_decoding import (
    Encoded,
    check_gpu_decoding,
    collate_files,
    decode_batch,
    read_item,
)
from pretrain.data.image_sets import FileSet, PixelSet, decode, hold_out
from pretrain.data.pixel_cache import cached_decode
from pretrain.data.shards import ShardSet
from pretrain.recipes import Recipe

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W), uint8, and labels (B,), on the device."""
_EVAL_BATCH = 250
_RESIDENT_FACTOR = 4
"""Of small images that lie on a GPU: their batches of 250 take less time than to start them."""
Finish = Callable[[Any], Batch]
_STATISTICS = {
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "cifar100": (CIFAR100_MEAN, CIFAR100_STD),
}


def _as_it_is(loaded: Batch) -> Batch:
    return loaded


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images of a split: how many, of which classes, and how to get batches of them."""

    num_images: int
    classes: tuple[str, ...]
    source: str
    """What they were read from, such as ".jpg files" or "shards"."""
    load: Callable[[Iterable[MicroBatch]], Iterator[Any]]
    """Yields what `finish` makes batches of: in general, they are."""
    finish: Finish = _as_it_is
    """Operations on the device alone: part of a training step, so that a CUDA graph holds them."""
    digest: str = ""
    """Of the classes and labels, in order, and of what was done to the pixels before."""
    batch_factor: int = 1
    """Times as many images as elsewhere are in a batch of an evaluation."""


def pixel_statistics(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per RGB channel, for values in [0, 1]."""
    return _STATISTICS.get(recipe.images.dataset, (IMAGENET_MEAN, IMAGENET_STD))


def open_split(
    recipe: Recipe,
    root: Path,
    split: str,
    *,
    training: bool,
    seed: int,
    workers: int,
    device: torch.device,
    cache: Path | None,
    skip: Callable[[int], SkipBad | None] | None = None,
) -> Split:
    """Open a split of the recipe's data set.

    Sets of small images (crop "pad") are decoded once and lie on the device; others are read and
    augmented by worker processes.

    Args:
        recipe: Says which data, and how it is cropped.
        root: Folder of the data set, or the URL of shards.
        split: "train", "val", or "held-out" for the training images that the recipe keeps back.
        training: Crop and flip at random, or not at all.
        seed: Of crops and flips, and of what is kept back where the recipe says so.
        workers: Processes that read images from files.
        device: Where batches go.
        cache: Folder for decoded pixels; None keeps none.
        skip: Called with the number of images; what may be unreadable among files.

    Raises:
        InputError: If data is missing or damaged.
    """
    images = recipe.images
    data = load(images.dataset, root, "val" if split == "val" else "train", images.num_classes)
    source = "archive"
    if isinstance(data, FileSet):
        source = f"{data.paths[0].suffix} files"
    elif isinstance(data, ShardSet):
        source = data.described
    if images.crop == "pad" and isinstance(data, FileSet):
        data = cached_decode(data, images.size, cache)
    elif images.crop == "pad" and isinstance(data, ShardSet):
        data = decode(data, images.size)
    if images.held_out and split != "val":
        choice = seed if images.held_out_by_seed else 0
        kept, held_out = hold_out(data, images.held_out, choice)
        data = held_out if split == "held-out" else kept
    if images.crop == "pad":
        assert isinstance(data, PixelSet)
        pixels = data
        if pixels.pixels.shape[1] != images.size:
            raise InputError(
                f"{root} holds images of {pixels.pixels.shape[1]} pixels, not {images.size}: "
                "leave --images.size as it is"
            )
        resident = ResidentImages(pixels, images.padding if training else 0, seed, device)
        return Split(
            num_images=len(pixels.labels),
            classes=pixels.classes,
            source=source,
            load=partial(_draw, resident) if training else partial(_whole, resident),
            finish=partial(_take, resident) if training else _as_it_is,
            digest=_digest(data),
            batch_factor=_RESIDENT_FACTOR if device.type == "cuda" else 1,
        )
    if isinstance(data, PixelSet):
        raise InputError(f"{root} is an archive of small images: use --images.crop pad")
    may_skip = skip(len(data.labels)) if skip else None
    read_ahead = partial(stream, workers=workers, device=device, skip=may_skip)
    if images.decode == "gpu" and training:
        check_gpu_decoding(device)
        source += ", nvJPEG"
        read_files = partial(read_item, data, seed, images.min_scale)
        batches = partial(_decoded_batches, partial(read_ahead, read_files), images.size, device)
    else:
        read = (
            partial(_read_train, data, images.size, seed, images.min_scale)
            if training
            else partial(_read_eval, data, images.size)
        )
        batches = partial(_batches, partial(read_ahead, read), device)
    return Split(
        num_images=len(data.labels),
        classes=data.classes,
        source=source,
        load=batches,
        digest=_digest(data),
    )


def _digest(data: FileSet | PixelSet | ShardSet) -> str:
    digest = blake2b("\0".join(data.classes).encode(), digest_size=8)
    digest.update(np.asarray(data.labels, np.int64).tobytes())
    if isinstance(data, ShardSet) and data.pixels != "":
        digest.update(data.described.encode())
    return digest.hexdigest()


def _draw(resident: ResidentImages, micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor]]:
    for micro_batch in micro_batches:
        yield (resident.draw(micro_batch.epoch, micro_batch.indices),)


def _take(resident: ResidentImages, loaded: tuple[Tensor]) -> Batch:
    return resident.take(*loaded)


def _whole(resident: ResidentImages, micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
    for micro_batch in micro_batches:
        yield resident.eval_batch(micro_batch.indices)


def _batches(
    read_ahead: Callable[..., Iterator[Batch]],
    device: torch.device,
    micro_batches: Iterable[MicroBatch],
) -> Iterator[Batch]:
    for pixels, labels in transferred(read_ahead(micro_batches, _collate), device):
        yield pixels.permute(0, 3, 1, 2), labels


def _decoded_batches(
    read_ahead: Callable[..., Iterator[Encoded]],
    size: int,
    device: torch.device,
    micro_batches: Iterable[MicroBatch],
) -> Iterator[Batch]:
    for batch in read_ahead(micro_batches, collate_files):
        yield decode_batch(batch, size, device)


def _read_train(
    data: FileSet | ShardSet, size: int, seed: int, min_scale: float, epoch: int, index: int
) -> tuple[NDArray[np.uint8], int]:
    image = train_image(data.image(index), size, seed, epoch, index, min_scale)
    return image, int(data.labels[index])


def _read_eval(
    data: FileSet | ShardSet, size: int, epoch: int, index: int
) -> tuple[NDArray[np.uint8], int]:
    return eval_image(data.image(index), size), int(data.labels[index])


def _collate(items: list[tuple[NDArray[np.uint8], int]]) -> Batch:
    """Stack to (B, H, W, 3) pixels: channels last is then a matter of strides."""
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in items]))
    return pixels, torch.tensor([label for _, label in items])


def classification_loss(
    recipe: Recipe, finish: Finish = _as_it_is
) -> Callable[[nn.Module, Any], dict[str, Tensor]]:
    """Return the loop's loss: cross-entropy, and the accuracy on the training images.

    Args:
        recipe: For normalisation and smoothing.
        finish: Of the split that the batches come from.
    """
    mean, std = pixel_statistics(recipe)

    def loss(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, labels = finish(batch)
        logits = network(normalize(images, mean, std)).float()
        return {
            "loss": F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing),
            "accuracy": (logits.detach().argmax(1) == labels).float().mean(),
        }

    return loss


def evaluate(
    network: nn.Module, split: Split, recipe: Recipe, world: World, limit: int | None = None
) -> dict[str, float]:
    """Score a network on a split; every image counts once, however many ranks there are.

    Args:
        network: In eval mode.
        split: Opened with `training=False`.
        recipe: For normalisation and precision.
        world: This process; it takes every `world.size`-th image.
        limit: Only so many images (a dry run).

    Returns:
        `val_loss` (cross-entropy, without smoothing), `val_accuracy` and `val_top5`, fractions.
    """
    mean, std = pixel_statistics(recipe)
    count = min(split.num_images, limit or split.num_images)
    mine = np.arange(world.rank, count, world.size)
    size = _EVAL_BATCH * split.batch_factor
    micro_batches = (
        MicroBatch(0, mine[start : start + size], 1.0) for start in range(0, len(mine), size)
    )
    compiled = recipe.optimization.compile
    sums = torch.zeros(3, dtype=torch.float64, device=world.device)
    with torch.inference_mode():
        for images, labels in map(split.finish, split.load(micro_batches)):
            if stop_asked():
                break
            short = compiled and len(labels) < min(size, len(mine))
            with eager_if(short), autocast(recipe.optimization, world.device):
                logits = network(normalize(images, mean, std)).float()
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            sums += torch.stack(
                [F.cross_entropy(logits, labels, reduction="sum"), best[:, 0].sum(), best.sum()]
            )
    loss, top1, top5 = (sum_over_ranks(sums) / max(1, count)).tolist()
    return {"val_loss": loss, "val_accuracy": top1, "val_top5": top5}
