"""Reading the splits and annotations of a PASCAL VOC devkit.

    DEVKIT/VOC<year>/Annotations/<id>.xml
    DEVKIT/VOC<year>/ImageSets/Main/<set>.txt     one image id per line
    DEVKIT/VOC<year>/JPEGImages/<id>.jpg
    DEVKIT/classes.txt                            optional: one class name per line

Annotations may come from anyone: a file is small, declares no entities, and never says which image
to open; the split list's id does.
"""

import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.folder_trees import compare_trees

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

MAX_XML_BYTES = 1_000_000
_MAX_LIST_BYTES = 100_000_000
_MAX_QUOTED = 80  # characters of a file in a message
_IMAGE_ID = re.compile(r"[A-Za-z0-9_-]+")
_CLASS_NAME = re.compile(r"\w[\w .-]*")  # also part of file names: comp4_det_test_<class>.txt
_SPLIT = re.compile(r"([0-9]{4}):([A-Za-z0-9_-]+)")
_FORBIDDEN = (b"\0", b"<!DOCTYPE", b"<!ENTITY")


@dataclass(frozen=True, slots=True)
class Annotation:
    """The objects of one image.

    Attributes:
        image_id: The id in the split list.
        width: Pixels.
        height: Pixels.
        boxes: (n, 4) [xmin - 1, ymin - 1, xmax, ymax] of the file's 1-based inclusive pixels:
            edges in continuous coordinates, so x2 - x1 is the width and plain intersection over
            union equals the devkit's.
        labels: (n,) index into the class names, from 0.
        difficult: (n,) objects that scoring neither demands nor punishes.
    """

    image_id: str
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VocImage:
    """An image of a split: the path of its JPEG, and its objects."""

    path: Path
    annotation: Annotation


# ---- one annotation file ------------------------------------------------------------------------


def _child(parent: ET.Element, tag: str, where: str) -> ET.Element:
    child = parent.find(tag)
    if child is None:
        raise InputError(f"{where}: <{tag}> is missing")
    return child


def _text(parent: ET.Element, tag: str, where: str) -> str:
    return (_child(parent, tag, where).text or "").strip()


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}...")


