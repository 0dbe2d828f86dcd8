"""The tables of scores: of the runs, of their differences, by object size and by class."""

import math
from collections.abc import Sequence

import numpy as np

from detect.report.comparison import Comparison, Run
from detect.report.writers.blocks import Cell, Column, Span, Table
from detect.scoring.bootstrap import MAPS, Interval
from detect.scoring.detections import GroundTruth
from detect.scoring.sizes import SIZES, size_of_objects


def scores(comparison: Comparison) -> list[Table]:
    """Tabulate the scores of the runs and, for several, their differences to the first."""
    tables = [_scores(comparison)]
    return [*tables, _differences(comparison)] if len(comparison.runs) > 1 else tables


def _scores(comparison: Comparison) -> Table:
    rows = []
    for run in comparison.runs:
        means = [run.mean("11point"), _span(run.intervals["map_11point"])]
        means += [run.mean("area"), _span(run.intervals["map_area"])]
        coco = [run.coco.get(key) for key in ("ap", "ap50", "ap75")]
        values = [*coco, *means] if comparison.leads_by_coco else [*means, *coco]
        rows.append((Cell(run.label), *map(Cell, values), Cell(len(run.detections.score))))
    by_voc = (
        "mAP (11-point)",
        "95% interval (11-point)",
        "mAP (area)",
        "95% interval (area)",
    )
    by_coco = "COCO AP", "COCO AP50", "COCO AP75"
    names = (*by_coco, *by_voc) if comparison.leads_by_coco else (*by_voc, *by_coco)
    columns = (
        Column("Run"),
        *(Column(name, "percent") for name in names),
        Column("Detections", "count"),
    )
    caption = "Scores of the runs, percent"
    return Table(caption, columns, tuple(rows), sortable=len(comparison.runs) > 1)


def _span(interval: Interval) -> Span | None:
    return None if math.isnan(interval.low) else Span(interval.low, interval.high)


def _differences(comparison: Comparison) -> Table:
    rows = []
    for run, intervals in zip(comparison.runs[1:], comparison.differences, strict=True):
        cells = [Cell(run.label)]
        for kind in MAPS:
            interval = intervals[kind]
            value = None if math.isnan(interval.value) else interval.value
            cells += [Cell(value, interval.decided), Cell(_span(interval))]
        rows.append(tuple(cells))
    columns = [Column("Run")]
    for name in MAPS.values():
        columns += [
            Column(f"mAP difference ({name})", "points"),
            Column(f"95% interval ({name})", "points"),
        ]
    caption = (
        f"Differences to {comparison.runs[0].label}, percentage points; bold: the interval over "
        "images leaves out 0"
    )
    return Table(caption, tuple(columns), tuple(rows), sortable=len(rows) > 1)


# ---- by size ------------------------------------------------------------------------------------


def by_size(comparison: Comparison) -> Table:
    """Tabulate COCO AP of small, medium and large objects."""
    runs, counts = comparison.runs, _objects_by_size(comparison.truth)
    sizes = [(size, number) for size, number in counts.items() if number]
    rows = [
        (Cell(run.label), *(Cell(run.coco.get(f"ap_{size}")) for size, _ in sizes)) for run in runs
    ]
    columns = (Column(f"{size.capitalize()}, {n} objects", "percent") for size, n in sizes)
    caption = "COCO AP by object size, percent"
    return Table(caption, (Column("Run"), *columns), tuple(rows), sortable=len(runs) > 1)


def _objects_by_size(truth: GroundTruth) -> dict[str, int]:
    counts = np.bincount(size_of_objects(truth)[~truth.difficult], minlength=len(SIZES))
    return dict(zip(SIZES, counts.tolist(), strict=True))


# ---- by class -----------------------------------------------------------------------------------


def ap_by_class(comparison: Comparison, kind: str) -> Table:
    """Tabulate the AP of each class; `kind` is of `MAPS`."""
    runs, key = comparison.runs, kind.replace("map", "ap")
    several = len(runs) > 1
    rows = []
    for name in comparison.classes:
        first = runs[0].voc.per_class[name]
        values = [getattr(run.voc.per_class[name], key) for run in runs]
        counts = Cell(first.objects), Cell(first.difficult)
        rows.append((Cell(name), *counts, *_row_of_scores(values)))
    means = [run.voc.metrics()[kind] for run in runs]
    of_first = [runs[0].voc.per_class[name] for name in comparison.classes]
    counts = Cell(sum(s.objects for s in of_first)), Cell(sum(s.difficult for s in of_first))
    columns = (
        Column("Class"),
        Column("Objects", "count"),
        Column("Difficult", "count"),
        *(Column(run.label, "percent") for run in runs),
        *([Column("Difference, last to first", "points")] if several else []),
    )
    total = (Cell("All classes (mAP)"), *counts, *_row_of_scores(means))
    return Table(f"AP by class, {MAPS[kind]}, percent", columns, tuple(rows), total, sortable=True)


def _row_of_scores(values: Sequence[float | None]) -> list[Cell]:
    """Return a cell for each run, and for several the difference of last and first."""
    difference = [Cell(_minus(values[-1], values[0]))] if len(values) > 1 else []
    return [*map(Cell, values), *difference]


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def f1_by_class(comparison: Comparison, run: Run) -> Table:
    """Tabulate the threshold of the best F1 of each class."""
    by_class = {name: run.analysis.by_class[name] for name in comparison.classes}
    points = {**by_class, "All classes, one threshold": run.analysis.overall}
    keys = ("score_threshold", "f1", "precision", "recall", "true_positives", "false_positives")
    rows = []
    for name, point in points.items():
        values = [getattr(point, key) if point else None for key in keys]
        score = run.voc.per_class.get(name)
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
    title = f" of {run.label}" if len(comparison.runs) > 1 else ""
    caption = f"Score threshold of the best F1 by class{title}"
    return Table(caption, columns, tuple(rows[:-1]), rows[-1], sortable=True)
