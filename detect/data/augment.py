"""Training augmentation of images with boxes: crop, flip and colour by albumentations.

What happens to an image is a function of (seed, epoch, index) alone. albumentations 2.0.8 draws
from generators that belong to the pipeline: loader workers start as copies of it and repeat each
other, epoch after epoch. So the generators are set anew for every image.
"""

import math
import os
import random
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # read on import: ask the network for no newer version
import albumentations as A

CROP_EROSION = 0.2  # the crop keeps the boxes' common rectangle but for up to this share of it
MIN_CROP_SIDE = 0.5  # of the image's: no extreme zoom, and no empty crop around a tiny object
MIN_VISIBILITY = 0.1  # a box with less than this share of its area left in the crop is dropped


def _widen(low: int, high: int, full: int) -> tuple[int, int]:
    """Stretch an interval of [0, full] evenly to MIN_CROP_SIDE of it, and shift it inside."""
    least = math.ceil(MIN_CROP_SIDE * full)
    if high - low >= least:
        return low, high
    low = min(max(0, (low + high - least) // 2), full - least)
    return low, low + least


class _BoxSafeCrop(A.BBoxSafeRandomCrop):  # type: ignore[misc]  # albumentations is not typed
    """A crop of any shape that keeps most of the boxes, and at least half of each side."""

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, tuple[int, int, int, int]]:
        x1, y1, x2, y2 = super().get_params_dependent_on_data(params, data)["crop_coords"]
        height, width = params["shape"][:2]
        (x1, x2), (y1, y2) = _widen(x1, x2, width), _widen(y1, y2, height)
        return {"crop_coords": (x1, y1, x2, y2)}


class _Window(A.BBoxSafeRandomCrop):  # type: ignore[misc]
    """A random square of `side` pixels, as far as the image reaches, wherever the boxes are."""

    side: int

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, tuple[int, int, int, int]]:
        height, width = params["shape"][:2]
        x, y = (self.py_random.randint(0, max(0, full - self.side)) for full in (width, height))
        return {"crop_coords": (x, y, min(width, x + self.side), min(height, y + self.side))}


def make_augmentation(
    crop: bool, flip: float, colour: float, *, window: int | None = None
) -> A.Compose:
    """Build a training augmentation for ``augment``.

    Args:
        crop: Cut out a part that holds most of the boxes; the size of the image then varies.
        flip: Probability of a horizontal flip.
        colour: Strength of the colour jitter that half of the images get; 0 is none, at 1
            brightness varies by 0.125, contrast and saturation by 0.5, hue by 0.05.
        window: Cut a random square of this side, pixels, out of a larger image, wherever its
            objects are; a smaller side stays as it is.
    """
    transforms: list[Any] = []
    if crop:
        transforms.append(_BoxSafeCrop(erosion_rate=CROP_EROSION, p=1.0))
    if window:
        cut = _Window(p=1.0)
        cut.side = window
        transforms.append(cut)
    transforms.append(A.HorizontalFlip(p=flip))
    if colour > 0:
        jitter = A.ColorJitter(
            brightness=0.125 * colour,
            contrast=0.5 * colour,
            saturation=0.5 * colour,
            hue=0.05 * colour,
            p=0.5,
        )
        transforms.append(jitter)
    boxes = A.BboxParams(
        "pascal_voc",
        label_fields=["labels"],
        clip=True,
        filter_invalid_bboxes=True,
        min_visibility=MIN_VISIBILITY,
    )
    return A.Compose(transforms, bbox_params=boxes)


def augment(
    compose: A.Compose,
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    seed: int,
    epoch: int,
    index: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Augment one image: the same arguments give the same result, in any worker and any order.

    Args:
        compose: What ``make_augmentation`` returned.
        image: (H, W, 3).
        boxes: (n, 4) [x1, y1, x2, y2] edges in pixels; n may be 0.
        labels: (n,).
        seed: The run's seed.
        epoch: Which pass over the data.
        index: Which image of the data set.

    Returns:
        Image, boxes (m, 4) and labels (m,), m <= n: boxes that leave the image go with their label.
    """
    digest = blake2b(f"{seed},{epoch},{index}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest)
    # One stream shared by all transforms. set_random_seed would start every transform from the same
    # seed, and an image would be flipped exactly when its colours are changed.
    compose.set_random_state(np.random.default_rng(key), random.Random(key))
    result = compose(image=image, bboxes=boxes, labels=labels)
    return (
        np.ascontiguousarray(result["image"]),
        np.asarray(result["bboxes"], np.float32),
        np.asarray(result["labels"], np.int64),
    )
