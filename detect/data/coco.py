"""COCO's annotation files.

    annotations/instances_<set>.json   <set>/, images/<set>/ or images/     COCO, CVAT
    <set>/_annotations.coco.json       beside its images                    Roboflow
    any.json                           with --images, or beside its images

Crowds are difficult objects that are never trained on, what other tools mark "ignore" is difficult;
segmentations are not looked at.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from common.errors import InputError
from common.images.hidden import children
from common.images.orientation import upright_size
from common.text import no_name
from detect.data.coco_files import OTHER_TASKS, load, read_categories, whole
from detect.data.dataset import (
    LARGEST,
    MOST_PIXELS_A_SIDE,
    Annotation,
    DetectionData,
    Entry,
    MissingFileError,
    label_map,
    quoted,
    shown,
)
from detect.data.faults import Faults, Together, reason_of
from detect.data.options import DataOptions
from detect.data.pictures import check_image_id, spellings

_TRIED = 20  # file names by which the folder of the images is found
_KEYS = ("category_id", "bbox", "iscrowd", "ignore", "area")
_MOST_ID = 200  # characters or digits
_DIGITS = re.compile(r"[0-9]{1,18}")
_SLACK = 1.0  # pixels that a box may lie outside: roundings of tools
_SUSPECT = 4  # one box of so many outside makes a file suspect


def open_coco(path: Path, files: dict[str, Path], options: DataOptions) -> DetectionData:
    """Open COCO data.

    Args:
        path: What the user named.
        files: What `coco_files.find_json` found.
        options: How to read it.

    Raises:
        InputError: The files do not fit each other, or a wanted class is not among them.
    """
    categories, skipped = read_categories(files)
    names = list(categories.values())
    if not names and not skipped:
        raise InputError(
            f"{path}: its list of categories is empty: export it again with the classes"
        )
    times = Counter(names)
    for name in names:
        if times[name] > 1:
            raise InputError(f"{path}: two categories are called {quoted(name)}: rename one")
    classes, label_of = label_map(names, options.classes, path)
    id_of = {name: number for number, name in categories.items()}
    notes = [f"the categories {', '.join(map(shown, skipped))} have no objects and are left out"]
    notes = notes if skipped else []
    others = {other for file in files.values() for other in children(file.parent, "*.json")}
    others = {other for other in others if not other.name.lower().startswith(OTHER_TASKS)}
    others -= set(files.values())
    if path.is_dir() and others:
        names = sorted(other.name for other in others)
        passed = ", ".join(map(shown, names))
        notes.append(f"passed over, no COCO annotations: {passed}")
    return DetectionData(
        path=path,
        kind="COCO annotations",
        classes=classes,
        sets=tuple(files),
        entries=partial(
            _entries,
            path if path.is_dir() else path.parent,
            files,
            {number: label_of[name] for number, name in categories.items()},
            options.images,
        ),
        metric="coco",
        category_ids=tuple(id_of[name] for name in classes),
        notes=tuple(notes),
    )


# ---- images -------------------------------------------------------------------------------------


def _entries(
    root: Path,
    files: dict[str, Path],
    label_of: Mapping[int | str, int | None],
    folder: Path | None,
    name: str,
    faults: Faults | None,
) -> list[Entry]:
    file = files[name]
    content = load(file)
    together = Together()
    objects: dict[Any, list[dict[str, Any]]] = {}
    images: dict[Any, dict[str, Any]] = {}
    for at, image in enumerate(content["images"], start=1):
        where = f"{file}, image {at}"
        number = whole(image.get("id")) if isinstance(image, dict) else None
        again = not _is_id(number) or number in images
        if not again:
            images[number] = {}  # even if it is refused: its objects are no faults of their own
        with together:
            if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                raise InputError(f"{where} has no file_name: export it again")
            if again:
                raise InputError(f"{where} has no id of its own: export it again")
            check_image_id(_relative(image["file_name"]), where)
            images[number] = {**image, "id": number}
    for number, item in enumerate(content["annotations"], start=1):
        stated = item.get("image_id") if isinstance(item, dict) else None
        found = _match(stated, images)
        with together:
            if found is None:
                raise InputError(
                    f"{file}, annotation {number}: image_id {shown(repr(stated))} is none of its "
                    f"{len(images)} images: export it again"
                )
            kept = {key: item.get(key) for key in _KEYS}
            objects.setdefault(found, []).append({**kept, "number": number})
    if faults is None:
        together.end()
    else:
        faults += [(file, reason_of(error, file)) for error in together.errors]
    images = {number: image for number, image in images.items() if image}
    _refuse_corners(file, images, objects)
    ids = list(images)
    if all(isinstance(number, int) for number in ids):
        ids.sort()
    bases = _bases(root, file, name, folder)
    base = _base(bases, [_relative(images[number]["file_name"]) for number in ids[:_TRIED]])
    return [
        Entry(
            str(number),
            _relative(images[number]["file_name"]).rpartition(".")[0],
            file,
            file,
            partial(
                _annotate,
                file,
                images[number],
                objects.get(number, []),
                label_of,
                partial(_picture, base, _relative(images[number]["file_name"]), ""),
            ),
            partial(_picture, base, _relative(images[number]["file_name"])),
        )
        for number in ids
    ]


def _refuse_corners(
    file: Path, images: Mapping[Any, dict[str, Any]], objects: Mapping[Any, list[dict[str, Any]]]
) -> None:
    """Refuse a file whose boxes are corners, by all of them together: single ones may be wrong.

    Raises:
        InputError: All would do as corners, and a quarter of them would lie outside as they are.
    """
    beyond = total = 0
    for number, items in objects.items():
        image = images.get(number, {})  # none that was refused
        width, height = image.get("width"), image.get("height")
        for item in items:
            try:
                x, y, w, h = map(float, item["bbox"])
                right, bottom = float(width or 0) + _SLACK, float(height or 0) + _SLACK
            except (OverflowError, TypeError, ValueError):
                return  # told where it is read
            if not (x < w <= right and y < h <= bottom):
                return
            total += 1
            beyond += x + w > right or y + h > bottom
    if beyond * _SUSPECT > total:
        raise InputError(
            f"{file}: of its {total} boxes, {beyond} lie outside their images as [x, y, width, "
            "height], and none as corners: write x, y, width and height"
        )


def _relative(name: str) -> str:
    """Return a file name below the folder of the images; its last part, if it leads elsewhere."""
    path = name.replace("\\", "/").removeprefix("./")
    parts = path.split("/")
    return parts[-1] if {"", "..", "."} & set(parts) or ":" in parts[0] else path


def _bases(root: Path, file: Path, name: str, folder: Path | None) -> list[Path]:
    """List where the images may be, the likeliest first."""
    if folder:
        return [folder, folder / name]
    beside = [file.parent, file.parent.parent]
    inside = [place / sub for place in (root, *beside) for sub in (name, f"images/{name}")]
    return [
        *inside,
        *(p / s for p in (root, *beside) for s in ("images", "JPEGImages", "data", "")),
    ]


def _base(bases: list[Path], names: list[str]) -> Path:
    for base in bases:
        if any((base / other).is_file() for name in names for other in spellings(name)):
            return base
    for base in bases:  # the names may hold the folders of another machine
        if any((base / name.rpartition("/")[2]).is_file() for name in names):
            return base
    return next((base for base in bases if base.is_dir()), bases[0])


def _picture(base: Path, name: str, stated: str) -> Path:
    for other in (*spellings(name), unquote(name)):  # names of a server have %20 for a blank
        for candidate in (base / other, base / other.rpartition("/")[2]):
            if candidate.is_file():
                return candidate
    remedy = "correct its file_name, or give the folder of the images with --images"
    raise MissingFileError(base, name, remedy)


def _annotate(
    file: Path,
    image: dict[str, Any],
    objects: list[dict[str, Any]],
    label_of: Mapping[int | str, int | None],
    picture: Callable[[], Path],
) -> tuple[Annotation, str]:
    together = Together()
    width: Any = image.get("width")
    height: Any = image.get("height")
    if not _is_side(width) or not _is_side(height):
        with together:
            width, height = _size(picture, f"{file}, image {image['id']}")
    rows, labels, crowd, difficult, areas, numbers = [], [], [], [], [], []
    for number, item in enumerate(objects, start=1):
        at = f"{file}, annotation {item['number']}"
        category = _match(item["category_id"], label_of)
        label = None
        with together:
            if category is None:
                stated = item["category_id"]
                known = ", ".join(shown(repr(other)) for other in list(label_of)[:20])
                raise InputError(
                    f"{at}: category_id {shown(repr(stated))} is none of the categories {known}: "
                    "export it again"
                )
            label = label_of[category]
        with together:
            box = _box(item["bbox"], at)
            flags = [_flag(item[name], name, at) for name in ("iscrowd", "ignore")]
            if label is not None:
                rows.append(box)
                labels.append(label)
                crowd.append(flags[0])
                difficult.append(any(flags))
                stated = _is_number(item["area"])
                areas.append(item["area"] if stated else (box[2] - box[0]) * (box[3] - box[1]))
                numbers.append(number)
    if not (_is_side(width) and _is_side(height)):  # neither stated nor that of a picture
        together.end()
    annotation = Annotation(
        image_id=str(image["id"]),
        width=int(width),
        height=int(height),
        boxes=np.array(rows, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, np.bool_),
        areas=np.array(areas, np.float64),
        crowd=np.array(crowd, np.bool_),
        numbers=None if len(numbers) == len(objects) else np.array(numbers, np.int64),
    )
    together.end(annotation)
    return annotation, ""


def _size(picture: Callable[[], Path], where: str) -> tuple[int, int]:
    """Read the size that the file does not state from the picture, as it is seen upright."""
    try:
        return upright_size(picture())
    except MissingFileError:
        raise InputError(
            f"{where} has no width and height in pixels, and its picture is not there: add either"
        ) from None


def _match(stated: Any, known: Mapping[Any, Any]) -> Any:
    """Return the id that is meant: "7" may mean 7, and 7 "7", where one of them is there."""
    if not isinstance(stated, int | float | str):
        return None
    if stated in known:
        return stated
    if isinstance(stated, str):
        other: Any = int(stated) if _DIGITS.fullmatch(stated) else None
    else:
        other = str(whole(stated))
    return other if other in known else None


def _is_id(value: Any) -> bool:
    """Tell whether this may name an image: ids become parts of file names and tables."""
    if isinstance(value, str):
        return not no_name(value) and 0 < len(value) <= _MOST_ID
    return isinstance(value, int) and abs(value) < 10**_MOST_ID


def _flag(value: object, name: str, at: str) -> bool:
    if value not in (None, 0, 1, "0", "1"):
        raise InputError(f"{at}: {name} is {shown(repr(value))}: write 0 or 1")
    return value in (1, "1")


def _is_number(value: Any) -> bool:
    """Tell whether this is a number small enough for finite sums and products."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def _is_side(value: Any) -> bool:
    return _is_number(value) and 1 <= value <= MOST_PIXELS_A_SIDE and value == int(value)


def _box(bbox: Any, where: str) -> tuple[float, ...]:
    if bbox is None:
        raise InputError(f"{where} has no bbox: export boxes, too, not segmentations alone")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise InputError(f"{where}: bbox {quoted(str(bbox))} is not four numbers: export it again")
    x, y, w, h = map(float, bbox)
    if w < 0 or h < 0:
        raise InputError(
            f"{where}: bbox [{x:g}, {y:g}, {w:g}, {h:g}] has a negative side: "
            "give [x, y, width, height]"
        )
    return x, y, x + w, y + h
