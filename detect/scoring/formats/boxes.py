"""What the numbers of boxes mean: pixels or shares of the image, corners or sizes."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detect.data.dataset import LARGEST

Form = Literal["corner and size", "corners", "inclusive corners", "centre and size"]
"""Continuous [x, y, width, height]; continuous [x1, y1, x2, y2]; the kit's 1-based [xmin, ymin,
xmax, ymax]; continuous [x, y, width, height] of the centre."""
_ROUNDING = 0.02
_MANY = 0.2


def are_finite(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which coordinates can be reckoned with."""
    return np.asarray(np.abs(values) <= LARGEST)


def to_corners(box: NDArray[np.float64], form: Form) -> NDArray[np.float64]:
    """Turn boxes (n, 4) of any form into continuous [x1, y1, x2, y2]."""
    first, second = box[:, :2], box[:, 2:]
    if form == "corner and size":
        return np.hstack([first, first + second])
    if form == "centre and size":
        return np.hstack([first - second / 2, first + second / 2])
    return box - np.array([1.0, 1.0, 0.0, 0.0]) if form == "inclusive corners" else box


def read_boxes(
    box: NDArray[np.float64], sizes: NDArray[np.int64], form: Form, notes: list[str]
) -> NDArray[np.float64]:
    """Read boxes as their format has them, or otherwise where they allow one reading alone.

    Args:
        box: (n, 4) numbers of the file.
        sizes: (n, 2) width and height of each box's image, in pixels.
        form: What the format means by the numbers.
        notes: Gains a line where another reading is taken.

    Returns:
        (n, 4) continuous [x1, y1, x2, y2] in pixels.
    """
    if not len(box):
        return box.reshape(-1, 4)
    scale = np.ones((len(box), 2))
    if box.min() >= 0 and box.max() <= 1 + _ROUNDING and (sizes > 4).all():
        notes.append("boxes all lie in [0, 1]: read as shares of the image's width and height")
        scale = sizes.astype(np.float64)
        form = "corners" if form == "inclusive corners" else form
    if form == "corner and size" and _are_corners(box, sizes / scale, 1 / scale):
        notes.append(
            "boxes are read as [x1, y1, x2, y2]: as [x, y, width, height] they would "
            "leave their images"
        )
        form = "corners"
    return to_corners(box, form) * np.hstack([scale, scale])


def _are_corners(
    box: NDArray[np.float64], edges: NDArray[np.float64], pixel: NDArray[np.float64]
) -> bool:
    """Return whether boxes fit their images as corners, and do not as corner and size."""
    slack = pixel + _ROUNDING * edges
    fits = (box[:, 2:] > box[:, :2]).all() and (box[:, 2:] <= edges + slack).all()
    leaves = (box[:, :2] + box[:, 2:] > edges + slack).any(axis=1)
    return bool(fits and leaves.mean() > _MANY)


def faults(
    box: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of boxes without area, and of boxes whose middle is outside their image."""
    flat = np.flatnonzero((box[:, 2:] <= box[:, :2]).any(axis=1))
    middle = (box[:, :2] + box[:, 2:]) / 2
    out = np.flatnonzero(((middle < 0) | (middle > sizes)).any(axis=1))
    return flat, out
