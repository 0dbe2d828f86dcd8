"""Small, medium and large objects, as COCO has them."""

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import GroundTruth

SIZES = ("small", "medium", "large")
_SMALL, _LARGE = 32.0**2, 96.0**2  # in square pixels of the original image


def size_of(box: NDArray[np.float64]) -> NDArray[np.int64]:
    """Tell the size of boxes (n, 4).

    A box is small below 32 * 32 square pixels of the original image, large above 96 * 96, else
    medium.

    Returns:
        (n,) index into `SIZES`.
    """
    return _size(np.maximum(box[:, 2:] - box[:, :2], 0.0).prod(axis=1))


def size_of_objects(truth: GroundTruth) -> NDArray[np.int64]:
    """Tell the size of each object, by the area that the data state where they do, as COCO's does.

    Returns:
        (objects,) index into `SIZES`.
    """
    return size_of(truth.box) if truth.area is None else _size(truth.area)


def _size(area: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray((area >= _SMALL).astype(np.int64) + (area > _LARGE))
