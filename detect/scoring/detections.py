"""Objects and detections of a split as columns.

A box is continuous, [x1, y1, x2, y2]: [xmin - 1, ymin - 1, xmax, ymax] of VOC's inclusive pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

if TYPE_CHECKING:
    from detect.data.dataset import Annotation


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """All objects of a split, one row per object."""

    classes: tuple[str, ...]
    """The class names."""
    image_ids: tuple[str, ...]
    """The ids of all images, also of those without objects."""
    sizes: NDArray[np.int64]
    """(images, 2) width and height in pixels."""
    image: NDArray[np.int64]
    """(objects,) index into `image_ids`."""
    label: NDArray[np.int64]
    """(objects,) index into `classes`."""
    box: NDArray[np.float64]
    """(objects, 4) continuous [x1, y1, x2, y2] in pixels."""
    difficult: NDArray[np.bool_]
    """(objects,) True for objects the metric does not count."""
    area: NDArray[np.float64] | None = None
    """(objects,) square pixels, where the data state them: by these an object is small or large;
    None: those of the boxes."""
    category_ids: tuple[int | str, ...] = ()
    """What a COCO results file calls each class; empty: 1, 2, and so on."""
    file_names: tuple[str, ...] = ()
    """Of the images, without ending, where they are not their ids; else empty."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of a split, one row per detection; the order decides between tied scores."""

    image: NDArray[np.int64]
    """(d,) index into `GroundTruth.image_ids`."""
    label: NDArray[np.int64]
    """(d,) index into `GroundTruth.classes`."""
    score: NDArray[np.float64]
    """(d,) confidence."""
    box: NDArray[np.float64]
    """(d, 4) continuous [x1, y1, x2, y2] in pixels."""

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Detections":
        """Return some of the detections: by index, in the order of `rows`, or by a mask."""
        return Detections(self.image[rows], self.label[rows], self.score[rows], self.box[rows])


def ground_truth(
    annotations: Sequence["Annotation"],
    classes: Sequence[str],
    category_ids: Sequence[int | str] = (),
    file_names: Sequence[str] = (),
) -> GroundTruth:
    """Stack the annotations of a split.

    Args:
        annotations: One per image.
        classes: The class names.
        category_ids: As in `GroundTruth`.
        file_names: As in `GroundTruth`; those that are the ids are left out.

    Raises:
        InputError: An image occurs twice.
    """
    image_ids = tuple(annotation.image_id for annotation in annotations)
    if len(set(image_ids)) < len(image_ids):
        twice = next(image_id for image_id in image_ids if image_ids.count(image_id) > 1)
        raise InputError(f"image {twice} occurs twice in the split: name sets that share no image")
    counts = [len(annotation.boxes) for annotation in annotations]
    sizes = [(annotation.width, annotation.height) for annotation in annotations]
    stated = any(annotation.areas is not None for annotation in annotations)
    named = tuple(file_names) != image_ids
    return GroundTruth(
        classes=tuple(classes),
        image_ids=image_ids,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        image=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
        label=np.concatenate([np.empty(0, np.int64), *(a.labels for a in annotations)]),
        box=np.concatenate([np.empty((0, 4), np.float64), *(a.boxes for a in annotations)]),
        difficult=np.concatenate([np.empty(0, np.bool_), *(a.difficult for a in annotations)]),
        area=np.concatenate([_areas(a) for a in annotations]) if stated else None,
        category_ids=tuple(category_ids),
        file_names=tuple(file_names) if named else (),
    )


def _areas(annotation: "Annotation") -> NDArray[np.float64]:
    if annotation.areas is not None:
        return annotation.areas
    return np.asarray((annotation.boxes[:, 2:] - annotation.boxes[:, :2]).prod(axis=1))


def integer_ids(image_ids: Sequence[str]) -> list[int] | None:
    """Return the ids as integers, None unless all convert to different ones."""
    digits = [image_id.replace("_", "") for image_id in image_ids]
    if not all(text.isascii() and text.isdecimal() for text in digits):
        return None
    numbers = [int(text) for text in digits]
    return numbers if len(set(numbers)) == len(numbers) else None
