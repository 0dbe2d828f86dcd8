"""Which object each detection overlaps, found once for all metrics of a split.

Every pair of a detection and an object of its image is compared once. What the VOC metric, the
kinds of error, the confusion matrix, the intervals and COCO's metric ask of the overlaps is kept:

- the object of the detection's own class that it overlaps most, and by how much;
- the same among the objects of all other classes;
- every pair of one class that COCO could match, at its lowest threshold.

Overlaps are in the kit's arithmetic, step by step, as its decisions are: inclusive pixels, so
`xmax - xmin + 1`, from the numbers of the file, which [xmin - 1, ymin - 1, xmax, ymax] gives back
unrounded. With decimals, x2 - x1 can differ from that in the last digit, which decides at exactly
the threshold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth

COCO_LOWEST = 0.5
_SLACK = 1e-9  # COCO's own arithmetic decides, on the pairs that come near
_BLOCK = 2**15
"""Detections matched at a time: what is computed from them should fit into a core's cache."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Overlaps of the detections of a split with its objects."""

    falling: NDArray[np.int64]
    """(d,) detections by falling score; equals in the order of the file."""
    order: NDArray[np.int64]
    """(d,) the same by class first."""
    bounds: NDArray[np.int64]
    """(classes + 1,) between which a class lies in `order`."""
    overlap: NDArray[np.float64]
    """(d,) largest IoU with an object of the own class and image, 0 if none."""
    nearest: NDArray[np.int64]
    """(d,) index of that object, the first of equals; -1 if none overlaps."""
    other_overlap: NDArray[np.float64]
    """(d,) the same among the objects of all other classes."""
    other_nearest: NDArray[np.int64]
    """(d,) index of that object."""
    pairs: NDArray[np.int64]
    """(p, 2) detection and object of one class and image whose IoU is at least 0.5 but for
    rounding, or, for a difficult object, whose intersection is half of the detection."""

    def select(self, rows: NDArray[np.bool_]) -> "Matches":
        """Return the matches of some of the detections, chosen by a mask (d,)."""
        place = np.cumsum(rows) - 1
        order = self.order[rows[self.order]]
        before = np.append(0, np.cumsum(rows[self.order]))
        pairs = self.pairs[rows[self.pairs[:, 0]]]
        return Matches(
            falling=place[self.falling[rows[self.falling]]],
            order=place[order],
            bounds=before[self.bounds],
            overlap=self.overlap[rows],
            nearest=self.nearest[rows],
            other_overlap=self.other_overlap[rows],
            other_nearest=self.other_nearest[rows],
            pairs=np.stack([place[pairs[:, 0]], pairs[:, 1]], axis=1),
        )


def match(truth: GroundTruth, detections: Detections) -> Matches:
    """Compare the detections of a split with its objects."""
    objects, starts = by_label(truth.image, len(truth.image_ids))
    box, label, crowd = (
        _inclusive(truth.box[objects]),
        truth.label[objects],
        truth.difficult[objects],
    )
    area = _area(box)

    count = len(detections.score)
    overlap = np.zeros((2, count))
    nearest = np.full((2, count), -1, dtype=np.int64)
    pairs = [np.empty((0, 2), np.int64)]
    for first in range(0, count, _BLOCK):
        image = detections.image[first : first + _BLOCK]
        place, stop = starts[image], starts[image + 1]
        # Round k compares with the k-th object of the image all detections that have one.
        rows = np.flatnonzero(place < stop)
        while len(rows):
            found, candidate = first + rows, place[rows]
            place[rows] += 1
            ours = _inclusive(detections.box[found])
            shared = _intersection(ours, box[candidate])
            meet = np.flatnonzero(shared > 0)
            if len(meet):
                found, candidate, shared = found[meet], candidate[meet], shared[meet]
                alone = _area(ours[meet])
                iou = shared / (alone + area[candidate] - shared)
                of_class = label[candidate] == detections.label[found]
                side = np.where(of_class, 0, 1)
                better = iou > overlap[side, found]
                overlap[side[better], found[better]] = iou[better]
                nearest[side[better], found[better]] = objects[candidate[better]]
                share = np.where(crowd[candidate], shared / alone, iou)
                near = of_class & (share >= COCO_LOWEST - _SLACK)
                pairs.append(np.stack([found[near], objects[candidate[near]]], axis=1))
            rows = rows[place[rows] < stop[rows]]
    falling = np.argsort(-detections.score, kind="stable")
    order, bounds = by_label(detections.label[falling], len(truth.classes))
    return Matches(
        falling=falling,
        order=falling[order],
        bounds=bounds,
        overlap=overlap[0],
        nearest=nearest[0],
        other_overlap=overlap[1],
        other_nearest=nearest[1],
        pairs=np.vstack(pairs),
    )


def paired_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU (n,) of continuous boxes (n, 4) with the boxes (n, 4) in the same rows.

    A box without area, or with its corners exchanged, overlaps nothing.
    """
    a, b = _inclusive(a), _inclusive(b)
    shared = _intersection(a, b)
    union = _area(a) + _area(b) - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros(len(shared)), where=shared > 0)
    return iou


def by_label(label: NDArray[np.int64], labels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort rows by labels in [0, labels); equals keep their order.

    Returns:
        Order (rows,), and bounds (labels + 1,) between which a label lies in it.
    """
    bounds = np.append(0, np.cumsum(np.bincount(label, minlength=labels)))
    # Integers of up to 16 bits are sorted by radix: time linear in the rows.
    return np.argsort(label.astype(np.min_scalar_type(labels)), kind="stable"), bounds


def _inclusive(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert continuous boxes to the kit's 1-based inclusive pixels."""
    return np.asarray(box + np.array([1.0, 1.0, 0.0, 0.0]))


def _intersection(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1
    sides = np.maximum(sides, 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])  # prod(axis=1) takes several times as long


def _area(box: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = box[:, 2:] - box[:, :2] + 1
    return np.asarray(sides[:, 0] * sides[:, 1])
