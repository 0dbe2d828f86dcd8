"""Likely errors of the annotations: where a detector and the annotation disagree.

A detector that has learnt a class from thousands of boxes is a second opinion on each. Five kinds:

- missing: a sure detection where no object is annotated;
- spurious: an object of which little was found, while most of its class are found;
- wrong class: an object that a sure detection of another class lies on, and none of its own;
- displaced: an object that a sure detection of its class meets, but fits badly, and none fits;
- duplicate: two objects of a class in one place; no detection is asked.

Each candidate has a suspicion in [0, 1], which ranks those of its kind: a list to look through from
the top, not a verdict. A detector trained on the same errors has learnt some of them, and what is
hard to see heads the list as well as what is wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches, by_label, paired_iou

KINDS = ("missing", "spurious", "wrong class", "displaced", "duplicate")
MOST = 200
"""Candidates of a kind that are listed."""
TRUSTED_MAP = 0.5
"""A detector of a lower mAP is no second opinion: most candidates are errors of its own."""
_LEAST = 0.1
"""Suspicion of a candidate that is listed."""
_APART, _MEETS, _FITS, _SAME = 0.3, 0.1, 0.6, 0.7  # overlaps
_PRIOR = 20.0  # objects that the whole set counts as, in what is usual for a class


@dataclass(frozen=True, slots=True)
class Candidate:
    """A likely error."""

    kind: str
    """One of `KINDS`."""
    suspicion: float
    """In [0, 1]; ranks the candidates of a kind."""
    object: int | None = None
    """Index of the suspected object; None where one is missing."""
    detection: int | None = None
    """Index of the detection that speaks against it, or that shows what is missing."""
    other: int | None = None
    """Index of the object that a duplicate repeats."""


def find_label_errors(
    truth: GroundTruth, detections: Detections, matches: Matches
) -> list[Candidate]:
    """Find likely errors in the annotations, the likeliest first.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it, with scores in [0, 1].
        matches: Of detections and objects.

    Returns:
        At most `MOST` candidates of each kind.
    """
    if not len(detections.score) or detections.score.min() < 0 or detections.score.max() > 1:
        return sorted(_duplicates(truth, matches), key=_rank)
    found = (
        _missing(truth, detections, matches),
        _spurious(truth, detections, matches),
        _of_wrong_class(truth, detections, matches),
        _displaced(truth, detections, matches),
        _duplicates(truth, matches),
    )
    return sorted((candidate for kind in found for candidate in kind), key=_rank)


def _rank(candidate: Candidate) -> tuple[float, int]:
    return -candidate.suspicion, KINDS.index(candidate.kind)


def describe(
    truth: GroundTruth, detections: Detections, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """Compute the content of label_errors.json; boxes are continuous, objects count from 1."""
    order, bounds = by_label(truth.image, len(truth.image_ids))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - bounds[truth.image[order]] + 1
    entries = []
    for rank, candidate in enumerate(candidates, start=1):
        found, suspect, other = candidate.detection, candidate.object, candidate.other
        shown = (detections, found) if suspect is None else (truth, suspect)
        against = (truth, other) if other is not None else (detections, found)
        confused = suspect is not None and against[1] is not None
        entries.append(
            {
                "rank": rank,
                "kind": candidate.kind,
                "suspicion": candidate.suspicion,
                "image": truth.image_ids[shown[0].image[shown[1]]],
                "class": truth.classes[shown[0].label[shown[1]]],
                "box": shown[0].box[shown[1]].tolist(),
                "object": None if suspect is None else int(number[suspect]),
                "other_class": truth.classes[against[0].label[against[1]]] if confused else None,
                "other_box": against[0].box[against[1]].tolist() if confused else None,
                "score": None if found is None else float(detections.score[found]),
            }
        )
    return {"kinds": list(KINDS), "most": MOST, "entries": entries}


def counts(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Count the candidates of each kind."""
    return {kind: sum(c.kind == kind for c in candidates) for kind in KINDS}


def _missing(truth: GroundTruth, detections: Detections, matches: Matches) -> Iterator[Candidate]:
    """Find detections away from every object; of several in one place, the surest."""
    apart = np.maximum(matches.overlap, matches.other_overlap) < _APART
    suspicion = detections.score * _trust(detections, matches)
    # Beside an object of its class that nothing fits, it says that that one is displaced.
    beside = np.flatnonzero(matches.overlap >= _MEETS)
    fits = _support(truth, matches.nearest, matches.overlap, detections.score, 0.5)
    score = detections.score[beside]  # of 0, nothing is to be divided
    share = np.divide(
        fits[matches.nearest[beside]], score, out=np.ones_like(score), where=score > 0
    )
    suspicion[beside] *= np.minimum(share, 1)
    alone = np.flatnonzero(apart & (suspicion >= _LEAST))
    alone = alone[np.argsort(-suspicion[alone], kind="stable")]
    seen: dict[int, list[int]] = {}
    listed = 0
    for row in alone.tolist():
        there = seen.setdefault(int(detections.image[row]), [])
        repeated = np.repeat(detections.box[row : row + 1], len(there), axis=0)
        if there and paired_iou(repeated, detections.box[there]).max() >= _APART:
            continue
        there.append(row)
        yield Candidate("missing", float(suspicion[row]), detection=row)
        listed += 1
        if listed == MOST:
            return


