"""What analysis.json holds beside the metrics: how sure they are, and what is behind them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.bootstrap import Interval, bootstrap_map, paired_bootstrap
from detect.detections import Detections, GroundTruth
from detect.errors import analyse_errors, best_f1, confusion_matrix, pooled
from detect.voc_score import (
    ClassScore,
    VocScore,
    best_overlaps,
    mean_of_known,
    score_overlaps,
    score_voc,
)

SIZES = ("small", "medium", "large")
_SMALL, _LARGE = 32.0**2, 96.0**2  # COCO's, in square pixels of the original image
_FOREGROUND, _BACKGROUND = 0.5, 0.1  # TIDE's
_SEED = 0


def analyse(
    truth: GroundTruth, detections: Detections, ious: Sequence[float], resamples: int
) -> dict[str, Any]:
    """Computes the content of analysis.json.

    Fractions, as in metrics.json; None for what is not counted. The first overlap holds where no
    other is said; the kinds of error have TIDE's own.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        ious: The overlaps that make a hit, in (0, 1]; at least one.
        resamples: Of the bootstrap; 0 for no intervals.
    """
    iou = ious[0]
    result = score_voc(truth, detections, iou)
    errors = analyse_errors(truth, detections, _FOREGROUND, _BACKGROUND)
    pooled_f1 = best_f1(pooled(result, detections))
    threshold = pooled_f1[0] if pooled_f1 else None
    matrix = confusion_matrix(truth, detections, -math.inf if threshold is None else threshold, iou)
    intervals = bootstrap_map(truth, detections, iou, resamples, _SEED) if resamples else None
    return {
        "iou": iou,
        "by_iou": [score_voc(truth, detections, value).metrics() for value in ious],
        "by_size": {
            name: _size_metrics(score)
            for name, score in score_by_size(truth, detections, iou).items()
        },
        "intervals": intervals and _bootstrap_record(intervals, resamples),
        "against": None,
        "errors": {
            "foreground": _FOREGROUND,
            "background": _BACKGROUND,
            "counts": errors.counts,
            "delta_ap": errors.delta_ap,
        },
        "confusion": {
            "score_threshold": threshold,
            "classes": [*truth.classes, "background"],
            "matrix": matrix.tolist(),
        },
        "per_class": {name: _class_counts(score) for name, score in result.per_class.items()},
    }


def compare(
    truth: GroundTruth, first: Detections, second: Detections, iou: float, resamples: int
) -> dict[str, Any]:
    """Computes the "against" part of analysis.json: second - first on the same resamples."""
    differences = paired_bootstrap(truth, first, second, iou, resamples, _SEED)
    return _bootstrap_record(differences, resamples)


def score_by_size(
    truth: GroundTruth, detections: Detections, iou: float = 0.5
) -> dict[str, VocScore]:
    """Scores by VOC's rules the objects of one size at a time.

    A box is small below 32 * 32 square pixels of the original image, large above 96 * 96, else
    medium. As in COCO, objects of another size are ignored, and so are false detections of another
    size. They are ignored as difficult objects are, so one absorbs any number of hits; in COCO it
    absorbs one, and a box of exactly 32 * 32 or 96 * 96 is of two sizes.

    Returns:
        A score for each of `SIZES`, in which objects of other sizes count as difficult and their
        false detections are gone.
    """
    overlap, nearest = best_overlaps(truth, detections)
    object_size, found_size = _size(truth.box), _size(detections.box)
    scores = {}
    for size, name in enumerate(SIZES):
        of_size = replace(truth, difficult=truth.difficult | (object_size != size))
        result = score_overlaps(of_size, detections, overlap, nearest, iou)
        kept = (found_size == size) | result.true_positive | result.ignored
        scores[name] = score_overlaps(
            of_size, detections.select(kept), overlap[kept], nearest[kept], iou
        )
    return scores


def _size(box: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index (n,) into `SIZES`."""
    area = (box[:, 2:] - box[:, :2]).prod(axis=1)
    return np.asarray((area >= _SMALL).astype(np.int64) + (area > _LARGE))


def _size_metrics(score: VocScore) -> dict[str, Any]:
    counts = ("ap_11point", "ap_area", "objects")
    scores = score.per_class
    return {
        "map_11point": mean_of_known(s.ap_11point for s in scores.values()),
        "map_area": mean_of_known(s.ap_area for s in scores.values()),
        "objects": sum(s.objects for s in scores.values()),
        "per_class": {
            name: {count: getattr(s, count) for count in counts} for name, s in scores.items()
        },
    }


def _class_counts(score: ClassScore) -> dict[str, Any]:
    """What a class has, and the best F1 with the detections counted from its threshold on."""
    record: dict[str, Any] = {
        "objects": score.objects,
        "difficult": score.difficult,
        "detections": score.detections,
        "best_f1": None,
    }
    best = best_f1(score)
    if best:
        threshold, f1, precision, recall = best
        found, true = int((score.score >= threshold).sum()), round(recall * score.objects)
        record["best_f1"] = {
            "score_threshold": threshold,
            "f1": f1,
            "precision": precision,
            "recall": recall,
            "true_positives": true,
            "false_positives": found - true,
        }
    return record


def _bootstrap_record(intervals: dict[str, Interval], resamples: int) -> dict[str, Any]:
    record: dict[str, Any] = {"level": 0.95, "resamples": resamples, "seed": _SEED}
    for name, interval in intervals.items():
        numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
        record[name] = {
            **{key: None if math.isnan(number) else number for key, number in numbers.items()},
            "excludes_zero": interval.decided,
        }
    return record
