"""From augmented images to what goes into a detector: sizes, padding, batches.

Images are resized and padded by the processes that read them and stay uint8, channels last, until
they are on the device, where the network normalises them: a quarter of the bytes of floats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHAPE_MULTIPLE = 32
"""Padded sides are multiples of this, as torchvision's are."""
SMALLEST_SIDE = 1e-3
"""Pixels; a detection that is narrower, cut at the border of its image, is dropped."""
Shape = tuple[int, int]
"""Height and width in pixels."""
Item = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]
"""Pixels (H, W, 3), boxes (n, 4) [x1, y1, x2, y2] edges in these pixels, labels (n,)."""
Collated = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Fields of `ImageBatch`, then of `Targets`, on the CPU: what can be pinned on its way."""


@dataclass(frozen=True)
class ImageBatch:
    """Images of one batch, resized and padded to a common shape."""

    pixels: Tensor
    """(B, 3, H, W) uint8, zero at the right and bottom of smaller images; H, W multiples of 32."""
    sizes: Tensor
    """(B, 2) int64: height and width of each image without padding."""


@dataclass(frozen=True)
class Targets:
    """Objects of one batch, padded to the most of one image; at least one row."""

    boxes: Tensor
    """(B, M, 4) float32 [x1, y1, x2, y2] edges in pixels of the resized image."""
    labels: Tensor
    """(B, M) int64."""
    valid: Tensor
    """(B, M) bool: which rows are objects."""


def draw_size(sizes: Sequence[int], seed: int, epoch: int, index: int) -> int:
    """Draw the short side of an image in training: a function of the arguments alone."""
    key = f"{seed},{epoch},{index}".encode()
    digest = blake2b(key, digest_size=8, person=b"short side").digest()
    return sizes[int.from_bytes(digest) % len(sizes)]


def draw_factor(span: tuple[float, float], seed: int, epoch: int, index: int) -> float:
    """Draw the factor of large-scale jitter evenly: a function of the arguments alone."""
    key = f"{seed},{epoch},{index}".encode()
    digest = blake2b(key, digest_size=8, person=b"scale jitter").digest()
    low, high = span
    return low + (high - low) * int.from_bytes(digest) / 2**64


def resized_shape(shape: Shape, short_side: float, max_size: float) -> Shape:
    """Return the shape with this short side, or with the longest side `max_size` if that is less.

    Sides are rounded down, as by torchvision's GeneralizedRCNNTransform.
    """
    scale = min(short_side / min(shape), max_size / max(shape))
    height, width = (max(1, int(side * scale)) for side in shape)
    return height, width


def padded_shape(shape: Shape) -> Shape:
    """Round both sides up to multiples of `SHAPE_MULTIPLE`."""
    height, width = (-(-side // SHAPE_MULTIPLE) * SHAPE_MULTIPLE for side in shape)
    return height, width


def resize(item: Item, shape: Shape) -> Item:
    """Resize pixels, bilinear without antialiasing as torchvision, and boxes with them."""
    pixels, boxes, labels = item
    (height, width), (old_height, old_width) = shape, pixels.shape[:2]
    if (height, width) == (old_height, old_width):
        return item
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    x, y = width / old_width, height / old_height
    return resized.astype(np.uint8, copy=False), boxes * np.array([x, y, x, y], np.float32), labels


def to_original(
    boxes: NDArray[np.float64], resized: NDArray[np.int64], original: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Take boxes back to the pixels of images as they were before `resize`.

    Args:
        boxes: (n, 4) [x1, y1, x2, y2] edges in pixels of the resized image.
        resized: (n, 2) its width and height, or (2,) of all.
        original: Likewise.

    Returns:
        (n, 4) within the image, of float32's precision, and (n,) which of them have an area.
    """
    corners = boxes.reshape(-1, 2, 2) * (original / resized).reshape(-1, 1, 2)
    corners = np.clip(corners, 0, original.reshape(-1, 1, 2))
    box = corners.reshape(-1, 4).astype(np.float32).astype(np.float64)
    sides = box[:, 2:] - box[:, :2]
    return box, np.asarray((sides >= SMALLEST_SIDE).all(axis=1))


def collate(items: Sequence[Item], side: int = 1, rows: int = 1) -> Collated:
    """Pad images to a common shape, and their objects to a common number; at least one image.

    Args:
        items: The images of a batch.
        side: Pixels that either side has at least after padding.
        rows: Objects that an image has at least after padding.
    """
    shapes = np.array([pixels.shape[:2] for pixels, _, _ in items], np.int64)
    height, width = padded_shape((max(side, *shapes[:, 0]), max(side, *shapes[:, 1])))
    most = max(rows, *(len(labels) for _, _, labels in items))
    pixels = np.zeros((len(items), height, width, 3), np.uint8)
    boxes = np.zeros((len(items), most, 4), np.float32)
    labels = np.zeros((len(items), most), np.int64)
    valid = np.zeros((len(items), most), np.bool_)
    for i, (image, its_boxes, its_labels) in enumerate(items):
        pixels[i, : image.shape[0], : image.shape[1]] = image
        boxes[i, : len(its_labels)] = its_boxes
        labels[i, : len(its_labels)] = its_labels
        valid[i, : len(its_labels)] = True
    channels_last = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    sizes, *targets = map(torch.from_numpy, (shapes, boxes, labels, valid))
    return channels_last, sizes, targets[0], targets[1], targets[2]


def to_device(collated: Collated, device: torch.device) -> tuple[ImageBatch, Targets]:
    """Move a batch to the device; from pinned memory without waiting for it."""
    pixels, sizes, boxes, labels, valid = (t.to(device, non_blocking=True) for t in collated)
    return ImageBatch(pixels, sizes), Targets(boxes, labels, valid)


def batches_of_one_shape(shapes: Sequence[Shape], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut a data set into batches without padding for the sake of neighbours.

    Args:
        shapes: Padded shape of each image.
        batch_size: Images of a batch, at most.

    Returns:
        Positions in the data set, each once; the images of a batch have one padded shape.
    """
    members: dict[Shape, list[int]] = {}
    for index, shape in enumerate(shapes):
        members.setdefault(shape, []).append(index)
    return [
        np.array(group[start : start + batch_size], np.int64)
        for group in members.values()
        for start in range(0, len(group), batch_size)
    ]
