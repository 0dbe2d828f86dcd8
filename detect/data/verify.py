"""`python -m detect verify`: every image and annotation of some sets, and what they hold."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images.checking import Report, check_image
from common.images.decoding import read_content
from common.images.orientation import is_turned
from common.text import alike, counted, in_line, say
from detect.data.checks import count, duplicates, look_normalised, outside, why_useless
from detect.data.contents import Checked, CheckedSet, boxes_read, remarks, table, warnings
from detect.data.dataset import Annotation, Entry, LabelledImage, shown
from detect.data.faults import Faults, bounded, reason_of, reasons_of
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.pixels import misfit


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
    report, sets, unlabelled = Report(), [], set()
    if not names:
        report.fault(path, "has no set of images: add lists, such as ImageSets/Main/train.txt")
    for name in names:
        faults: Faults = []
        try:
            entries = _without_repeats(data.entries(name, faults), faults)
        except InputError as error:
            if data.has_years:  # no such set
                raise
            faults, entries = [*faults, _placed(error, path)], []
        for place, reason in bounded(faults):
            report.fault(place, reason)
        if not entries and faults:
            continue
        if len(entries) > 1 and not any(entry.source.exists() for entry in entries):
            folder = entries[0].source.parent
            report.fault(
                folder, f"has none of the annotations of {name}: add them, or only predict"
            )
            unlabelled.add(name)
            entries = [replace(e, annotate=partial(_without, e.unlabelled)) for e in entries]
        sets.append(found := CheckedSet(name, entries))
        sources = [entry.source for entry in entries]
        report.check(partial(check_entry, entries), sources, workers, name, seen=found.add)
    counts = [count(found.annotations, data.classes) for found in sets]
    for found, one in zip(sets, counts, strict=True):
        why = why_useless(one, difficult=False)
        told = found.name in unlabelled or one.images != len(found.entries)
        if why and not told:
            report.fault(path, f"{found.name} offers nothing to learn: {why}")
        elif look_normalised(found.annotations):
            report.fault(path, f"{found.name}: all boxes lie between 0 and 1: give pixels")
    lines = [
        *table(data, sets, counts),
        *boxes_read(data, options, sets),
        *data.notes,
        *alike(data.classes),
        *(f"warning: {w}" for w in warnings(data, options, sets, counts, named=split is not None)),
    ]
    say("\n".join(map(in_line, lines)))
    report.end(*remarks(data, sets, named=split is not None))


def _placed(error: InputError, path: Path) -> tuple[Path, str]:
    """Split an error of these data into the file that it begins with and its reason."""
    text = str(error)
    ends = [match.start() for match in re.finditer(r"[ ,:]", text)]
    places = [Path(text[:end]) for end in ends if text[:end].startswith(str(path))]
    place = next((place for place in reversed(places) if os.path.lexists(place)), path)
    return place, reason_of(error, place)


def _called(entry: Entry, path: Path) -> str:
    """Name an image by its id, and by its file where that is another name."""
    known = entry.image_id in (path.stem, entry.name)
    return shown(entry.image_id if known else f"{path.name} (image id {entry.image_id})")


def _without(read: Callable[[], LabelledImage]) -> tuple[Annotation, str]:
    return read().annotation, ""


def _without_repeats(entries: Sequence[Entry], faults: Faults) -> list[Entry]:
    """Return each image once; add a fault for each that is repeated."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.image_id in seen:
            faults.append(
                (entry.listed, f"the image id {shown(entry.image_id)} occurs twice: remove one")
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
    result = _checked(entries[index])
    result.faults = bounded(result.faults)
    return result


def _checked(entry: Entry) -> Checked:
    result, stated, sound = Checked(), "", None
    try:
        result.annotation, stated = entry.annotate()
        sound = result.annotation
    except InputError as error:
        result.faults += reasons_of(error, entry.source)
        sound = error.sound if isinstance(error.sound, Annotation) else None
    path = None
    try:
        result.path = path = entry.picture(stated)
    except InputError as error:
        if reason_of(error, entry.source) not in [reason for _, reason in result.faults]:
            result.faults.append((entry.source, str(error)))
    if path:
        found = check_image(path, partial(read_content, path))
        result.faults += found.faults
        result.notes, result.size, result.format = found.notes, found.size, found.format
        result.orientation, result.digest = found.orientation, found.digest
        if sound and found.size:
            said = sound.width, sound.height
            upright = found.size[::-1] if is_turned(found.orientation) else found.size
            result.turned = upright == said and found.orientation != 1
            if said not in (upright, found.size):
                misfits = misfit(path, found.size, found.orientation, said)
                result.faults.append((path, misfits.removeprefix(str(path)).lstrip()))
    if sound:
        called = _called(entry, path or entry.source)
        result.faults += [(entry.source, reason) for reason in _odd_boxes(sound, called)]
    return result


def _odd_boxes(annotation: Annotation, called: str) -> Iterator[str]:
    """Say which boxes are there twice, lie outside the image or have no area."""
    for pair in duplicates(annotation):
        first, second = map(annotation.number, pair)
        yield f"objects {first} and {second} of {called} are the same: remove one"
    beyond = outside(annotation)
    for row, pixels in beyond.items():
        yield (
            f"object {annotation.number(row)} of {called} lies up to {pixels:g} pixels outside the "
            f"image of {annotation.width} x {annotation.height}: correct it"
        )
    sides = annotation.boxes[:, 2:] - annotation.boxes[:, :2]
    inside = np.isin(np.arange(len(sides)), list(beyond), invert=True)
    flat = int(((sides <= 0).any(axis=1) & inside).sum())
    if flat:
        yield f"image {called}: boxes without an area: {flat}, remove them"
