"""The charts as files: each as PNG, as SVG and, its numbers, as CSV."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from common.storage import write_atomically, write_text
from common.text import in_csv
from detect.report.comparison import Comparison
from detect.report.drawing import charts
from detect.report.drawing.boxes import drawable
from detect.report.drawing.style import LESS, LIGHT, MORE, RUN_COLOURS
from detect.report.sections.calibration import reliability
from detect.report.sections.classes import class_dots
from detect.report.sections.diagrams import shown_classes, training_lines
from detect.report.sections.errors import (
    BACKGROUND,
    MOST_CLASSES,
    confused,
    error_bars,
    shares,
)
from detect.report.sections.summary import map_dots
from detect.report.verdicts import on_images
from detect.report.writers.blocks import Dots

DPI = 150
_TITLE_SIZE = 9.0  # points
_WIDE = 9.0  # inches
_COLOURS = charts.Colours(
    LIGHT["ink"], LIGHT["rule"], tuple(LIGHT[f"run-{run + 1}"] for run in range(RUN_COLOURS))
)
_SHADES = LinearSegmentedColormap.from_list(
    "shades", [tuple(part / 255 for part in colour) for colour in (LESS, (255, 255, 255), MORE)]
)  # those of the page

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, and its numbers under their heads."""

    name: str
    """Of the files, without ending."""
    title: str
    """What it shows."""
    draw: Callable[[], Figure]
    rows: Sequence[Row]
    of_images: bool = True
    """Whether it shows something of the images, which are then named below the title."""


