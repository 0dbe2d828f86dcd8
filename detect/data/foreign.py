"""Annotation tools' own formats, which are not read: named, with what to export instead."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from common.errors import InputError, remedy
from common.images.hidden import children

_HEAD = 65_536  # bytes that tell what a file is
_MOST_FILES = 20  # of a folder that are looked at
_SETS = ("train", "valid", "val", "test")
_EXPORT = "export COCO, YOLO or Pascal VOC there"
_CONVERT = "convert them to COCO or YOLO"


def refuse(path: Path) -> None:
    """Refuse a file, or a folder that holds one, in a format that annotation tools keep themselves.

    Raises:
        InputError: There is one; the message names the file, the format and the remedy.
    """
    folders = [path, *(path / name for name in _SETS)] if path.is_dir() else []
    files = [path] if path.is_file() else []
    for folder in filter(Path.is_dir, folders):
        inside = (file for file in children(folder) if file.suffix.lower() in _FORMATS)
        files += islice(inside, _MOST_FILES)
    for file in files:
        tell = _FORMATS.get(file.suffix.lower())
        if tell and file.is_file() and (found := tell(_head(file))):
            name, remedy = found
            raise InputError(f"{file} is {name}, which is not read: {remedy}")


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise InputError(f"{file} is unreadable ({error.strerror}): {remedy(error)}") from error


def _of_json(head: bytes) -> tuple[str, str] | None:
    a_list = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if b'"shape_attributes"' in head:
        return "VIA's own JSON", _EXPORT
    if b'"shapes"' in head and (b'"imagePath"' in head or b'"shape_type"' in head):
        return "LabelMe's own JSON", _CONVERT
    if a_list and any(word in head for word in (b'"original_width"', b'"completed_by"')):
        return "Label Studio's own JSON", _EXPORT
    if a_list and b'"coordinates"' in head and b'"label"' in head:
        return "CreateML's JSON", "export COCO, YOLO or Pascal VOC"
    return None


def _of_xml(head: bytes) -> tuple[str, str] | None:
    is_cvat = b"<annotations" in head and (b"<image " in head or b"<track " in head)
    return ("CVAT's own XML", _EXPORT) if is_cvat else None


def _of_csv(head: bytes) -> tuple[str, str] | None:
    columns = head.partition(b"\n")[0].lower()
    return ("a table of boxes", _CONVERT) if b"xmin" in columns else None


_FORMATS: dict[str, Callable[[bytes], tuple[str, str] | None]] = {
    ".json": _of_json,
    ".xml": _of_xml,
    ".csv": _of_csv,
}
