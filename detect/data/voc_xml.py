"""One annotation file of PASCAL VOC's form.

It may come from anyone: a file is small, declares no entities, and leads to no other file.
"""

import math
import stat
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError, os_reason
from common.images.orientation import upright_size
from common.storage import decode_text, is_utf16
from common.text import parse_number, respelt
from detect.data.dataset import (
    LARGEST,
    MOST_PIXELS_A_SIDE,
    Annotation,
    MissingFileError,
    listed,
    quoted,
    shown,
)
from detect.data.faults import Together
from detect.data.options import Coordinates

MAX_XML_BYTES = 1_000_000
_FORBIDDEN = (b"\0", b"<!DOCTYPE", b"<!ENTITY")
_NO_BOXES = {"robndbox", "polygon", "segmentation", "ellipse", "mask"}
"""What tools write in place of a box that is upright."""
_DIFFICULT = {"0": False, "1": True, "": False, "unspecified": False, "false": False, "true": True}
"""MakeSense and others write "Unspecified"."""
Labels = Mapping[str, int | None]
"""Class name to label; None: objects of this class are left out."""


class UnknownClassError(InputError):
    """An annotation names a class that the data do not have.

    Args:
        message: Names file and object.
        name: The class.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name

    def __reduce__(self) -> tuple[type["UnknownClassError"], tuple[str, str]]:
        return UnknownClassError, (str(self), self.name)


@dataclass(frozen=True, slots=True)
class VocFile:
    """What an annotation file holds: the objects, and the picture that it says it is of."""

    annotation: Annotation
    filename: str


def _child(parent: ET.Element, tag: str, where: str) -> ET.Element:
    child = parent.find(tag)
    if child is None:
        raise InputError(f"{where}: <{tag}> is missing: write it")
    return child


def _text(parent: ET.Element, tag: str, where: str) -> str:
    text = parent.findtext(tag)
    return (_child(parent, tag, where).text or "").strip() if text is None else text.strip()


def _number(parent: ET.Element, tag: str, where: str) -> float:
    text = _text(parent, tag, where)
    try:
        value = parse_number(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise InputError(f"{where}: <{tag}> is {quoted(text)}, not a number: correct it")
    return value


def _size(root: ET.Element, where: str, picture: Callable[[str], Path] | None) -> tuple[int, int]:
    """Read the image size; where none is stated, or 0 x 0, that of the picture seen upright."""
    stated = [root.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    if picture and set(stated) & {"", "0"}:
        with suppress(MissingFileError):
            return upright_size(picture(_filename(root)))
    size = _child(root, "size", where)
    width, height = _number(size, "width", where), _number(size, "height", where)
    if min(width, height) < 1 or not (width.is_integer() and height.is_integer()):
        raise InputError(
            f"{where}: the image size {width:g} x {height:g} is not whole pixels: correct it"
        )
    if max(width, height) > MOST_PIXELS_A_SIDE:
        raise InputError(f"{where}: no image is {width:g} x {height:g} pixels large: correct it")
    return int(width), int(height)


_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FIELDS = ("name", "bndbox", "difficult")


def _refuse_doubles(parent: ET.Element, tags: Sequence[str], where: str) -> None:
    """Refuse tags that would be passed over: in other letters, or a second time."""
    seen = set()
    for child in parent:
        plain = child.tag.rpartition("}")[2].lower()
        if plain not in tags:
            continue
        if child.tag != plain:
            shown_tag = quoted(child.tag)[1:-1]
            raise InputError(f"{where}: <{shown_tag}> is not <{plain}>: rename the tag")
        if plain in seen:
            remedy = "give each box an <object>" if plain == "bndbox" else "remove one"
            raise InputError(f"{where} has two <{plain}>: {remedy}")
        seen.add(plain)


def _box(item: ET.Element, coordinates: Coordinates, where: str) -> tuple[float, ...]:
    if item.find("bndbox") is None and (others := {c.tag for c in item} & _NO_BOXES):
        raise InputError(f"{where} is a <{min(others)}>, not a <bndbox>: export upright boxes")
    corners = _child(item, "bndbox", where)
    _refuse_doubles(corners, _CORNERS, where)
    xmin, ymin, xmax, ymax = [_number(corners, tag, where) for tag in _CORNERS]
    if xmin > xmax or ymin > ymax:
        text = f"the box xmin {xmin:g}, ymin {ymin:g}, xmax {xmax:g}, ymax {ymax:g}"
        raise InputError(f"{where}: {text} is inverted: swap them")
    first = 1 if coordinates == "voc" else 0
    return xmin - first, ymin - first, xmax, ymax


def _difficult(item: ET.Element, where: str) -> bool:
    text = "0" if item.find("difficult") is None else _text(item, "difficult", where)
    if text.lower() not in _DIFFICULT:
        raise InputError(f"{where}: <difficult> is {quoted(text)}: write 0 or 1")
    return _DIFFICULT[text.lower()]


def read_bytes(path: Path, kind: str, most: int) -> bytes:
    """Read a file of at most `most` bytes; not a pipe or a device, which would never end.

    Raises:
        InputError: It cannot be read, or is too large for what it is.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is no regular file, so it is no {kind}: give a file")
        with path.open("rb") as file:
            data = file.read(min(found.st_size, most) + 1)  # room for `most` is costly
            if len(data) > found.st_size:  # some file systems do not know sizes
                data += file.read(most)
    except OSError as error:
        raise InputError(f"{path} is no readable {kind}: {os_reason(error)}") from error
    if len(data) > most:
        raise InputError(f"{path} is over {most} bytes, too large for a {kind}: give another")
    return data


