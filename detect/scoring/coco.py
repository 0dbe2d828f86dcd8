"""The COCO detection metric: 101 recall points, ten overlaps, 100 detections per class and image.

The same numbers as pycocotools, to the last digits, from overlaps that are known already (the tests
hold the two against each other; `coco_by_pycocotools` is the other). Its rules, which differ from
those of `detect.scoring.voc`:

1. Of each image and class, the 100 detections of the highest scores count; equals keep their order.
2. By falling score, a detection takes the counted object that it overlaps most, at least by the
   threshold, among those not yet taken; the last of equals. Without one it may take an ignored
   object, and is ignored itself.
3. Difficult objects are crowds: ignored, however many detections take them, and what counts is the
   share of the detection that lies inside. VOC's `difficult` has no nearer counterpart, since
   pycocotools overwrites `ignore` by `iscrowd`. That forgives more than VOC does: a small box
   inside a difficult object is ignored here and false there.
4. Objects outside the range of areas are ignored, and so are detections outside it without an
   object.
5. Tied scores of different images are ordered by image.

What happens at the ten thresholds in the four ranges of areas is forty answers of yes or no: they
are kept as the bits of one integer, bit 10 * range + threshold.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches, by_label, match

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
_MOST = 100
_BITS = len(_AREAS) * len(_OVERLAPS)
_EVERY_AREA = sum(1 << len(_OVERLAPS) * number for number in range(len(_AREAS)))
_EVERY_OVERLAP = (1 << len(_OVERLAPS)) - 1


def score_coco(
    truth: GroundTruth, detections: Detections, matches: Matches | None = None
) -> dict[str, float | None]:
    """Return the "coco" part of metrics.json.

    Object sizes are areas in original pixels, small below 32 * 32, large above 96 * 96: those that
    the data state (COCO's are of the outlines), else those of the boxes.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        matches: Of detections and objects, where already computed.

    Returns:
        Fractions by name; None where no class has counted objects of that size.
    """
    matches = matches or match(truth, detections)
    kept = _highest(truth, detections, matches)
    outside = _outside(_area(truth.box) if truth.area is None else truth.area)
    true, ignored = _take(truth, detections, matches, kept, outside)
    false = ~(true | ignored | _outside(_area(detections.box)))

    objects = np.zeros((len(_AREAS), len(truth.classes)), dtype=np.int64)
    for area, row in enumerate(objects):
        inside = ~truth.difficult & (outside >> area * len(_OVERLAPS) & 1 == 0)
        row[:] = np.bincount(truth.label[inside], minlength=len(truth.classes))

    # Recall is reached at true detections alone, so precision is asked for only there.
    precision = np.full((len(_AREAS), len(_OVERLAPS), len(truth.classes), len(_RECALLS)), -1.0)
    precision[np.broadcast_to(objects[:, None] > 0, precision.shape[:3])] = 0.0
    order = _by_class(detections, matches, kept)
    label = detections.label[order]
    starts = np.searchsorted(label, np.arange(len(truth.classes)))
    found_true, found_false = true[order], false[order]
    somewhere = np.flatnonzero(found_true)
    for bit in range(_BITS):
        area, overlap = divmod(bit, len(_OVERLAPS))
        rows = somewhere[(found_true[somewhere] >> bit & 1).astype(np.bool_)]
        wrong = np.append(0, np.cumsum(found_false >> bit & 1, dtype=np.int64))
        for name, part in _runs(label[rows], rows):
            if objects[area, name]:
                curve = _interpolated(wrong[part] - wrong[starts[name]], int(objects[area, name]))
                precision[area, overlap, name] = curve

    means = [precision[0], precision[0, 0], precision[0, 5], *precision[1:]]
    known = [values[values > -1] for values in means]
    return {
        name: float(values.mean()) if len(values) else None
        for name, values in zip(NAMES, known, strict=True)
    }


def _highest(truth: GroundTruth, detections: Detections, matches: Matches) -> NDArray[np.int64]:
    """Return the detections that count, by image and class, then by falling score."""
    by_image, _ = by_label(detections.image[matches.order], len(truth.image_ids))
    order = matches.order[by_image]
    first = _changes(detections.image[order], detections.label[order])
    place = np.arange(len(order))
    rank = place - np.maximum.accumulate(np.where(first, place, 0))
    return order[rank < _MOST]


def _by_class(
    detections: Detections, matches: Matches, kept: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the detections that count by class, then by falling score, equals by image."""
    counts = np.zeros(len(detections.score), np.bool_)
    counts[kept] = True
    order = matches.order[counts[matches.order]]
    first = _changes(detections.label[order], detections.score[order])
    tied = np.flatnonzero(~(first & np.append(first[1:], True)[: len(first)]))
    rows = order[tied]
    order[tied] = rows[np.lexsort((detections.image[rows], np.cumsum(first)[tied]))]
    return order


def _changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where (n,) a row differs from the one before; the first does."""
    different = [column[1:] != column[:-1] for column in columns]
    return np.append(True, np.logical_or.reduce(different))[: len(columns[0])]


def _take(
    truth: GroundTruth,
    detections: Detections,
    matches: Matches,
    kept: NDArray[np.int64],
    outside: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hand out the objects.

    Returns:
        Bits (d,) where a detection took a counted object, and where it took an ignored one.
    """
    rank = np.full(len(detections.score), -1)
    rank[kept] = np.arange(len(kept))
    detection, target = matches.pairs[rank[matches.pairs[:, 0]] >= 0].T
    overlap = _overlap(detections.box[detection], truth.box[target], truth.difficult[target])
    # min(threshold, 1 - 1e-10) of pycocotools matters at no threshold of these.
    reached = np.searchsorted(_OVERLAPS, overlap, side="right")
    order = np.lexsort((-target, -overlap, rank[detection]))
    order = order[reached[order] > 0]
    detection, target, reached = detection[order], target[order], reached[order]

    ignoring = np.where(truth.difficult, _EVERY_AREA * _EVERY_OVERLAP, outside)
    several = np.bincount(detection, minlength=len(detections.score)) > 1
    contested = np.zeros(len(truth.difficult), dtype=np.bool_)
    contested[target[several[detection]]] = True
    apart = ~contested[target]

    true, ignored = np.zeros((2, len(detections.score)), dtype=np.int64)
    for rows, hand_out in ((apart, _at_once), (~apart, _in_turn)):
        won, passed = hand_out(
            detection[rows], target[rows], reached[rows], ignoring, truth.difficult
        )
        np.bitwise_or.at(true, detection[rows], won)
        np.bitwise_or.at(ignored, detection[rows], passed)
    return true, ignored


def _at_once(
    detection: NDArray[np.int64],
    target: NDArray[np.int64],
    reached: NDArray[np.int64],
    ignoring: NDArray[np.int64],
    crowd: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hand out objects of which each is in reach of detections that reach no other.

    Args:
        detection: (n,) of each pair, by rank.
        target: (n,) the object that it overlaps.
        reached: (n,) how many thresholds they overlap by.
        ignoring: (objects,) bits where it is ignored.
        crowd: (objects,) which may be taken often.

    Returns:
        Bits (n,) where the pair's object was counted, and taken; where it was ignored, and taken.
    """
    order = np.argsort(target, kind="stable")
    # Whoever came first took an object at all thresholds up to the highest that it reached.
    base = target[order] * (len(_OVERLAPS) + 1)
    highest = np.maximum.accumulate(base + reached[order])
    before = np.empty_like(reached)
    before[order] = np.maximum(np.append(0, highest[:-1])[: len(base)] - base, 0)
    bits, taken = (((1 << number) - 1) * _EVERY_AREA for number in (reached, before))
    unused = ignoring[target]
    free = np.where(crowd[target], bits, bits & ~taken)
    return free & ~unused, free & unused


def _in_turn(
    detection: NDArray[np.int64],
    target: NDArray[np.int64],
    reached: NDArray[np.int64],
    ignoring: NDArray[np.int64],
    crowd: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hand out objects, to one detection after the other; as `_at_once`."""
    unused, taken, often = ignoring.tolist(), [0] * len(ignoring), crowd.tolist()
    numbers, bits = target.tolist(), (((1 << reached) - 1) * _EVERY_AREA).tolist()
    hits, passes = [0] * len(numbers), [0] * len(numbers)
    starts = np.flatnonzero(np.append(True, detection[1:] != detection[:-1])[: len(detection)])
    for start, end in pairwise([*starts.tolist(), len(numbers)]):
        won = passed = 0
        for pair in range(start, end):
            number = numbers[pair]
            free = bits[pair] & ~(unused[number] | taken[number] | won)
            taken[number] |= free
            won |= free
            hits[pair] = free
        for pair in range(start, end):
            number = numbers[pair]
            free = bits[pair] & unused[number] & ~(won | passed)
            if not often[number]:
                free &= ~taken[number]
                taken[number] |= free
            passed |= free
            passes[pair] = free
    return np.array(hits, np.int64), np.array(passes, np.int64)


def _overlap(
    a: NDArray[np.float64], b: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the overlap (n,), computed as pycocotools does, from corner, width and height."""
    size, other = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    sides = np.minimum(size + a[:, :2], other + b[:, :2]) - np.maximum(a[:, :2], b[:, :2])
    sides = np.maximum(sides, 0.0)
    shared, alone = sides[:, 0] * sides[:, 1], size[:, 0] * size[:, 1]
    union = np.where(crowd, alone, alone + other[:, 0] * other[:, 1] - shared)
    overlap: NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros(len(shared)), where=shared > 0
    )
    return overlap


def _area(box: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))


def _outside(area: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bits (n,) of the ranges that areas (n,) lie outside."""
    bits = np.zeros(len(area), dtype=np.int64)
    for number, (low, high) in enumerate(_AREAS):
        bits |= ((area < low) | (area > high)) * (_EVERY_OVERLAP << number * len(_OVERLAPS))
    return bits


def _interpolated(wrong: NDArray[np.int64], objects: int) -> NDArray[np.float64]:
    """Return the precision at 101 recalls; `wrong` (n,): false detections before each true one."""
    true = np.arange(1.0, len(wrong) + 1)
    precision = true / (wrong + true + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(true / objects, _RECALLS)
    return np.append(envelope, 0.0)[np.minimum(reached, len(envelope))]


def _runs(
    key: NDArray[np.int64], values: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Return the values of each run of equal keys."""
    if not len(key):
        return
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(key)], strict=True):
        yield int(key[start]), values[start:stop]
