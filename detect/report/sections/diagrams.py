"""The sections with charts: precision and recall, errors and confusion, training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detect.report.comparison import Run
from detect.report.drawing import charts
from detect.report.writers.blocks import (
    Block,
    Cell,
    Column,
    Details,
    Drawing,
    Drawings,
    Heading,
    Matrix,
    Table,
    Text,
    write_value,
)
from detect.scoring.error_kinds import KINDS

MOST_CLASSES = 40
"""Of the panels and the matrices; of more classes those with the most objects have a panel."""
BACKGROUND = "background"
_CAPTIONS = {
    "train_loss": "Training loss",
    "train_gradient_norm": "Norm of the gradient",
    "val_map_11point": "Validation mAP (11-point), percent",
    "val_map_area": "Validation mAP (area), percent",
    "val_coco_ap": "Validation COCO AP, percent",
    "lr": "Learning rate",
    "focus_participating_steps": "Steps with FocusedDropout",
    "focus_keep_ratio": "Share of units that FocusedDropout kept, percent",
}
_FRACTIONS = {"val_map_11point", "val_map_area", "val_coco_ap", "focus_keep_ratio"}


# ---- precision and recall -----------------------------------------------------------------------


def curves(runs: Sequence[Run]) -> list[Block]:
    """A panel a class with the precision-recall curves of all runs."""
    legend = [Drawing(charts.line_sample(i), run.title) for i, run in enumerate(runs)]
    names = shown_classes(runs)
    panels = []
    for number, name in enumerate(names):
        scores = [run.voc.per_class[name] for run in runs]
        areas = " | ".join(write_value(score.ap_area, "percent") for score in scores)
        svg = charts.curve_panel(scores, salt=f"class {number}")
        panels.append(Drawing(svg, name, f"AP (area) {areas}"))
    cut = f" The {MOST_CLASSES} classes with the most objects are shown."
    return [
        Heading(2, "Precision and recall"),
        Text(
            "Each line shows, at a recall, the highest precision at that recall or above; the area "
            "under it is the AP (area), given for each class in the order of the runs."
            + (cut if len(names) < len(runs[0].voc.per_class) else "")
        ),
        Drawings("legend", "Lines", tuple(legend)),
        Drawings("grid", "Precision-recall curves by class", tuple(panels)),
    ]


def shown_classes(runs: Sequence[Run]) -> list[str]:
    """The classes with the most objects, in the order of the classes."""
    per_class = runs[0].voc.per_class
    by_objects = sorted(per_class, key=lambda name: -per_class[name].objects)
    kept = set(by_objects[:MOST_CLASSES])
    return [name for name in per_class if name in kept]


# ---- errors -------------------------------------------------------------------------------------


def errors(runs: Sequence[Run]) -> list[Block]:
    """Bars and numbers of TIDE's errors, and the confusion matrices."""
    legend = [Drawing(charts.bar_sample(i), run.title) for i, run in enumerate(runs)]
    gains = error_gains(runs)
    chart = Drawing(charts.bar_chart(KINDS, gains, salt="errors"), "Gain of mAP by kind of error")
    return [
        Heading(2, "Errors"),
        Text(
            "The gain of mAP (area) at an overlap of 0.5 if that kind of error alone were mended; "
            "the kinds do not add up."
        ),
        *([Drawings("legend", "Bars", tuple(legend))] if len(runs) > 1 else []),
        Drawings("chart", "Gain of mAP by kind of error", (chart,)),
        _error_table(runs),
        Heading(3, "Confusion of classes"),
        *_confusion(runs),
    ]


def error_gains(runs: Sequence[Run]) -> list[list[float]]:
    """The gains (runs, kinds) in percentage points."""
    return [[100 * run.analysis.errors.delta_ap[kind] for kind in KINDS] for run in runs]


