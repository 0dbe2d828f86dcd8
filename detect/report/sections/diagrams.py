"""The sections of curves: precision and recall, and the training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detect.report.comparison import Comparison, Run
from detect.report.drawing import charts, panels
from detect.report.writers.blocks import (
    Chart,
    Drawing,
    Drawings,
    Note,
    Section,
    write_value,
)

MOST_CLASSES = 40
"""Of the panels; of more classes those with the most objects have one."""
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


def curves(comparison: Comparison) -> Section:
    """Draw a panel for each class with the precision-recall curves of all runs."""
    runs = comparison.runs
    legend = [Drawing(panels.line_sample(i), run.label) for i, run in enumerate(runs)]
    names = shown_classes(comparison)
    drawn = []
    for name in names:
        scores = [run.voc.per_class[name] for run in runs]
        areas = ", ".join(write_value(score.ap_area, "percent") for score in scores)
        svg = panels.curve_panel(scores)
        drawn.append(Drawing(svg, name, f"AP (area) {areas}"))
    cut = f" The {MOST_CLASSES} classes with the most objects are shown."
    return Section(
        "curves",
        "Precision-recall curves",
        (
            Note(
                "At each recall, the highest precision at that recall or above; the area under a "
                "line is the AP (area), given below it in the order of the runs."
                + (cut if len(names) < len(comparison.classes) else "")
            ),
            Drawings("legend", "Lines", tuple(legend)),
            Drawings("grid", "Precision-recall curves by class", tuple(drawn)),
            Chart("curves.png", "Precision-recall curves by class"),
        ),
    )


def shown_classes(comparison: Comparison) -> list[str]:
    """Return the classes with the most objects, in the order of the classes."""
    per_class = comparison.runs[0].voc.per_class
    by_objects = sorted(comparison.classes, key=lambda name: -per_class[name].objects)
    kept = set(by_objects[:MOST_CLASSES])
    return [name for name in comparison.classes if name in kept]


# ---- training -----------------------------------------------------------------------------------


def training_lines(runs: Sequence[Run]) -> dict[str, list[charts.Line]]:
    """Return the logged quantities of the trainings by caption, without those of no number."""
    logs = {index: run.training for index, run in enumerate(runs) if run.training}
    keys = dict.fromkeys(key for records in logs.values() for record in records for key in record)
    shown = {}
    for key in sorted((key for key in keys if _is_shown(key)), key=_place):
        lines = [_line(index, key, records) for index, records in logs.items()]
        lines = [line for line in lines if len(line.value)]
        if lines:
            shown[_caption(key)] = lines
    return shown


def training(runs: Sequence[Run]) -> list[Section]:
    """Draw the training curves of the runs that have them, overlaid."""
    quantities = training_lines(runs)
    if not quantities:
        return []
    drawn = []
    for caption, lines in quantities.items():
        last = ", ".join(f"{line.value[-1]:.4g}" for line in lines)
        drawn.append(Drawing(panels.line_panel(lines), caption, f"last: {last}"))
    logged = {line.run for lines in quantities.values() for line in lines}
    legend = [Drawing(panels.line_sample(index), runs[index].label) for index in sorted(logged)]
    return [
        Section(
            "training",
            "Training curves",
            (
                Note("Means over each epoch of the fine-tuning, as it logged them."),
                Drawings("legend", "Lines of the trainings", tuple(legend)),
                Drawings("grid", "Training curves", tuple(drawn)),
                Chart("training.png", "Training curves"),
            ),
        )
    ]


def _is_shown(key: str) -> bool:
    return key in _CAPTIONS or key.startswith(("train_", "val_"))


def _place(key: str) -> tuple[int, str]:
    kinds = ("train_loss", "train_", "val_", "lr")
    return next((i for i, kind in enumerate(kinds) if key.startswith(kind)), len(kinds)), key


def _caption(key: str) -> str:
    plain = key.replace("train_", "Training, ").replace("val_", "Validation, ").replace("_", " ")
    return _CAPTIONS.get(key, plain)


def _line(run: int, key: str, records: Sequence[Mapping[str, Any]]) -> charts.Line:
    pairs = [(record.get("epoch"), record.get(key)) for record in records]
    known = [pair for pair in pairs if all(map(_is_number, pair))]
    epoch, value = np.array(known, np.float64).reshape(-1, 2).T
    return charts.Line(run, epoch, value * (100 if key in _FRACTIONS else 1))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
