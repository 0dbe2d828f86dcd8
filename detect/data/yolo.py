"""YOLO's label files: a line per object, `class x y width height` as shares of the image.

    data.yaml           path, train, val, test, names      ultralytics, Roboflow
    images/  labels/    perhaps with a folder per set, and classes.txt
    train/images/  train/labels/
    *.txt beside their images, and classes.txt             labelImg
    obj.names  train.txt  obj_train_data/                  CVAT, Darknet

A line with more numbers is a polygon, and becomes the box around it. The shares are of the upright
photo, as the tools show it. An image without a label file has no objects.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.errors import InputError
from common.images.orientation import upright_size
from common.text import counted
from detect.data.dataset import (
    Annotation,
    DetectionData,
    Entry,
    Faults,
    MissingFileError,
    label_map,
    quoted,
    shown,
)
from detect.data.options import DataOptions
from detect.data.pictures import check_image_id, is_picture
from detect.data.splits import ALL
from detect.data.voc import read_class_list, read_lines
from detect.data.voc_xml import read_bytes

_MAX_YAML_BYTES = 10_000_000
_MAX_LABEL_BYTES = 10_000_000
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
_SETS = ("train", "val", "valid", "test")
_NOT_LABELS = ("classes.txt", "predefined_classes.txt", "readme")
_MOST_FOLDERS = 100  # in a path of a data.yaml
_WRITTEN = 1e-6
"""Shares are written with six decimals: an edge that near a whole pixel is at that pixel."""
_BEYOND = 0.5
"""Shares further outside than this are no shares."""
Source = tuple[Path, ...]
"""Folders of images, or lists of them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What was found: where class names and sets are from, and whether labels hold key points."""

    root: Path
    names: dict[int, str]
    sets: dict[str, Source]
    key_points: bool = False
    origin: str = ""


# ---- data.yaml ----------------------------------------------------------------------------------


def find_yaml(path: Path) -> Path | None:
    """Return the file that describes YOLO data, given or in a folder; None where there is none."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    candidates = [path / "data.yaml", path / "data.yml", path / "dataset.yaml"]
    candidates += sorted(p for p in path.iterdir() if p.suffix.lower() in (".yaml", ".yml"))
    for file in candidates:
        if file.is_file() and b"names" in read_bytes(file, "data.yaml", _MAX_YAML_BYTES):
            return file
    return None


