"""One text file per image, six columns per line, named as the image is.

- ultralytics (`save_txt save_conf`): `class x y width height score`, shares of the image, x and y
  of the box's middle;
- pixels: `class score xmin ymin xmax ymax`, 1-based and inclusive as VOC's, or the score last.

A class is its name, or its number from 0. An image without a file has no detections.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.hidden import children
from common.storage import read_text
from common.text import parse_number
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.boxes import Form, are_finite, read_boxes, to_corners
from detect.scoring.formats.names import UnknownNameError, find_classes, find_images, refusal

_LISTS = ("classes.txt", "labels.txt", "predefined_classes.txt", "obj.names", "readme.txt")


def image_files(folder: Path) -> list[Path]:
    """List the text files of a folder, or of `labels` in it, but for lists of classes."""
    for place in (folder, folder / "labels"):
        files = [file for file in children(place, "*.txt") if file.name.lower() not in _LISTS]
        if files:
            return files
    return []


def read_image_texts(files: Sequence[Path], truth: GroundTruth, notes: list[str]) -> Detections:
    """Read the files of `image_files`; see `read_detections`."""
    try:
        of_file = find_images([file.name for file in files], truth, [])
    except UnknownNameError as error:
        raise InputError(
            f"{files[error.place]} is named by no class and by no image of the split: give a "
            "folder with comp4_det_test_<class>.txt, or one text file per image, or a COCO .json"
        ) from None
    places: list[tuple[int, int]] = []
    classes: list[str] = []
    rows: list[list[float]] = []
    for number, file in enumerate(files):
        for line_number, line in enumerate(read_text(file).splitlines(), start=1):
            fields = (line.replace(",", " ") if "," in line else line).split()
            if not fields:
                continue
            where = f"{file}, line {line_number}"
            try:
                values = [parse_number(value) for value in fields[-5:]]
            except ValueError:
                values = []
            if len(fields) == 5:
                raise InputError(
                    f"{where} has five columns, a box without a score: write the scores too "
                    "(ultralytics: save_conf=True)"
                )
            if len(fields) < 6 or len(values) != 5:
                raise InputError(
                    f"{where} is not six columns of a class and five numbers: write it again"
                )
            if not are_finite(np.array(values)).all():
                raise InputError(f"{where}: the numbers must be finite: write the line again")
            places.append((number, line_number))
            classes.append(" ".join(fields[:-5]))
            rows.append(values)
    try:
        label = find_classes(classes, truth, notes, first=0)
    except UnknownNameError as error:
        number, line_number = places[error.place]
        raise refusal(f"{files[number]}, line {line_number}", error) from None
    image = of_file[np.array([number for number, _ in places], dtype=np.int64)]
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    score, box, form = _read_columns(table, truth.sizes[image], files, notes)
    return Detections(image, label, score, read_boxes(box, truth.sizes[image], form, notes))


def _read_columns(
    table: NDArray[np.float64], sizes: NDArray[np.int64], files: Sequence[Path], notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], Form]:
    """Tell score and box apart, and what the box's numbers mean."""
    score_first, score_last = (table[:, 0], table[:, 1:]), (table[:, 4], table[:, :4])
    if not len(table):
        return *score_last, "centre and size"
    if table.min() >= 0 and table.max() <= 1.02:
        last, first = (_within(box) for _, box in (score_last, score_first))
        if not last and not first:
            return *_of_shares(table), "corners"
        text = "class, x, y, width, height, score" if last else "class, score, x, y, width, height"
        notes.append(f"columns are read as {text}: shares of the image, x and y of the middle")
        return *(score_last if last else score_first), "centre and size"
    ones = [bool(((column >= 0) & (column <= 1)).all()) for column in (table[:, 0], table[:, 4])]
    if ones[0] == ones[1]:
        raise InputError(
            f"{files[0].parent}: neither the second nor the last column alone is a score in "
            "[0, 1]: write class, score, xmin, ymin, xmax, ymax"
        )
    score, box = score_first if ones[0] else score_last
    columns = "class, score, box" if ones[0] else "class, box, score"
    if (box[:, 2:] > box[:, :2]).mean() > 0.99:
        notes.append(f"columns are read as {columns}: the box as xmin, ymin, xmax, ymax from 1")
        return score, box, "inclusive corners"
    corners = to_corners(box, "corner and size")
    if (corners[:, 2:] <= sizes * 1.02 + 1).all():
        notes.append(f"columns are read as {columns}: the box as x, y, width, height")
        return score, box, "corner and size"
    raise InputError(
        f"{files[0].parent}: the boxes are neither xmin, ymin, xmax, ymax nor x, y, width, height "
        "within their images: write class, score, xmin, ymin, xmax, ymax"
    )


def _within(box: NDArray[np.float64]) -> bool:
    """Return whether shares are boxes by their middle that stay in the image."""
    corners = to_corners(box, "centre and size")
    return bool(corners.min() >= -0.02 and corners.max() <= 1.02)


def _of_shares(
    table: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score and corners of shares that are no boxes by their middle."""
    last = (table[:, 2:4] > table[:, :2]).all()
    return (table[:, 4], table[:, :4]) if last else (table[:, 0], table[:, 1:])
