"""What the report adds to the metrics of a run: thresholds, errors, confusion, intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.bootstrap import Interval, bootstrap_map
from detect.detections import Detections, GroundTruth
from detect.errors import ErrorAnalysis, analyse_errors, best_f1, confusion_matrix, pooled
from detect.voc_score import ClassScore, VocScore

NO_THRESHOLD = 0.3
"""Score from which detections are drawn where no threshold has an F1 above 0."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The threshold of the best F1, and what is counted at or above it.

    Attributes:
        threshold: Score.
        f1: Harmonic mean of precision and recall.
        precision: True positives among the counted detections.
        recall: True positives among the counted objects.
        true_positives: Number.
        false_positives: Number.
    """

    threshold: float
    f1: float
    precision: float
    recall: float
    true_positives: int
    false_positives: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the report says of a run beside its metrics.

    Attributes:
        overall: Best F1 of all classes together, with one threshold; None without a hit.
        by_class: Class name to its best F1; None without a hit.
        errors: TIDE's kinds.
        confusion: (classes + 1, classes + 1) at the overall threshold; rows are objects, columns
            detections, the last of each is the background.
        intervals: "map_11point" and "map_area".
    """

    overall: OperatingPoint | None
    by_class: Mapping[str, OperatingPoint | None]
    errors: ErrorAnalysis
    confusion: NDArray[np.int64]
    intervals: Mapping[str, Interval]

    @property
    def threshold(self) -> float:
        """Detections with this score or more are drawn and counted by image."""
        return self.overall.threshold if self.overall else NO_THRESHOLD


def analyse(truth: GroundTruth, detections: Detections, voc: VocScore) -> Analysis:
    """Analyses a run that `voc` has scored."""
    overall = operating_point(pooled(voc, detections))
    threshold = overall.threshold if overall else NO_THRESHOLD
    return Analysis(
        overall=overall,
        by_class={name: operating_point(score) for name, score in voc.per_class.items()},
        errors=analyse_errors(truth, detections),
        confusion=confusion_matrix(truth, detections, threshold, voc.iou),
        intervals=bootstrap_map(truth, detections, voc.iou),
    )


def operating_point(score: ClassScore) -> OperatingPoint | None:
    """Finds the threshold of the best F1; None where no detection is a hit."""
    best = best_f1(score)
    if best is None:
        return None
    threshold, f1, precision, recall = best
    taken = int(np.count_nonzero(score.score >= threshold))
    true = round(precision * taken)
    return OperatingPoint(threshold, f1, precision, recall, true, taken - true)
