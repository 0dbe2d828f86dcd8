"""COCO's metric by pycocotools itself, which `detect.scoring.coco` equals in far less time.

Difficult objects are given as crowds, as there.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.scoring.coco import NAMES
from detect.scoring.detections import Detections, GroundTruth


def score_coco(truth: GroundTruth, detections: Detections) -> dict[str, float | None]:
    """Return the "coco" part of metrics.json.

    Object sizes are box areas in original pixels: small below 32 * 32, large above 96 * 96.

    Returns:
        Fractions by name; None where no class has counted objects of that size.
    """
    objects = _annotations(truth.image, truth.label, truth.box)
    for entry, difficult in zip(objects, truth.difficult.tolist(), strict=True):
        entry["iscrowd"] = int(difficult)
    for entry, area in zip(objects, [] if truth.area is None else truth.area, strict=False):
        entry["area"] = float(area)
    found = _annotations(detections.image, detections.label, detections.box)
    for entry, score in zip(found, detections.score.tolist(), strict=True):
        entry["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(truth, objects), _index(truth, found), iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = (float(value) for value in evaluation.stats[: len(NAMES)])
    return {name: None if value < 0 else value for name, value in zip(NAMES, stats, strict=True)}


def _annotations(
    image: NDArray[np.int64], label: NDArray[np.int64], box: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Make COCO entries of boxes; ids start at 1, since pycocotools takes 0 for "unmatched"."""
    rows: Iterator[tuple[int, int, list[float]]] = zip(
        image.tolist(), label.tolist(), box.tolist(), strict=True
    )
    return [
        {
            "id": number,
            "image_id": image + 1,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        for number, (image, label, (x1, y1, x2, y2)) in enumerate(rows, start=1)
    ]


def _index(truth: GroundTruth, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, len(truth.image_ids) + 1)],
        "categories": [{"id": number} for number in range(1, len(truth.classes) + 1)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
