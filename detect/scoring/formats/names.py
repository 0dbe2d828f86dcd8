"""Which image and which class an entry of a results file means.

Ids are read as they are, as numbers ("000139" and 139), as file names with or without folders, and
as places in the list of the split, where all entries of a file have just one of these readings.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from detect.scoring.detections import GroundTruth, integer_ids

_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".xml",
    ".txt",
)
_WHOLE = re.compile(r"[+-]?\d{1,18}")


class UnknownNameError(Exception):
    """A name without a reading, and why; `place` is its first row."""

    def __init__(self, place: int, text: str) -> None:
        super().__init__(text)
        self.place = place


def find_images(names: Sequence[object], truth: GroundTruth, notes: list[str]) -> NDArray[np.int64]:
    """Find the images (n,) that the entries of a file name.

    Raises:
        UnknownNameError: A name is of no image of the split, or all could mean several.
    """
    known = _Images(truth)
    found = {name: known.find(name) for name in _distinct(names)}
    lost = [name for name, place in found.items() if place is None]
    if lost:
        numbers = {name: _integer(name) for name in found}
        share = 1 - len(lost) / len(found)
        by_place = _as_places(list(numbers.values()), len(truth.image_ids), share)
        by_digits = known.by_last_number(numbers)
        if by_place is not None and by_digits is not None:
            raise UnknownNameError(
                names.index(lost[0]),
                f"image {lost[0]!r} may be a place in the list of images or the number in a file "
                "name; write the ids of the split",
            )
        if by_place is not None:
            first = by_place
            notes.append(
                f"image ids are read as places in the list of the split, counted from {first}"
            )
            found = {name: number - first for name, number in numbers.items() if number is not None}
        elif by_digits is not None:
            notes.append("image ids are read as the numbers that end the images' names")
            found = by_digits
        else:
            example = truth.image_ids[0] if truth.image_ids else "none"
            raise UnknownNameError(
                names.index(lost[0]),
                f"image {_shown(lost[0])} is not in the split, whose ids look like {example!r}; "
                "score the split that was searched, or write its ids",
            )
    elif any(str(name) not in known.exact and _integer(name) is None for name in found):
        notes.append("image ids are file names, read without folder and ending")
    table = {name: int(place) for name, place in found.items() if place is not None}
    return np.fromiter(map(table.__getitem__, names), np.int64, len(names))


def images_by_file(files: Sequence[str], truth: GroundTruth) -> NDArray[np.int64] | None:
    """Find the images (n,) of file names that stand beside ids; None where none is of the data.

    Raises:
        UnknownNameError: Only some are of the split.
    """
    known = _Images(truth)
    found = {name: known.named(name) for name in dict.fromkeys(files)}
    if all(place is None for place in found.values()):
        return None
    for name, place in found.items():
        if place is None:
            raise UnknownNameError(
                files.index(name),
                f"image {_shown(name)} is not in the split; score the split that was searched",
            )
    return np.array([found[name] for name in files], np.int64)


def classes_by_name(names: Sequence[str], truth: GroundTruth) -> NDArray[np.int64] | None:
    """Find the classes (n,) of names that stand beside numbers; None where none is of the data.

    Raises:
        UnknownNameError: Only some are classes of the data.
    """
    if not set(names) & set(truth.classes):
        return None
    return find_classes(names, truth, [])


def find_classes(
    names: Sequence[object], truth: GroundTruth, notes: list[str], first: int = 1
) -> NDArray[np.int64]:
    """Find the classes (n,) that the entries of a file name.

    Args:
        names: Numbers or names.
        truth: The split, with its classes.
        notes: Gains a line where the reading is not the usual one.
        first: What numbers usually count from in this format.

    Raises:
        UnknownNameError: A name is of no class.
    """
    distinct = list(_distinct(names))
    count = len(truth.classes)
    exact = {name: label for label, name in enumerate(truth.classes)}
    folded = {name.casefold().strip(): label for label, name in enumerate(truth.classes)}
    numbers = {name: _integer(name) for name in distinct}
    table: dict[object, int] = {}
    by_id: dict[object, int] = (
        {number: label for label, number in enumerate(truth.category_ids)} if first else {}
    )
    if distinct and all(name in by_id for name in distinct):
        table = {name: by_id[name] for name in distinct}
    elif all(isinstance(name, str) and name in exact for name in distinct):
        table = {name: exact[str(name)] for name in distinct}
    else:
        known = [number for number in numbers.values() if number is not None]
        start = _first_class(known, first, count)
        if start != first or by_id:
            notes.append(f"class numbers are read as counted from {start}")
        for name, number in numbers.items():
            label = folded.get(str(name).casefold().strip()) if len(folded) == count else None
            table[name] = number - start if number is not None else -1 if label is None else label
    for name in distinct:
        if not 0 <= table[name] < count:
            raise UnknownNameError(
                names.index(name),
                f"class {_shown(name)} is not one of {first}..{count + first - 1} nor a name of "
                f"{', '.join(map(repr, truth.classes[:3]))}{', ...' if count > 3 else ''}: write "
                "those",
            )
    return np.fromiter(map(table.__getitem__, names), np.int64, len(names))


def _first_class(numbers: Sequence[int], usual: int, count: int) -> int:
    """Find what class numbers count from: as usual, unless they only fit the other way."""
    if usual == 1 and numbers and min(numbers) == 0 and max(numbers) < count:
        return 0
    return 1 if usual == 0 and numbers and min(numbers) >= 1 and max(numbers) == count else usual


class _Images:
    """The images of a split by everything they may be called."""

    def __init__(self, truth: GroundTruth) -> None:
        self.exact = {name: place for place, name in enumerate(truth.image_ids)}
        self.numbers = {
            number: place for place, number in enumerate(integer_ids(truth.image_ids) or ())
        }
        named = [*enumerate(truth.image_ids), *enumerate(truth.file_names)]
        self.stems = _unique((_stem(name), place) for place, name in named)
        self.paths = {name: place for place, name in enumerate(truth.file_names)}

    def named(self, name: str) -> int | None:
        """Return the image of an id or a file name."""
        if name in self.exact:
            return self.exact[name]
        trimmed = name.strip()
        path = trimmed.replace("\\", "/").removeprefix("./")
        for table, key in (
            (self.exact, trimmed),
            (self.paths, _without_ending(path)),
        ):
            if key in table:
                return table[key]
        return self.stems.get(_stem(name))

    def find(self, name: object) -> int | None:
        place = self.named(name) if isinstance(name, str) else None
        if place is not None:
            return place
        number = _integer(name if not isinstance(name, str) else _stem(name))
        return None if number is None else self.numbers.get(number)

    def by_last_number(self, numbers: dict[object, int | None]) -> dict[object, int | None] | None:
        """Map the images by the number at the end of their names, if that tells all apart."""
        ends = [re.search(r"(\d{1,18})\D*$", _stem(name)) for name in self.exact]
        if not all(ends):
            return None
        table = _unique((int(end[1]), place) for place, end in enumerate(ends) if end)
        if len(table) < len(ends) or any(number not in table for number in numbers.values()):
            return None
        return {name: table[number] for name, number in numbers.items() if number is not None}


def _unique(pairs: Iterable[tuple[object, int]]) -> dict[object, int]:
    """Return a table without the keys that stand for several."""
    table: dict[object, int] = {}
    twice = set()
    for key, place in pairs:
        if table.get(key, place) != place:
            twice.add(key)
        table[key] = place
    return {key: place for key, place in table.items() if key not in twice}


def _as_places(numbers: Sequence[int | None], count: int, share: float) -> int | None:
    """Find what numbers count the images from, if they can only be places in the list.

    Args:
        numbers: Of all entries.
        count: Images of the split.
        share: Of the numbers that are ids of images, too: of some, by chance.
    """
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or not known:
        return None
    if min(known) == 0 and max(known) < count and share < 0.9:
        return 0
    return 1 if min(known) >= 1 and max(known) == count and share < 0.1 else None


def _stem(name: str) -> str:
    """Return a file name without its folders and the ending of an image."""
    path = name.strip().replace("\\", "/")
    return _without_ending(path if "/" not in path and path != "." else PurePosixPath(path).name)


def _without_ending(name: str) -> str:
    lower = name.lower()
    if not lower.endswith(_SUFFIXES):
        return name
    return name[: -next(len(suffix) for suffix in _SUFFIXES if lower.endswith(suffix))]


def _integer(name: object) -> int | None:
    """Read a whole number, written as one, as text or as 3.0; True is none."""
    if isinstance(name, bool):
        return None
    if isinstance(name, int):
        return name
    if isinstance(name, float):
        return int(name) if name.is_integer() else None
    if isinstance(name, str) and _WHOLE.fullmatch(name.strip()):
        return int(name)
    return None


def _distinct(names: Sequence[object]) -> Iterable[object]:
    if not set(map(type, names)) <= {str, int, float}:  # not True either, which equals 1
        place = next(i for i, name in enumerate(names) if type(name) not in (str, int, float))
        raise UnknownNameError(place, f"{_shown(names[place])} is neither a number nor a name")
    return dict.fromkeys(names)


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def refusal(where: str, error: UnknownNameError) -> InputError:
    """Build the error that a reader raises for a name; `where` is the entry of `error.place`."""
    return InputError(f"{where}: {error}")
