"""Objects and detections of made-up images, from rows that a test writes down."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from detect.scoring.detections import Detections, GroundTruth

Rows = Iterable[tuple[Any, ...]]


def truth_of(objects: Rows, classes: Sequence[str], image_ids: Sequence[str] | int) -> GroundTruth:
    """Make objects of (image, label, box, difficult); a number of images names them."""
    if isinstance(image_ids, int):
        image_ids = [f"{i:06d}" for i in range(image_ids)]
    image, label, box, difficult = _columns(objects)
    return GroundTruth(
        classes=tuple(classes),
        image_ids=tuple(image_ids),
        sizes=np.full((len(image_ids), 2), 500),
        image=np.array(image, dtype=np.int64),
        label=np.array(label, dtype=np.int64),
        box=np.array(box, dtype=np.float64).reshape(-1, 4),
        difficult=np.array(difficult, dtype=np.bool_),
    )


def detections_of(rows: Rows) -> Detections:
    """Make detections of (image, label, score, box)."""
    image, label, score, box = _columns(rows)
    return Detections(
        image=np.array(image, dtype=np.int64),
        label=np.array(label, dtype=np.int64),
        score=np.array(score, dtype=np.float64),
        box=np.array(box, dtype=np.float64).reshape(-1, 4),
    )


def _columns(rows: Rows) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) or [()] * 4
