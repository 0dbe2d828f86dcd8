"""The Pascal VOC detection metric, by the rules of the development kit (VOCevaldet.m, VOCap.m).

For each class by itself:

1. Detections are taken by falling score; among equal scores the given order stays.
2. A detection looks only at the object of its class and image that it overlaps most (the first of
   equals), even if that object is difficult or already taken. The second best is never tried.
3. Under the IoU threshold it is a false positive; at exactly the threshold it is a hit.
4. A hit on a difficult object is ignored: neither true nor false, however often it happens. A hit
   on a free object is a true positive and takes it; on a taken object it is a false positive.
5. Recall is counted over the objects that are not difficult.
6. AP as in 2007: the mean over recall 0, 0.1, .., 1 of the highest precision at that recall or
   above, 0 where it is not reached. Recall is compared in integers, 10 * TP >= k * objects, so that
   a recall of exactly 3/10, 6/10 or 7/10 reaches its threshold. "float" compares as py-faster-rcnn
   does, TP / objects >= np.arange(0, 1.1, 0.1)[k]: there those three fail, for the binary fraction
   of the right side is one digit too large, and a class can be lower by up to 1/11 of a step.
7. AP since 2010: the area under the precision envelope, from recall 0 to 1.

The kit counts inclusive pixels, width = xmax - xmin + 1. Boxes here are continuous,
[xmin - 1, ymin - 1, xmax, ymax], so plain widths x2 - x1 give the same overlap without the + 1.

Where the kit divides 0 by 0 (detections so far all ignored) there is no point on the curve; a class
whose detections are all ignored has AP 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches, match

Recall = Literal["integer", "float"]
FLOAT_RECALLS = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: its AP, what was counted, its precision-recall curve."""

    ap_11point: float | None
    """AP as in 2007, a fraction; None without counted objects."""
    ap_area: float | None
    """AP since 2010, a fraction; None without counted objects."""
    objects: int
    """Objects that are not difficult."""
    difficult: int
    """Objects that are."""
    detections: int
    """Detections, ignored ones included."""
    recall: NDArray[np.float64]
    """(points,) one point per detection that is not ignored, by falling score; NaN without counted
    objects."""
    precision: NDArray[np.float64]
    """(points,) true positives among the detections up to this one."""
    score: NDArray[np.float64]
    """(points,) the score of the detection."""


@dataclass(frozen=True, slots=True)
class VocScore:
    """The metric of a split, and what became of every detection."""

    iou: float
    """The overlap that makes a hit."""
    per_class: dict[str, ClassScore]
    """Class name to its score, in class order."""
    overlap: NDArray[np.float64]
    """(d,) largest IoU with an object of the detection's class and image, 0 if none."""
    match: NDArray[np.int64]
    """(d,) index of that object in the ground truth if the overlap is a hit, else -1."""
    true_positive: NDArray[np.bool_]
    """(d,) took a counted object."""
    ignored: NDArray[np.bool_]
    """(d,) hit a difficult object; what is neither is a false positive."""

    def metrics(self) -> dict[str, Any]:
        """Return the "voc" part of metrics.json; null where no class has counted objects."""
        counts = ("ap_11point", "ap_area", "objects", "difficult", "detections")
        scores = self.per_class.values()
        return {
            "iou": self.iou,
            "map_11point": mean_of_known(score.ap_11point for score in scores),
            "map_area": mean_of_known(score.ap_area for score in scores),
            "per_class": {
                name: {count: getattr(score, count) for count in counts}
                for name, score in self.per_class.items()
            },
        }


def score_voc(
    truth: GroundTruth,
    detections: Detections,
    iou: float = 0.5,
    matches: Matches | None = None,
    recall: Recall = "integer",
) -> VocScore:
    """Score detections by the rules above.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it, in any order.
        iou: The overlap that makes a hit, in (0, 1].
        matches: Of detections and objects, where already computed; no threshold changes them.
        recall: How the 11 points compare recall (rule 6).

    Raises:
        ValueError: `iou` is outside (0, 1].
    """
    if not 0.0 < iou <= 1.0:
        raise ValueError(f"iou is {iou}; it must lie in (0, 1]")
    matches = matches or match(truth, detections)
    hit = np.where(matches.overlap >= iou, matches.nearest, -1)
    ignored = np.append(truth.difficult, False)[hit]  # -1 is the appended one

    # The first hit on an object takes it: written last to first, that of the first stays.
    order, bounds = matches.order, matches.bounds
    backwards = order[::-1]
    backwards = backwards[((hit >= 0) & ~ignored)[backwards]]
    taker = np.full(len(truth.label), -1)
    taker[hit[backwards]] = backwards
    true_positive = np.zeros(len(order), dtype=np.bool_)
    true_positive[taker[taker >= 0]] = True

    objects, difficult = (
        np.bincount(truth.label[which], minlength=len(truth.classes)).tolist()
        for which in (~truth.difficult, truth.difficult)
    )
    per_class = {}
    for label, name in enumerate(truth.classes):
        rows = order[bounds[label] : bounds[label + 1]]
        counted = rows[~ignored[rows]]
        per_class[name] = class_score(
            true_positive[counted],
            detections.score[counted],
            objects=objects[label],
            difficult=difficult[label],
            detections=len(rows),
            recall_rule=recall,
        )
    return VocScore(iou, per_class, matches.overlap, hit, true_positive, ignored)


def average_precision(
    true_positive: NDArray[np.bool_], objects: int, recall: Recall = "integer"
) -> tuple[float, float] | tuple[None, None]:
    """Compute the 11-point AP and the area of one class.

    Args:
        true_positive: (points,) counted detections by falling score.
        objects: Counted objects; without any there is no AP.
        recall: How the 11 points compare recall.
    """
    if not objects:
        return None, None
    true = np.cumsum(true_positive)
    precision = true / np.arange(1, len(true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(true, least_true(objects, recall))  # first point at recall k/10
    ap_11point = float(envelope[reached[reached < len(true)]].sum() / 11)
    ap_area = float(envelope[true_positive].sum() / objects)  # each adds 1 / objects of recall
    return ap_11point, ap_area


def least_true(objects: int, recall: Recall) -> NDArray[np.int64]:
    """Return the true positives (11,) at which the recalls 0, 0.1, .., 1 are first reached."""
    if recall == "integer":
        return -(-objects * np.arange(11) // 10)
    return np.searchsorted(np.arange(objects + 2) / objects, FLOAT_RECALLS)


def class_score(
    true_positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    objects: int,
    difficult: int,
    detections: int,
    recall_rule: Recall = "integer",
) -> ClassScore:
    """Return the curve and AP of one class from its counted detections by falling score."""
    true = np.cumsum(true_positive)
    precision = true / np.arange(1, len(true) + 1)
    recall = true / objects if objects else np.full(len(true), np.nan)
    ap_11point, ap_area = average_precision(true_positive, objects, recall_rule)
    return ClassScore(ap_11point, ap_area, objects, difficult, detections, recall, precision, score)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Average over classes, without those that are None; None if all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