def _error_table(runs: Sequence[Run]) -> Table:
    titles = [f", {run.title}" if len(runs) > 1 else "" for run in runs]
    columns = [Column("Error")]
    for title in titles:
        columns += [Column(f"Gain of mAP{title}", "points"), Column(f"Number{title}", "count")]
    rows = []
    for kind in (*KINDS, "false_positive", "false_negative"):
        cells = [Cell(kind.replace("_", " "))]
        for run in runs:
            cells += [Cell(run.analysis.errors.delta_ap[kind]), Cell(_number(run, kind))]
        rows.append(tuple(cells))
    return Table("Errors, gain in percentage points", tuple(columns), tuple(rows), sortable=True)


def _number(run: Run, kind: str) -> int:
    counts = run.analysis.errors.counts
    if kind == "false_positive":
        return int(np.count_nonzero(~run.voc.true_positive & ~run.voc.ignored))
    if kind == "false_negative":
        objects = sum(score.objects for score in run.voc.per_class.values())
        return objects - int(run.voc.true_positive.sum())
    return int(counts[kind])


def _confusion(runs: Sequence[Run]) -> list[Block]:
    names = (*runs[0].voc.per_class, BACKGROUND)
    if len(names) > MOST_CLASSES + 1:
        return [Text(f"The matrices of {len(names) - 1} classes are in the JSON file.")]
    blocks: list[Block] = [
        Text(
            "Rows are the true classes, columns the detected ones, at the run's threshold of the "
            "best F1 over all classes, or of all detections where none is a hit; what was not "
            "detected is in the last column, what was detected where nothing is in the last row. "
            "Shown is percent of the row, with the number where the pointer rests; the Markdown "
            "file has the numbers."
        )
    ]
    for run in runs:
        title = f"Confusion matrix of {run.title}, {run.counted}"
        counts = tuple(tuple(row) for row in run.analysis.confusion.tolist())
        matrix = Matrix(title, "True, detected", names, counts)
        unfolded = run is runs[-1]
        blocks.append(Details(run.title, (matrix,), unfolded) if len(runs) > 1 else matrix)
    return blocks


# ---- training -----------------------------------------------------------------------------------


def training(runs: Sequence[Run]) -> list[Block]:
    """The training curves of the runs that have them, overlaid."""
    logs = {index: run.training for index, run in enumerate(runs) if run.training}
    if not logs:
        return []
    keys = dict.fromkeys(key for records in logs.values() for record in records for key in record)
    panels = []
    for key in sorted((key for key in keys if _is_shown(key)), key=_place):
        lines = [_line(index, key, records) for index, records in logs.items()]
        lines = [line for line in lines if len(line.value)]
        if lines:
            last = " | ".join(f"{line.value[-1]:.4g}" for line in lines)
            svg = charts.line_panel(lines, salt=key)
            panels.append(Drawing(svg, _caption(key), f"last: {last}"))
    legend = [Drawing(charts.line_sample(index), runs[index].title) for index in logs]
    return [
        Heading(2, "Training"),
        Text("Means over each epoch, as the training logged them; the last values are given."),
        Drawings("legend", "Lines of the trainings", tuple(legend)),
        Drawings("grid", "Training curves", tuple(panels)),
    ]


def _is_shown(key: str) -> bool:
    return key in _CAPTIONS or key.startswith(("train_", "val_"))


def _place(key: str) -> tuple[int, str]:
    kinds = ("train_loss", "train_", "val_", "lr")
    return next((i for i, kind in enumerate(kinds) if key.startswith(kind)), len(kinds)), key


def _caption(key: str) -> str:
    plain = key.replace("train_", "Training: ").replace("val_", "Validation: ").replace("_", " ")
    return _CAPTIONS.get(key, plain)


def _line(run: int, key: str, records: Sequence[Mapping[str, Any]]) -> charts.Line:
    pairs = [(record.get("epoch"), record.get(key)) for record in records]
    known = [pair for pair in pairs if all(map(_is_number, pair))]
    epoch, value = np.array(known, np.float64).reshape(-1, 2).T
    return charts.Line(run, epoch, value * (100 if key in _FRACTIONS else 1))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
