"""`python -m detect verify`: every image and annotation of some sets, and what they hold."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images.checking import Report, Result, check_image
from common.images.decoding import read_content
from common.images.orientation import NAMES, is_turned
from common.text import counted, in_line, say
from detect.data.checks import (
    Counts,
    all_boxes,
    coordinates_look,
    count,
    duplicates,
    look_normalised,
    outside,
    unseen,
    why_useless,
)
from detect.data.dataset import (
    Annotation,
    DetectionData,
    Entry,
    Faults,
    LabelledImage,
    find_set,
    shown,
)
from detect.data.heads import repeats
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.pictures import is_picture
from detect.data.pixels import misfit
from detect.data.voc import devkit_root, lists_of_one_class, read_lines, reason_of

_OTHER_PICTURES = (".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".dng")
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
class _Set:
    """A set that was checked."""

    name: str
    entries: list[Entry]
    results: list[Checked] = field(default_factory=list)

    def add(self, index: int, result: Result) -> None:
        assert isinstance(result, Checked) or not result.size
        self.results.append(result if isinstance(result, Checked) else Checked(result.faults))

    @property
    def annotations(self) -> list[Annotation]:
        return [result.annotation for result in self.results if result.annotation]


def verify(
    path: Path, split: str | None, workers: int | None, options: DataOptions | None = None
) -> None:
    """Check sets of data; print each fault, a table of what they hold, and a summary.

    Args:
        path: As for `open_data`.
        split: Sets, comma-separated; None: all there are.
        workers: Processes; 0 checks in this one; None: as many as cores.
        options: How to read the data.

    Raises:
        InputError: There are faults, or no such sets.
    """
    options = options or DataOptions()
    data = open_data(path, options)
    say(f"{in_line(str(path))}: {data.kind}, {counted(len(data.classes), 'class')}")
    names = [data.set_called(n.strip()) for n in split.split(",")] if split else list(data.sets)
    report, sets = Report(), []
    if not names:
        report.fault(path, "has no set of images: add lists, such as ImageSets/Main/train.txt")
    for name in names:
        faults: Faults = []
        try:
            entries = _once(data.entries(name, faults), faults)
        except InputError as error:
            if data.has_years:  # no such set
                raise
            faults, entries = [(path, reason_of(error, path))], []
        for place, reason in faults:
            report.fault(place, reason)
        if not entries and faults:
            continue
        if len(entries) > 1 and not any(entry.source.exists() for entry in entries):
            folder = entries[0].source.parent
            report.fault(
                folder, f"has none of the annotations of {name}: add them, or only predict"
            )
            entries = [replace(e, annotate=partial(_without, e.unlabelled)) for e in entries]
        sets.append(found := _Set(name, entries))
        sources = [entry.source for entry in entries]
        report.check(partial(check_entry, entries), sources, workers, name, seen=found.add)
    counts = [count(found.annotations, data.classes) for found in sets]
    for found, one in zip(sets, counts, strict=True):
        why = why_useless(one, difficult=False)
        if why and one.images == len(found.entries):  # else the reasons are listed
            report.fault(path, f"{found.name} has nothing to learn: {why}")
        elif look_normalised(found.annotations):
            report.fault(path, f"{found.name}: all boxes lie between 0 and 1: give pixels")
    warnings = _warnings(data, options, sets, counts, named=split is not None)
    lines = [
        *_table(data, sets, counts),
        *_boxes(data, options, sets),
        *data.notes,
        *(f"warning: {w}" for w in warnings),
    ]
    say("\n".join(map(in_line, lines)))
    report.end(*_remarks(data, sets, named=split is not None))


def _without(read: Callable[[], LabelledImage]) -> tuple[Annotation, str]:
    return read().annotation, ""


def _once(entries: Sequence[Entry], faults: Faults) -> list[Entry]:
    """Return each image once; of those that come again, add a fault."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.image_id in seen:
            faults.append(
                (entry.listed, f"the image id {shown(entry.image_id)} is there twice: remove one")
            )
        seen.setdefault(entry.image_id, entry)
    return list(seen.values())


