"""YOLO's label files: a line per object, `class x y width height` as shares of the image.

A line with more numbers is a polygon, and becomes the box around it, or, where data.yaml has
kpt_shape, a box and key points, which are not looked at. The shares are of the upright
photo, as the tools show it. An image without a label file has no objects.
Where files lie, yolo_layout.py finds out.
"""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.headers import UNREAD
from common.images.hidden import descendants
from common.images.orientation import upright_size
from common.text import counted, parse_number
from detect.data.dataset import (
    Annotation,
    DetectionData,
    Entry,
    MissingFileError,
    label_map,
    listed,
    quoted,
    shown,
)
from detect.data.faults import Faults, Together
from detect.data.options import DataOptions
from detect.data.pictures import check_image_id, is_picture, spellings
from detect.data.voc import read_lines
from detect.data.yolo_layout import (
    NOT_LABELS,
    SUFFIXES,
    Layout,
    Source,
    is_label,
    label_files,
)
from detect.data.yolo_pose import suspected_key_points

_WRITTEN = 1e-6
"""Shares are written with six decimals: an edge that near a whole pixel is at that pixel."""
_LABELS_OF = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
_MOST_IN_ID = 8  # names of folders, and that of the file
_BEYOND = 0.5
"""Shares further outside than this are no shares."""


# ---- sets ---------------------------------------------------------------------------------------


def open_yolo(path: Path, layout: Layout, options: DataOptions) -> DetectionData:
    """Open YOLO data.

    Args:
        path: What the user named.
        layout: What `read_yaml` or `find_folders` found.
        options: How to read it.

    Raises:
        InputError: A wanted class is not among theirs.
    """
    classes, label_of = label_map(list(layout.names.values()), options.classes, path)
    labels = {number: label_of[name] for number, name in layout.names.items()}
    notes = [*layout.notes]
    labelled: set[Path] = set()
    for name, source in layout.sets.items():
        images = _images(source)
        labelled |= set(map(label_file, images))
        unread = [path for path in _below(source) if path.suffix.lower() in UNREAD]
        if unread:
            notes.append(
                f"passed over, of no format that is read: {counted(len(unread), 'image')} of "
                f"{shown(name)}, such as {shown(unread[0].name)}: convert to .png"
            )
        without = [image for image in images if not label_file(image).is_file()]
        if without:
            notes.append(
                f"without a label file, and so taken as empty: {len(without)} of the "
                f"{counted(len(images), 'image')} of {shown(name)}, such as "
                f"{shown(without[0].name)}"
            )
    if not layout.key_points and (doubt := suspected_key_points(sorted(labelled), path)):
        notes.append(doubt)
    folders = {file.parent for file in labelled}
    lone = sorted({file for folder in folders for file in label_files(folder)} - labelled)
    lone = [file for file in lone if not file.name.lower().startswith(NOT_LABELS)]
    lone = [file for file in lone if file.parent != layout.root or is_label(file)]  # lists are too
    if lone:
        notes.append(f"label files without an image: {len(lone)}, such as {shown(lone[0].name)}")
    return DetectionData(
        path=path,
        kind="YOLO labels",
        classes=classes,
        sets=tuple(layout.sets),
        entries=partial(_entries, layout, labels),
        metric="coco",
        notes=tuple(notes),
    )


def _below(source: Source) -> list[Path]:
    return sorted(path for place in source if place.is_dir() for path in descendants(place))


def _images(source: Source) -> list[Path]:
    images: list[Path] = []
    for place in source:
        if place.is_dir():
            images += (path for path in descendants(place) if is_picture(path.name))
        else:
            images += [_listed(place, line) for line in read_lines(place) if line]
    return images


