"""Sets of images with labels: in files or in memory, taken in part, decoded."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError, SourceError
from common.images.decoding import read_content, read_image
from common.text import counted
from pretrain.data.file_paths import Paths
from pretrain.data.listing import Passed
from pretrain.data.shards import ShardSet


@dataclass(frozen=True, slots=True)
class FileSet:
    """Images in files."""

    paths: Sequence[Path]
    """One file per image."""
    labels: NDArray[np.int64]
    """(N,) index into the class names."""
    classes: tuple[str, ...]
    """Class names."""
    form: str = ""
    """How they were found to be kept."""
    passed_over: tuple[Passed, ...] = ()
    """What was found beside them and left out."""

    @property
    def described(self) -> str:
        """What results say they were trained on."""
        return f"{self.paths[0].suffix} files"

    def read(self, index: int) -> bytes:
        """Read an image's file; InputError names one that cannot be read."""
        path = self.paths[index]
        try:
            return read_content(path)
        except ValueError as error:
            raise InputError(f"the image {path} is {error}") from error

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode an image to pixels (H, W, 3), RGB; InputError names one that is damaged."""
        return read_image(self.paths[index])


@dataclass(frozen=True, slots=True)
class PixelSet:
    """Images of one size in memory."""

    pixels: NDArray[np.uint8]
    """(N, H, W, 3) RGB."""
    labels: NDArray[np.int64]
    """(N,) index into the class names."""
    classes: tuple[str, ...]
    """Class names."""

    @property
    def described(self) -> str:
        """What results say they were trained on."""
        return "archive"


ImageSet = FileSet | PixelSet | ShardSet
Data = TypeVar("Data", bound=ImageSet)


def select_classes(data: Data, num_classes: int | None) -> Data:
    """Keep the images of the first classes; None keeps all.

    Raises:
        InputError: If there are not that many classes.
    """
    if num_classes is None:
        return data
    if not 1 <= num_classes <= len(data.classes):
        raise InputError(
            f"--images.num-classes {num_classes}: choose 1 to {len(data.classes)} of the data"
        )
    chosen = _take(data, np.flatnonzero(data.labels < num_classes))
    return replace(chosen, classes=data.classes[:num_classes])


def hold_out(data: Data, count: int, seed: int) -> tuple[Data, Data]:
    """Split a training set in two, with the same share of every class in both.

    Where shares are no whole images the largest remainders are rounded up. What is chosen is a
    function of the labels, `count` and `seed`.

    Args:
        data: The images.
        count: How many are held out.
        seed: Seed of the choice.

    Returns:
        The kept and the held-out images, each in their old order.

    Raises:
        InputError: If `count` is not in 1..N-1, or would take all images of a class.
    """
    total = len(data.labels)
    if not 1 <= count < total:
        raise InputError(
            f"cannot hold out {count} of {counted(total, 'image')}: choose 1 to {total - 1}"
        )
    held_out = _drawn(data, count, seed)
    sizes = np.bincount(data.labels, minlength=len(data.classes))
    kept = np.bincount(data.labels[~held_out], minlength=len(data.classes))
    emptied = np.flatnonzero((kept == 0) & (sizes > 0))
    if len(emptied):
        name = data.classes[emptied[0]]
        raise InputError(
            f"holding out {counted(count, 'image')} leaves class {name} without any: take fewer"
        )
    return _take(data, np.flatnonzero(~held_out)), _take(data, np.flatnonzero(held_out))


def limit_images(data: Data, most: int | None) -> Data:
    """Keep at most this many images, with about the same share of every class; always the same.

    None keeps all.
    """
    if most is None or most >= len(data.labels):
        return data
    return _take(data, np.flatnonzero(_drawn(data, most, 0)))


def _drawn(data: ImageSet, count: int, seed: int) -> NDArray[np.bool_]:
    """Choose images at random, of each class its share; see `hold_out`."""
    total = len(data.labels)
    sizes = np.bincount(data.labels, minlength=len(data.classes))
    quotas, remainders = np.divmod(count * sizes, total)
    rounded_up = np.argsort(-remainders, kind="stable")[: count - quotas.sum()]
    quotas[rounded_up] += 1
    key = blake2b(f"{seed} {count}".encode(), digest_size=8, person=b"hold out").digest()
    # One raw number per image: these, unlike numpy's shuffles, never change with its version.
    raw = np.random.Philox(key=int.from_bytes(key, "big")).random_raw(total)
    by_class = np.lexsort((raw, data.labels))
    rank_in_class = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    drawn = np.zeros(total, bool)
    drawn[by_class] = rank_in_class < np.repeat(quotas, sizes)
    return drawn


def split_by_name(data: Data, share: float) -> tuple[Data, Data]:
    """Split images in two by a hash of class and file name.

    An image stays on its side when others come or go, unless it is the last of its class there:
    neither side lacks a class that has two images or more.

    Args:
        data: The images.
        share: About how many of them, 0 to 1, go to the second part.

    Returns:
        The two parts, each in the old order.

    Raises:
        InputError: If no class has two images.
    """
    names = data.names if isinstance(data, ShardSet) else [p.name for p in _paths(data)]
    drawn = np.empty(len(data.labels))
    for position, (name, label) in enumerate(zip(names, data.labels.tolist(), strict=True)):
        key = os.fsencode(data.classes[label]) + b"/" + os.fsencode(name)
        digest = blake2b(key, digest_size=8, person=b"split by name").digest()
        drawn[position] = int.from_bytes(digest, "big") / 2**64
    second = drawn < share
    for label in range(len(data.classes)):
        members = np.flatnonzero(data.labels == label)
        if len(members):
            in_order = members[np.argsort(drawn[members], kind="stable")]
            second[in_order[0]], second[in_order[-1]] = True, False  # the last of one is the first
    if not second.any():
        raise InputError(
            "no class has two images, so none is left to validate on: add images, or put some "
            "into a folder val/"
        )
    return _take(data, np.flatnonzero(~second)), _take(data, np.flatnonzero(second))


def _paths(data: FileSet | PixelSet) -> Sequence[Path]:
    assert isinstance(data, FileSet)  # archives have their own validation images
    return data.paths


def _take(data: Data, chosen: NDArray[np.int64]) -> Data:
    """Keep the images at some positions, in that order."""
    labels = data.labels[chosen]
    if isinstance(data, FileSet):
        return replace(data, paths=Paths.of(data.paths).take(chosen), labels=labels)
    if isinstance(data, ShardSet):
        return replace(data, names=data.names[chosen], places=data.places[chosen], labels=labels)
    return replace(data, pixels=data.pixels[chosen], labels=labels)


def decode(files: FileSet | ShardSet, size: int) -> PixelSet:
    """Read all images into memory, each as its central square of `size` x `size` pixels.

    Raises:
        InputError: If images are damaged; the message names the first few.
        SourceError: At the first that cannot be had.
    """
    pixels = np.empty((len(files.labels), size, size, 3), np.uint8)
    damaged: list[str] = []
    lost: list[SourceError] = []
    with ThreadPoolExecutor() as pool:
        squares = pool.map(partial(_square, files, size, lost), range(len(pixels)))
        # disable=None: no bar where nobody watches.
        bar = tqdm(squares, "decoding", len(pixels), unit=" images", leave=False, disable=None)
        try:
            for image, square in enumerate(bar):
                if isinstance(square, InputError):
                    damaged.append(str(square))
                else:
                    pixels[image] = square
        except BaseException:  # a signal; do not wait for the other images
            pool.shutdown(cancel_futures=True)
            raise
    if damaged:
        more = f"; and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise InputError("; ".join(damaged[:5]) + more)
    return PixelSet(pixels, files.labels, files.classes)


def central_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the short side of an image to `size`, antialiased, and cut out the central square.

    Args:
        image: (H, W, 3).
        size: Side of the square.

    Returns:
        Pixels (size, size, 3).
    """
    height, width = image.shape[:2]
    scale = size / min(height, width)
    if scale != 1:
        height, width = round(height * scale), round(width * scale)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def _square(
    files: FileSet | ShardSet, size: int, lost: list[SourceError], index: int
) -> NDArray[np.uint8] | InputError:
    if lost:  # each image would ask for the same again
        raise lost[0]
    try:
        return central_square(files.image(index), size)
    except SourceError as error:
        lost.append(error)
        raise
    except InputError as error:
        return error
