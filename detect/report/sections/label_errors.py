"""Likely label errors: where the detections of the runs speak against the annotations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.storage import read_json
from detect.report.comparison import Run
from detect.report.drawing.photos import Outlined, photo
from detect.report.sections.finds import Finds
from detect.report.sections.photographs import picture_of
from detect.report.writers.blocks import (
    Block,
    Cell,
    Column,
    Details,
    Drawing,
    Drawings,
    Note,
    Section,
    Table,
)
from detect.scoring.label_errors import TRUSTED_MAP

FILE = "label_errors.json"
_PICTURES, _ROWS = 6, 60
_SAME = 0.5  # overlap from which on two runs mean the same


@dataclass(frozen=True, slots=True)
class Suspect:
    """An annotation that may be wrong, and which runs say so."""

    kind: str
    """One of "missing", "spurious", "wrong class", "displaced" or "duplicate"."""
    image: int
    """Index into the split."""
    name: str
    """Its class."""
    box: tuple[float, ...]
    """(4,) pixels."""
    other_name: str | None
    """The class that a detection gives it, or none."""
    other_box: tuple[float, ...] | None
    """What speaks against it, or none."""
    suspicion: float
    """The highest of the runs."""
    runs: tuple[str, ...]
    """Labels of those that say so."""


def label_errors(finds: Finds) -> list[Section]:
    """Build the section, if a run has the file."""
    comparison = finds.comparison
    suspects = merge([(run.label, entry) for run in comparison.runs for entry in _entries(run)],
                     comparison.truth.image_ids)  # fmt: skip
    if not suspects:
        return []
    numbers = Counter(suspect.kind for suspect in suspects)
    text = ", ".join(f"{number} {kind}" for kind, number in numbers.items())
    best = max(run.mean("area") or 0.0 for run in comparison.runs)
    weak = " At this mAP most will be errors of the detector." if best < TRUSTED_MAP else ""
    blocks: list[Block] = [
        Note(
            f"Candidates to look at, not verdicts: {text}.{weak} First those named by most runs, "
            "then those with the surest detections. Blue: the annotation, or what it "
            "lacks; orange: what speaks against it."
        )
    ]
    drawn = _pictures(finds, suspects)
    blocks += [Drawings("pictures", "Likely label errors", tuple(drawn))] if drawn else []
    blocks.append(Details("The list", (_table(finds, suspects[:_ROWS]),)))
    return [Section("labels", "Likely label errors", tuple(blocks))]


def _entries(run: Run) -> list[Mapping[str, Any]]:
    file = run.folder / FILE
    content = read_json(file) if file.is_file() else {}
    entries = content.get("entries") if isinstance(content, Mapping) else None
    return [entry for entry in entries or () if isinstance(entry, Mapping)]


def merge(
    entries: Sequence[tuple[str, Mapping[str, Any]]], image_ids: Sequence[str]
) -> list[Suspect]:
    """Merge what several runs say of one annotation, the surest first."""
    index = {image_id: place for place, image_id in enumerate(image_ids)}
    merged: list[Suspect] = []
    by_image: dict[tuple[str, int], list[int]] = {}
    for label, entry in entries:
        suspect = _suspect(label, entry, index)
        if suspect is None:
            continue
        places = by_image.setdefault((suspect.kind, suspect.image), [])
        for place in places:
            known = merged[place]
            if known.name == suspect.name and _overlap(known.box, suspect.box) >= _SAME:
                merged[place] = _joined(known, suspect)
                break
        else:
            places.append(len(merged))
            merged.append(suspect)
    return sorted(merged, key=lambda suspect: (-len(suspect.runs), -suspect.suspicion))


def _joined(known: Suspect, other: Suspect) -> Suspect:
    surer = max(known, other, key=lambda suspect: suspect.suspicion)
    runs = tuple(dict.fromkeys((*known.runs, *other.runs)))
    return Suspect(
        surer.kind, surer.image, surer.name, surer.box, surer.other_name, surer.other_box,
        surer.suspicion, runs,
    )  # fmt: skip


def _suspect(label: str, entry: Mapping[str, Any], index: Mapping[str, int]) -> Suspect | None:
    """Read an entry of the file; None for one that is not as it should be."""
    image, box = index.get(str(entry.get("image"))), _box(entry.get("box"))
    suspicion, name = entry.get("suspicion"), entry.get("class")
    if image is None or box is None or not isinstance(suspicion, int | float):
        return None
    other = entry.get("other_class")
    return Suspect(
        str(entry.get("kind")), image, str(name), box, None if other is None else str(other),
        _box(entry.get("other_box")), float(suspicion), (label,),
    )  # fmt: skip


def _box(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(number, int | float) for number in value):
        return None
    return tuple(map(float, value))


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (areas - shared) if areas > shared else 0.0


def _pictures(finds: Finds, suspects: Sequence[Suspect]) -> list[Drawing]:
    truth, drawn = finds.comparison.truth, []
    for suspect in suspects[:_PICTURES]:
        picture = picture_of(finds, suspect.image)
        if picture is None or not picture.content:
            continue
        size = np.tile(truth.sizes[suspect.image], 2)
        outlined = [_outlined(suspect.box, size, suspect.name, "object")]
        if suspect.other_box:
            other = suspect.other_name or suspect.name
            outlined.append(_outlined(suspect.other_box, size, other, "false"))
        name = f"{suspect.kind}: {suspect.name}"
        note = f"image {truth.image_ids[suspect.image]}, {_said(suspect)}"
        drawn.append(Drawing(photo(picture, outlined, f"{name}, {note}"), name, note))
    return drawn


def _outlined(box: Sequence[float], size: Any, label: str, kind: str) -> Outlined:
    x1, y1, x2, y2 = (float(value) for value in np.array(box) / size)
    return Outlined((x1, y1, x2, y2), label, kind)


def _said(suspect: Suspect) -> str:
    return f"suspicion {suspect.suspicion:.2f} by {', '.join(suspect.runs)}"


def _table(finds: Finds, suspects: Sequence[Suspect]) -> Table:
    rows = [
        (
            Cell(finds.comparison.truth.image_ids[suspect.image]),
            Cell(suspect.kind),
            Cell(suspect.name),
            Cell(suspect.other_name or ""),
            Cell(", ".join(f"{value:.0f}" for value in suspect.box)),
            Cell(suspect.suspicion),
            Cell(", ".join(suspect.runs)),
        )
        for suspect in suspects
    ]
    heads = ("Image", "Suspected", "Class", "Other class", "Box")
    columns = (*map(Column, heads), Column("Suspicion", "number"), Column("By"))
    return Table(f"The {len(rows)} first candidates", columns, tuple(rows), sortable=True)