def _number(parent: ET.Element, tag: str, where: str) -> float:
    text = _text(parent, tag, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: <{tag}> is {_quoted(text)}, not a number")
    return value


def _size(root: ET.Element, where: str) -> tuple[int, int]:
    size = _child(root, "size", where)
    width, height = _number(size, "width", where), _number(size, "height", where)
    if min(width, height) < 1 or not (width.is_integer() and height.is_integer()):
        raise InputError(f"{where}: the image size {width:g} x {height:g} is not whole pixels")
    return int(width), int(height)


def _box(item: ET.Element, width: int, height: int, where: str) -> tuple[float, ...]:
    corners = _child(item, "bndbox", where)
    xmin, ymin, xmax, ymax = (_number(corners, t, where) for t in ("xmin", "ymin", "xmax", "ymax"))
    told = f"the box xmin {xmin:g}, ymin {ymin:g}, xmax {xmax:g}, ymax {ymax:g}"
    if xmin > xmax or ymin > ymax:
        raise InputError(f"{where}: {told} is inverted")
    # One pixel beyond the image is a rounding of the annotation tool, more is a mistake.
    if min(xmin, ymin) < 0 or xmax > width + 1 or ymax > height + 1:
        raise InputError(f"{where}: {told} lies outside the image of {width} x {height} pixels")
    box = max(xmin - 1, 0), max(ymin - 1, 0), min(xmax, width), min(ymax, height)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(f"{where}: {told} is empty within the {width} x {height} pixels")
    return box


def _difficult(item: ET.Element, where: str) -> bool:
    text = "0" if item.find("difficult") is None else _text(item, "difficult", where)
    if text not in ("0", "1"):
        raise InputError(f"{where}: <difficult> is {_quoted(text)}, not 0 or 1")
    return text == "1"


def _read_bytes(path: Path, kind: str, most: int) -> bytes:
    """Read a file of at most `most` bytes; not a pipe or a device, which would never end."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file, so it is no {kind}")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} is no readable {kind}: {error.strerror}") from error
    if len(data) > most:
        raise InputError(f"{path} is over {most} bytes, too large for a {kind}")
    return data


def _parse(path: Path) -> ET.Element:
    data = _read_bytes(path, "VOC annotation", MAX_XML_BYTES)
    for token in _FORBIDDEN:
        if token in data:
            raise InputError(f"{path} holds {token.decode()!r}, which no VOC annotation needs")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two: odd encodings
        raise InputError(f"{path} is not well-formed XML: {error}") from error
    if root.tag != "annotation":
        raise InputError(f"{path}: the outer tag is {_quoted(root.tag)}, not <annotation>")
    return root


def read_annotation(path: Path, image_id: str, label_of: Mapping[str, int]) -> Annotation:
    """Read one annotation file.

    Coordinates may be integers or decimals; a missing <difficult> means 0; <part> boxes are left
    out; a box is cut at the image's edge if it is at most one pixel beyond.

    Args:
        path: The XML file.
        image_id: The id in the split list.
        label_of: Class name to label.

    Raises:
        InputError: The file is unreadable, hostile or malformed, or an object has an unknown class
            or an impossible box; the message names file and object.
    """
    root = _parse(path)
    width, height = _size(root, str(path))
    boxes, labels, difficult = [], [], []
    for number, item in enumerate(root.findall("object"), start=1):
        where = f"{path}, object {number}"
        name = _text(item, "name", where)
        if name not in label_of:
            raise InputError(
                f"{where}: {_quoted(name)} is an unknown class; the classes are "
                f"{', '.join(label_of)}"
            )
        where = f"{where} ({name})"
        boxes.append(_box(item, width, height, where))
        labels.append(label_of[name])
        difficult.append(_difficult(item, where))
    return Annotation(
        image_id=image_id,
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, np.bool_),
    )


# ---- a devkit -----------------------------------------------------------------------------------


def _devkit_root(devkit: Path) -> Path:
    """The folder of VOC<year>: the one given, or a VOCdevkit inside it, as the archives unpack."""
    inner = devkit / "VOCdevkit"
    return inner if inner.is_dir() else devkit


def read_classes(devkit: Path) -> tuple[str, ...]:
    """Read the class names: the lines of the devkit's classes.txt, without one VOC's twenty.

    Raises:
        InputError: The file is empty, not text, or a name is repeated or unfit for a file name.
    """
    path = _devkit_root(devkit) / "classes.txt"
    if not path.exists():
        return VOC_CLASSES
    names = tuple(line for line in read_lines(path) if line)
    if not names:
        raise InputError(f"{path} names no class: write one name per line")
    for name in names:
        if not _CLASS_NAME.fullmatch(name):
            raise InputError(f"{path}: the class name {name!r} is not letters, digits, '_.- '")
        if names.count(name) > 1:
            raise InputError(f"{path} names the class {name!r} twice")
    return names


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list, without the blanks around them.

    Raises:
        InputError: The file cannot be read, is too large or not text.
    """
    data = _read_bytes(path, "list", _MAX_LIST_BYTES)
    try:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file") from error


def _sets_found(root: Path) -> list[str]:
    """The YEAR:SET there are, without the real devkit's lists for one class, <class>_<set>.txt."""
    lists = root.glob("VOC[0-9][0-9][0-9][0-9]/ImageSets/Main/*.txt")
    return sorted(
        f"{p.parts[-4][3:]}:{p.stem}" for p in lists if p.stem.rpartition("_")[0] not in VOC_CLASSES
    )


def _list_path(root: Path, year: str, name: str) -> Path:
    folder = root / f"VOC{year}"
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    found = _sets_found(root)
    broken = folder.is_dir() and not (folder / "ImageSets" / "Main").is_dir()
    if not path.is_file() and found and not broken:
        raise InputError(f"{root} has no set {year}:{name}; it has {', '.join(found)}")
    parts = (folder / "Annotations", folder / "JPEGImages")
    if not path.is_file() or not all(part.is_dir() for part in parts):
        expected = f"""
            VOC{year}/
              Annotations/
              ImageSets/
                Main/
                  {name}.txt
              JPEGImages/
        """
        tree = compare_trees(root, expected)
        raise InputError(f"{root} does not hold the VOC set {year}:{name}\n{tree}")
    return path


def split_lists(devkit: Path, split: str) -> list[Path]:
    """Find the lists of one or more sets: `ImageSets/Main/<set>.txt` of each.

    Args:
        devkit: As for `read_split`.
        split: As for `read_split`.

    Raises:
        InputError: The split is malformed, or a set or a folder of its year is missing.
    """
    root = _devkit_root(devkit)
    paths = []
    for part in split.split(","):
        match = _SPLIT.fullmatch(part.strip())
        if match is None:
            raise InputError(f"the split {part!r} is not YEAR:SET, such as 2007:trainval")
        paths.append(_list_path(root, *match.groups()))
    return paths


def check_image_id(line: str, where: str) -> None:
    """Refuse a line of a list that is no image id: ids become file names.

    Raises:
        InputError: It is blank, or holds anything else than letters, digits, _ and -.
    """
    if not line:
        raise InputError(f"{where} is blank: write one image id per line")
    if not _IMAGE_ID.fullmatch(line):
        raise InputError(f"{where}: {_quoted(line)} is not an image id: letters, digits, _ and -")


def _read_ids(path: Path) -> list[str]:
    ids = read_lines(path)
    if not ids:
        raise InputError(f"{path} lists no images")
    for number, image_id in enumerate(ids, start=1):
        check_image_id(image_id, f"{path}, line {number}")
    return ids


def _check_present(folder: Path, ids: Sequence[str], suffix: str) -> None:
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    missing = [image_id for image_id in ids if image_id + suffix not in names]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(ids)} files that the set lists are missing in {folder}, "
            f"the first is {missing[0]}{suffix}: unpack the archive again"
        )


def read_split(devkit: Path, split: str, classes: Sequence[str]) -> list[VocImage]:
    """Read the annotations of one or more sets, in the order of their lists.

    Args:
        devkit: The VOCdevkit folder, or the folder that holds it.
        split: YEAR:SET, comma-separated for more: "2007:trainval,2012:trainval".
        classes: The class names; a label is an index into them.

    Raises:
        InputError: A set, an image or an annotation is missing or wrong, or an id occurs twice.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    images: dict[str, VocImage] = {}
    for path in split_lists(devkit, split):
        ids = _read_ids(path)
        annotations, jpegs = (path.parents[2] / name for name in ("Annotations", "JPEGImages"))
        _check_present(annotations, ids, ".xml")
        _check_present(jpegs, ids, ".jpg")
        for image_id in ids:
            if image_id in images:
                raise InputError(f"{path}: the image id {image_id} occurs twice in {split!r}")
            annotation = read_annotation(annotations / f"{image_id}.xml", image_id, label_of)
            images[image_id] = VocImage(jpegs / f"{image_id}.jpg", annotation)
    return list(images.values())
