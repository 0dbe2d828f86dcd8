"""What every format becomes: images with their objects, in named sets, of named classes."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.headers import SUFFIXES, UNREAD
from common.images.orientation import upright_size
from common.text import no_name
from common.text import shown as shown  # as all readers of data show names
from detect.data.faults import Faults

_MOST_LISTED = 25
_MAX_QUOTED = 80  # characters of a file in a message
MOST_PIXELS_A_SIDE = 1_000_000
"""No format here has images of more."""
LARGEST = 1e30
"""Larger numbers are refused: their areas and the sums of those would not be finite."""
T = TypeVar("T")
_USUAL = (("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing"))
"""Words for the same set."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """The objects of one image."""

    image_id: str
    """Unique within its set."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    boxes: NDArray[np.float64]
    """(n, 4) float64 [x1, y1, x2, y2], edges in continuous pixels, as annotated: nothing is cut at
    the border of the image, nothing rounded. Of VOC's 1-based inclusive pixels that is [xmin - 1,
    ymin - 1, xmax, ymax], so that plain intersection over union equals the devkit's."""
    labels: NDArray[np.int64]
    """(n,) index into the class names, from 0."""
    difficult: NDArray[np.bool_]
    """(n,) objects that scoring neither demands nor punishes."""
    areas: NDArray[np.float64] | None = None
    """(n,) square pixels that the annotation states, as COCO's metric counts sizes; None: those of
    the boxes."""
    crowd: NDArray[np.bool_] | None = None
    """(n,) boxes around many objects, difficult ones from which nothing is learnt; None: none."""
    numbers: NDArray[np.int64] | None = None
    """(n,) which objects of the image these are, counted from 1; None: all, in order."""

    def number(self, row: int) -> int:
        """Return the number that messages give an object."""
        return row + 1 if self.numbers is None else int(self.numbers[row])

    @property
    def flat(self) -> NDArray[np.bool_]:
        """(n,) objects without an area within the image."""
        return ~_have_area(self._within())

    def _within(self) -> NDArray[np.float32]:
        return np.clip(self.boxes, 0, [self.width, self.height] * 2).astype(np.float32)

    def usable(self, difficult: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what a training learns from: boxes within the image, with an area, and labels.

        Args:
            difficult: Whether difficult objects count; crowds never do.

        Returns:
            Boxes (m, 4) float32 and labels (m,), m <= n.
        """
        boxes = self._within()
        kept = _have_area(boxes)
        if not difficult:
            kept &= ~self.difficult
        if self.crowd is not None:
            kept &= ~self.crowd
        return boxes[kept], self.labels[kept]


def _have_area(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray((boxes[:, :2] < boxes[:, 2:]).all(axis=1))


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image of a set: the path of its file, and its objects."""

    path: Path
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a set before it is read; can be sent to another process."""

    image_id: str
    """Unique within its set."""
    name: str
    """File name of the picture without suffix, as far as it is known beforehand."""
    listed: Path
    """The file or folder that makes it one of the set, for messages."""
    source: Path
    """The file that holds its annotation, for messages."""
    annotate: Callable[[], tuple[Annotation, str]]
    """Reads the annotation, and the file name of the picture that it states, if any; raises
    InputError, `MissingFileError` where there is no annotation."""
    picture: Callable[[str], Path]
    """Finds the picture, with the file name that the annotation states or ""; raises
    `MissingFileError` where there is none."""

    def unlabelled(self) -> LabelledImage:
        """Find the picture alone; it is taken to be seen upright."""
        path = self.picture("")
        width, height = upright_size(path)
        nothing = np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.bool_)
        return LabelledImage(path, Annotation(self.image_id, width, height, *nothing))

    def load(self) -> LabelledImage:
        """Read the annotation and find its picture."""
        annotation, stated = self.annotate()
        return LabelledImage(self.picture(stated), annotation)


class MissingFileError(InputError):
    """A picture or an annotation is not there.

    Args:
        folder: Where it should be.
        name: How it should be called.
        remedy: What to do where nothing like it is there.
    """

    def __init__(self, folder: Path, name: str, remedy: str = "unpack the archive again") -> None:
        self.folder, self.name, self.reason = folder, name, _why_missing(folder / name, remedy)
        self.remedy = remedy
        super().__init__(f"{folder / shown(name)} is missing{self.reason}")

    def __reduce__(self) -> tuple[type["MissingFileError"], tuple[Path, str, str]]:
        return MissingFileError, (self.folder, self.name, self.remedy)


def _why_missing(path: Path, remedy: str) -> str:
    """Say what is there instead of a file, and what to do."""
    try:
        names = _names(path.parent, path.parent.stat().st_mtime_ns)
    except OSError:
        return f", and so is its folder: {remedy}"
    suffix = path.suffix.lower()
    for other in names.get(path.stem.lower(), ()):
        ending = Path(other).suffix.lower()
        if other != path.name and (ending == suffix or {ending, suffix} <= SUFFIXES.keys()):
            return f", but {shown(other)} is there: give both the same name"
        if suffix in SUFFIXES and ending in UNREAD:
            return f", but {shown(other)} is there, of no format that is read: convert to .png"
    return f": {remedy}"


@lru_cache(maxsize=4)
def _names(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the files of a folder as it was then, by their stems in lower case."""
    names: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        names.setdefault(file.stem.lower(), []).append(file.name)
    return names


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Data that were opened: where, what they are, and how to read their sets."""

    path: Path
    """What the user named."""
    kind: str
    """What it was found to be, such as "a VOC devkit"."""
    classes: tuple[str, ...]
    """Names; a label is an index into them."""
    sets: tuple[str, ...]
    """Names of the sets, in the order of the format."""
    entries: Callable[[str, Faults | None], list[Entry]]
    """Gives the images of one set. Given a list, faults that a reader can continue past go there,
    as a path and a reason each; else the first is raised."""
    metric: Literal["voc", "coco"] = "voc"
    """Whose rules a score begins with."""
    has_years: bool = False
    """Whether sets are named YEAR:SET."""
    category_ids: tuple[int | str, ...] = ()
    """What a COCO results file calls each class; empty: 1, 2, and so on."""
    notes: tuple[str, ...] = field(default=())
    """What else the user should know, one sentence each: what was skipped, and so on."""

    def read(self, split: str) -> list[LabelledImage]:
        """Read one or more sets, comma-separated, in the order of their lists.

        Raises:
            InputError: A set, an image or an annotation is missing or wrong, or an id occurs twice.
        """
        return read_all(self.listed(split), Entry.load, split)

    def annotations(self, split: str) -> list[Annotation]:
        """Read the annotations alone, as scoring does: the pictures need not be there."""
        return read_all(self.listed(split), lambda entry: entry.annotate()[0], split)

    def listed(self, split: str) -> list[Entry]:
        """Return the entries of one or more sets, comma-separated.

        Raises:
            InputError: There is no such set, or no image in it.
        """
        found = []
        for name in split.split(","):
            entries = self.entries(self.set_called(name.strip()), None)
            if not entries:
                raise InputError(
                    f"{self.path}: the set {quoted(name.strip())} lists no images: add some, or "
                    "name another set"
                )
            found += entries
        return found

    def set_called(self, name: str) -> str:
        """Return the set of a name, or of another word for it.

        Raises:
            InputError: There is none.
        """
        found = name if self.has_years else find_set(self.sets, name)
        if found is None:
            raise InputError(
                f"{self.path}, {self.kind}, has no set {quoted(name)}: choose from "
                f"{listed(self.sets) or 'none'}"
            )
        return found


def find_set(sets: Sequence[str], name: str) -> str | None:
    """Return the set of a name, or of another word for it: valid for val, train2017 for train."""
    if name in sets:
        return name
    words = next((usual for usual in _USUAL if name.lower() in usual), (name.lower(),))
    for word in words:
        for known in sets:
            if re.fullmatch(rf"{re.escape(word)}[-_]?\d*", known.lower()):
                return known
    return None


def read_all(entries: Sequence[Entry], read: Callable[[Entry], T], split: str) -> list[T]:
    """Read the entries of a split.

    Raises:
        InputError: An image or an annotation is missing or wrong, or an id occurs twice.
    """
    items: dict[str, T] = {}
    missing: list[MissingFileError] = []
    for entry in entries:
        if entry.image_id in items:
            raise InputError(
                f"{entry.listed}: the image id {shown(entry.image_id)} occurs twice in {split!r}: "
                "name each image once"
            )
        try:
            items[entry.image_id] = read(entry)
        except MissingFileError as error:
            missing.append(error)
    if missing:
        folder = missing[0].folder
        if not any(entry.source.exists() for entry in entries):
            raise InputError(
                f"{folder} has none of the annotations of {split!r}, which training and scoring "
                "need: add them, or use detect predict, or evaluate, which do without"
            )
        there = sum(error.folder == folder for error in missing)
        raise InputError(
            f"{there} of the {len(entries)} files that {split!r} lists are missing in {folder}, "
            f"the first is {shown(missing[0].name)}{missing[0].reason}"
        )
    return list(items.values())


def label_map(
    found: Sequence[str], wanted: str | None, where: Path
) -> tuple[tuple[str, ...], dict[str, int | None]]:
    """Number the classes.

    Args:
        found: Those of the data.
        wanted: Comma-separated, those to use in this order; None: all.
        where: The data, for the message.

    Returns:
        The classes to use, and what each class of the data becomes: a label, or None for no object.

    Raises:
        InputError: A wanted class is not among them, or wanted twice.
    """
    if wanted is None:
        return tuple(found), {name: label for label, name in enumerate(found)}
    names = _split(wanted, found)
    for name in names:
        if name not in found or names.count(name) > 1:
            fault = "twice" if name in found else "which is not there"
            raise InputError(
                f"--classes names {quoted(name)}, {fault}: choose from those of {where}: "
                f"{listed(found)}"
            )
    return tuple(names), {name: names.index(name) if name in names else None for name in found}


def class_name(value: object, where: str, remedy: str) -> str:
    """Return the name that a file gives a class.

    Args:
        value: What the file says.
        where: The file and the class, for the message.
        remedy: What to do where that is no text.

    Raises:
        InputError: It is neither a text nor a whole number, or empty, or cannot be shown.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where} has a name that is no text, {quoted(str(value))}: {remedy}")
    try:
        name = str(value)
    except ValueError:  # a number of thousands of digits
        raise InputError(f"{where} has a number for a name: {remedy}") from None
    if not name.strip():
        raise InputError(f"{where} has an empty name: write one")
    if no_name(name):
        raise InputError(f"{where} is called {quoted(name)}, {why_not_shown(name)}: take it out")
    return name


def why_not_shown(name: str) -> str:
    """Say what a name holds that cannot be shown."""
    if len(f"{name}.".splitlines()) > 1:
        return "which holds a line break"
    return f"which holds {quoted(no_name(name) or '')}, a character that cannot be shown"


def _split(wanted: str, found: Sequence[str]) -> list[str]:
    """Split at commas, except at those within a name."""
    parts, names = wanted.split(","), list[str]()
    while parts:
        ends = range(len(parts), 0, -1)
        length = next((n for n in ends if ",".join(parts[:n]).strip() in found), 1)
        names.append(",".join(parts[:length]).strip())
        del parts[:length]
    return [name for name in names if name]


def listed(names: Iterable[str]) -> str:
    """Name the first of many in a message."""
    names = list(names)
    rest = len(names) - _MOST_LISTED
    more = [f"and {rest} more"] if rest > 0 else []
    return ", ".join([*map(shown, names[:_MOST_LISTED]), *more])


def quoted(text: str) -> str:
    """Return the same in quotation marks."""
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}...")
