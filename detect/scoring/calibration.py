"""Whether a score is a probability: of the detections with score 0.7, are 70% right?

Reliability in ten bins of equal width, and the expected calibration error (Naeini et al., AAAI
2015): the mean distance of a bin's precision from its mean score, weighted by its detections. As
for the precision of the metric, hits on difficult objects are left out (Kueppers et al., CVPRW
2020, have this for detections).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.voc import VocScore

BINS = 10


def calibration(
    truth: GroundTruth, detections: Detections, result: VocScore
) -> dict[str, Any] | None:
    """Compute the "calibration" part of analysis.json; None where a score is outside [0, 1].

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        result: Its score, which says what is right.
    """
    counted = ~result.ignored
    score, right = detections.score[counted], result.true_positive[counted]
    if len(score) and not (score.min() >= 0 and score.max() <= 1):
        return None
    places = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    places += detections.label[counted] * BINS
    shape = len(truth.classes), BINS
    count, total, true = (
        np.bincount(places, weights=weights, minlength=shape[0] * BINS).reshape(shape)
        for weights in (None, score, right)
    )
    return {
        "iou": result.iou,
        **_reliability(count.sum(axis=0), total.sum(axis=0), true.sum(axis=0)),
        "per_class": {
            name: _reliability(count[label], total[label], true[label])
            for label, name in enumerate(truth.classes)
        },
    }


def _reliability(
    count: NDArray[np.int64], total: NDArray[np.float64], true: NDArray[np.float64]
) -> dict[str, Any]:
    """Compute it from each bin's (BINS,) detections, sum of scores and true positives."""
    detections = int(count.sum())
    bins = [
        {
            "low": place / BINS,
            "high": (place + 1) / BINS,
            "detections": int(count[place]),
            "score": float(total[place] / count[place]) if count[place] else None,
            "precision": float(true[place] / count[place]) if count[place] else None,
        }
        for place in range(BINS)
    ]
    error = float(np.abs(true - total).sum() / detections) if detections else None
    return {"ece": error, "detections": detections, "bins": bins}