def write_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write all charts into a folder and return their paths."""
    paths = []
    with matplotlib.rc_context({**charts.OPTIONS, "svg.hashsalt": "report"}):
        for chart in all_charts(comparison):
            figure = chart.draw()
            _title(figure, chart.title, on_images(comparison) if chart.of_images else "")
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once for both files
            for kind in ("png", "svg"):
                paths.append(folder / f"{chart.name}.{kind}")
                _save(figure, paths[-1], kind)
            paths.append(folder / f"{chart.name}.csv")
            write_text(paths[-1], _csv(chart.rows))
    return paths


def _title(figure: Figure, title: str, images: str) -> None:
    """Say above a chart what it shows of which images."""
    lines = [*wrap(title, _letters_across(figure)), *wrap(images, _letters_across(figure))]
    text = "\n".join(map(drawable, lines))
    figure.suptitle(text, x=0.01, ha="left", fontsize=_TITLE_SIZE, color=_COLOURS.ink)
    height = 1.35 * _TITLE_SIZE / 72 * len(lines)
    figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + height)


def _letters_across(figure: Figure) -> int:
    return int(figure.get_figwidth() * 72 / (0.6 * _TITLE_SIZE))


def _save(figure: Figure, path: Path, kind: str) -> None:
    nothing = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    write_atomically(
        path, lambda file: figure.savefig(file, format=kind, dpi=DPI, metadata=nothing)
    )


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    escaped = ([in_csv(v) if isinstance(v, str) else v for v in row] for row in rows)
    csv.writer(file, lineterminator="\n").writerows(escaped)
    return file.getvalue()


def all_charts(comparison: Comparison) -> Iterator[Chart]:
    """Yield the charts for which there are data."""
    runs = comparison.runs
    plots = map_dots(comparison)
    interval = "with 95% intervals over images"
    yield Chart("map", f"mAP {interval}", lambda: _dots(plots), _dot_rows(plots, comparison))
    by_class = class_dots(comparison)
    yield Chart(
        "classes",
        f"{by_class.caption.partition(',')[0]} {interval}",
        lambda: _dots([by_class], comparison),
        _dot_rows([by_class], comparison),
    )
    curves = list(_curve_rows(comparison))
    yield Chart("curves", "Precision-recall curves", lambda: _curves(comparison), curves)
    bars = error_bars(runs)
    heads = ("kind", *bars.runs)
    values = [(name, *group) for name, group in zip(bars.names, bars.values, strict=True)]
    yield Chart(
        "errors",
        "Gain of mAP (area) if one kind of error were corrected (TIDE)",
        lambda: _errors(comparison),
        [heads, *values],
    )
    kept = confused(runs)
    yield Chart(
        "confusion",
        "Confusion: of the objects of a class, the share taken for each, percent",
        lambda: _confusion(comparison, kept),
        list(_matrix_rows(comparison)),
    )
    bins = reliability(runs)
    if bins:
        rows: list[Row] = [
            (runs[index].label, part.score, part.precision, part.detections)
            for index, of_run in bins.items()
            for part in of_run
        ]
        yield Chart(
            "calibration",
            "Calibration: how often detections of a score are true",
            lambda: _reliability(comparison, bins),
            [("run", "score", "share true", "detections"), *rows],
        )
    lines = training_lines(runs)
    if lines:
        rows = [
            (caption, runs[line.run].label, epoch, value)
            for caption, of_caption in lines.items()
            for line in of_caption
            for epoch, value in zip(line.epoch.tolist(), line.value.tolist(), strict=True)
        ]
        yield Chart(
            "training",
            "Training curves of the detectors: means over each epoch",
            lambda: _training(comparison, lines),
            [("quantity", "run", "epoch", "value"), *rows],
            of_images=False,
        )


# ---- dots and bars ------------------------------------------------------------------------------


def _dot_rows(plots: Sequence[Dots], comparison: Comparison) -> list[Row]:
    rows: list[Row] = [("what", "row", "run", "value", "low", "high")]
    rows += [
        (plot.caption, row.name, comparison.runs[dot.run].label, dot.value, dot.low, dot.high)
        for plot in plots
        for row in plot.rows
        for dot in row.dots
    ]
    return rows


def _dots(plots: Sequence[Dots], comparison: Comparison | None = None) -> Figure:
    heights = [0.45 + sum(max(0.24, 0.09 * len(row.dots)) for row in plot.rows) for plot in plots]
    figure = Figure(figsize=(_WIDE, 0.3 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(plots), squeeze=False, height_ratios=heights)
    for axes, plot in zip(grid.flat, plots, strict=True):
        _draw_dots(axes, _drawable(plot))
    if comparison and plots[0].runs:
        _legend(figure, comparison, lines=False)
    return figure


def _draw_dots(axes: Axes, plot: Dots) -> None:
    """Draw rows of dots with intervals, as the page has them in HTML."""
    for place, row in enumerate(plot.rows):
        for line, dot in enumerate(row.dots):
            y = place + 0.6 * ((line + 0.5) / len(row.dots) - 0.5)
            colour = _COLOURS.of_run(dot.run)
            if np.isfinite(dot.low):
                axes.plot((dot.low, dot.high), (y, y), color=colour, linewidth=1.6, alpha=0.7)
            axes.plot((dot.value,), (y,), "o", color=colour, markersize=4)
    axes.set_yticks(range(len(plot.rows)), [f" {row.name}" for row in plot.rows])
    axes.set_ylim(len(plot.rows) - 0.4, -0.6)
    axes.set_xlabel(plot.caption)
    axes.update_datalim([(end, 0) for end in plot.span])
    axes.autoscale_view(scaley=False)
    if plot.span[0] == 0:  # of shares, none of which is less
        axes.set_xlim(left=-0.02 * plot.span[1])
    if plot.zero:
        axes.axvline(0, color=_COLOURS.ink, linewidth=0.8)
    charts.plain(axes, _COLOURS)


def _drawable(plot: Dots) -> Dots:
    rows = tuple(type(row)(drawable(row.name), row.dots, row.text, row.marked) for row in plot.rows)
    return Dots(drawable(plot.caption.partition(";")[0]), plot.unit, rows, plot.zero)


def _legend(figure: Figure, comparison: Comparison, lines: bool) -> None:
    # The blank keeps a legend from taking a leading underscore for "leave this out".
    titles = [f" {drawable(run.label)}" for run in comparison.runs]
    marks = [
        Line2D([], [], **charts.line_style(index, _COLOURS))
        if lines
        else Patch(color=_COLOURS.of_run(index))
        for index in range(len(titles))
    ]
    figure.legend(marks, titles, loc="outside lower center", frameon=False, ncols=3)


def _errors(comparison: Comparison) -> Figure:
    bars = error_bars(comparison.runs)
    per_run = np.array(bars.values).T.tolist()
    height = 1.0 + len(bars.names) * 0.22 * max(1.4, len(comparison.runs))
    figure = Figure(figsize=(_WIDE, height), layout="constrained")
    charts.draw_bars(figure.add_subplot(), bars.names, per_run, _COLOURS)
    _legend(figure, comparison, lines=False)
    return figure


# ---- panels -------------------------------------------------------------------------------------


def _panels(number: int) -> tuple[Figure, NDArray[Any]]:
    across = max(1, min(4, number))
    down = -(-number // across)
    size = (max(4.5, 2.25 * across), 1.9 * max(1, down) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(max(1, down), across, squeeze=False)
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, grid


def _curves(comparison: Comparison) -> Figure:
    names = shown_classes(comparison)
    figure, grid = _panels(len(names))
    for axes, name in zip(grid.flat, names, strict=False):
        scores = [run.voc.per_class[name] for run in comparison.runs]
        charts.draw_curves(axes, scores, _COLOURS)
        axes.set_title(drawable(name), fontsize=9)
    _legend(figure, comparison, lines=True)
    return figure


def _curve_rows(comparison: Comparison) -> Iterator[Row]:
    yield ("class", "run", "recall", "precision")
    for name in shown_classes(comparison):
        for run in comparison.runs:
            recall, precision = charts.interpolated(run.voc.per_class[name])
            for point in zip(recall.tolist(), precision.tolist(), strict=True):
                yield (name, run.label, *point)


def _training(comparison: Comparison, lines: dict[str, list[charts.Line]]) -> Figure:
    figure, grid = _panels(len(lines))
    for axes, (caption, of_caption) in zip(grid.flat, lines.items(), strict=False):
        charts.draw_lines(axes, of_caption, _COLOURS)
        axes.set_title(drawable(caption), fontsize=8)
    _legend(figure, comparison, lines=True)
    return figure


def _reliability(comparison: Comparison, bins: dict[int, list[charts.Bin]]) -> Figure:
    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    of_runs = [bins.get(index, []) for index in range(len(comparison.runs))]
    charts.draw_reliability(figure.add_subplot(), of_runs, _COLOURS)
    _legend(figure, comparison, lines=True)
    return figure


# ---- confusion ----------------------------------------------------------------------------------


def _matrix_rows(comparison: Comparison) -> Iterator[Row]:
    names = [*comparison.truth.classes, BACKGROUND]
    yield ("run", "true", "detected", "number")
    for run in comparison.runs:
        counts = run.analysis.confusion
        for row, column in zip(*np.nonzero(counts), strict=True):
            yield (run.label, names[row], names[column], int(counts[row, column]))


def _confusion(comparison: Comparison, kept: Sequence[int]) -> Figure:
    names = [drawable([*comparison.truth.classes, BACKGROUND][index]) for index in kept]
    parts = [shares(run.analysis.confusion[np.ix_(kept, kept)]) for run in comparison.runs]
    drawn = [(f"{run.label}, {run.shown_from}", part) for run, part in
             zip(comparison.runs, parts, strict=True)]  # fmt: skip
    drawn += [
        (f"{run.label} against {comparison.runs[0].label}", part - parts[0])
        for run, part in zip(comparison.runs[1:], parts[1:], strict=True)
    ]
    across = min(3, len(drawn))
    down = -(-len(drawn) // across)
    side = min(5.0, 1.6 + 0.19 * len(names))
    figure = Figure(figsize=(side * across, (side + 0.2) * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (title, part) in zip(grid.flat, drawn, strict=False):
        title = "\n".join(wrap(drawable(title), int(0.7 * side * 72 / (0.6 * 8))))
        _draw_matrix(axes, title, part, names, len(comparison.runs) < len(drawn))
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _draw_matrix(
    axes: Axes, title: str, part: NDArray[np.float64], names: Sequence[str], signed: bool
) -> None:
    differs = bool(signed and (part < 0).any())
    axes.imshow(part, cmap=_SHADES, vmin=-1, vmax=1)
    axes.set_title(title, fontsize=8)
    axes.set(xlabel="detected", ylabel="true")
    axes.tick_params(length=0)
    if len(names) > MOST_CLASSES + 1:
        return
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6.5)
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    if len(names) > 12:
        return
    for row, column in zip(*np.nonzero(np.abs(part) >= 0.005), strict=True):
        value = part[row, column]
        colour = "#ffffff" if value > 0.7 else LIGHT["ink"]
        axes.text(
            column, row, f"{100 * value:{'+' if differs else ''}.0f}",
            ha="center", va="center", color=colour, fontsize=6,
        )  # fmt: skip
