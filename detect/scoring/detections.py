"""Objects and detections of a split as columns, and the two file formats of detections.

VOC text is what the development kit reads: a folder with one `comp4_det_test_<class>.txt` per
class, a line being `image_id score xmin ymin xmax ymax` in 1-based inclusive pixels.

COCO JSON is one list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}` in
continuous coordinates. `category_id` counts the classes from 1. `image_id` is written as an
integer, the VOC id without its underscore ("2008_000008" is 2008000008, "000001" is 1), when every
id of the split converts and no two meet; otherwise it is the VOC id itself. Both forms are read.

In memory a box is continuous, [x1, y1, x2, y2] = [xmin - 1, ymin - 1, xmax, ymax]. Both formats
keep every digit: scores return unchanged, and so does a coordinate that float32 can hold and that
is 0 or at least 2**-29. Others may move by a rounding error of float64.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

if TYPE_CHECKING:
    from detect.data.dataset import Annotation

_PREFIX = "comp4_det_test"


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """All objects of a split, one row an object.

    Attributes:
        classes: The class names.
        image_ids: The VOC ids of all images, also of those without objects.
        sizes: (images, 2) width and height in pixels.
        image: (objects,) index into `image_ids`.
        label: (objects,) index into `classes`.
        box: (objects, 4) continuous [x1, y1, x2, y2] in pixels.
        difficult: (objects,) True for objects the metric does not count.
    """

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    sizes: NDArray[np.int64]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    box: NDArray[np.float64]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of a split, one row a detection; the order decides between tied scores.

    Attributes:
        image: (d,) index into `GroundTruth.image_ids`.
        label: (d,) index into `GroundTruth.classes`.
        score: (d,) confidence.
        box: (d, 4) continuous [x1, y1, x2, y2] in pixels.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    box: NDArray[np.float64]

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Detections":
        """Returns some of the detections: by index, in the order of `rows`, or by a mask."""
        return Detections(self.image[rows], self.label[rows], self.score[rows], self.box[rows])


def ground_truth(annotations: Sequence["Annotation"], classes: Sequence[str]) -> GroundTruth:
    """Stacks the annotations of a split.

    Raises:
        InputError: An image occurs twice.
    """
    image_ids = tuple(annotation.image_id for annotation in annotations)
    if len(set(image_ids)) < len(image_ids):
        twice = next(image_id for image_id in image_ids if image_ids.count(image_id) > 1)
        raise InputError(f"image {twice} is twice in the split; name sets that share no image")
    counts = [len(annotation.boxes) for annotation in annotations]
    sizes = [(annotation.width, annotation.height) for annotation in annotations]
    return GroundTruth(
        classes=tuple(classes),
        image_ids=image_ids,
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        image=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
        label=np.concatenate([np.empty(0, np.int64), *(a.labels for a in annotations)]),
        box=np.concatenate([np.empty((0, 4), np.float64), *(a.boxes for a in annotations)]),
        difficult=np.concatenate([np.empty(0, np.bool_), *(a.difficult for a in annotations)]),
    )


def read_detections(path: Path, truth: GroundTruth) -> Detections:
    """Reads detections of any detector.

    Args:
        path: A folder of VOC text or a COCO results file ending in .json. Class files may carry
            another prefix than `comp4_det_test_` (`comp3_det_test_car.txt`) if the folder holds
            only that one. Blank lines are skipped.
        truth: The split that was searched; it names the images and classes.

    Returns:
        The detections, within a class in the order of the file.

    Raises:
        InputError: The path or a class file is missing; a line or entry (counted from 1) is
            malformed, names an unknown image or class, or has a score or box that is not finite
            or a box without area.
    """
    if path.is_dir():
        return _read_voc_text(path, truth)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of VOC text or a COCO .json file")
    if path.suffix.lower() != ".json":
        raise InputError(f"{path} is neither a folder of VOC text nor a COCO .json file")
    return _read_coco_json(path, truth)


def write_voc_text(detections: Detections, truth: GroundTruth, folder: Path) -> None:
    """Writes one file per class into `folder`, an empty one for a class without detections."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = detections.box + np.array([1.0, 1.0, 0.0, 0.0])
    for label, name in enumerate(truth.classes):
        rows = np.flatnonzero(detections.label == label)
        columns = zip(
            detections.image[rows].tolist(),
            detections.score[rows].tolist(),
            pixels[rows].tolist(),
            strict=True,
        )
        lines = [
            f"{truth.image_ids[image]} {score!r} {x1!r} {y1!r} {x2!r} {y2!r}\n"
            for image, score, (x1, y1, x2, y2) in columns
        ]
        (folder / f"{_PREFIX}_{name}.txt").write_text("".join(lines), encoding="utf-8")


def write_coco_json(detections: Detections, truth: GroundTruth, file: Path) -> None:
    """Writes a COCO results file, in the order of `detections`."""
    image_ids = _integer_ids(truth.image_ids) or truth.image_ids
    columns = zip(
        detections.image.tolist(),
        detections.label.tolist(),
        detections.score.tolist(),
        detections.box.tolist(),
        strict=True,
    )
    entries = [
        {
            "image_id": image_ids[image],
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, label, score, (x1, y1, x2, y2) in columns
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entries), encoding="utf-8")


