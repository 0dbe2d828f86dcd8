"""Crop, flip and colour by torchvision's v2 transforms, for the day that albumentations breaks.

The numbers are drawn in albumentations' order and from its kinds of generators, and what is derived
from them is computed as it does, in float32.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as F

from detect.data.augment import CROP_EROSION, JITTER, JITTER_SHARE, MIN_VISIBILITY, widen
from detect.data.batches import Item

_ADJUST: tuple[Callable[[Any, float], Any], ...] = (
    F.adjust_brightness,
    F.adjust_contrast,
    F.adjust_saturation,
    F.adjust_hue,
)
_LEAST_UNION = 1e-6  # of the image: what is left of the boxes' common rectangle


@dataclass(frozen=True)
class ByTorchvision:
    """A training augmentation; the arguments are those of `make_augmentation`."""

    crop: bool
    flip: float
    colour: float
    window: int | None

    def __call__(
        self,
        image: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        key: int,
    ) -> Item:
        """Augment one image as the key says."""
        draw, orders = random.Random(key), np.random.default_rng(key)
        draw.random()  # whether anything is done at all: it is
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        boxes, labels = _within(boxes, labels, 0, 0, *image.shape[1::-1], least=0)
        part = self._part(draw, boxes, *image.shape[:2])
        if part:
            x1, y1, x2, y2 = part
            pixels = F.crop(pixels, y1, x1, y2 - y1, x2 - x1)
            boxes, labels = _within(boxes, labels, x1, y1, x2, y2, least=MIN_VISIBILITY)
        # A probability of 0 or 1 draws nothing.
        if self.flip >= 1 or (self.flip > 0 and draw.random() < self.flip):
            pixels, across = F.horizontal_flip(pixels), pixels.shape[2]
            left, top, right, bottom = boxes.T
            boxes = np.stack([across - right, top, across - left, bottom], axis=1)
        if self.colour > 0 and draw.random() < JITTER_SHARE:
            spans = [most * self.colour for most in JITTER.values()]
            middles = (1, 1, 1, 0)
            factors = [
                draw.uniform(middle - span, middle + span)
                for middle, span in zip(middles, spans, strict=True)
            ]
            order = [0, 1, 2, 3]
            orders.shuffle(order)
            for which in order:
                pixels = _ADJUST[which](pixels, factors[which])
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), boxes, labels

    def _part(
        self, draw: random.Random, boxes: NDArray[np.float32], height: int, width: int
    ) -> tuple[int, int, int, int] | None:
        if self.crop:
            return _safe_crop(draw, boxes, height, width)
        return _window(draw, height, width, self.window) if self.window else None


def _within(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    x1: int,
    y1: int,
    x2: int,
    y2: int,
    *,
    least: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut boxes at a part of the image, and leave those out of which too little is in it."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4) - np.array([x1, y1, x1, y1], np.float32)
    cut = boxes.clip(0, np.array([x2 - x1, y2 - y1] * 2, np.float32))
    sides = cut[:, 2:] - cut[:, :2]
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = (sides > 0).all(axis=1) & (sides.prod(axis=1) >= least * whole)
    return cut[kept], np.asarray(labels)[kept]


def _safe_crop(
    draw: random.Random, boxes: NDArray[np.float32], height: int, width: int
) -> tuple[int, int, int, int]:
    """Draw a crop of any shape that keeps most of the boxes, and at least half of each side."""
    union = _union((boxes / np.array([width, height] * 2, np.float32)).astype(np.float32))
    if union is None:
        tall = draw.randint(int(height * (1 - CROP_EROSION)), height)
        wide = int(tall * width / height)
        y1 = int((height - tall + 1) * draw.random())
        x1 = int((width - wide + 1) * draw.random())
        x2, y2 = x1 + wide, y1 + tall
    else:
        left, top, right, bottom = union
        x1, y1 = int(left * draw.random() * width), int(top * draw.random() * height)
        right += (1 - right) * draw.random()
        bottom += (1 - bottom) * draw.random()
        x2, y2 = int(right * width), int(bottom * height)
    (x1, x2), (y1, y2) = widen(x1, x2, width), widen(y1, y2, height)
    return x1, y1, x2, y2


def _union(boxes: NDArray[np.float32]) -> tuple[np.float32, ...] | None:
    """Return the common rectangle of boxes, shares of the image, eroded where there are several."""
    if not len(boxes):
        return None
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    if len(boxes) > 1:
        erosion = (high - low) * np.float32(CROP_EROSION) * np.float32(0.5)
        low, high = low + erosion, high - erosion
        if (abs(high - low) < _LEAST_UNION).any():
            return None
    low = low.clip(0, 1)
    return (*low, *high.clip(low, 1))


def _window(draw: random.Random, height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Draw a square of `side` pixels, as far as the image reaches, wherever the boxes are."""
    x, y = (draw.randint(0, max(0, full - side)) for full in (width, height))
    return x, y, min(width, x + side), min(height, y + side)
