"""What a look over the annotations shows: nothing to learn, classes never seen, odd coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from detect.data.dataset import Annotation, shown
from detect.data.options import Coordinates

_MOST_NAMED = 20  # classes in one line
_SLACK = 1.0  # pixels that a box may lie outside: roundings of tools
_DECIMALS = 0.5  # share of the coordinates that makes a set one of decimals


@dataclass(frozen=True, slots=True)
class Counts:
    """Objects of some images."""

    images: int
    """How many."""
    empty: int
    """Those without an object."""
    objects: NDArray[np.int64]
    """(classes,) objects that are not difficult."""
    difficult: NDArray[np.int64]
    """(classes,) objects that are."""
    flat: int
    """Objects without an area within their image, which cannot be learnt."""
    outside: int
    """Objects that reach over the edge of their image."""
    usable: int
    """Those that can be learnt and are not difficult."""
    usable_if_difficult: int
    """Those that can be learnt, difficult ones included, crowds not."""

    def describe(self, classes: Sequence[str]) -> str:
        """Say how many objects there are of each class, the most of them first."""
        order = np.argsort(-(self.objects + self.difficult), kind="stable")
        named = [f"{shown(classes[i])} {self.objects[i] + self.difficult[i]}" for i in order]
        rest = len(named) - _MOST_NAMED
        named = [*named[:_MOST_NAMED], *([f"and {rest} more classes"] if rest > 0 else [])]
        hard = int(self.difficult.sum())
        return ", ".join(named) + (f"; {hard} of them difficult" if hard else "")


def count(annotations: Sequence[Annotation], classes: Sequence[str]) -> Counts:
    """Count the objects of each class."""
    labels = np.concatenate([np.empty(0, np.int64), *(a.labels for a in annotations)])
    difficult = np.concatenate([np.empty(0, np.bool_), *(a.difficult for a in annotations)])
    number = len(classes)
    return Counts(
        images=len(annotations),
        empty=sum(len(a.labels) == 0 for a in annotations),
        objects=np.bincount(labels[~difficult], minlength=number),
        difficult=np.bincount(labels[difficult], minlength=number),
        flat=sum(int(a.flat.sum()) for a in annotations),
        outside=sum(len(outside(a)) for a in annotations),
        usable=sum(len(a.usable(difficult=False)[1]) for a in annotations),
        usable_if_difficult=sum(len(a.usable(difficult=True)[1]) for a in annotations),
    )


def refuse_useless(where: str, counts: Counts, *, difficult: bool) -> None:
    """Refuse images that nothing can be learnt from.

    Args:
        where: The set, for the message.
        counts: Its objects.
        difficult: Whether difficult objects count.

    Raises:
        InputError: No object is left; the message names the likely cause.
    """
    reason = why_useless(counts, difficult=difficult)
    if reason:
        raise InputError(f"{where} offers nothing to learn: {reason}")


def why_useless(counts: Counts, *, difficult: bool) -> str | None:
    """Say why nothing can be learnt from a set; None where something can."""
    hard = int(counts.difficult.sum())
    total = int(counts.objects.sum()) + hard
    if counts.images == 0:
        return "it lists no images"
    if (counts.usable_if_difficult if difficult else counts.usable) > 0:
        return None
    if total == 0:
        return (
            "none of its images has an object: are the labels in the files, "
            "and of the classes that are used?"
        )
    if counts.flat == total:
        return f"all of its objects ({total}) are boxes without an area: export them again"
    if counts.usable_if_difficult:
        return (
            f"all of its objects ({hard}) are marked difficult: unmark them, or train with "
            "--difficult"
        )
    return f"all of its objects ({total}) that have an area are crowds: label single objects"


def unseen(classes: Sequence[str], counts: Counts) -> list[str]:
    """Return the classes without an object."""
    seen = counts.objects + counts.difficult
    return [name for name, number in zip(classes, seen, strict=True) if number == 0]


def all_boxes(annotations: Sequence[Annotation]) -> NDArray[np.float64]:
    """Return the boxes (n, 4) of all images."""
    return np.concatenate([np.empty((0, 4)), *(a.boxes for a in annotations)])


def coordinates_look(boxes: NDArray[np.float64], coordinates: Coordinates) -> str | None:
    """Say so where VOC's coordinates look counted in another way than they are read.

    Args:
        boxes: (n, 4), as `Annotation` has them.
        coordinates: How they were read.

    Returns:
        A sentence with the remedy; None where nothing speaks against it.
    """
    first = 1 if coordinates == "voc" else 0
    if not len(boxes):
        return None
    low = boxes[:, :2] + first
    stated = np.concatenate([low, boxes[:, 2:]], axis=1)
    zeros = int(((low >= 0) & (low < 1)).any(axis=1).sum())
    ones = int((low == 1).any(axis=1).sum())
    decimals = int((stated != np.round(stated)).any(axis=1).sum())
    if coordinates == "voc" and (zeros or decimals > _DECIMALS * len(boxes)):
        return (
            f"{zeros} of {len(boxes)} boxes begin at 0 and {decimals} have decimals, so they look "
            "counted from 0: add --coordinates zero-based"
        )
    if coordinates == "zero-based" and ones and not zeros and not decimals:
        return (
            f"{ones} of {len(boxes)} boxes begin at 1, none at 0 or with decimals, so they look "
            "like VOC's 1-based pixels: leave --coordinates zero-based out"
        )
    return None


def look_normalised(annotations: Sequence[Annotation]) -> bool:
    """Tell whether all boxes lie within the first pixel: shares of the image, not pixels."""
    boxes = [a.boxes for a in annotations if len(a.boxes)]
    return bool(boxes) and all(float(box.max()) <= 1.0 for box in boxes)


def outside(annotation: Annotation) -> dict[int, float]:
    """Return the objects that reach over the edge of their image, and how far.

    One pixel is a rounding of the annotation tool, more is a mistake.

    Returns:
        Pixels by the row of the object.
    """
    size = np.array([annotation.width, annotation.height])
    boxes = annotation.boxes
    over = np.concatenate([-boxes[:, :2], boxes[:, 2:] - size], axis=1).max(axis=1, initial=0.0)
    return {int(row): float(over[row]) for row in np.flatnonzero(over > _SLACK)}


def duplicates(annotation: Annotation) -> list[tuple[int, int]]:
    """Return the rows of pairs of objects that are the same box of the same class."""
    seen: dict[tuple[object, ...], int] = {}
    pairs = []
    for row, (box, label) in enumerate(
        zip(annotation.boxes.tolist(), annotation.labels.tolist(), strict=True)
    ):
        key = (label, *box)
        if key in seen:
            pairs.append((seen[key], row))
        seen.setdefault(key, row)
    return pairs
