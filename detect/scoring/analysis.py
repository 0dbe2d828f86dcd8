"""What is told of detections beside the metrics: how sure these are, and what is behind them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.scoring.bootstrap import Interval, bootstrap_map, paired_bootstrap
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.error_kinds import (
    ErrorAnalysis,
    analyse_errors,
    best_f1,
    confusion_matrix,
    pooled,
)
from detect.scoring.voc import (
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


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The threshold of the best F1, and what is counted at or above it.

    Attributes:
        score_threshold: Score.
        f1: Harmonic mean of precision and recall.
        precision: True positives among the counted detections.
        recall: True positives among the counted objects.
        true_positives: Number.
        false_positives: Number.
    """

    score_threshold: float
    f1: float
    precision: float
    recall: float
    true_positives: int
    false_positives: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is said of a detector beside its metrics.

    Attributes:
        overall: Best F1 of all classes together, with one threshold; None without a hit.
        by_class: Class name to its best F1; None without a hit.
        errors: TIDE's kinds, at TIDE's overlaps.
        confusion: (classes + 1, classes + 1) from `threshold` on; rows are objects, columns
            detections, the last of each is the background.
        intervals: "map_11point" and "map_area"; empty without resamples.
    """

    overall: OperatingPoint | None
    by_class: Mapping[str, OperatingPoint | None]
    errors: ErrorAnalysis
    confusion: NDArray[np.int64]
    intervals: Mapping[str, Interval]

    @staticmethod
    def of(
        truth: GroundTruth, detections: Detections, result: VocScore, resamples: int = 1000
    ) -> "Analysis":
        """Analyses detections that `result` has scored; 0 resamples give no intervals."""
        overall = operating_point(pooled(result, detections))
        intervals = (
            bootstrap_map(truth, detections, result.iou, resamples, _SEED) if resamples else {}
        )
        return Analysis(
            overall=overall,
            by_class={name: operating_point(score) for name, score in result.per_class.items()},
            errors=analyse_errors(truth, detections, _FOREGROUND, _BACKGROUND),
            confusion=confusion_matrix(truth, detections, _threshold(overall), result.iou),
            intervals=intervals,
        )

    @property
    def threshold(self) -> float:
        """Detections with this score or more are shown and counted: all of them without a hit."""
        return _threshold(self.overall)


def _threshold(overall: OperatingPoint | None) -> float:
    return overall.score_threshold if overall else -math.inf


def operating_point(score: ClassScore) -> OperatingPoint | None:
    """Finds the threshold of the best F1; None where no detection is a hit."""
    best = best_f1(score)
    if best is None:
        return None
    threshold, f1, precision, recall = best
    counted = int(np.count_nonzero(score.score >= threshold))
    true = round(precision * counted)
    return OperatingPoint(threshold, f1, precision, recall, true, counted - true)


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
    analysis = Analysis.of(truth, detections, result, resamples)
    return {
        "iou": iou,
        "by_iou": [score_voc(truth, detections, value).metrics() for value in ious],
        "by_size": {
            name: _size_metrics(score)
            for name, score in score_by_size(truth, detections, iou).items()
        },
        "intervals": _bootstrap_record(analysis.intervals, resamples) if resamples else None,
        "against": None,
        "errors": {
            "foreground": _FOREGROUND,
            "background": _BACKGROUND,
            "counts": analysis.errors.counts,
            "delta_ap": analysis.errors.delta_ap,
        },
        "confusion": {
            "score_threshold": analysis.overall and analysis.overall.score_threshold,
            "classes": [*truth.classes, "background"],
            "matrix": analysis.confusion.tolist(),
        },
        "per_class": {
            name: _class_counts(score, analysis.by_class[name])
            for name, score in result.per_class.items()
        },
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

    As in COCO, objects of another size are ignored, and so are false detections of another
    size. They are ignored as difficult objects are, so one absorbs any number of hits; in COCO it
    absorbs one, and a box of exactly 32 * 32 or 96 * 96 is of two sizes.

    Returns:
        A score for each of `SIZES`, in which objects of other sizes count as difficult, and
        detections of other sizes are gone but for true positives.
    """
    overlap, nearest = best_overlaps(truth, detections)
    object_size, found_size = size_of(truth.box), size_of(detections.box)
    scores = {}
    for size, name in enumerate(SIZES):
        of_size = replace(truth, difficult=truth.difficult | (object_size != size))
        result = score_overlaps(of_size, detections, overlap, nearest, iou)
        kept = (found_size == size) | result.true_positive
        scores[name] = score_overlaps(
            of_size, detections.select(kept), overlap[kept], nearest[kept], iou
        )
    return scores


def size_of(box: NDArray[np.float64]) -> NDArray[np.int64]:
    """Tells the size of boxes (n, 4).

    A box is small below 32 * 32 square pixels of the original image, large above 96 * 96, else
    medium.

    Returns:
        (n,) index into `SIZES`.
    """
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


def _class_counts(score: ClassScore, best: OperatingPoint | None) -> dict[str, Any]:
    return {
        "objects": score.objects,
        "difficult": score.difficult,
        "detections": score.detections,
        "best_f1": best and asdict(best),
    }


def _bootstrap_record(intervals: Mapping[str, Interval], resamples: int) -> dict[str, Any]:
    record: dict[str, Any] = {"level": 0.95, "resamples": resamples, "seed": _SEED}
    for name, interval in intervals.items():
        numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
        record[name] = {
            **{key: None if math.isnan(number) else number for key, number in numbers.items()},
            "excludes_zero": interval.decided,
        }
    return record
