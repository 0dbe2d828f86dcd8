"""What `verify` found in sets, as a table, warnings and remarks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images.checking import Result
from common.images.headers import UNREAD
from common.images.hidden import children
from common.images.orientation import NAMES
from common.text import counted, in_line
from detect.data.checks import Counts, all_boxes, coordinates_look, unseen
from detect.data.dataset import Annotation, DetectionData, Entry, find_set, shown
from detect.data.heads import repeats
from detect.data.options import DataOptions
from detect.data.pictures import is_picture
from detect.data.voc import devkit_root, lists_of_one_class, read_lines, without_suffix

_LISTS = "ImageSets/Main"
_MOST_SIZES = 3


@dataclass(slots=True)
class Checked(Result):
    """What was found in an image and its annotation."""

    annotation: Annotation | None = None
    """None where it cannot be read."""
    path: Path | None = None
    """The picture; None where there is none."""
    turned: bool = False
    """Whether it is turned upright, as its annotation is."""


@dataclass(slots=True)
class CheckedSet:
    """A set that was checked."""

    name: str
    entries: list[Entry]
    results: list[Checked] = field(default_factory=list)

    def add(self, index: int, result: Result) -> None:
        """Take what was found of the next entry."""
        assert isinstance(result, Checked) or not result.size
        self.results.append(result if isinstance(result, Checked) else Checked(result.faults))

    @property
    def annotations(self) -> list[Annotation]:
        """Those that can be read."""
        return [result.annotation for result in self.results if result.annotation]


def table(data: DetectionData, sets: Sequence[CheckedSet], counts: Sequence[Counts]) -> list[str]:
    """Tabulate what each set holds, a column a set."""
    rows: list[tuple[str, ...]] = [("", *(found.name for found in sets))]
    rows += [
        ("images", *(str(c.images) for c in counts)),
        ("without objects", *(str(c.empty) for c in counts)),
        ("objects", *(str(int((c.objects + c.difficult).sum())) for c in counts)),
        ("of them difficult", *(str(int(c.difficult.sum())) for c in counts)),
    ]
    rows += [
        (f"  {name}", *(str(c.objects[label] + c.difficult[label]) for c in counts))
        for label, name in enumerate(data.classes)
    ]
    results = [[r for r in found.results if r.size] for found in sets]
    rows += [
        ("formats", *(_tally(Counter(r.format for r in found)) for found in results)),
        ("sizes", *(_sizes(found) for found in results)),
    ]
    cells = [list(map(in_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in cells
    ]
    return [*lines, *(line for found in sets for line in _orientations(found))]


def boxes_read(data: DetectionData, options: DataOptions, sets: Sequence[CheckedSet]) -> list[str]:
    """Say how VOC's boxes are read, and what they look like."""
    boxes = all_boxes([a for found in sets for a in found.annotations])
    if data.metric != "voc" or not len(boxes):
        return []
    low = boxes[:, :2] + (options.xml_coordinates == "voc")
    decimals = int((boxes != np.round(boxes)).any(axis=1).sum())
    read = "VOC's pixels from 1" if options.xml_coordinates == "voc" else "edges from 0"
    unsure = "" if low.min() < 2 or decimals else "; whether they count from 0 or 1 is unclear"
    return [
        f"boxes read as {read}: the least begins at {low.min():g}, {decimals} of {len(boxes)} have "
        f"decimals{unsure}"
    ]


def _tally(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counter.most_common()) or "none"


def _sizes(results: Sequence[Checked]) -> str:
    sizes = Counter(f"{r.size[0]}x{r.size[1]}" for r in results if r.size)
    if len(sizes) <= _MOST_SIZES:
        return ", ".join(f"{n} of {size}" for size, n in sizes.most_common()) or "none"
    areas = sorted((r.size for r in results if r.size), key=lambda s: s[0] * s[1])
    (w, h), (wide, high) = areas[0], areas[-1]
    return f"{len(sizes)} from {w}x{h} to {wide}x{high}"


def _orientations(found: CheckedSet) -> list[str]:
    odd = Counter((r.orientation, r.turned) for r in found.results if r.orientation != 1)
    return [
        f"orientation: {number} of {found.name} have EXIF orientation {value} ({NAMES[value]}), "
        f"{'turned upright, as their annotations are' if turned else 'read as stored'}"
        for (value, turned), number in sorted(odd.items())
    ]