# ---- one image ----------------------------------------------------------------------------------


def check_entry(entries: Sequence[Entry], index: int) -> Checked:
    """Check an image, its annotation, and that they fit.

    Args:
        entries: Of a set.
        index: Which.
    """
    entry = entries[index]
    result, stated = Checked(), ""
    try:
        result.annotation, stated = entry.annotate()
    except InputError as error:
        result.faults.append((entry.source, reason_of(error, entry.source)))
    try:
        result.path = path = entry.picture(stated)
    except InputError as error:
        if reason_of(error, entry.source) not in [reason for _, reason in result.faults]:
            result.faults.append((entry.source, str(error)))
        return result
    found = check_image(path, partial(read_content, path))
    result.faults += found.faults
    result.notes, result.size, result.format = found.notes, found.size, found.format
    result.orientation, result.digest = found.orientation, found.digest
    annotation = result.annotation
    if annotation is None:
        return result
    if found.size:
        said = annotation.width, annotation.height
        upright = found.size[::-1] if is_turned(found.orientation) else found.size
        result.turned = upright == said and found.orientation != 1
        if said not in (upright, found.size):
            misfits = misfit(path, found.size, found.orientation, said)
            result.faults.append((path, misfits.removeprefix(str(path)).lstrip()))
    for first, second in duplicates(annotation):
        told = f"objects {first} and {second} of {shown(entry.image_id)} are the same: remove one"
        result.faults.append((entry.source, told))
    beyond = outside(annotation)
    for number, pixels in beyond.items():
        told = (
            f"object {number} of {shown(entry.image_id)} lies up to {pixels:g} pixels outside the "
            f"image of {annotation.width} x {annotation.height}: correct it"
        )
        result.faults.append((entry.source, told))
    sides = annotation.boxes[:, 2:] - annotation.boxes[:, :2]
    inside = np.isin(np.arange(1, len(sides) + 1), list(beyond), invert=True)
    flat = int(((sides <= 0).any(axis=1) & inside).sum())
    if flat:
        result.faults.append(
            (entry.source, f"image {shown(entry.image_id)}: boxes without an area, remove: {flat}")
        )
    return result


# ---- what there is ------------------------------------------------------------------------------


def _table(data: DetectionData, sets: Sequence[_Set], counts: Sequence[Counts]) -> list[str]:
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


def _boxes(data: DetectionData, options: DataOptions, sets: Sequence[_Set]) -> list[str]:
    """Say how VOC's boxes are read, and what they look like."""
    boxes = all_boxes([a for found in sets for a in found.annotations])
    if data.metric != "voc" or not len(boxes):
        return []
    low = boxes[:, :2] + (options.counted == "voc")
    decimals = int((boxes != np.round(boxes)).any(axis=1).sum())
    read = "VOC's pixels from 1" if options.counted == "voc" else "edges from 0"
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


def _orientations(found: _Set) -> list[str]:
    odd = Counter((r.orientation, r.turned) for r in found.results if r.orientation != 1)
    return [
        f"orientation: {number} of {found.name} have EXIF orientation {value} ({NAMES[value]}), "
        f"{'turned upright, as their annotations are' if turned else 'read as stored'}"
        for (value, turned), number in sorted(odd.items())
    ]