def _read_voc_text(folder: Path, truth: GroundTruth) -> Detections:
    index = {image_id: i for i, image_id in enumerate(truth.image_ids)}
    rows: list[tuple[int, int, float, float, float, float, float]] = []
    for label, file in enumerate(_class_files(folder, truth.classes)):
        for number, line in enumerate(_read_text(file).splitlines(), start=1):
            fields = line.split()
            if not fields:
                continue
            try:
                image_id, *values = fields
                score, xmin, ymin, xmax, ymax = map(float, values)
            except ValueError:
                raise InputError(
                    f"{file}, line {number}: {line.strip()!r} is not "
                    "'image_id score xmin ymin xmax ymax'"
                ) from None
            if image_id not in index:
                raise _unknown_image(f"{file}, line {number}", image_id)
            row = (index[image_id], label, score, xmin - 1.0, ymin - 1.0, xmax, ymax)
            if not _is_sound(*row[2:]):
                raise _unsound(f"{file}, line {number}", "xmin ymin xmax ymax")
            rows.append(row)
    return _columns(rows)


def _read_coco_json(file: Path, truth: GroundTruth) -> Detections:
    try:
        entries = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); write it again") from None
    if not isinstance(entries, list):
        raise InputError(f"{file} is not a COCO results file, which is one list of detections")
    index: dict[str | int, int] = {name: i for i, name in enumerate(truth.image_ids)}
    index |= {number: i for i, number in enumerate(_integer_ids(truth.image_ids) or ())}
    labels = {label + 1: label for label in range(len(truth.classes))}
    rows: list[tuple[int, int, float, float, float, float, float]] = []
    for number, entry in enumerate(entries, start=1):
        try:
            image, label = index.get(entry["image_id"]), labels.get(entry["category_id"])
            score = float(entry["score"])
            x, y, width, height = map(float, entry["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(
                f"{file}, entry {number}: not a detection with numbers for image_id, category_id, "
                "bbox [x, y, width, height] and score"
            ) from None
        if image is None:
            raise _unknown_image(f"{file}, entry {number}", entry["image_id"])
        if label is None:
            raise InputError(
                f"{file}, entry {number}: category_id {entry['category_id']!r} is not one of "
                f"1..{len(labels)}, which count the classes of the data from 1"
            )
        row = (image, label, score, x, y, x + width, y + height)
        if not _is_sound(*row[2:]):
            raise _unsound(f"{file}, entry {number}", "x y width height")
        rows.append(row)
    return _columns(rows)


def _class_files(folder: Path, classes: Sequence[str]) -> list[Path]:
    """The result file of each class, all of one prefix."""
    prefixes = set()
    for file in folder.glob("*.txt"):
        ends = [f"_{name}" for name in classes if file.stem.endswith(f"_{name}")]
        if ends:
            prefixes.add(file.stem.removesuffix(max(ends, key=len)))
    if not prefixes:
        raise InputError(f"{folder} holds no {_PREFIX}_<class>.txt; give the folder that does")
    if _PREFIX in prefixes:
        prefixes = {_PREFIX}
    if len(prefixes) > 1:
        raise InputError(
            f"{folder} holds several sets of class files ({', '.join(sorted(prefixes))}); "
            "give a folder with one"
        )
    prefix = prefixes.pop()
    names = [f"{prefix}_{name}.txt" for name in classes]
    for file in sorted(folder.glob(f"{prefix}_*.txt")):
        if file.name not in names:
            raise InputError(f"{file} names no class of the data; remove it or add the class")
    for name in names:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing; write it, empty for a class without detections"
            )
    return [folder / name for name in names]


def _integer_ids(image_ids: Sequence[str]) -> list[int] | None:
    """The ids as integers, None unless all convert to different ones."""
    digits = [image_id.replace("_", "") for image_id in image_ids]
    if not all(text.isascii() and text.isdecimal() for text in digits):
        return None
    numbers = [int(text) for text in digits]
    return numbers if len(set(numbers)) == len(numbers) else None


def _columns(rows: list[tuple[int, int, float, float, float, float, float]]) -> Detections:
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    image, label = table[:, :2].astype(np.int64).T
    return Detections(image.copy(), label.copy(), table[:, 2].copy(), table[:, 3:].copy())


def _is_sound(score: float, x1: float, y1: float, x2: float, y2: float) -> bool:
    return all(map(math.isfinite, (score, x1, y1, x2, y2))) and x1 < x2 and y1 < y2


def _unsound(place: str, box: str) -> InputError:
    return InputError(f"{place}: score and {box} must be finite numbers and the box have an area")


def _unknown_image(place: str, image_id: object) -> InputError:
    return InputError(
        f"{place}: image {image_id!r} is not in the split; score the split that was searched"
    )


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text ({error})") from None
