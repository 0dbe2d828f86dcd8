"""Other tools' formats, which are not read: named, with what to do instead."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from common.errors import InputError, remedy
from common.images.hidden import children
from common.text import in_line
from detect.data.dataset import quoted

_HEAD = 65_536  # bytes that tell what a file is
_MOST_FILES = 20  # of a folder that are looked at
_MOST_FOLDERS = 50
_DEEPEST = 3
_EXPORT = "export COCO, YOLO or Pascal VOC there"
_CONVERT = "convert it to COCO or YOLO"
_UNPACK = "unpack it, and give the folder that comes out"
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".rar")
_LISTS = ("readme", "classes", "labels.txt", "labelmap", "predefined_classes")
"""What names of texts begin with that hold no boxes."""
_BOXES = re.compile(rb'"(bounding_?[bB]ox|box2d|bbox|boxes|bboxes|xmin|objects|shapes|regions)"')
_COCOS = re.compile(rb'"(images|annotations|categories|image_id)"\s*:')
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")
_MOST_LINES = 3  # of a text, for titles may come first
Found = tuple[str, str] | None
"""What a file is, and the remedy."""


def refuse(path: Path) -> None:
    """Refuse a file, or a folder that holds one, in a format of another tool that is not read.

    Raises:
        InputError: There is one; the message names the file, the format and the remedy.
    """
    _refuse_by(_format, path)


def refuse_doubtful(path: Path) -> None:
    """Refuse a folder in which nothing is known but a table, or a text with numbers.

    Raises:
        InputError: There is one, which may well hold the boxes.
    """
    _refuse_by(_doubtful, path)


def _refuse_by(tell: Callable[[Path], Found], path: Path) -> None:
    for file in _files(path):
        if found := tell(file):
            name, remedy = found
            raise InputError(f"{in_line(str(file))} is {name}, which is not read: {remedy}")


def _files(path: Path) -> Iterator[Path]:
    """Yield a file itself, or some of each kind in a folder and in those below it."""
    if path.is_file():
        yield path
    folders, seen = [(path, 0)] if path.is_dir() else [], 0
    while folders and seen < _MOST_FOLDERS:
        folder, depth = folders.pop(0)
        seen += 1
        inside = children(folder)
        if depth < _DEEPEST:
            folders += [(child, depth + 1) for child in inside if child.is_dir()]
        for suffix in _SUFFIXES:
            files = (file for file in inside if _suffix(file) == suffix and file.is_file())
            yield from islice(files, _MOST_FILES)


def _suffix(file: Path) -> str:
    return ".tfrecord" if ".tfrecord" in file.name else file.suffix.lower()


def _format(file: Path) -> Found:
    """Name a format that its files leave no doubt of."""
    suffix = _suffix(file)
    if suffix in _ARCHIVES:
        return "an archive", _UNPACK
    if suffix == ".tfrecord":
        return "TensorFlow's records", _CONVERT
    if suffix in (".parquet", ".arrow"):
        return "a table of Hugging Face's", _CONVERT
    tell = _TOLD.get(suffix)
    return tell(_head(file)) if tell else None


def _doubtful(file: Path) -> Found:
    """Name a table, or a text with numbers, of a folder in which nothing else is known."""
    suffix, name = file.suffix.lower(), file.name.lower()
    if suffix in (".csv", ".tsv"):
        return "a table", f"if it holds the boxes, {_CONVERT}"
    if suffix == ".jsonl":
        return "JSON by lines", _CONVERT
    head = _head(file) if suffix in (".txt", ".json") else b""
    if suffix == ".json" and _BOXES.search(head) and not _COCOS.search(head):
        return "another tool's JSON", _CONVERT
    if suffix == ".txt" and not name.startswith(_LISTS):
        return _of_text(head)
    return None


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise InputError(f"{file} is unreadable ({error.strerror}): {remedy(error)}") from error


def _of_json(head: bytes) -> Found:
    a_list = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if b'"shape_attributes"' in head:
        return "VIA's own JSON", _EXPORT
    if b'"shapes"' in head and (b'"imagePath"' in head or b'"shape_type"' in head):
        return "LabelMe's own JSON", "convert them to COCO or YOLO"
    if a_list and any(word in head for word in (b'"original_width"', b'"completed_by"')):
        return "Label Studio's own JSON", _EXPORT
    if a_list and b'"coordinates"' in head and b'"label"' in head:
        return "CreateML's JSON", "export COCO, YOLO or Pascal VOC"
    if re.search(rb'"categories"\s*:\s*\{', head) and b'"label' in head:
        return "Datumaro's own JSON", _EXPORT
    if b'"classTitle"' in head or b'"projectType"' in head:
        return "Supervisely's own JSON", _EXPORT
    if b'"segments_info"' in head:
        return "COCO's panoptic segments", "give the instances_*.json of these images"
    return None


def _of_xml(head: bytes) -> Found:
    if b"<annotations" in head and (b"<image " in head or b"<track " in head):
        return "CVAT's own XML", _EXPORT
    if b"<imagesize>" in head and b"<polygon>" in head:
        return "LabelMe's XML of polygons", _EXPORT
    return None


def _of_csv(head: bytes) -> Found:
    columns = head.partition(b"\n")[0].lower()
    words = (b"xmin", b"x_min", b"bbox", b"region_shape_attributes")
    numbers = len(re.findall(rb"(?<=,)\d+(?:\.\d*)?(?=,)", columns)) >= 4  # no titles
    found = numbers or any(word in columns for word in words)
    return ("a table of boxes", "convert them to COCO or YOLO") if found else None


def _of_text(head: bytes) -> Found:
    lines = filter(None, map(str.strip, head.decode("utf-8", "replace").splitlines()))
    for line in islice(lines, _MOST_LINES):
        fields = [field for field in re.split(r"[\s,;]+", line) if field]
        numbers = [field for field in fields if _NUMBER.fullmatch(field)]
        if len(numbers) < 4:
            continue
        if len(line.split()) == len(numbers) >= 5:
            return "a label of YOLO's in no folder called labels", (
                "put the labels into labels/, the pictures into images/ beside it"
            )
        kind = "KITTI's label" if len(fields) in (15, 16) else "no label of YOLO's"
        told = f"{line[:40]}..." if len(line) > 40 else line
        return f"{kind} ({quoted(told)})", (
            "write a line of class number, x, y, width and height, blanks between, for each object"
        )
    return None


_TOLD: dict[str, Callable[[bytes], Found]] = {
    ".json": _of_json,
    ".xml": _of_xml,
    ".csv": _of_csv,
}
_SUFFIXES = (*_ARCHIVES, ".tfrecord", ".parquet", ".arrow", *_TOLD, ".tsv", ".jsonl", ".txt")
