"""A split of a data set, opened: how many images, of which classes, and batches of them."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from common.images.loading import Reading, stream
from common.images.sampling import MicroBatch
from common.images.transfer import transferred
from common.runs.data_parts import IMAGES, Parts, digest, file_sizes
from common.text import in_line
from pretrain.data.augment import ResidentImages, eval_image, train_image
from pretrain.data.datasets import load
from pretrain.data.gpu_decoding import check_gpu_decoding, collate_files, decode_batch, read_item
from pretrain.data.image_sets import (
    Data,
    FileSet,
    ImageSet,
    PixelSet,
    decode,
    hold_out,
    limit_images,
)
from pretrain.data.pixel_cache import cached_decode
from pretrain.data.shards import ShardSet, member_stem
from pretrain.recipes import Images

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W), uint8, and labels (B,), on the device."""
Finish = Callable[[Any], Batch]
Load = Callable[[Iterable[MicroBatch]], Iterator[Any]]
_NUMBERED = re.compile(r"^\d{7}_")
"""What make_shards puts before a name."""
_RESIDENT_FACTOR = 4
"""Of small images that lie on a GPU: a batch of 250 takes less time than to start it."""


def as_it_is(loaded: Batch) -> Batch:
    """Return a batch that is finished when it is loaded."""
    return loaded


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images of a split: how many, of which classes, and how to get batches of them."""

    num_images: int
    classes: tuple[str, ...]
    source: str
    """What they were read from, such as ".jpg files" or "shards"."""
    load: Load
    """Yields what `finish` makes batches of: in general, they are."""
    finish: Finish = as_it_is
    """Operations on the device alone: part of a training step, so that a CUDA graph holds them."""
    digest: str = ""
    """Of the classes and labels, in order, and of what was done to the pixels before."""
    images: ImageSet | None = None
    """What was opened; of images that are decoded at once, their files."""
    batch_factor: int = 1
    """How many times as large as elsewhere a batch of an evaluation is."""


def open_split(
    images: Images,
    root: Path,
    split: str,
    reading: Reading,
    *,
    training: bool,
    seed: int,
    cache: Path | None = None,
    limit: int | None = None,
) -> Split:
    """Open a split of a data set.

    Sets of small images (crop "pad") are decoded once and lie on the device; others are read and
    augmented by worker processes.

    Args:
        images: Which data, and how they are cropped.
        root: Folder of the data set, or the URL of shards.
        split: "train", "val", or "held-out" for the training images that the recipe keeps back.
        reading: By how many processes, to which device, past how many unreadable files.
        training: Crop and flip at random, or not at all.
        seed: Of crops and flips, and of what is kept back where the recipe says so.
        cache: Folder for decoded pixels; None keeps none.
        limit: At most this many images, of every class its share.

    Raises:
        InputError: If data is missing or damaged.
    """
    # Of what is held out nothing else need be there.
    share = None if images.held_out else images.split_by
    part = "val" if split == "val" else "train"
    data = load(images.dataset, root, part, images.num_classes, share)
    source = data.described
    chosen = limit_images(_part(data, images, split, seed), limit)
    if images.crop == "pad":
        # Whole, as far as it goes, for what is held out: both parts then have one cache.
        whole = data if limit is None else chosen
        pixels = _in_memory(whole, images.size, cache)
        pixels = _part(pixels, images, split, seed) if limit is None else pixels
        _check_size(pixels, images, root)
        padding = images.padding if training else 0
        resident = ResidentImages(pixels, padding, seed, reading.device)
        opened = _resident_split(pixels, source, resident, reading.device, training=training)
        return replace(opened, images=chosen)
    if isinstance(chosen, PixelSet):
        raise InputError(f"{root} is an archive of small images: use --images.crop pad")
    if training and images.decode == "gpu":
        check_gpu_decoding(reading.device)
        source, batches = f"{source}, nvJPEG", _gpu_batches(chosen, images, seed, reading)
    else:
        batches = _file_batches(chosen, images, seed if training else None, reading)
    return Split(
        num_images=len(chosen.labels),
        classes=chosen.classes,
        source=source,
        load=batches,
        digest=_digest(chosen),
        images=chosen,
    )


def _in_memory(data: ImageSet, size: int, cache: Path | None) -> PixelSet:
    """Decode what is not decoded yet; pixels of files are kept for the next run."""
    if isinstance(data, FileSet):
        return cached_decode(data, size, cache)
    return decode(data, size) if isinstance(data, ShardSet) else data


def _part(data: Data, images: Images, split: str, seed: int) -> Data:
    """Leave out of the training images what the recipe keeps back, or take just that."""
    if split == "val" or not images.held_out:
        return data
    choice = seed if images.held_out_by_seed else 0
    kept, held_out = hold_out(data, images.held_out, choice)
    return held_out if split == "held-out" else kept


def _check_size(data: PixelSet, images: Images, root: Path) -> None:
    side = data.pixels.shape[1]
    if side != images.size:
        raise InputError(
            f"{root} holds images of {side} pixels, not {images.size}: leave --images.size as it is"
        )


def _digest(data: ImageSet) -> str:
    digest = blake2b("\0".join(data.classes).encode(), digest_size=8)
    digest.update(np.asarray(data.labels, np.int64).tobytes())
    if isinstance(data, ShardSet) and data.pixels != "":
        digest.update(data.described.encode())
    return digest.hexdigest()


def data_parts(train: Split, val: Split) -> Parts:
    """Return what a run's data are known by when it is resumed."""
    return {
        "class list": ", ".join(map(in_line, train.classes)),
        IMAGES: train.digest,
        "names of the training images": digest(_names(train.images)),
        **(file_sizes(train.images.paths) if isinstance(train.images, FileSet) else {}),
        "validation images": digest([val.digest, *_names(val.images)]),
    }