def _warnings(
    data: DetectionData,
    options: DataOptions,
    sets: Sequence[_Set],
    counts: Sequence[Counts],
    *,
    named: bool,
) -> list[str]:
    warnings = []
    for found, one in zip(sets, counts, strict=True):
        never = unseen(data.classes, one)
        if never and len(never) < len(data.classes):
            warnings.append(f"{found.name} has no object of {', '.join(map(shown, never))}")
        if pairs := _repeated(found):
            first, second = pairs[0]
            warnings.append(
                f"images of {found.name} whose picture another one has, too: {len(pairs)}, such as "
                f"{shown(second)} and {shown(first)}"
            )
    if data.metric == "voc":
        annotations = [a for found in sets for a in found.annotations]
        if look := coordinates_look(all_boxes(annotations), options.counted):
            warnings.append(look)
    for number, found in enumerate(sets):
        for other in sets[:number]:
            shared = _shared(other, found)
            if shared and (named or not _contains(other.name, found.name)):
                warnings.append(f"images both in {other.name} and in {found.name}: {shared}")
    return warnings


def _repeated(found: _Set) -> list[tuple[str, str]]:
    """Return the ids of images whose file, or a copy of it, an image before has."""
    return repeats(
        (entry.image_id, [key for key in (result.path, result.digest) if key])
        for entry, result in zip(found.entries, found.results, strict=True)
    )


def _contains(one: str, other: str) -> bool:
    """Tell whether one of two sets holds the other by its name, as trainval holds train."""
    plain = [name.rpartition(":")[2].lower() for name in (one, other)]
    return "trainval" in plain and find_set(("train", "val"), min(plain, key=len)) is not None


def _shared(one: _Set, other: _Set) -> int:
    """Count the images of a set that are in another, too: the same file, or a copy."""
    keys = {key for r in one.results for key in (r.path, r.digest) if key}
    return sum(r.path in keys or (r.digest in keys) for r in other.results if r.path or r.digest)


# ---- what no set names --------------------------------------------------------------------------


def _remarks(data: DetectionData, sets: Sequence[_Set], *, named: bool) -> list[str]:
    mains = [path for depth in ("", "*/", "*/*/") for path in data.path.glob(f"{depth}{_LISTS}")]
    lists = {main: lists_of_one_class(main) for main in sorted(mains) if not named}
    remarks = [
        f"not checked: {counted(len(names), 'list')} of one class each in {main}, such as "
        f"{shown(names[0])}"
        for main, names in lists.items()
        if names
    ]
    if data.has_years:
        for year in sorted(devkit_root(data.path).glob("VOC[0-9][0-9][0-9][0-9]")):
            remarks += _unnamed(year)
    whole = len(sets) == len(data.sets)
    used = {result.path for found in sets for result in found.results if result.path}
    for folder in sorted({path.parent for path in used}):
        files = [path for path in folder.iterdir() if path not in used]
        odd = sorted(path.name for path in files if path.suffix.lower() in _OTHER_PICTURES)
        rest = sorted(path.name for path in files if is_picture(path.name))
        if odd:
            remarks.append(
                f"{counted(len(odd), 'file')} of {folder} of no format that is read: {odd[0]}"
            )
        if rest and whole and not data.has_years:
            remarks.append(
                f"{counted(len(rest), 'image')} of {folder} in no set, such as {rest[0]}"
            )
    return list(map(in_line, remarks))


def _unnamed(year: Path) -> list[str]:
    """Count the files that no list of a year names; those of one class hold an id and a label."""
    named = set()
    for path in (year / "ImageSets" / "Main").glob("*.txt"):
        try:
            lines = read_lines(path)
        except InputError:
            continue  # told where it was asked for
        stems = (line.rpartition(".")[0] for line in lines if is_picture(line))
        named |= {*lines, *stems, *(line.partition(" ")[0] for line in lines)}
    images = [path for path in _files(year / "JPEGImages") if is_picture(path.name)]
    annotations = [path for path in _files(year / "Annotations") if path.suffix == ".xml"]
    rest = [sum(path.stem not in named for path in paths) for paths in (images, annotations)]
    if not any(rest):
        return []
    images_too, annotations_too = counted(rest[0], "image"), counted(rest[1], "annotation")
    return [f"{year.name} holds {images_too} and {annotations_too} that none of its lists names"]


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
