"""The charts of the report's files, drawn onto the axes of matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from detect.scoring.voc import ClassScore

DASHES = ((), (5.0, 2.0), (1.5, 1.5), (7.0, 2.0, 1.5, 2.0))
_CORNERS = 400  # more corners than a panel has pixels
LEAST_GAIN = 0.1
"""Percentage points that an axis of gains holds at least."""
FEW_POINTS = 20  # so few are marked, and a single one would be invisible otherwise
OPTIONS = {
    "svg.fonttype": "none",
    "lines.scale_dashes": False,
    "font.size": 8.0,
    "text.parse_math": False,
}
"""For `matplotlib.rc_context`; names of classes and runs are no formulas."""


@dataclass(frozen=True, slots=True)
class Colours:
    """Of letters, of the grid, and of the runs, which repeat."""

    ink: str
    rule: str
    runs: tuple[str, ...]

    def of_run(self, index: int) -> str:
        """Colour of the lines and bars of a run."""
        return self.runs[index % len(self.runs)]


@dataclass(frozen=True, slots=True)
class Line:
    """Values of a run over the epochs."""

    run: int
    epoch: NDArray[np.float64]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Detections of about one score: their number, mean score and the share that is true."""

    detections: int
    score: float
    precision: float


def interpolated(score: ClassScore) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the curve whose area is `ap_area`: at a recall the highest precision there or above.

    Returns:
        Recall and precision (corners,), for steps that hold a precision up to its recall; empty
        without a true positive.
    """
    if not score.objects:
        return np.empty(0), np.empty(0)
    highest = np.maximum.accumulate(score.precision[::-1])[::-1]
    hits = np.flatnonzero(np.diff(score.recall, prepend=0.0) > 0)
    if not len(hits):
        return np.empty(0), np.empty(0)
    recall, precision = score.recall[hits], highest[hits]
    last_of_step = np.append(precision[:-1] != precision[1:], True)
    recall, precision = recall[last_of_step], precision[last_of_step]
    if len(recall) > _CORNERS:
        rows = np.linspace(0, len(recall) - 1, _CORNERS).round().astype(np.int64)
        recall, precision = recall[rows], precision[rows]
    corners = np.concatenate([[0.0], recall, recall[-1:]])
    return corners, np.concatenate([precision[:1], precision, [0.0]])


# ---- onto axes ----------------------------------------------------------------------------------


def draw_curves(axes: Axes, scores: Sequence[ClassScore], colours: Colours) -> None:
    """Draw the precision-recall curves of one class, one line for each run."""
    for index, score in enumerate(scores):
        recall, precision = interpolated(score)
        axes.step(recall, precision, where="pre", clip_on=False, **line_style(index, colours))
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
    plain(axes, colours)


def draw_bars(
    axes: Axes, names: Sequence[str], values: Sequence[Sequence[float]], colours: Colours
) -> None:
    """Draw horizontal bars with their values: a group for each name, a bar in it for each run.

    Args:
        axes: Where to.
        names: Of the groups, from above.
        values: (runs, groups) percentage points.
        colours: To draw in.
    """
    thickness = 0.8 / len(values)
    for index, of_run in enumerate(values):
        places = np.arange(len(names)) + (index - (len(values) - 1) / 2) * thickness
        bars = axes.barh(places, of_run, 0.9 * thickness, color=colours.of_run(index))
        labels = [f"{value:.1f}" for value in of_run]
        axes.bar_label(bars, labels, padding=2, color=colours.ink, fontsize=7)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("gain of mAP, points")
    axes.margins(x=0.12)
    axes.update_datalim([(LEAST_GAIN, 0)])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    plain(axes, colours)
    axes.grid(visible=False, axis="y")


def draw_lines(axes: Axes, lines: Sequence[Line], colours: Colours) -> None:
    """Draw one quantity of the trainings over their epochs; no line is empty."""
    for line in lines:
        marker = "o" if len(line.value) <= FEW_POINTS else ""
        style = line_style(line.run, colours)
        axes.plot(line.epoch, line.value, marker=marker, markersize=2.5, clip_on=False, **style)
    axes.set(xlim=(0, max(line.epoch.max() for line in lines)), xlabel="epoch")
    if not any(line.value.any() for line in lines):
        axes.set_ylim(-0.02, 1)  # as of a share
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plain(axes, colours)


def draw_reliability(axes: Axes, bins: Sequence[Sequence[Bin]], colours: Colours) -> None:
    """Draw how often detections of a score are true; a calibrated run lies on the diagonal."""
    axes.plot((0, 1), (0, 1), color=colours.rule, linewidth=1.2, dashes=(4, 3))
    for run, of_run in enumerate(bins):
        known = [part for part in of_run if part.detections]
        score, precision = [part.score for part in known], [part.precision for part in known]
        style = line_style(run, colours)
        axes.plot(score, precision, marker="o", markersize=3, clip_on=False, **style)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is true")
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
    plain(axes, colours)


def line_style(run: int, colours: Colours) -> dict[str, Any]:
    """Return how the line of a run looks, for matplotlib."""
    pattern = DASHES[run % len(DASHES)]
    dashes = (0, pattern) if pattern else "solid"
    return {"color": colours.of_run(run), "linewidth": 1.6, "linestyle": dashes}


def plain(axes: Axes, colours: Colours) -> None:
    """Remove the frame; keep the grid and the numbers."""
    axes.tick_params(length=0, labelcolor=colours.ink)
    axes.xaxis.label.set_color(colours.ink)
    axes.yaxis.label.set_color(colours.ink)
    axes.grid(color=colours.rule, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