def _names(data: ImageSet | None) -> Iterator[str]:
    """Yield the names of images as make_shards packs them: a run may resume from its shards."""
    if isinstance(data, FileSet):
        yield from (member_stem(path.stem) for path in data.paths)
    elif isinstance(data, ShardSet):
        for name in data.names.tolist():
            stem = os.fsdecode(name).rpartition("/")[2].partition(".")[0]
            yield _NUMBERED.sub("", stem)


# ---- images in memory ----


def _resident_split(
    data: PixelSet, source: str, resident: ResidentImages, device: torch.device, *, training: bool
) -> Split:
    return Split(
        num_images=len(data.labels),
        classes=data.classes,
        source=source,
        load=partial(_draw if training else _whole, resident),
        finish=partial(_take, resident) if training else as_it_is,
        digest=_digest(data),
        batch_factor=_RESIDENT_FACTOR if device.type == "cuda" else 1,
    )


def _draw(resident: ResidentImages, micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor]]:
    for micro_batch in micro_batches:
        yield (resident.draw(micro_batch.epoch, micro_batch.indices),)


def _take(resident: ResidentImages, loaded: tuple[Tensor]) -> Batch:
    return resident.take(*loaded)


def _whole(resident: ResidentImages, micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
    for micro_batch in micro_batches:
        yield resident.eval_batch(micro_batch.indices)


# ---- images in files ----


def _file_batches(
    data: FileSet | ShardSet, images: Images, seed: int | None, reading: Reading
) -> Load:
    """Decode in the workers; without a seed as an evaluation does, which skips nothing."""
    if seed is None:
        read, skip = partial(_read_eval, data, images.size), None
    else:
        read = partial(_read_train, data, images.size, seed, images.min_scale)
        skip = reading.skip(len(data.labels))

    def batches(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        loaded = stream(
            read,
            micro_batches,
            _collate,
            workers=reading.workers,
            device=reading.device,
            skip=skip,
        )
        for pixels, labels in transferred(loaded, reading.device):
            yield pixels.permute(0, 3, 1, 2), labels

    return batches


def _gpu_batches(data: FileSet | ShardSet, images: Images, seed: int, reading: Reading) -> Load:
    """Read files in the workers, decode them on the device."""
    read = partial(read_item, data, seed, images.min_scale)

    def batches(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        loaded = stream(
            read,
            micro_batches,
            collate_files,
            workers=reading.workers,
            device=reading.device,
            skip=reading.skip(len(data.labels)),
        )
        return (decode_batch(batch, images.size, reading.device) for batch in loaded)

    return batches


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