def _trust(detections: Detections, matches: Matches) -> NDArray[np.float64]:
    """Return how many of the detections of a class (d,) are right from each one's score on."""
    hit = matches.overlap >= 0.5
    trust = np.ones(len(hit))
    if not hit.any():
        return trust
    falling = matches.falling
    trust[falling] = np.cumsum(hit[falling]) / np.arange(1, len(hit) + 1)
    for start, stop in pairwise(matches.bounds.tolist()):
        rows = matches.order[start:stop]
        right = np.cumsum(hit[rows]) + _PRIOR * trust[rows]
        trust[rows] = right / (np.arange(1, len(rows) + 1) + _PRIOR)
    return trust


def _spurious(truth: GroundTruth, detections: Detections, matches: Matches) -> Iterator[Candidate]:
    """Find objects of little support, where most others of their class are found."""
    own = detections.score * matches.overlap
    # A detection of an object beside it, of another class, is that object's alone.
    freely = matches.other_overlap > matches.overlap
    other = detections.score * matches.other_overlap * freely
    support = np.maximum(
        _support(truth, matches.nearest, matches.overlap, own, _MEETS),
        _support(truth, matches.other_nearest, matches.other_overlap, other, _MEETS),
    )
    counted = np.flatnonzero(~truth.difficult)
    suspicion = np.zeros(len(support))
    found = support >= _LEAST
    if not found[counted].any():
        return
    everywhere, usual = found[counted].mean(), np.median(support[counted][found[counted]])
    for label in np.unique(truth.label[counted]):
        rows = counted[truth.label[counted] == label]
        rate = (found[rows].sum() + _PRIOR * everywhere) / (len(rows) + _PRIOR)
        suspicion[rows] = rate * np.maximum(1 - support[rows] / usual, 0)
    for row in _highest(suspicion):
        yield Candidate("spurious", float(suspicion[row]), object=row)


def _of_wrong_class(
    truth: GroundTruth, detections: Detections, matches: Matches
) -> Iterator[Candidate]:
    """Find objects under a detection of another class that no object of its class explains."""
    score = np.where(matches.overlap < _FITS, detections.score, 0.0)
    own = _support(truth, matches.nearest, matches.overlap, detections.score, 0.5)
    other = _support(truth, matches.other_nearest, matches.other_overlap, score, 0.5)
    suspicion = np.where(truth.difficult, 0.0, other * (1 - own))
    surest = _surest(truth, matches.other_nearest, matches.other_overlap, score, 0.5)
    for row in _highest(suspicion):
        yield Candidate("wrong class", float(suspicion[row]), row, int(surest[row]))


def _displaced(truth: GroundTruth, detections: Detections, matches: Matches) -> Iterator[Candidate]:
    """Find objects that a detection of their class meets, where none fits."""
    fits = _support(truth, matches.nearest, matches.overlap, detections.score, _FITS)
    far = detections.score * (1 - matches.overlap)
    met = _support(truth, matches.nearest, matches.overlap, far, _MEETS)
    suspicion = np.where(truth.difficult, 0.0, met * (1 - fits))
    surest = _surest(truth, matches.nearest, matches.overlap, far, _MEETS)
    for row in _highest(suspicion):
        yield Candidate("displaced", float(suspicion[row]), row, int(surest[row]))


def _duplicates(truth: GroundTruth, matches: Matches) -> Iterator[Candidate]:
    """Find pairs of one class and image in nearly one place; suspect the worse fitting."""
    order, bounds = by_label(truth.image, len(truth.image_ids))
    most = int(np.diff(bounds).max(initial=0))
    fit = np.zeros(len(truth.label))
    reached = matches.nearest >= 0
    np.maximum.at(fit, matches.nearest[reached], matches.overlap[reached])
    worst: dict[int, Candidate] = {}
    for apart in range(1, most):
        one, two = order[:-apart], order[apart:]
        same = (truth.image[one] == truth.image[two]) & (truth.label[one] == truth.label[two])
        one, two = one[same], two[same]
        overlap = paired_iou(truth.box[one], truth.box[two])
        near = overlap >= _SAME
        for first, second, iou in zip(
            one[near].tolist(), two[near].tolist(), overlap[near].tolist(), strict=True
        ):
            suspect, kept = (first, second) if fit[first] < fit[second] else (second, first)
            if suspect not in worst or worst[suspect].suspicion < iou:
                worst[suspect] = Candidate("duplicate", iou, suspect, other=kept)
    yield from sorted(worst.values(), key=lambda candidate: -candidate.suspicion)[:MOST]


def _support(
    truth: GroundTruth,
    nearest: NDArray[np.int64],
    overlap: NDArray[np.float64],
    score: NDArray[np.float64],
    least: float,
) -> NDArray[np.float64]:
    """Return the highest score (objects,) of detections that overlap each by `least`, else 0."""
    support = np.zeros(len(truth.label))
    near = (nearest >= 0) & (overlap >= least)
    np.maximum.at(support, nearest[near], score[near])
    return support


def _surest(
    truth: GroundTruth,
    nearest: NDArray[np.int64],
    overlap: NDArray[np.float64],
    score: NDArray[np.float64],
    least: float,
) -> NDArray[np.int64]:
    """Return the detection (objects,) that `_support` has the score of, else -1."""
    near = np.flatnonzero((nearest >= 0) & (overlap >= least))
    rising = near[np.argsort(score[near], kind="stable")]
    surest = np.full(len(truth.label), -1)
    surest[nearest[rising]] = rising  # written last, the highest stays
    return surest


def _highest(suspicion: NDArray[np.float64]) -> list[int]:
    """Return the rows of the `MOST` highest suspicions, falling."""
    rows = np.flatnonzero(suspicion >= _LEAST)
    rows = rows[np.argsort(-suspicion[rows], kind="stable")][:MOST]
    listed: list[int] = rows.tolist()
    return listed