def _listed(file: Path, line: str) -> Path:
    """Find an image that a list names: from its folder, or the end of another machine's path."""
    parts = [part for part in line.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    check_image_id("/".join(parts), str(file))
    candidates = [file.parent.joinpath(*parts[cut:]) for cut in range(len(parts))]
    return next((path for path in candidates if path.is_file()), candidates[0])


def label_file(image: Path) -> Path:
    """Return the label file of an image: beside it, or in labels/ for images/."""
    parts = list(image.parts)
    last = max((n for n, part in enumerate(parts[:-1]) if part in _LABELS_OF), default=None)
    if last is not None:
        parts[last] = _LABELS_OF[parts[last]]
    folder = Path(*parts[:-1])
    candidates = [folder / f"{n}{end}" for n in spellings(image.stem) for end in SUFFIXES]
    return next((file for file in candidates if os.path.lexists(file)), candidates[0])


def _entries(
    layout: Layout, labels: Mapping[int, int | None], name: str, faults: Faults | None
) -> list[Entry]:
    source = layout.sets[name]
    images = _images(source)
    if images and not any(image.is_file() for image in images):  # so lists named them
        raise InputError(
            f"{source[0]} names {counted(len(images), 'image')}, none of which is there, such as "
            f"{shown(str(images[0]))}: export the images, too, or put them there"
        )
    return [
        Entry(
            image_id,
            image.stem,
            source[0],
            label_file(image),
            partial(_annotate, image, image_id, labels, layout.key_points),
            partial(_picture, image),
        )
        for image_id, image in zip(_ids(images), images, strict=True)
    ]


def _ids(images: list[Path]) -> list[str]:
    """Return file names without suffix, behind as many of their folders as tell all apart."""
    for depth in range(1, _MOST_IN_ID):
        ids = _ids_of(images, depth)
        if len(set(ids)) == len(ids):
            return ids
    return _ids_of(images, 2)  # a.jpg and a.png share a label, and are refused by this


def _ids_of(images: list[Path], depth: int) -> list[str]:
    parts = [image.parts[max(1, len(image.parts) - depth) : -1] for image in images]
    return ["/".join((*above, image.stem)) for above, image in zip(parts, images, strict=True)]


def _picture(image: Path, stated: str) -> Path:
    if not image.is_file():
        raise MissingFileError(image.parent, image.name)
    return image


# ---- one file -----------------------------------------------------------------------------------


def _annotate(
    image: Path, image_id: str, label_of: Mapping[int, int | None], shape: tuple[int, int] | None
) -> tuple[Annotation, str]:
    file = label_file(image)
    together = Together()
    shares, labels, numbers = [], [], []
    objects = [(at, line) for at, line in enumerate(_lines(file), start=1) if line]
    for number, (at, line) in enumerate(objects, start=1):
        with together:
            index, edges = _object(line, label_of, shape, f"{file}, line {at}")
            label = label_of[index]
            if label is not None:
                shares.append(edges)
                labels.append(label)
                numbers.append(number)
    sound = None
    with suppress(InputError) if together.errors else nullcontext():
        width, height = upright_size(_picture(image, ""))
        sound = Annotation(
            image_id=image_id,
            width=width,
            height=height,
            boxes=_in_pixels(shares, width, height),
            labels=np.array(labels, np.int64),
            difficult=np.zeros(len(labels), np.bool_),
            numbers=None if len(numbers) == len(objects) else np.array(numbers, np.int64),
        )
    together.end(sound)
    assert sound is not None  # what the picture raised was not suppressed
    return sound, ""


def _in_pixels(shares: Sequence[tuple[float, ...]], width: int, height: int) -> NDArray[np.float64]:
    sides = width, height, width, height
    boxes = [[_whole(e * side, side) for e, side in zip(box, sides, strict=True)] for box in shares]
    return np.array(boxes, np.float64).reshape(-1, 4)


def _object(
    line: str, label_of: Mapping[int, int | None], shape: tuple[int, int] | None, where: str
) -> tuple[int, tuple[float, ...]]:
    """Read a line: the number of a class, and the edges of a box as shares."""
    index, shares = _numbers(line, where)
    if index not in label_of:
        last = max(label_of)
        known = f"0 to {last}"
        if len(label_of) <= last:  # names with gaps
            known = f"those that names has, {listed(map(str, sorted(label_of)))}"
        raise InputError(
            f"{where}: class {index} is none of {known}: "
            "add it to the classes, or count them from 0"
        )
    if shape and len(shares) != 4 + shape[0] * shape[1]:
        raise InputError(
            f"{where}: {len(shares)} numbers after the class, but kpt_shape {list(shape)} of "
            f"data.yaml asks for 4 of the box and {shape[0] * shape[1]}: correct either"
        )
    return index, _edges(shares[:4] if shape else shares, where)


def _lines(file: Path) -> list[str]:
    return read_lines(file) if file.is_file() or file.is_symlink() else []


def _numbers(line: str, where: str) -> tuple[int, list[float]]:
    try:
        first, *shares = map(parse_number, line.split())
    except ValueError:
        first, shares = math.nan, []
    sound = all(map(math.isfinite, (first, *shares))) and first == int(first)
    if not sound or len(shares) < 4:
        raise InputError(
            f"{where}: {quoted(line)} is not 'class x y width height' in numbers: correct it"
        )
    return int(first), shares


def _edges(shares: list[float], where: str) -> tuple[float, ...]:
    if len(shares) > 6 and 2 in shares[6::3] and {0, 1, 2} >= set(shares[6::3]):
        raise InputError(
            f"{where}: these are key points with visibility, not a polygon: write kpt_shape: "
            f"[{(len(shares) - 4) // 3}, 3] into data.yaml"
        )
    if len(shares) == 4:
        x, y, w, h = shares
        edges = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        if w < 0 or h < 0:
            raise InputError(f"{where}: width {w:g} or height {h:g} is negative: correct it")
    elif len(shares) >= 6 and len(shares) % 2 == 0:
        xs, ys = shares[0::2], shares[1::2]
        edges = min(xs), min(ys), max(xs), max(ys)
    else:
        raise InputError(
            f"{where}: {len(shares)} numbers after the class are neither a box (4) nor a polygon "
            "(pairs, at least 3): leave the scores of detections out"
        )
    if min(shares) < -_BEYOND or max(shares) > 1 + _BEYOND:
        raise InputError(
            f"{where}: the box lies outside the image: write shares of its width and height, "
            "from 0 to 1, not pixels"
        )
    return edges


def _whole(edge: float, side: int) -> float:
    """Return the pixel that a share was written for, where it is one."""
    whole = float(np.round(edge))
    return whole if abs(edge - whole) <= _WRITTEN * side else edge