class _Plain(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses aliases: a few of them, one in the other, are as large as a disk."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"*{event.anchor} is an alias: write out what it stands for")
        return super().compose_node(parent, index)


def read_yaml(file: Path) -> Layout:
    """Read a data.yaml.

    Raises:
        InputError: It is malformed, or a path of it leads nowhere.
    """
    data = read_bytes(file, "data.yaml", _MAX_YAML_BYTES)
    try:
        content = yaml.load(data.decode("utf-8-sig"), _Plain)
    except Exception as error:  # odd dates, numbers and tags raise nearly anything
        raise InputError(
            f"{file} is not YAML: correct it ({' '.join(str(error).split())})"[:300]
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is no data.yaml: write what names: and train: are")
    names = _names(file, content)
    bases = _bases(file, content.get("path"))
    sets = {}
    for key in _SETS:
        stated = content.get(key)
        places = [stated] if isinstance(stated, str) else stated or []
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise InputError(f"{file}: {key} is neither a path nor a list: write a path")
        found = tuple(_existing(file, bases, key, place) for place in places if place)
        if found:
            sets[key] = found
    if not sets:
        raise InputError(f"{file} names no images: write train: images/train, and val alike")
    return Layout(file.parent, names, sets, "kpt_shape" in content, f"classes from {file.name}")


def _names(file: Path, content: Mapping[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        found = {int(key): str(name) for key, name in (names or {}).items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        found = {}
    if not found:
        raise InputError(f"{file} names no classes: write names: [helmet, vest], or one per line")
    if "nc" in content and content["nc"] != len(found):
        raise InputError(
            f"{file}: nc is {_cut(content['nc'])}, but there are {len(found)} names: correct it"
        )
    read_class_list(file, found.values())
    return found


def _cut(value: Any) -> str:
    try:
        return shown(repr(value))
    except ValueError:  # a number of thousands of digits
        return "no number"


def _bases(file: Path, stated: Any) -> list[Path]:
    """List the folders that paths of a data.yaml may begin at, the likeliest first."""
    bases = [file.parent]
    if isinstance(stated, str) and stated:
        path = Path(stated)
        bases = [path if path.is_absolute() else file.parent / path, path, file.parent]
    return bases


def _existing(file: Path, bases: Sequence[Path], key: str, place: str) -> Path:
    """Find a path of a data.yaml: as it says, without ../, or the end of another machine's."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = (base.joinpath(*parts[cut:]) for cut in range(len(parts)) for base in bases)
    candidates = chain((base / place for base in bases), ends)
    for candidate in candidates if len(parts) <= _MOST_FOLDERS else ():
        try:
            if candidate.exists():
                return candidate
        except OSError:  # too long a name
            continue
    raise InputError(
        f"{file}: {key} is {quoted(place)}, which is not there: write where the images are, "
        f"from {file.parent}"
    )


# ---- folders ------------------------------------------------------------------------------------


def find_folders(root: Path) -> Layout | None:
    """Return the layout of YOLO data without a data.yaml; None where there is none."""
    sets: dict[str, Source] = {}
    for name in ("train", "training", "val", "valid", "validation", "test"):
        for images, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
            (root / name, root / name),
        ):
            if images.is_dir() and labels.is_dir() and _has_labels(labels):
                sets[name] = (images,)
                break
    lists = {name: root / f"{name}.txt" for name in ("train", "valid", "val", "test")}
    if not sets and (root / "obj.names").is_file():
        sets = {name: (file,) for name, file in lists.items() if file.is_file()}
        sets = sets or {ALL: (root / "obj_train_data",)}
    if not sets:
        for images, labels in ((root / "images", root / "labels"), (root, root)):
            if images.is_dir() and labels.is_dir() and _has_labels(labels):
                sets[ALL] = (images,)
                break
    if not sets:
        return None
    for name in _CLASS_FILES:
        if (root / name).is_file():
            names = dict(enumerate(read_class_list(root / name)))
            return Layout(root, names, sets, origin=f"classes from {name}")
    raise InputError(
        f"{root} has YOLO labels, but neither data.yaml nor classes.txt says what they are called: "
        "write classes.txt, one name per line, in the order of the numbers"
    )


def _has_labels(folder: Path) -> bool:
    """Tell whether a folder holds a label file, by the first lines of some."""
    files = [p for p in sorted(folder.glob("*.txt")) if not p.name.lower().startswith(_NOT_LABELS)]
    for file in files[:20]:
        try:
            fields = [line.split() for line in read_lines(file) if line]
        except InputError:
            continue
        if fields:
            return all(len(line) >= 5 and all(map(_is_number, line)) for line in fields[:5])
    return bool(files) and folder.name == "labels"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- sets ---------------------------------------------------------------------------------------


def open_yolo(path: Path, layout: Layout, options: DataOptions) -> DetectionData:
    """Open YOLO data.

    Args:
        path: What the user named.
        layout: What `read_yaml` or `find_folders` found.
        options: How to read it.

    Raises:
        InputError: A wanted class is none of theirs.
    """
    classes, label_of = label_map(list(layout.names.values()), options.classes, path)
    labels = {number: label_of[name] for number, name in layout.names.items()}
    notes = [layout.origin]
    labelled: set[Path] = set()
    for name, source in layout.sets.items():
        images = _images(source)
        labelled |= set(map(label_file, images))
        without = [image for image in images if not label_file(image).is_file()]
        if without:
            notes.append(
                f"without a label file, and so taken as empty: {len(without)} of the "
                f"{counted(len(images), 'image')} of {shown(name)}, such as "
                f"{shown(without[0].name)}"
            )
    folders = sorted({file.parent for file in labelled} - {layout.root})
    lone = sorted({file for folder in folders for file in folder.glob("*.txt")} - labelled)
    lone = [file for file in lone if not file.name.lower().startswith(_NOT_LABELS)]
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


def _images(source: Source) -> list[Path]:
    images: list[Path] = []
    for place in source:
        if place.is_dir():
            found = (path for path in place.rglob("*") if is_picture(path.name))
            images += sorted(path for path in found if path.is_file() or path.is_symlink())
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
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _entries(
    layout: Layout, labels: Mapping[int, int | None], name: str, faults: Faults | None
) -> list[Entry]:
    source = layout.sets[name]
    images = _images(source)
    stems = [image.stem for image in images]
    repeated = len(set(stems)) < len(stems)
    ids = [_longer_id(image) if repeated else image.stem for image in images]
    return [
        Entry(
            image_id,
            image.stem,
            source[0],
            label_file(image),
            partial(_annotate, image, image_id, labels, layout.key_points),
            partial(_picture, image),
        )
        for image_id, image in zip(ids, images, strict=True)
    ]


def _longer_id(image: Path) -> str:
    return f"{image.parent.name}/{image.stem}"


def _picture(image: Path, stated: str) -> Path:
    if not image.is_file():
        raise MissingFileError(image.parent, image.name)
    return image


# ---- one file -----------------------------------------------------------------------------------


def _annotate(
    image: Path, image_id: str, label_of: Mapping[int, int | None], key_points: bool
) -> tuple[Annotation, str]:
    width, height = upright_size(_picture(image, ""))
    file = label_file(image)
    boxes, labels = [], []
    for number, line in enumerate(_lines(file), start=1):
        if not line:
            continue
        where = f"{file}, line {number}"
        index, shares = _numbers(line, where)
        if index not in label_of:
            raise InputError(
                f"{where}: class {index} is none of {min(label_of)} to {max(label_of)}: "
                "add it to the classes"
            )
        box = _box(shares[:4] if key_points else shares, width, height, where)
        label = label_of[index]
        if label is not None:
            boxes.append(box)
            labels.append(label)
    annotation = Annotation(
        image_id=image_id,
        width=width,
        height=height,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.zeros(len(labels), np.bool_),
    )
    return annotation, ""


def _lines(file: Path) -> list[str]:
    return read_lines(file) if file.is_file() or file.is_symlink() else []


def _numbers(line: str, where: str) -> tuple[int, list[float]]:
    try:
        first, *shares = map(float, line.split())
    except ValueError:
        first, shares = math.nan, []
    sound = all(map(math.isfinite, (first, *shares))) and first == int(first)
    if not sound or len(shares) < 4:
        raise InputError(
            f"{where}: {quoted(line)} is not 'class x y width height' in numbers: correct it"
        )
    return int(first), shares


def _box(shares: list[float], width: int, height: int, where: str) -> tuple[float, ...]:
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
            f"{where}: {len(shares)} numbers behind the class are neither a box (4) nor a polygon "
            "(pairs, at least 3): leave the scores of detections out"
        )
    if min(shares) < -_BEYOND or max(shares) > 1 + _BEYOND:
        raise InputError(
            f"{where}: the box lies outside the image: write shares of its width and height, "
            "from 0 to 1, not pixels"
        )
    sides = width, height, width, height
    return tuple(_whole(edge * side, side) for edge, side in zip(edges, sides, strict=True))


def _whole(edge: float, side: int) -> float:
    """Return the pixel that a share was written for, where it is one."""
    whole = float(np.round(edge))
    return whole if abs(edge - whole) <= _WRITTEN * side else edge
