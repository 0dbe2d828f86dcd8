"""Crop, flip and colour by albumentations 2.0.8, the last release, which nobody maintains.

It draws from generators that belong to the pipeline: loader workers start as copies of it and
repeat each other, epoch after epoch. So the generators are set anew for every image.
"""

import os
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # read on import: ask the network for no newer version
import albumentations as A

from detect.data.augment import CROP_EROSION, JITTER, JITTER_SHARE, MIN_VISIBILITY, widen
from detect.data.batches import Item


class _BoxSafeCrop(A.BBoxSafeRandomCrop):  # type: ignore[misc]  # albumentations is not typed
    """A crop of any shape that keeps most of the boxes, and at least half of each side."""

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, tuple[int, int, int, int]]:
        x1, y1, x2, y2 = super().get_params_dependent_on_data(params, data)["crop_coords"]
        height, width = params["shape"][:2]
        (x1, x2), (y1, y2) = widen(x1, x2, width), widen(y1, y2, height)
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


class ByAlbumentations:
    """A training augmentation; the arguments are those of `make_augmentation`."""

    def __init__(self, crop: bool, flip: float, colour: float, window: int | None) -> None:
        self._compose = _compose(crop, flip, colour, window)

    def __call__(
        self,
        image: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        key: int,
    ) -> Item:
        """Augment one image as the key says."""
        # One stream shared by all transforms. set_random_seed would start every transform from the
        # same seed, and an image would be flipped exactly when its colours are changed.
        self._compose.set_random_state(np.random.default_rng(key), random.Random(key))
        result = self._compose(image=image, bboxes=boxes, labels=labels)
        return (
            np.ascontiguousarray(result["image"]),
            np.asarray(result["bboxes"], np.float32),
            np.asarray(result["labels"], np.int64),
        )


def _compose(crop: bool, flip: float, colour: float, window: int | None) -> A.Compose:
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
            **{name: most * colour for name, most in JITTER.items()}, p=JITTER_SHARE
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
