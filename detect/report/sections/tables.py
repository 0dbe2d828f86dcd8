"""The tables of scores: of the runs, of their differences, by object size and by class."""

import math
from collections.abc import Sequence

import numpy as np

from detect.report.comparison import Comparison, Run
from detect.report.writers.blocks import Block, Cell, Column, Span, Table, Text
from detect.scoring.bootstrap import Interval
from detect.scoring.detections import GroundTruth
from detect.scoring.sizes import SIZES, size_of

KINDS = {"map_11point": "11-point", "map_area": "area"}


def headline(comparison: Comparison) -> list[Block]:
    """The scores of the runs and, for several, whether they differ."""
    runs = comparison.runs
    blocks: list[Block] = [_scores(comparison)]
    if len(runs) > 1:
        blocks += [_differences(comparison), Text(_reading(runs))]
    return blocks


def _scores(comparison: Comparison) -> Table:
    runs = comparison.runs
    scores = [
        _best_marked([run.mean("11point") for run in runs]),
        [Cell(_span(run.analysis.intervals["map_11point"])) for run in runs],
        _best_marked([run.mean("area") for run in runs]),
        [Cell(_span(run.analysis.intervals["map_area"])) for run in runs],
        *(_best_marked([run.coco.get(key) for run in runs]) for key in ("ap", "ap50", "ap75")),
    ]
    rows = [
        (
            Cell(run.title),
            *(column[index] for column in scores),
            Cell(len(comparison.truth.image_ids)),
            Cell(len(run.detections.score)),
        )
        for index, run in enumerate(runs)
    ]
    names = (
        "mAP (11-point)",
        "95% interval (11-point)",
        "mAP (area)",
        "95% interval (area)",
        "COCO AP",
        "COCO AP50",
        "COCO AP75",
    )
    columns = (
        Column("Run"),
        *(Column(name, "percent") for name in names),
        Column("Images", "count"),
        Column("Detections", "count"),
    )
    return Table("Scores of the runs, percent", columns, tuple(rows), sortable=len(runs) > 1)


def _span(interval: Interval) -> Span | None:
    return None if math.isnan(interval.low) else Span(interval.low, interval.high)


def verdict(interval: Interval) -> str:
    """Says whether a difference is real: its 95% interval leaves out 0."""
    return "decided at 95%" if interval.decided else "not decided at 95%"


def _differences(comparison: Comparison) -> Table:
    rows = []
    for run, intervals in zip(comparison.runs[1:], comparison.differences, strict=True):
        cells = [Cell(run.title)]
        for kind in KINDS:
            interval = intervals[kind]
            value = None if math.isnan(interval.value) else interval.value
            cells += [Cell(value), Cell(_span(interval)), Cell(verdict(interval))]
        rows.append(tuple(cells))
    columns = [Column("Run")]
    for name in KINDS.values():
        columns += [
            Column(f"mAP difference ({name})", "points"),
            Column(f"95% interval ({name})", "points"),
            Column(f"Verdict ({name})"),
        ]
    caption = f"Differences to {comparison.runs[0].title}, percentage points"
    return Table(caption, tuple(columns), tuple(rows), sortable=len(rows) > 1)


def _reading(runs: Sequence[Run]) -> str:
    return (
        f"The first run, {runs[0].title}, is the baseline: differences to it are in percentage "
        "points, from unrounded values. The best value is bold."
    )


# ---- by size ------------------------------------------------------------------------------------


def by_size(comparison: Comparison) -> Table:
    """COCO AP of small, medium and large objects."""
    runs, counts = comparison.runs, _objects_by_size(comparison.truth)
    scores = [_best_marked([run.coco.get(f"ap_{size}") for run in runs]) for size in SIZES]
    rows = [
        (Cell(run.title), *(column[index] for column in scores)) for index, run in enumerate(runs)
    ]
    columns = (Column(f"{s.capitalize()}, {n} objects", "percent") for s, n in counts.items())
    caption = "COCO AP by object size, percent"
    return Table(caption, (Column("Run"), *columns), tuple(rows), sortable=len(runs) > 1)


def _objects_by_size(truth: GroundTruth) -> dict[str, int]:
    counts = np.bincount(size_of(truth.box[~truth.difficult]), minlength=len(SIZES))
    return dict(zip(SIZES, counts.tolist(), strict=True))


# ---- by class -----------------------------------------------------------------------------------


def by_class(runs: Sequence[Run]) -> list[Block]:
    """AP and best F1 of each class."""
    blocks: list[Block] = [
        _ap_by_class(f"AP by class, {name}, percent", kind.replace("map", "ap"), kind, runs)
        for kind, name in KINDS.items()
    ]
    titles = [f" of {run.title}" if len(runs) > 1 else "" for run in runs]
    return blocks + [_f1_by_class(run, title) for run, title in zip(runs, titles, strict=True)]


def _ap_by_class(caption: str, key: str, mean_key: str, runs: Sequence[Run]) -> Table:
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


def _f1_by_class(run: Run, title: str) -> Table:
    points = {**run.analysis.by_class, "All classes, one threshold": run.analysis.overall}
    keys = ("score_threshold", "f1", "precision", "recall", "true_positives", "false_positives")
    rows = []
    for (name, point), score in zip(
        points.items(), [*run.voc.per_class.values(), None], strict=True
    ):
        values = [getattr(point, key) if point else None for key in keys]
        found = score.detections if score else len(run.detections.score)
        rows.append((Cell(name), Cell(found), *map(Cell, values)))
    columns = (
        Column("Class"),
        Column("Detections", "count"),
        Column("Threshold", "number"),
        Column("F1, percent", "percent"),
        Column("Precision, percent", "percent"),
        Column("Recall, percent", "percent"),
        Column("True positives", "count"),
        Column("False positives", "count"),
    )
    caption = f"Score threshold of the best F1 by class{title}"
    return Table(caption, columns, tuple(rows[:-1]), rows[-1], sortable=True)
