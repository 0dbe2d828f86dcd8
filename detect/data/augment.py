"""Training augmentation of images with boxes: crop, flip and colour, by either of two libraries.

What happens to an image is a function of (seed, epoch, index) alone. Both libraries are given the
same draws: crops, flips and boxes are equal, colours up to rounding.
"""

import math
from collections.abc import Callable
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detect.data.batches import Item

CROP_EROSION = 0.2  # the crop keeps the boxes' common rectangle, except up to this share of it
MIN_CROP_SIDE = 0.5  # of the image's: no extreme zoom, and no empty crop around a tiny object
MIN_VISIBILITY = 0.1  # a box with less than this share of its area left in the crop is dropped
JITTER = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}
"""How far colours are changed at strength 1."""
JITTER_SHARE = 0.5
"""Share of the images whose colours are changed."""

Library = Literal["albumentations", "torchvision"]
Change = Callable[[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], int], Item]
"""Turns an image, its boxes and their labels into what is trained on, as the key decides."""


def widen(low: int, high: int, full: int) -> tuple[int, int]:
    """Stretch an interval of [0, full] evenly to MIN_CROP_SIDE of it, and shift it inside."""
    least = math.ceil(MIN_CROP_SIDE * full)
    if high - low >= least:
        return low, high
    low = min(max(0, (low + high - least) // 2), full - least)
    return low, low + least


def make_augmentation(
    crop: bool,
    flip: float,
    colour: float,
    *,
    window: int | None = None,
    library: Library = "albumentations",
) -> Change:
    """Build a training augmentation for `augment`.

    Args:
        crop: Cut out a part that holds most of the boxes; the size of the image then varies.
        flip: Probability of a horizontal flip.
        colour: Strength of the colour jitter that half of the images get; 0 is none, at 1
            brightness varies by 0.125, contrast and saturation by 0.5, hue by 0.05.
        window: Cut a random square of this side, pixels, out of a larger image, wherever its
            objects are; a smaller side stays as it is.
        library: Who does it. The other one is not imported.
    """
    if library == "torchvision":
        from detect.data.augment_by_torchvision import ByTorchvision

        return ByTorchvision(crop, flip, colour, window)
    from detect.data.augment_by_albumentations import ByAlbumentations

    return ByAlbumentations(crop, flip, colour, window)


def augment(
    change: Change,
    image: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    seed: int,
    epoch: int,
    index: int,
) -> Item:
    """Augment one image: the same arguments give the same result, in any worker and any order.

    Args:
        change: What `make_augmentation` returned.
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
    return change(image, boxes, labels, int.from_bytes(digest))
