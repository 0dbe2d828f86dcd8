"""What lies beside the page: its numbers as JSON and CSV, its charts as PNG."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.storage import write_atomically
from detect.report.comparison import Comparison, Run
from detect.report.drawing import charts
from detect.report.drawing.boxes import drawable
from detect.report.drawing.style import LIGHT, RUN_COLOURS
from detect.report.sections.diagrams import BACKGROUND, MOST_CLASSES, error_gains, shown_classes
from detect.report.sections.tables import verdict
from detect.report.writers.blocks import Block, Details, Table
from detect.scoring.error_kinds import KINDS

DPI = 150
_COLOURS = charts.Colours(
    LIGHT["ink"], LIGHT["rule"], tuple(LIGHT[f"run-{run + 1}"] for run in range(RUN_COLOURS))
)
_BACKGROUND = "#ffffff"


# ---- numbers ------------------------------------------------------------------------------------


def to_json(title: str, comparison: Comparison, blocks: Sequence[Block]) -> str:
    """Every number of the page, unrounded, as strict JSON; AP values are fractions."""
    truth, runs = comparison.truth, comparison.runs
    content = {
        "title": title,
        "split": runs[0].evaluation["split"],
        "images": len(truth.image_ids),
        "objects": int(np.count_nonzero(~truth.difficult)),
        "difficult": int(np.count_nonzero(truth.difficult)),
        "classes": truth.classes,
        "runs": [_run(run) for run in runs],
        "differences": [
            {
                "from": runs[0].title,
                "to": run.title,
                **{
                    kind: {**asdict(interval), "verdict": verdict(interval)}
                    for kind, interval in intervals.items()
                },
            }
            for run, intervals in zip(runs[1:], comparison.differences, strict=True)
        ],
        "tables": [_table(table) for table in _tables(blocks)],
    }
    return json.dumps(_strict(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _run(run: Run) -> dict[str, Any]:
    analysis = run.analysis
    return {
        "title": run.title,
        "voc": run.voc.metrics(),
        "coco": run.coco,
        "intervals": {kind: asdict(interval) for kind, interval in analysis.intervals.items()},
        "best_f1": analysis.overall and asdict(analysis.overall),
        "best_f1_by_class": {
            name: point and asdict(point) for name, point in analysis.by_class.items()
        },
        "errors": {"gain": analysis.errors.delta_ap, "counts": analysis.errors.counts},
        "confusion": {
            "threshold": analysis.threshold,
            "names": [*run.voc.per_class, BACKGROUND],
            "counts": analysis.confusion.tolist(),
        },
        "training": run.training,
        "evaluation": run.evaluation,
    }


def _tables(blocks: Sequence[Block]) -> list[Table]:
    found = []
    for block in blocks:
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Details):
            found += _tables(block.blocks)
    return found


def _table(table: Table) -> dict[str, Any]:
    rows = (*table.rows, *([table.total] if table.total else []))
    return {
        "caption": table.caption,
        "columns": [{"name": column.name, "kind": column.kind} for column in table.columns],
        "rows": [[cell.value for cell in row] for row in rows],
    }


def _strict(value: Any) -> Any:
    """NaN and infinities, which JSON lacks, become null."""
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(runs: Sequence[Run]) -> str:
    """The classes of all runs, a row a class and run; AP values are fractions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    counted = ("objects", "difficult", "detections", "ap_11point", "ap_area")
    points = ("score_threshold", "f1", "precision", "recall", "true_positives", "false_positives")
    writer.writerow(("run", "class", *counted, *(f"best_{p}" for p in points)))
    for run in runs:
        for name, score in run.voc.per_class.items():
            point = run.analysis.by_class[name]
            values = [getattr(score, key) for key in counted]
            values += [getattr(point, key) if point else None for key in points]
            writer.writerow((run.title, name, *values))
    return file.getvalue()


# ---- charts -------------------------------------------------------------------------------------


def write_charts(out: Path, runs: Sequence[Run]) -> list[Path]:
    """Writes the charts beside the page `out` and returns their paths."""
    drawings = {"curves": _curves, "errors": _errors, "confusion": _confusion}
    paths = []
    with matplotlib.rc_context(charts.OPTIONS):
        for name, draw in drawings.items():
            paths.append(out.with_name(f"{out.stem}-{name}.png"))
            _save(draw(runs), paths[-1])
    return paths


def _save(figure: Figure, path: Path) -> None:
    write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    )


def _titles(runs: Sequence[Run]) -> list[str]:
    # The blank keeps a legend from taking a leading underscore for "leave this out".
    return [f" {drawable(run.title)}" for run in runs]


def _curves(runs: Sequence[Run]) -> Figure:
    names = shown_classes(runs)
    across = min(5, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(max(4.5, 2.3 * across), 2.0 * down + 0.5), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        charts.draw_curves(axes, [run.voc.per_class[name] for run in runs], _COLOURS)
        axes.set_title(drawable(name), fontsize=9)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    lines = [Line2D([], [], **charts.line_style(index, _COLOURS)) for index in range(len(runs))]
    figure.legend(lines, _titles(runs), loc="outside lower center", frameon=False)
    return figure


def _errors(runs: Sequence[Run]) -> Figure:
    figure = Figure(figsize=(6.4, 1.1 + len(KINDS) * 0.25 * max(1.4, len(runs))))
    figure.set_layout_engine("constrained")
    charts.draw_bars(figure.add_subplot(), KINDS, error_gains(runs), _COLOURS)
    patches = [Patch(color=_COLOURS.of_run(index)) for index in range(len(runs))]
    figure.legend(patches, _titles(runs), loc="outside lower center", frameon=False)
    return figure


def _confusion(runs: Sequence[Run]) -> Figure:
    names = [*map(drawable, runs[0].voc.per_class), BACKGROUND]
    side = min(14.0, 2.0 + 0.36 * len(names))
    figure = Figure(figsize=(side, side * len(runs)), layout="constrained")
    for axes, run in zip(figure.subplots(len(runs), squeeze=False).flat, runs, strict=True):
        _draw_matrix(axes, run, names)
    return figure


def _draw_matrix(axes: Axes, run: Run, names: Sequence[str]) -> None:
    counts = run.analysis.confusion
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"{drawable(run.title)}, {run.counted}", fontsize=9)
    axes.set(xlabel="detected", ylabel="true")
    axes.tick_params(length=0)
    if len(names) > MOST_CLASSES + 1:
        return
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = _BACKGROUND if share[row, column] > 0.55 else LIGHT["ink"]
        number = str(counts[row, column])
        axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=6)