def warnings(
    data: DetectionData,
    options: DataOptions,
    sets: Sequence[CheckedSet],
    counts: Sequence[Counts],
    *,
    named: bool,
) -> list[str]:
    """Say what is no fault and yet may not be meant; `named`: sets were asked for."""
    lines: list[str] = []
    for found, one in zip(sets, counts, strict=True):
        never = unseen(data.classes, one)
        if never and len(never) < len(data.classes):
            lines.append(f"{found.name} has no object of {', '.join(map(shown, never))}")
        if pairs := _repeated(found):
            first, second = pairs[0]
            lines.append(
                f"images of {found.name} that share their picture with another: {len(pairs)}, "
                f"such as {shown(second)} and {shown(first)}"
            )
    if data.metric == "voc":
        annotations = [a for found in sets for a in found.annotations]
        if look := coordinates_look(all_boxes(annotations), options.xml_coordinates):
            lines.append(look)
    for number, found in enumerate(sets):
        for other in sets[:number]:
            shared = _shared(other, found)
            if shared and (named or not _contains(other.name, found.name)):
                lines.append(f"images both in {other.name} and in {found.name}: {shared}")
    return lines


def _repeated(found: CheckedSet) -> list[tuple[str, str]]:
    """Return the ids of images whose file, or a copy of it, an earlier image has."""
    return repeats(
        (entry.image_id, [key for key in (result.path, result.digest) if key])
        for entry, result in zip(found.entries, found.results, strict=True)
    )


def _contains(one: str, other: str) -> bool:
    """Tell whether one of two sets holds the other by its name, as trainval holds train."""
    plain = [name.rpartition(":")[2].lower() for name in (one, other)]
    return "trainval" in plain and find_set(("train", "val"), min(plain, key=len)) is not None


def _shared(one: CheckedSet, other: CheckedSet) -> int:
    """Count the images of a set that are in another, too: the same file, or a copy."""
    keys = {key for r in one.results for key in (r.path, r.digest) if key}
    return sum(r.path in keys or (r.digest in keys) for r in other.results if r.path or r.digest)


# ---- what no set names --------------------------------------------------------------------------


def remarks(data: DetectionData, sets: Sequence[CheckedSet], *, named: bool) -> list[str]:
    """Say what lies in the folders that was not checked, as no set names it."""
    mains = [path for depth in ("", "*/", "*/*/") for path in data.path.glob(f"{depth}{_LISTS}")]
    lists = {main: lists_of_one_class(main) for main in sorted(mains) if not named}
    lines = [
        f"not checked: {counted(len(names), 'list')} of one class each in {main}, such as "
        f"{shown(names[0])}"
        for main, names in lists.items()
        if names
    ]
    if data.has_years:
        for year in sorted(devkit_root(data.path).glob("VOC[0-9][0-9][0-9][0-9]")):
            lines += _unnamed(year)
    whole = len(sets) == len(data.sets)
    used = {result.path for found in sets for result in found.results if result.path}
    for folder in sorted({path.parent for path in used}):
        files = [path for path in children(folder) if path not in used]
        odd = sorted(path.name for path in files if path.suffix.lower() in UNREAD)
        rest = sorted(path.name for path in files if is_picture(path.name))
        if odd:
            lines.append(
                f"{counted(len(odd), 'file')} of {folder} of no format that is read: {odd[0]}; "
                "convert to .png"
            )
        if rest and whole and not data.has_years:
            lines.append(f"{counted(len(rest), 'image')} of {folder} in no set, such as {rest[0]}")
    return list(map(in_line, lines))


def _unnamed(year: Path) -> list[str]:
    """Count the files that no list of a year names; those of one class hold an id and a label."""
    named = set()
    for path in children(year / "ImageSets" / "Main", "*.txt"):
        try:
            lines = read_lines(path)
        except InputError:
            continue  # told where it was asked for
        firsts = (line.partition(" ")[0] for line in lines)
        named |= {*lines, *firsts, *(without_suffix(year / "Annotations", line) for line in lines)}
    images = [path for path in children(year / "JPEGImages") if is_picture(path.name)]
    annotations = children(year / "Annotations", "*.xml")
    rest = [sum(path.stem not in named for path in paths) for paths in (images, annotations)]
    if not any(rest):
        return []
    images_too, annotations_too = counted(rest[0], "image"), counted(rest[1], "annotation")
    return [f"{year.name} holds {images_too} and {annotations_too} that none of its lists names"]
