"""The report that compares detection runs: a page to open from disk, and its tables in Markdown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images import read_image
from detect import report_pictures as pictures
from detect.detections import GroundTruth
from detect.report_page import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Drawing,
    Drawings,
    Heading,
    Table,
    Text,
    jpeg,
    to_html,
    to_markdown,
    write_value,
)
from detect.report_runs import Run, flatten, read_runs
from detect.voc import VocImage

EXAMPLES = 8
SCORE_THRESHOLD = 0.3
"""Detections below are not drawn."""


def write_report(folders: Sequence[Path], out: Path, data: Path | None = None) -> Path:
    """Writes the report and, beside it, its tables in Markdown.

    Args:
        folders: Output folders of `detect evaluate` or `detect score`; the first is the baseline.
        out: The page, ending in .html; the Markdown has the same name and ends in .md.
        data: The devkit; by default the one that a run recorded and that is still there.

    Returns:
        `out`.

    Raises:
        InputError: A folder is incomplete or does not fit its data, runs differ in split, classes
            or overlap, or the data is gone.
    """
    if out.suffix != ".html":
        raise InputError(f"the report {out} must end in .html: choose another --out")
    images, truth, runs = read_runs(folders, data)
    blocks = _document(images, truth, runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(to_markdown(blocks), encoding="utf-8")
    out.write_text(to_html(_title(runs), blocks), encoding="utf-8")
    return out


# ---- the document -------------------------------------------------------------------------------


def _title(runs: Sequence[Run]) -> str:
    return f"Detection results on {runs[0].evaluation['split']}"


def _document(images: Sequence[VocImage], truth: GroundTruth, runs: Sequence[Run]) -> list[Block]:
    return [
        Heading(1, _title(runs)),
        Text(_overview(truth, runs)),
        _headline(truth, runs),
        *([Text(_reading(runs))] if len(runs) > 1 else []),
        Heading(2, "AP by class"),
        _by_class("AP by class, 11-point, percent", "ap_11point", "map_11point", runs),
        _by_class("AP by class, area, percent", "ap_area", "map_area", runs),
        *_curves(runs),
        *_examples(images, truth, runs),
        Heading(2, "Runs"),
        *_settings_that_differ(runs),
        *(_run_details(run, runs) for run in runs),
        Heading(2, "How to read the numbers"),
        *map(Text, _definitions(runs[0].voc.iou)),
    ]


def _overview(truth: GroundTruth, runs: Sequence[Run]) -> str:
    difficult = int(truth.difficult.sum())
    return (
        f"{_count(len(runs), 'run')} on {_count(len(truth.image_ids), 'image')} with "
        f"{_count(len(truth.difficult) - difficult, 'object')} in "
        f"{_count(len(truth.classes), 'class', 'classes')}, and {difficult} more marked difficult."
    )


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _reading(runs: Sequence[Run]) -> str:
    return (
        f"The first run, {runs[0].title}, is the baseline: differences to it are in percentage "
        "points, from unrounded values. The best value is bold."
    )


def _headline(truth: GroundTruth, runs: Sequence[Run]) -> Table:
    several = len(runs) > 1
    scores = [
        _best_marked([run.mean("11point") for run in runs]),
        _best_marked([run.mean("area") for run in runs]),
        *(_best_marked([run.coco.get(key) for run in runs]) for key in ("ap", "ap50", "ap75")),
    ]
    baseline = runs[0].mean("11point")
    rows = []
    for index, run in enumerate(runs):
        difference = Cell(_minus(run.mean("11point"), baseline) if index else "baseline")
        rows.append(
            (
                Cell(run.title),
                *(column[index] for column in scores),
                *([difference] if several else []),
                Cell(len(truth.image_ids)),
                Cell(len(run.detections.score)),
            )
        )
    names = ("mAP (11-point)", "mAP (area)", "COCO AP", "COCO AP50", "COCO AP75")
    columns = (
        Column("Run"),
        *(Column(name, "percent") for name in names),
        *([Column("mAP (11-point) difference to baseline", "points")] if several else []),
        Column("Images", "count"),
        Column("Detections", "count"),
    )
    return Table("Scores of the runs, percent", columns, tuple(rows), sortable=several)


def _by_class(caption: str, key: str, mean_key: str, runs: Sequence[Run]) -> Table:
    several = len(runs) > 1
    rows = []
    for name, first in runs[0].voc.per_class.items():
        values = [getattr(run.voc.per_class[name], key) for run in runs]
        counts = Cell(first.objects), Cell(first.difficult)
        rows.append((Cell(name), *counts, *_row_of_scores(values)))
    means = [run.voc.metrics()[mean_key] for run in runs]
    scores = runs[0].voc.per_class.values()
    counts = Cell(sum(s.objects for s in scores)), Cell(sum(s.difficult for s in scores))
    columns = (
        Column("Class"),
        Column("Objects", "count"),
        Column("Difficult", "count"),
        *(Column(run.title, "percent") for run in runs),
        *([Column("Difference, last to first", "points")] if several else []),
    )
    total = (Cell("All classes (mAP)"), *counts, *_row_of_scores(means))
    return Table(caption, columns, tuple(rows), total, sortable=True)


def _row_of_scores(values: Sequence[float | None]) -> list[Cell]:
    """A cell a run, and the difference of last and first where there are several."""
    difference = [Cell(_minus(values[-1], values[0]))] if len(values) > 1 else []
    return [*_best_marked(values), *difference]


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _best_marked(values: Sequence[float | None]) -> list[Cell]:
    known = {value for value in values if value is not None}
    best = max(known) if len(known) > 1 else None
    return [Cell(value, value is not None and value == best) for value in values]


# ---- drawings -----------------------------------------------------------------------------------


def _curves(runs: Sequence[Run]) -> list[Block]:
    legend = [Drawing(pictures.line_sample(i), run.title) for i, run in enumerate(runs)]
    panels = []
    for number, name in enumerate(runs[0].voc.per_class):
        scores = [run.voc.per_class[name] for run in runs]
        areas = " | ".join(write_value(score.ap_area, "percent", digits=1) for score in scores)
        svg = pictures.curve_panel(scores, salt=f"class {number}")
        panels.append(Drawing(svg, name, f"AP (area) {areas}"))
    return [
        Heading(2, "Precision and recall"),
        Text(
            "Each line shows, at a recall, the highest precision at that recall or above; the area "
            "under it is the AP (area), given for each class in the order of the runs."
        ),
        Drawings("legend", "Lines", tuple(legend)),
        Drawings("grid", "Precision-recall curves by class", tuple(panels)),
    ]


def choose_examples(truth: GroundTruth, number: int = EXAMPLES) -> list[int]:
    """Chooses images evenly over the split, among those with objects where there are any."""
    candidates = np.unique(truth.image) if len(truth.image) else np.arange(len(truth.image_ids))
    number = min(number, len(candidates))
    middles = (np.arange(number) + 0.5) * len(candidates) / number
    return [int(index) for index in candidates[middles.astype(np.int64)]]


def _examples(images: Sequence[VocImage], truth: GroundTruth, runs: Sequence[Run]) -> list[Block]:
    chosen = choose_examples(truth)
    outlines = {
        "object": pictures.OBJECT,
        "true detection": pictures.HIT,
        "false detection": pictures.FALSE,
        "marked difficult, or found there: not counted": pictures.IGNORED,
    }
    legend = [Drawing(pictures.outline_sample(line), name) for name, line in outlines.items()]
    blocks: list[Block] = [
        Heading(2, "Example images"),
        Text(
            f"{_count(len(chosen), 'image')}, the same for every run, taken evenly over the split; "
            f"detections with a score of {SCORE_THRESHOLD:g} or more are drawn."
        ),
        Drawings("legend", "Outlines", tuple(legend)),
    ]
    for index in chosen:
        name = truth.image_ids[index]
        pixels = read_image(images[index].path)
        drawings = [_draw_objects(pixels, truth, index)]
        drawings += [_draw_run(pixels, truth, run, index) for run in runs]
        blocks.append(Drawings("strip", f"Image {name}", tuple(drawings)))
    return blocks


def _draw_objects(pixels: NDArray[np.uint8], truth: GroundTruth, image: int) -> Drawing:
    rows = np.flatnonzero(truth.image == image)
    names = [truth.classes[label] for label in truth.label[rows]]
    difficult = truth.difficult[rows]
    boxes = [
        pictures.LabelledBox(tuple(box), name, pictures.IGNORED if hard else pictures.OBJECT)
        for box, name, hard in zip(truth.box[rows].tolist(), names, difficult, strict=True)
    ]
    note = _count(int((~difficult).sum()), "object")
    note += f", {int(difficult.sum())} more marked difficult" if difficult.any() else ""
    title = f"Image {truth.image_ids[image]}, ground truth"
    return _picture(pixels, boxes, title, note, names)


def _draw_run(pixels: NDArray[np.uint8], truth: GroundTruth, run: Run, image: int) -> Drawing:
    found = run.detections
    rows = np.flatnonzero((found.image == image) & (found.score >= SCORE_THRESHOLD))
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    hits, ignored = run.voc.true_positive[rows], run.voc.ignored[rows]
    names = [truth.classes[label] for label in found.label[rows]]
    boxes = [
        pictures.LabelledBox(tuple(box), f"{name} {score:.2f}", _outline(hit, out))
        for box, name, score, hit, out in zip(
            found.box[rows].tolist(), names, found.score[rows].tolist(), hits, ignored, strict=True
        )
    ]
    objects = int(((truth.image == image) & ~truth.difficult).sum())
    note = f"{hits.sum()} of {_count(objects, 'object')} found, {(~hits & ~ignored).sum()} false"
    note += f", {ignored.sum()} not counted" if ignored.any() else ""
    return _picture(pixels, boxes, run.title, note, names, f"Image {truth.image_ids[image]}, ")


def _outline(hit: bool, ignored: bool) -> pictures.Outline:
    if hit:
        return pictures.HIT
    return pictures.IGNORED if ignored else pictures.FALSE


def _picture(
    pixels: NDArray[np.uint8],
    boxes: Sequence[pictures.LabelledBox],
    name: str,
    note: str,
    labels: Sequence[str],
    before: str = "",
) -> Drawing:
    content, width, height = pictures.draw_boxes(pixels, boxes)
    shown = ", ".join(f"{number} {label}" for label, number in Counter(labels).items())
    alt = f"{before}{name}: {shown or 'no boxes'}; {note}"
    return Drawing(jpeg(content, alt, width, height), name, note)


# ---- how the runs were made ---------------------------------------------------------------------

_EVALUATION = (
    "data",
    "split",
    "detections",
    "checkpoint",
    "epoch",
    "seconds",
    "images_per_second",
)
_PARTS = {"recipe": "Recipe", "backbone": "Backbone file", "environment": "Environment"}


def _differing(part: str, runs: Sequence[Run]) -> list[str]:
    """The dotted keys on which the runs that have this part do not agree."""
    flat = [flatten(run.evaluation[part]) for run in runs if run.evaluation.get(part)]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [key for key in keys if len({_written(settings, key) for settings in flat}) > 1]


def _written(settings: Mapping[str, object], key: str) -> str:
    if key not in settings:
        return "not set"
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _settings_that_differ(runs: Sequence[Run]) -> list[Block]:
    made = [run for run in runs if run.evaluation.get("recipe")]
    if len(made) < 2:
        return []
    keys = _differing("recipe", made)
    if not keys:
        return [Text("The recipes of the runs are the same.")]
    flat = [flatten(run.evaluation["recipe"]) for run in made]
    rows = [(Cell(key), *(Cell(_written(settings, key)) for settings in flat)) for key in keys]
    columns = (Column("Setting"), *(Column(run.title) for run in made))
    return [Table("What differs between the recipes", columns, tuple(rows))]


def _run_details(run: Run, runs: Sequence[Run]) -> Details:
    evaluation = {key: run.evaluation[key] for key in _EVALUATION if key in run.evaluation}
    blocks: list[Block] = [_settings("Evaluation", evaluation, ())]
    for part, caption in _PARTS.items():
        if run.evaluation.get(part):
            blocks.append(_settings(caption, run.evaluation[part], _differing(part, runs)))
        else:
            blocks.append(Text(f"{caption}: not recorded."))
    if run.evaluation.get("command"):
        blocks += [Text("The command that wrote this evaluation:"), Code(_command(run))]
    return Details(run.title, tuple(blocks))


def _command(run: Run) -> str:
    return str(run.evaluation["command"])


def _settings(caption: str, settings: Mapping[str, Any], differing: Sequence[str]) -> Table:
    flat = flatten(settings)
    rows = tuple((Cell(key), Cell(_written(flat, key), key in differing)) for key in flat)
    if differing:
        caption += "; bold: differs between the runs"
    return Table(caption, (Column("Setting"), Column("Value")), rows)


def _definitions(iou: float) -> tuple[str, ...]:
    return (
        f"VOC: a detection is true if the object of its class that it overlaps most, with an "
        f"intersection over union of {iou:g} or more, is not yet taken by one with a higher score; "
        "objects marked difficult are not counted, and detections of them neither help nor harm. "
        "AP (11-point), the measure of VOC 2007, is the mean over the recalls 0, 0.1, .., 1 of the "
        "highest precision at that recall or above; AP (area), the measure since VOC 2010, is the "
        "area under the same curve; mAP is the mean over the classes that have counted objects.",
        "COCO: pycocotools; AP is the mean over the overlaps 0.50, 0.55, .., 0.95, AP50 and AP75 "
        "are those at 0.50 and 0.75; difficult objects are given as crowds (iscrowd), the nearest "
        "it has: not counted, and they absorb any number of detections.",
        "AP values and overlaps of mAP are in percent; n/a stands for a class without counted "
        "objects.",
    )