def parse(path: Path) -> ET.Element:
    """Parse one annotation file.

    Raises:
        InputError: It is unreadable, hostile, malformed or no annotation.
    """
    data: str | bytes = (content := read_bytes(path, "VOC annotation", MAX_XML_BYTES))
    if is_utf16(content):
        data = decode_text(content, path)  # a text's own declaration of bytes is passed over
        content = data.encode()
    for token in _FORBIDDEN:
        if token in content:
            raise InputError(
                f"{path} holds {token.decode()!r}, which no VOC annotation needs: remove it"
            )
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:  # the latter two: odd encodings
        raise InputError(
            f"{path} is not well-formed XML, write it again: {shown(str(error))}"
        ) from error
    if root.tag != "annotation":
        raise InputError(
            f"{path}: the outer tag is {quoted(root.tag)}, not <annotation>: give a VOC file"
        )
    for child in root:
        if child.tag == "object":
            continue
        if child.tag.rpartition("}")[2].lower().removesuffix("s") == "object":
            raise InputError(
                f"{path} holds <{quoted(child.tag)[1:-1]}>, which is not <object>: rename the tag, "
                "or its objects are ignored"
            )
    return root


def read_voc(
    path: Path,
    image_id: str,
    label_of: Labels,
    coordinates: Coordinates = "voc",
    picture: Callable[[str], Path] | None = None,
) -> VocFile:
    """Read one annotation file.

    Coordinates may be integers or decimals; a missing <difficult> means 0; <part> boxes are left
    out; a box may lie beyond the image.

    Args:
        path: The XML file.
        image_id: The id in the split list.
        label_of: Class name to label; None leaves the object out.
        coordinates: How its boxes are counted.
        picture: Finds the picture by the file name stated, for a size that is not.

    Raises:
        InputError: The file is unreadable, hostile or malformed, or an object has an unknown class
            (`UnknownClassError`) or an impossible box; the message names file and object. The
            other faults of the file are its `others`.
    """
    root = parse(path)
    together = Together()
    width = height = 0
    with together:
        width, height = _size(root, str(path), picture)
    boxes, labels, difficult, numbers = [], [], [], []
    items = root.findall("object")
    unknown = set()  # each is told once
    for number, item in enumerate(items, start=1):
        where, name, box, hard = f"{path}, object {number}", "", None, False
        with together:
            _refuse_doubles(item, _FIELDS, where)
            name = _text(item, "name", where)
            where = f"{where} ({shown(name)})" if name in label_of else where
            if name not in label_of and name not in unknown:
                unknown.add(name)
                other = respelt(name, label_of)
                remedy = f"the classes are {listed(label_of)}: correct either"
                if other is not None:
                    remedy = f"{other!a} is one, not {name!a}: write both in one way"
                raise UnknownClassError(
                    f"{where}: {quoted(name)} is an unknown class; {remedy}", name
                )
        with together:
            box = _box(item, coordinates, where)
        with together:
            hard = _difficult(item, where)
        label = label_of.get(name)
        if box is not None and label is not None:
            boxes.append(box)
            labels.append(label)
            difficult.append(hard)
            numbers.append(number)
    annotation = Annotation(
        image_id=image_id,
        width=width,
        height=height,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, np.bool_),
        numbers=None if len(numbers) == len(items) else np.array(numbers, np.int64),
    )
    together.end(annotation if width else None)
    return VocFile(annotation, _filename(root))


def _filename(root: ET.Element) -> str:
    return (root.findtext("filename") or "").strip()


def read_annotation(path: Path, image_id: str, label_of: Labels) -> Annotation:
    """Read the objects of an annotation file in VOC's own coordinates; the rest as `read_voc`."""
    return read_voc(path, image_id, label_of).annotation


def class_names(path: Path) -> set[str]:
    """Return the classes that an annotation file names; none of one that cannot be read."""
    try:
        root = parse(path)
    except InputError:
        return set()
    return {(item.findtext("name") or "").strip() for item in root.findall("object")} - {""}
