"""Where COCO's annotation files lie, and the categories that they name."""

import contextlib
import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from common.errors import InputError
from common.images.hidden import children
from common.storage import decode_text, is_utf16, parse_json
from detect.data.dataset import class_name, quoted, shown
from detect.data.splits import ALL
from detect.data.voc_xml import read_bytes

_MAX_JSON_BYTES = 4_000_000_000
OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
"""How the names of COCO's files without boxes begin."""
_NO_CLASS = ("background", "_background_", "__background__", "__ignore__")
_USED = re.compile(rb'"category_id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)')
_LISTS = ("images", "annotations", "categories")
_PARTS = re.compile(rb'"(?:images|annotations)"\s*:')
_PREFIX = re.compile(r"^(instances|annotations)[-_.]")
_MAX_CATEGORIES = 10_000_000  # bytes
_MOST_LISTS = 100  # places that may be the list of categories


# ---- files --------------------------------------------------------------------------------------


def find_json(path: Path) -> dict[str, Path]:
    """Return the annotation files of COCO data by set; none where it is no such data.

    Raises:
        InputError: Of several files in one folder, one is damaged.
    """
    if path.is_file():
        return {set_of(path): path} if path.suffix.lower() == ".json" else {}
    found = {}
    for folder in filter(Path.is_dir, children(path)):
        file = folder / "_annotations.coco.json"
        if file.is_file():
            found[folder.name] = file
    if found:
        return found
    for folder in _folders(path):
        candidates = _candidates(folder)
        files = [file for file in candidates if _is_coco(file)]
        if files:
            for other in set(candidates) - set(files) if folder != path else ():
                content = _parse(other)
                if isinstance(content, dict) and content.keys() >= set(_LISTS):
                    refuse(other)
            return {set_of(file): file for file in files}
    return {}


def refuse_damaged(path: Path) -> None:
    """Say what is wrong with a JSON that is all there is of COCO data.

    Raises:
        InputError: There is such a file.
    """
    for folder in _folders(path):
        for file in _candidates(folder):
            content = _parse(file)
            parts = isinstance(content, dict) and content.keys() & set(_LISTS)
            if parts or folder.name.lower() == "annotations":
                refuse(file)


def _folders(path: Path) -> tuple[Path, ...]:
    return path / "annotations", path / "Annotations", path


def _candidates(folder: Path) -> list[Path]:
    files = children(folder, "*.json")
    return [file for file in files if not file.name.lower().startswith(OTHER_TASKS)]


def _is_coco(file: Path) -> bool:
    """Tell a file with categories and more: Label Studio writes them alone beside YOLO's labels."""
    return _found(file) is not None and _PARTS.search(read(file)) is not None


def set_of(file: Path) -> str:
    """Return the set that a file is of, by its name."""
    return _PREFIX.sub("", file.stem) if file.stem.strip("_") != "annotations.coco" else ALL


def read(file: Path) -> bytes:
    """Read a file, of UTF-16 as UTF-8."""
    data = read_bytes(file, "COCO annotation file", _MAX_JSON_BYTES)
    return decode_text(data, file).encode() if is_utf16(data) else data


def _parse(file: Path) -> Any:
    data = read(file)
    if not data.strip():
        raise InputError(f"{file} is empty: export it again")
    try:
        return parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise InputError(
            f"{file} is not JSON ({error}): it is damaged, export or copy it again"
        ) from None


def load(file: Path) -> dict[str, Any]:
    """Read a whole file.

    Raises:
        InputError: It is no COCO annotation file.
    """
    content = _parse(file)
    if not isinstance(content, dict):
        raise InputError(
            f"{file} is a JSON list, no COCO annotation file: give one with images, annotations "
            "and categories"
            if isinstance(content, list)
            else f"{file} is no COCO annotation file: give one with images, annotations and "
            "categories"
        )
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            raise InputError(
                f"{file} is no COCO annotation file, for it has no list {key!r}: give one with "
                "images, annotations and categories"
            )
    return content


# ---- categories ---------------------------------------------------------------------------------


def whole(value: Any) -> Any:
    """Return an id that a table's program made 1.0 as 1; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _found(file: Path) -> list[dict[str, Any]] | None:
    """Find the list of categories without parsing the file, which may be large."""
    data = read(file)
    for match in islice(re.finditer(rb'"categories"\s*:\s*\[', data), _MOST_LISTS):
        start = match.end() - 1
        text = data[start : start + _MAX_CATEGORIES].decode("utf-8", "ignore")
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            continue
        if all(isinstance(c, dict) and isinstance(whole(c.get("id")), int | str) for c in value):
            return list(value)
    return None


def refuse(file: Path) -> NoReturn:
    """Say what is wrong with a file in which no categories were found.

    Raises:
        InputError: In any case.
    """
    for number, category in enumerate(load(file)["categories"], start=1):
        if not isinstance(category, dict):
            raise InputError(
                f"{file}: category {number} of its list is {quoted(json.dumps(category))}, not an "
                "id and a name: export it again"
            )
        if not isinstance(whole(category.get("id")), int | str):
            text = quoted(json.dumps(category.get("id")))
            raise InputError(
                f"{file}: category {number} of its list has the id {text}, neither a whole number "
                "nor a text: export it again"
            )
    raise InputError(f"{file}: its categories cannot be found: export it again")


def read_categories(files: Mapping[str, Path]) -> tuple[dict[int | str, str], list[str]]:
    """Return the categories of all files, by id, and the names of those that are no classes.

    These are backgrounds and supercategories without objects: Roboflow writes one of the latter.

    Raises:
        InputError: A file has none, or they do not fit each other.
    """
    found: dict[int | str, str] = {}
    above: set[str] = set()
    for file in files.values():
        here: dict[int | str, str] = {}
        categories = _found(file)
        if categories is None:
            refuse(file)
        for category in categories:
            number = whole(category["id"])
            where = f"{file}: category {shown(repr(number))}"
            name = class_name(category.get("name"), where, "write one in quotes")
            if here.setdefault(number, name) != name:
                raise InputError(
                    f"{where} is both {quoted(here[number])} and {quoted(name)}: give each an id "
                    "of its own"
                )
            if found.setdefault(number, name) != name:
                raise InputError(
                    f"{where} is {quoted(name)}, elsewhere {quoted(found[number])}: export the "
                    "sets together"
                )
            if category.get("supercategory") not in (None, name):
                above.add(str(category["supercategory"]))
    doubtful = {k for k, name in found.items() if name in above or name.lower() in _NO_CLASS}
    used = set().union(*map(_used, files.values())) if doubtful else set()
    if all(isinstance(number, int) for number in found):
        found = dict(sorted(found.items(), key=lambda item: int(item[0])))
    kept = {number: name for number, name in found.items() if number not in doubtful - used}
    return kept, [found[number] for number in found if number not in kept]


def _used(file: Path) -> set[int | str]:
    """Return the categories that objects have."""
    used = set()
    for text in set(_USED.findall(read(file))):
        with contextlib.suppress(ValueError):  # what is wrong is told when the objects are read
            used.add(parse_json(text))
    return used
