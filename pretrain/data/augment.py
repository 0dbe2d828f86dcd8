"""Random crops and flips, the resizing for evaluation, and normalisation.

Files (ImageNet) are cropped one by one in worker processes. Small sets lie whole on the device,
where a batch is cropped and flipped by one gather. Either way what happens to an image is a
function of (seed, epoch, its position in the data set), whatever the batch, the order, the rank,
the worker or a resumed run.
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pretrain.data.image_sets import PixelSet

# Mean and standard deviation of the training pixels, RGB, for values in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


class Crop(NamedTuple):
    """A part of an image, its edges in pixels, and whether it is flipped left to right."""

    left: int
    top: int
    right: int
    bottom: int
    flip: bool


def draw_crop(
    height: int, width: int, seed: int, epoch: int, index: int, min_scale: float = 0.08
) -> Crop:
    """Draw the part of an image that is seen in an epoch; half of them are flipped.

    It covers `min_scale` to all of the area, evenly, with sides in a ratio of 3:4 to 4:3; where ten
    draws do not fit into the image, it is the largest central part of such a ratio.

    Args:
        height: Of the image, pixels.
        width: Of the image, pixels.
        seed: Seed of the training.
        epoch: Epoch, from 0.
        index: Position of the image in the data set.
        min_scale: Smallest share of the area, in (0, 1].
    """
    low, high = 3 / 4, 4 / 3
    # The numbers of a Compose of RandomResizedCrop and HorizontalFlip in albumentations 2.0.8, in
    # their order; its first decides whether it acts at all, which it always does.
    rng = random.Random(_hash(seed, epoch, index))
    rng.random()
    for _ in range(10):
        area = rng.uniform(min_scale * height * width, height * width)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int((room + 1) * rng.random()) for room in (height - h, width - w))
            break
    else:
        w, h = min(width, round(height * high)), min(height, round(width / low))
        top, left = (height - h) // 2, (width - w) // 2
    return Crop(left, top, left + w, top + h, rng.random() < 0.5)


def train_image(
    image: NDArray[np.uint8],
    size: int,
    seed: int,
    epoch: int,
    index: int,
    min_scale: float = 0.08,
) -> NDArray[np.uint8]:
    """Cut the part of `draw_crop` out of an image, resize it to a square, and flip half of them.

    Args:
        image: (H, W, 3).
        size: Side of the result.
        seed: Seed of the training.
        epoch: Epoch, from 0.
        index: Position of the image in the data set.
        min_scale: Smallest share of the area, in (0, 1].

    Returns:
        Pixels (size, size, 3).
    """
    height, width, _ = image.shape
    crop = draw_crop(height, width, seed, epoch, index, min_scale)
    square = _resize(image[crop.top : crop.bottom, crop.left : crop.right], size, size)
    return np.asarray(cv2.flip(square, 1)) if crop.flip else square


def eval_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the short side of an image to 256/224 of `size`, and cut out the central square.

    Args:
        image: (H, W, 3).
        size: Side of the result.

    Returns:
        Pixels (size, size, 3).
    """
    short_side = round(size * 256 / 224)
    shape = image.shape[:2]
    # int and round as in torchvision's Resize and CenterCrop.
    height, width = (int(short_side * side / min(shape)) for side in shape)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return _resize(image, height, width)[top : top + size, left : left + size]


def _resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize as torchvision's reference does: bilinear, antialiased where an image shrinks."""
    # Seen as channels last, bytes take torch's vectorised way: half the time of cv2.INTER_AREA.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return np.asarray(resized[0].permute(1, 2, 0).numpy())


