"""VOC text: one file per class, `comp4_det_test_<class>.txt`, as the development kit reads it.

A line is `image_id score xmin ymin xmax ymax` in 1-based inclusive pixels. Files may carry another
prefix, if the folder holds only that one, or none (`car.txt`), and commas between the columns.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.hidden import children
from common.storage import read_text
from common.text import in_file_name, parse_number
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.boxes import are_finite, read_boxes
from detect.scoring.formats.memory import uncollected
from detect.scoring.formats.names import UnknownNameError, find_images, refusal

PREFIX = "comp4_det_test"
_LINE = "image_id score xmin ymin xmax ymax"


def class_files(folder: Path, classes: Sequence[str]) -> list[Path] | None:
    """Find the result file of each class, all of one prefix; None where no file names a class.

    Raises:
        InputError: There are several sets, a file is missing, or one names no class.
    """
    prefixes = set()
    stems = {file.stem for file in children(folder, "*.txt")}
    names = {name: in_file_name(name) for name in classes}
    for stem in stems:
        ends = [f"_{name}" for name in names.values() if stem.endswith(f"_{name}")]
        if stem in names.values():
            prefixes.add("")
        elif ends:
            prefixes.add(stem.removesuffix(max(ends, key=len)) + "_")
    if not prefixes:
        return None
    if f"{PREFIX}_" in prefixes:
        prefixes = {f"{PREFIX}_"}
    if len(prefixes) > 1:
        text = ", ".join(repr(prefix.rstrip("_")) for prefix in sorted(prefixes))
        raise InputError(
            f"{folder} holds several sets of class files ({text}); give a folder with one"
        )
    prefix = prefixes.pop()
    wanted = [f"{prefix}{name}.txt" for name in names.values()]
    for stem in sorted(stems):
        if prefix and stem.startswith(prefix) and f"{stem}.txt" not in wanted:
            raise InputError(
                f"{folder / stem}.txt names no class of the data; remove it or add the class"
            )
    for name in wanted:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing; write it, empty for a class without detections"
            )
    return [folder / name for name in wanted]


def read_class_texts(files: Sequence[Path], truth: GroundTruth, notes: list[str]) -> Detections:
    """Read the files of `class_files`; see `read_detections`."""
    names: list[str] = []
    tables = []
    ends = []
    with uncollected():
        for file in files:
            try:
                ids, numbers = _columns(read_text(file))
            except ValueError:
                raise _first_fault(file) from None
            names += ids
            tables.append(numbers)
            ends.append(len(names))
    table = np.concatenate(tables).T
    finite = np.isfinite(table[0]) & are_finite(table[1:]).all(axis=0)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise InputError(
            f"{_place(files, ends, row)}: score and xmin ymin xmax ymax must be finite numbers: "
            "leave the line out or write it again"
        )
    label = np.searchsorted(ends, np.arange(len(names)), side="right")
    try:
        image = find_images(names, truth, notes)
    except UnknownNameError as error:
        raise refusal(_place(files, ends, error.place), error) from None
    box = read_boxes(table[1:].T.copy(), truth.sizes[image], "inclusive corners", notes)
    return Detections(image, label.astype(np.int64), table[0].copy(), box)


def write_class_texts(detections: Detections, truth: GroundTruth, folder: Path) -> None:
    """Write one file per class into `folder`, an empty one for a class without detections."""
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
        file = folder / f"{PREFIX}_{in_file_name(name)}.txt"
        file.write_text("".join(lines), encoding="utf-8")


def _columns(text: str) -> tuple[list[str], NDArray[np.float64]]:
    """Return the ids (n) and the numbers (n, 5) of the lines that are not blank.

    Raises:
        ValueError: A line is none.
    """
    lines = list(filter(str.strip, text.splitlines()))
    # Where the space is the only blank, and no id holds one, numpy reads them twice as fast.
    if {line.count(" ") for line in lines} == {5} and "".join(lines).isprintable():
        with suppress(ValueError):
            numbers = np.loadtxt(lines, usecols=range(1, 6), comments=None, ndmin=2)
            return [line.partition(" ")[0] for line in lines], numbers
    rows = list(map(_split, lines))
    if set(map(len, rows)) - {6}:
        raise ValueError
    numbers = np.array([list(map(parse_number, row[1:])) for row in rows]).reshape(-1, 5)
    return [row[0] for row in rows], numbers


def _split(line: str) -> list[str]:
    """Split a line at blanks, commas or tabs; an image id may hold blanks."""
    columns = line.rsplit(None, 5)
    if "," in line and any("," in column for column in columns[-5:]):
        columns = [column for column in re.split(r"[\s,]+", line) if column]
    return [" ".join(columns[:-5]), *columns[-5:]] if len(columns) > 6 else columns


def _first_fault(file: Path) -> InputError:
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            if line.strip():
                _, *values = _split(line)
                _ = [parse_number(value) for value in values]
                if len(values) != 5:
                    raise ValueError
        except ValueError:
            shown = line.strip() if len(line) <= 80 else f"{line.strip()[:77]}..."
            return InputError(f"{file}, line {number}: {shown!r} is not {_LINE!r}: write it again")
    return InputError(f"{file} is not lines of {_LINE!r}: write it again")


def _place(files: Sequence[Path], ends: Sequence[int], row: int) -> str:
    """Return the file and line of a row, blank lines counted."""
    number = int(np.searchsorted(ends, row, side="right"))
    within = row - (ends[number - 1] if number else 0)
    lines = read_text(files[number]).splitlines()
    line = [n for n, text in enumerate(lines, start=1) if text.strip()][within]
    return f"{files[number]}, line {line}"
