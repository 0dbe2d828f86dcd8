"""What analysis.json says beside the metrics: how sure they are, and what is behind them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.scoring.bootstrap import SEED, Interval, intervals_of
from detect.scoring.calibration import calibration
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.error_kinds import (
    ErrorAnalysis,
    analyse_errors,
    best_f1,
    confusion_matrix,
    pooled,
)
from detect.scoring.matches import Matches, match
from detect.scoring.sizes import SIZES, size_of, size_of_objects
from detect.scoring.voc import ClassScore, Recall, VocScore, mean_of_known, score_voc

_FOREGROUND, _BACKGROUND = 0.5, 0.1  # TIDE's


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The threshold of the best F1, and what is counted at or above it."""

    score_threshold: float
    """Score."""
    f1: float
    """Harmonic mean of precision and recall."""
    precision: float
    """True positives among the counted detections."""
    recall: float
    """True positives among the counted objects."""
    true_positives: int
    """Number."""
    false_positives: int
    """Number."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What analysis.json says about a detector."""

    overall: OperatingPoint | None
    """Best F1 of all classes together, with one threshold; None without a hit."""
    by_class: Mapping[str, OperatingPoint | None]
    """Class name to its best F1; None without a hit."""
    errors: ErrorAnalysis
    """TIDE's kinds, at TIDE's overlaps."""
    confusion: NDArray[np.int64]
    """(classes + 1, classes + 1) from `threshold` on; rows are objects, columns detections, the
    last of each is the background."""
    intervals: Mapping[str, Interval]
    """Of "map_11point" and "map_area"; empty without resamples."""

    @staticmethod
    def of(
        truth: GroundTruth,
        detections: Detections,
        result: VocScore,
        matches: Matches | None = None,
        resampled: NDArray[np.float64] | None = None,
    ) -> "Analysis":
        """Analyse detections that `result` has scored.

        Args:
            truth: The objects of the split.
            detections: What a detector found in it.
            result: Its score.
            matches: Of detections and objects, where already computed.
            resampled: What `resampled_ap` returns for them; None for no intervals.
        """
        matches = matches or match(truth, detections)
        overall = operating_point(pooled(result, detections, matches))
        return Analysis(
            overall=overall,
            by_class={name: operating_point(score) for name, score in result.per_class.items()},
            errors=analyse_errors(truth, detections, _FOREGROUND, _BACKGROUND, matches),
            confusion=confusion_matrix(truth, detections, _threshold(overall), result.iou, matches),
            intervals={} if resampled is None else intervals_of(resampled),
        )

    @property
    def threshold(self) -> float:
        """Detections with this score or more are shown and counted: all of them without a hit."""
        return _threshold(self.overall)


def _threshold(overall: OperatingPoint | None) -> float:
    return overall.score_threshold if overall else -math.inf


def operating_point(score: ClassScore) -> OperatingPoint | None:
    """Find the threshold of the best F1; None where no detection is a hit."""
    best = best_f1(score)
    if best is None:
        return None
    threshold, f1, precision, recall = best
    counted = int(np.count_nonzero(score.score >= threshold))
    true = round(precision * counted)
    return OperatingPoint(threshold, f1, precision, recall, true, counted - true)


def analyse(
    truth: GroundTruth,
    detections: Detections,
    ious: Sequence[float],
    matches: Matches,
    resampled: NDArray[np.float64] | None,
    recall: Recall = "integer",
) -> dict[str, Any]:
    """Compute the content of analysis.json.

    Fractions, as in metrics.json; None for what is not counted. The first overlap holds where no
    other is said; the kinds of error have TIDE's own.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        ious: The overlaps that make a hit, in (0, 1]; at least one.
        matches: Of detections and objects.
        resampled: What `resampled_ap` gives at the first overlap; None for no intervals.
        recall: How the 11 points compare recall, as for `score_voc`.
    """
    results = [score_voc(truth, detections, iou, matches, recall) for iou in ious]
    result = results[0]
    analysis = Analysis.of(truth, detections, result, matches, resampled)
    return {
        "iou": result.iou,
        "by_iou": [other.metrics() for other in results],
        "by_size": {
            name: _size_metrics(score)
            for name, score in score_by_size(truth, detections, result.iou, matches, recall).items()
        },
        "intervals": None
        if resampled is None
        else bootstrap_record(analysis.intervals, len(resampled) - 1),
        "against": None,
        "recall": _recall_record(truth, detections, result, matches, recall),
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
        "calibration": calibration(truth, detections, result),
        "per_class": {
            name: _class_counts(score, analysis.by_class[name])
            for name, score in result.per_class.items()
        },
    }


def _recall_record(
    truth: GroundTruth,
    detections: Detections,
    result: VocScore,
    matches: Matches,
    recall: Recall,
) -> dict[str, Any]:
    """Score by the other comparison of recall: that of py-faster-rcnn, or the exact one."""
    other: Recall = "float" if recall == "integer" else "integer"
    compared = score_voc(truth, detections, result.iou, matches, other)
    ap = {name: score.ap_11point for name, score in compared.per_class.items()}
    return {
        "rule": recall,
        other: {"map_11point": mean_of_known(ap.values()), "per_class": ap},
        "differs": [n for n, score in result.per_class.items() if score.ap_11point != ap[n]],
    }


def score_by_size(
    truth: GroundTruth,
    detections: Detections,
    iou: float = 0.5,
    matches: Matches | None = None,
    recall: Recall = "integer",
) -> dict[str, VocScore]:
    """Score by VOC's rules the objects of one size at a time.

    As in COCO, objects of another size are ignored, and so are false detections of another
    size. They are ignored as difficult objects are, so one absorbs any number of hits; in COCO it
    absorbs one, and a box of exactly 32 * 32 or 96 * 96 is of two sizes.

    Returns:
        A score for each of `SIZES`, in which objects of other sizes count as difficult, and
        detections of other sizes are gone but for true positives.
    """
    matches = matches or match(truth, detections)
    object_size, found_size = size_of_objects(truth), size_of(detections.box)
    scores = {}
    for size, name in enumerate(SIZES):
        of_size = replace(truth, difficult=truth.difficult | (object_size != size))
        result = score_voc(of_size, detections, iou, matches, recall)
        kept = (found_size == size) | result.true_positive
        scores[name] = score_voc(
            of_size, detections.select(kept), iou, matches.select(kept), recall
        )
    return scores


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


def bootstrap_record(intervals: Mapping[str, Interval], resamples: int) -> dict[str, Any]:
    """Compute the "intervals" and "against" parts of analysis.json."""
    record: dict[str, Any] = {"level": 0.95, "resamples": resamples, "seed": SEED}
    for name, interval in intervals.items():
        numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
        record[name] = {
            **{key: None if math.isnan(number) else number for key, number in numbers.items()},
            "excludes_zero": interval.decided,
        }
    return record