class ResidentImages:
    """A whole data set on the device, which hands out batches without waiting for it.

    A training batch comes in two parts: `draw` makes a small table on the CPU, and `take` turns it
    into images by operations on the device alone, so that a CUDA graph can hold them.

    Args:
        data: The images.
        padding: Black pixels added on every side before an image is cropped to its old size.
        seed: Seed of the crops and flips.
        device: Where images and labels are kept.
    """

    def __init__(self, data: PixelSet, padding: int, seed: int, device: torch.device) -> None:
        pixels = torch.from_numpy(data.pixels).to(device)
        self._padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
        self._labels = torch.from_numpy(data.labels).to(device)
        self._padding = padding
        self._seed = seed
        self._rows = torch.arange(data.pixels.shape[1], device=device)
        self._columns = torch.arange(data.pixels.shape[2], device=device)
        self._epoch = -1
        self._raw = np.empty(0, np.uint64)

    def train_batch(self, epoch: int, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Crop and flip images as the epoch's draws say.

        Args:
            epoch: Epoch, from 0.
            indices: (B,) positions in the data set.

        Returns:
            Images (B, 3, H, W), uint8, channels last in memory, and labels (B,).
        """
        return self.take(self.draw(epoch, indices))

    def draw(self, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        """Say which images, and how they are cropped and flipped.

        Args:
            epoch: Epoch, from 0.
            indices: (B,) positions in the data set.

        Returns:
            (4, B) int64, on the device: position, top, left, and 1 to flip.
        """
        if epoch != self._epoch:
            self._raw = _raw_draws(len(self._labels), self._seed, epoch)
            self._epoch = epoch
        top, left, flip = crops_and_flips(self._raw[indices], self._padding).T
        return self._to_device(np.stack([indices, top, left, flip]))

    def take(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out the images of a table of `draw`.

        Returns:
            As `train_batch`.
        """
        chosen, top, left, flip = drawn
        columns = torch.where(flip[:, None].bool(), self._columns.flip(0), self._columns)
        return self._gather(chosen, top[:, None] + self._rows, left[:, None] + columns)

    def eval_batch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return images as they are.

        Returns:
            Images (B, 3, H, W), uint8, channels last in memory, and labels (B,).
        """
        rows, columns = self._padding + self._rows, self._padding + self._columns
        return self._gather(self._to_device(indices), rows[None], columns[None])

    def _gather(self, chosen: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Take pixels at rows (B or 1, H) and columns (B or 1, W) of the padded images."""
        images = self._padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return images.permute(0, 3, 1, 2), self._labels[chosen]

    def _to_device(self, numbers: NDArray[np.int64]) -> Tensor:
        tensor, device = torch.from_numpy(numbers), self._padded.device
        if device.type == "cuda":
            tensor = tensor.pin_memory()  # from elsewhere the copy waits
        return tensor.to(device, non_blocking=True)


def crop_and_flip_draws(num_images: int, padding: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Draw where each image is cropped in an epoch, and whether it is flipped.

    Returns:
        (N, 3): top and left, even over 0 .. 2 * padding of the padded image, and 0 or 1 to flip.
    """
    return crops_and_flips(_raw_draws(num_images, seed, epoch), padding)


def _raw_draws(num_images: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Draw a raw number per image: unlike numpy's distributions, they are the same for ever."""
    return np.random.Philox(key=_hash(seed, epoch)).random_raw(num_images)


def crops_and_flips(raw: NDArray[np.uint64], padding: int) -> NDArray[np.int64]:
    """Make crops and flips of raw numbers, (N, 3), as `crop_and_flip_draws` returns them."""
    flip, place = raw % 2, raw // 2
    offsets = np.uint64(2 * padding + 1)
    top, left = place // offsets % offsets, place % offsets
    return np.stack([top, left, flip], axis=1).astype(np.int64)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bring pixels to zero mean and unit deviation per channel.

    Args:
        images: (B, 3, H, W) uint8.
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel, likewise.

    Returns:
        (images / 255 - mean) / std as float32, in the memory format of `images`.
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    pixels = images.float()  # in place after that: a CPU takes longest over fresh memory
    return torch.addcmul(shift, pixels, scale, out=pixels)


@lru_cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Keep them on the device, since sending them there for each batch would wait for it."""
    deviation = torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    scale = 1 / (255 * deviation)
    shift = -torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1) / deviation
    return scale.float().to(device), shift.float().to(device)


def _hash(*numbers: int) -> int:
    """Hash counters to 64 bits, the same in every process."""
    text = " ".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(text, digest_size=8, person=b"augmentation").digest(), "big")
