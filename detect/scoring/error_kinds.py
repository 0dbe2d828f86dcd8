"""Why detections are false and objects missed: TIDE's six kinds of error, by VOC's rules.

TIDE (Bolya et al., ECCV 2020) asks of every false detection, in this order:

1. Does it overlap an object of its class by [background, foreground]? Localization.
2. Does it overlap an object of another class by at least foreground? Classification.
3. Does it hit an object of its class that is taken? Duplicate.
4. Does it overlap no object by more than background? Background.
5. Otherwise it is Both: off in class and in place.

A counted object that is not found is missed, unless an error of kind 1 or 2 points at it.

What mending one kind alone would gain is measured in mAP (area). Classification and localization:
of the detections that point at an object not found, the one of highest score among both kinds
becomes true, in the object's class; the others vanish. Both, duplicate, background: the detections
vanish. Missed: the objects do. The gains overlap, so they do not add up.

TIDE counts as COCO does. Here the metric is `detect.scoring.voc`, so that the errors are those of
the mAP beside them:

- A detection looks only at the object that it overlaps most, among those of its class and among
  all others. TIDE would hand it the second best where the best is taken; here it is a duplicate.
- TIDE drops ignored objects first. Here difficult ones are looked at as the kit does: who hits one
  of the own class is right to be ignored and no error, and who merely comes near one, or calls it
  by another class, is named after it (kinds 1 and 2); mended, it would be ignored, so it vanishes.
  A difficult object is never missed.
- AP is the area under the envelope, not 101 points, and a class without counted objects is out of
  the mean, not 0. So is a class that mending leaves without any.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches, by_label, match
from detect.scoring.voc import (
    ClassScore,
    VocScore,
    average_precision,
    class_score,
    mean_of_known,
    score_voc,
)

ERROR_KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
"""The kinds of error as TIDE lists them; `ErrorAnalysis.kind` counts in this order."""
_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)


@dataclass(frozen=True, slots=True)
class ErrorAnalysis:
    """What is wrong with the detections of a split."""

    kind: NDArray[np.int64]
    """(d,) index into `ERROR_KINDS`, below 5; -1 for detections that are right or ignored."""
    missed: NDArray[np.bool_]
    """(objects,) True for missed ones, the sixth kind."""
    delta_ap: dict[str, float]
    """Gain of mAP (area), a fraction, by each of `ERROR_KINDS`, and by "false_positive" (all false
    detections gone) and "false_negative" (all objects not found gone); 0 where no class has counted
    objects, before or after."""
    counts: dict[str, int]
    """Errors by each of `ERROR_KINDS`."""


def analyse_errors(
    truth: GroundTruth,
    detections: Detections,
    foreground: float = 0.5,
    background: float = 0.1,
    matches: Matches | None = None,
) -> ErrorAnalysis:
    """Sort the errors of a detector into TIDE's kinds and measure the weight of each.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        foreground: The overlap that makes a hit.
        background: Up to here an overlap is chance.
        matches: Of detections and objects, where already computed.

    Raises:
        ValueError: Not 0 < background < foreground <= 1.
    """
    if not 0.0 < background < foreground <= 1.0:
        raise ValueError(f"not 0 < background {background} < foreground {foreground} <= 1")
    matches = matches or match(truth, detections)
    same, same_object = matches.overlap, matches.nearest
    other, other_object = matches.other_overlap, matches.other_nearest
    result = score_voc(truth, detections, foreground, matches)

    kind = np.select(
        [
            result.true_positive | result.ignored,
            (background <= same) & (same <= foreground),
            other >= foreground,
            same > foreground,
            np.maximum(same, other) <= background,
        ],
        [-1, _LOCALIZATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND],
        default=_BOTH,
    )
    meant = np.select(
        [kind == _LOCALIZATION, kind == _CLASSIFICATION], [same_object, other_object], default=-1
    )
    lost = ~truth.difficult
    lost[result.match[result.true_positive]] = False
    points = meant >= 0
    points[points] = lost[meant[points]]
    missed = lost.copy()
    missed[meant[points]] = False
    return ErrorAnalysis(
        kind=kind,
        missed=missed,
        delta_ap=_gains(
            truth, detections, matches, result, kind, np.where(points, meant, -1), lost, missed
        ),
        counts={
            **{name: int(np.count_nonzero(kind == k)) for k, name in enumerate(ERROR_KINDS[:5])},
            ERROR_KINDS[5]: int(np.count_nonzero(missed)),
        },
    )


def _gains(
    truth: GroundTruth,
    detections: Detections,
    matches: Matches,
    result: VocScore,
    kind: NDArray[np.int64],
    meant: NDArray[np.int64],
    lost: NDArray[np.bool_],
    missed: NDArray[np.bool_],
) -> dict[str, float]:
    """Return the gains of mAP; `meant` (d,) is the object in `lost` an error points at, else -1."""
    judged = matches.falling[~result.ignored[matches.falling]]
    label, true = detections.label[judged], result.true_positive[judged]
    kind, meant = kind[judged], meant[judged]
    counted = _per_class(truth, ~truth.difficult)
    before = _mean_ap(label, true, counted)

    def gain(
        label: NDArray[np.int64], true: NDArray[np.bool_], objects: NDArray[np.int64] = counted
    ) -> float:
        after = _mean_ap(label, true, objects)
        return 0.0 if before is None or after is None else after - before

    pointing = np.flatnonzero(meant >= 0)
    _, first = np.unique(meant[pointing], return_index=True)
    chosen = np.zeros(len(kind), dtype=np.bool_)
    chosen[pointing[first]] = True

    gains = {}
    for k, name in enumerate(ERROR_KINDS[:5]):
        became_true = chosen & (kind == k)
        mended = label.copy()
        mended[became_true] = truth.label[meant[became_true]]
        kept = (kind != k) | became_true
        gains[name] = gain(mended[kept], (true | became_true)[kept])
    gains["missed"] = gain(label, true, counted - _per_class(truth, missed))
    gains["false_positive"] = gain(label[true], true[true])
    gains["false_negative"] = gain(label, true, counted - _per_class(truth, lost))
    return gains


def _per_class(truth: GroundTruth, which: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.bincount(truth.label[which], minlength=len(truth.classes))


def _mean_ap(
    label: NDArray[np.int64], true: NDArray[np.bool_], objects: NDArray[np.int64]
) -> float | None:
    """Return the mAP (area) of detections (n,) by falling score and counted objects (classes,)."""
    order, bounds = by_label(label, len(objects))
    parts = np.split(true[order], bounds[1:-1])
    pairs = zip(parts, objects.tolist(), strict=True)
    return mean_of_known(average_precision(part, count)[1] for part, count in pairs)


def confusion_matrix(
    truth: GroundTruth,
    detections: Detections,
    score_threshold: float,
    iou: float = 0.5,
    matches: Matches | None = None,
) -> NDArray[np.int64]:
    """Count which class was taken for which, from the detections of a score and above.

    The diagonal holds the true positives of the metric. By falling score, a false detection then
    takes the object of other classes that it overlaps most, if that is a hit and the object is
    counted and still free; otherwise it found background. So a row sums to the counted objects of
    its class, a column to its detections that are not ignored; difficult objects are in no row.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        score_threshold: The least score of a detection that counts.
        iou: The overlap that makes a hit, in (0, 1].
        matches: Of detections and objects, where already computed.

    Returns:
        (classes + 1, classes + 1) true classes by detected ones; the last is background.
    """
    matches = matches or match(truth, detections)
    # Who takes an object has the highest score of those who hit it, so a threshold changes nothing.
    result = score_voc(truth, detections, iou, matches)
    counted = (detections.score >= score_threshold) & ~result.ignored
    kept = matches.falling[counted[matches.falling]]
    true = result.true_positive[kept]
    object_of = np.where(true, result.match[kept], -1)
    free = ~truth.difficult
    free[object_of[true]] = False

    overlap, nearest = matches.other_overlap[kept], matches.other_nearest[kept]
    taking = np.flatnonzero(~true & (overlap >= iou))
    taking = taking[free[nearest[taking]]]
    taken, first = np.unique(nearest[taking], return_index=True)
    object_of[taking[first]] = taken
    free[taken] = False

    background = len(truth.classes)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    row = np.append(truth.label, background)[object_of]  # -1 is the appended one
    np.add.at(matrix, (row, detections.label[kept]), 1)
    matrix[:background, background] = _per_class(truth, free)
    return matrix


def best_f1(score: ClassScore) -> tuple[float, float, float, float] | None:
    """Find the score from which on the detections of a class have the best F1.

    Returns:
        Threshold (the highest of equals), F1, precision and recall of all detections of that score
        and above; None for a class without a true positive.
    """
    if not score.objects:
        return None
    ends = np.flatnonzero(np.append(score.score[1:] != score.score[:-1], True)[: len(score.score)])
    true = np.rint(score.recall[ends] * score.objects)
    if not true.any():
        return None
    f1 = 2 * true / (ends + 1 + score.objects)
    best = int(np.argmax(f1))
    end = ends[best]
    found = float(score.score[end]), float(f1[best])
    return *found, float(score.precision[end]), float(score.recall[end])


def pooled(result: VocScore, detections: Detections, matches: Matches) -> ClassScore:
    """Put the detections of all classes on one curve, for a threshold that serves all."""
    counted = matches.falling[~result.ignored[matches.falling]]
    classes = result.per_class.values()
    return class_score(
        result.true_positive[counted],
        detections.score[counted],
        objects=sum(score.objects for score in classes),
        difficult=sum(score.difficult for score in classes),
        detections=len(detections.score),
    )
