"""Photos with what was found on them: of one run, or of all, drawn in one picture."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.images.decoding import read_image
from common.storage import write_atomically
from common.text import counted
from detect.report.comparison import Comparison
from detect.report.drawing.boxes import (
    FALSE,
    HIT,
    IGNORED,
    MISSED,
    OBJECT,
    LabelledBox,
    Outline,
    draw_boxes,
)
from detect.report.drawing.photos import MOST_LABELS, Outlined, Picture, photo, read_picture, sample
from detect.report.sections.finds import Finds
from detect.report.writers.blocks import Drawing, Drawings

MOST_BYTES = 24_000
"""Of a picture in the text."""
MOST_BOXES = 60
_DRAWN = {
    "hit": HIT,
    "false": FALSE,
    "missed": MISSED,
    "ignored": IGNORED,
    "all": HIT,
    "some": Outline((224, 155, 233)),
    "first": OBJECT,
    "second": Outline(FALSE.colour),
    "none": MISSED,
}
"""As in the style sheet."""


def picture_of(finds: Finds, image: int, most_bytes: int = MOST_BYTES) -> Picture | None:
    """Read the picture of an image; None where it is missing or damaged."""
    width, height = map(int, finds.comparison.truth.sizes[image])
    return read_picture(finds.comparison.pictures[image], most_bytes, (width, height))


def with_pictures(finds: Finds, chosen: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return those of the images that can be shown."""
    pictures = ((each, picture_of(finds, each[1])) for each in chosen)
    return [each for each, picture in pictures if picture and picture.content]


def write_pictures(finds: Finds, images: Sequence[int], folder: Path) -> list[Path]:
    """Write images with their boxes drawn in, for pages without SVG: picture-1.jpg and so on."""
    written: list[Path] = []
    for number, image in enumerate(images, start=1):
        path, truth = finds.comparison.pictures[image], finds.comparison.truth
        if path is None:
            continue
        pixels = read_image(path)
        size = np.tile(pixels.shape[1::-1], 2)
        if pixels.shape[1::-1] != tuple(truth.sizes[image]):
            pixels = read_image(path, upright=True)
            size = np.tile(truth.sizes[image], 2)
        labelled = [
            LabelledBox(
                tuple((np.array(box.box) * size).tolist()),
                box.label if place < MOST_LABELS else "",
                _DRAWN[box.kind],
            )
            for place, box in enumerate(boxes(finds, image))
        ]
        written.append(folder / f"picture-{number}.jpg")
        _save(written[-1], draw_boxes(pixels, labelled)[0])
    return written


def _save(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def drawings(finds: Finds, chosen: Sequence[tuple[str, int]]) -> list[Drawing]:
    """Draw images, those that have a picture, under their titles.

    Args:
        finds: What was found.
        chosen: Title and index of each.
    """
    drawn = []
    for title, image in chosen:
        picture = picture_of(finds, image)
        if picture and picture.content:
            name = f"{title}: {finds.comparison.truth.image_ids[image]}".removeprefix(": ")
            note = describe(finds, image)
            html = photo(picture, boxes(finds, image), f"{name}. {note}. {_named(finds, image)}")
            drawn.append(Drawing(html, name, note, picture.width / picture.height))
    return drawn


def _named(finds: Finds, image: int) -> str:
    """Name the classes of the objects of an image: "2 cat, 1 dog"."""
    truth = finds.comparison.truth
    names = Counter(truth.classes[label] for label in truth.label[truth.image == image])
    text = ", ".join(f"{number} {name}" for name, number in names.items())
    return f"Objects: {text or 'none'}."


def legend(comparison: Comparison, of_a_run: bool = False) -> Drawings:
    """Explain the outlines: who found an object; with `of_a_run`, what a run's detections are."""
    labels = [run.label for run in comparison.runs]
    true, missed = ", or a true detection", ", or missed"
    if len(labels) == 1:
        kinds, true, missed = {"all": "true detection", "none": "missed object"}, "", ""
    elif len(labels) == 2:
        kinds = {
            "all": "found by both",
            "first": f"found by {labels[0]} alone",
            "second": f"found by {labels[1]} alone",
            "none": "found by neither",
        }
    else:
        kinds = {"all": "found by all", "some": "found by some", "none": "found by none"}
    if of_a_run or len(labels) == 1:  # one outline each for what is the same
        kinds["all"] += true
        kinds["none"] += missed
        kinds |= {"false": "false detection", "ignored": "difficult, or found there: not counted"}
    items = tuple(Drawing(sample(kind), name) for kind, name in kinds.items())
    return Drawings("legend", "Outlines", items)


def boxes(finds: Finds, image: int) -> list[Outlined]:
    """Return an image's boxes: of several runs the objects, by who found them; of one its finds."""
    return _objects(finds, image) if len(finds.found) > 1 else run_boxes(finds, image, 0)


def _objects(finds: Finds, image: int) -> list[Outlined]:
    truth = finds.comparison.truth
    size = np.tile(truth.sizes[image], 2)
    drawn = []
    for row in np.flatnonzero(truth.image == image)[:MOST_BOXES]:
        found = finds.found[:, row]
        name = truth.classes[truth.label[row]]
        kind, label = kind_of(found.tolist(), bool(truth.difficult[row])), name
        if kind == "some":
            label = f"{name} {found.sum()}/{len(found)}"
        drawn.append(Outlined(tuple((truth.box[row] / size).tolist()), label, kind))
    order = ("first", "second", "some", "none", "all", "ignored")
    return sorted(drawn, key=lambda box: order.index(box.kind))


def kind_of(found: Sequence[bool], difficult: bool) -> str:
    """Return the outline of an object by which runs found it."""
    if difficult:
        return "ignored"
    if all(found):
        return "all"
    if not any(found):
        return "none"
    if len(found) > 2:
        return "some"
    return "first" if found[0] else "second"


def run_boxes(finds: Finds, image: int, index: int) -> list[Outlined]:
    """Return what a run found on an image at its threshold, and what it missed."""
    truth, run = finds.comparison.truth, finds.comparison.runs[index]
    size = np.tile(truth.sizes[image], 2)
    found = run.detections
    rows = np.flatnonzero((found.image == image) & (found.score >= run.analysis.threshold))
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    drawn = []
    for row in rows[:MOST_BOXES]:
        kind = "hit" if run.voc.true_positive[row] else "false"
        kind = "ignored" if run.voc.ignored[row] else kind
        label = f"{truth.classes[found.label[row]]} {found.score[row]:.2f}"
        drawn.append(Outlined(tuple((found.box[row] / size).tolist()), label, kind))
    missed = (truth.image == image) & finds.counted & ~finds.found[index]
    drawn += [
        Outlined(tuple((truth.box[row] / size).tolist()), truth.classes[truth.label[row]], "missed")
        for row in np.flatnonzero(missed)
    ]
    return sorted(drawn, key=lambda box: ("hit", "false", "missed", "ignored").index(box.kind))


def describe(finds: Finds, image: int) -> str:
    """Say of an image in words what each run found."""
    truth = finds.comparison.truth
    objects = int(((truth.image == image) & finds.counted).sum())
    if len(finds.found) > 2:
        found = "; ".join(
            f"{run.label}: {finds.found_on[index, image]}"
            for index, run in enumerate(finds.comparison.runs)
        )
        return f"{counted(objects, 'object')}, found by {found}"
    lines = [
        f"{run.label} {finds.found_on[index, image]} found, {finds.false_on[index, image]} false"
        for index, run in enumerate(finds.comparison.runs)
    ]
    return f"{counted(objects, 'object')}: {'; '.join(lines)}"
