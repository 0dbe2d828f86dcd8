"""The drawings of `python -m pretrain figure`: PNG files of a stated size, 150 pixels an inch."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from common.storage import write_atomically
from common.text import in_line
from pretrain import paper

DPI = 150
OPTIONS = {"font.size": 8.0, "text.parse_math": False}
"""For `matplotlib.rc_context`; class names and labels are no formulas."""
_INK, _RULE = "#222222", "#dddddd"
COLOURS = ("#0a5cad", "#b3440a", "#006e55", "#8a3b8f", "#6e5600", "#4a4f57")
"""Of the lines, those of the detection report."""
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
_RIGHT, _WRONG = COLOURS[2], COLOURS[1]
_FEW_EPOCHS = 20  # so few points are marked, and a single one would be invisible otherwise

LabelledRun = tuple[str, list[dict[str, Any]]]
"""What a run is called, and the records of its metrics.jsonl, one per epoch."""


def save(figure: Figure, out: Path) -> None:
    """Write a PNG and, beside it, the same as SVG; each whole or not at all."""
    nothing: dict[str, dict[str, str | None]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    with matplotlib.rc_context({"svg.hashsalt": "focused-dropout"}):
        for kind in nothing:
            _save_as(figure, out.with_suffix(f".{kind}"), kind, nothing[kind])


def _save_as(figure: Figure, path: Path, kind: str, metadata: dict[str, str | None]) -> None:
    write_atomically(
        path, lambda file: figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
    )


def wrapped(title: str, inches: float) -> str:
    """Break a title of 9 points into lines for a figure of that width."""
    return textwrap.fill(title, round(14 * inches))


def plain(axes: Axes) -> None:
    """Remove the frame, but for the grid and the numbers."""
    axes.grid(color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


# ---- Figure 2 -----------------------------------------------------------------------------------

_PANELS = 4  # a row


def evenly_spaced(total: int, count: int) -> list[int]:
    """Choose `count` of 0 .. total - 1 from end to end; all of them if there are no more."""
    return [int(i) for i in np.linspace(0, total - 1, min(count, total)).round()]


def plot_strongest_channels(
    counts: NDArray[np.int64],
    classes: Sequence[str],
    shown: Sequence[int] | None,
    title: str,
    out: Path,
) -> Figure:
    """Draw how many images of a class have which channel as their strongest (Figure 2).

    Args:
        counts: Numbers of images (num_classes, channels).
        classes: Names of all classes.
        shown: Classes to draw, four panels per row; None for four, evenly spaced.
        title: Above all panels.
        out: The PNG, 10 x (0.4 + 2.4 a row) inches.

    Returns:
        The figure, as written.
    """
    shown = evenly_spaced(len(classes), _PANELS) if shown is None else shown
    channels = counts.shape[1]
    rows = math.ceil(len(shown) / _PANELS)
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(10, 0.4 + 2.4 * rows), layout="constrained")
        grid = figure.subplots(rows, min(_PANELS, len(shown)), sharey=True, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, label in zip(grid.flat, shown, strict=False):
            winners = np.flatnonzero(counts[label])
            # A bar of one of 640 channels would be half a pixel wide.
            axes.bar(winners, counts[label, winners], max(0.8, channels / 120), color=COLOURS[0])
            plain(axes)
            axes.set_title(f"{_short(classes[label], 30)}: {_top_channels(counts[label])}")
            axes.set_xlim(-0.02 * channels, 1.02 * channels)
            axes.set_xlabel(f"channel (0 to {channels - 1})")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axes in grid[:, 0]:
            axes.set_ylabel("images")
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=9)
        save(figure, out)
    return figure


def _top_channels(counts: NDArray[np.int64]) -> str:
    """Say how many images there are and which part of them the two top channels have."""
    total = int(counts.sum())
    top = [c for c in np.argsort(-counts, kind="stable")[:2] if counts[c]]
    shares = [f"{c} ({100 * counts[c] / total:.0f}%)" for c in top]
    return f"{total} correct\nchannels " + (", ".join(shares) or "none")


def _short(name: str, length: int) -> str:
    name = in_line(name)
    return name if len(name) <= length else name[: length - 2] + ".."


# ---- Figure 4 -----------------------------------------------------------------------------------

_HEADING = 24  # characters over a column


@dataclass(frozen=True, slots=True)
class Views:
    """What a network makes of N images."""

    cams: NDArray[np.float32]
    """(N, H, W) class activation maps in [0, 1]."""
    focused: NDArray[np.bool_]
    """(N, h, w) focused areas, of cells that cover the image, whatever their number."""
    predicted: NDArray[np.int64]
    """(N,)."""
    probability: NDArray[np.float32]
    """(N,), of the predicted class."""


def plot_cams(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    columns: Sequence[tuple[str, Views]],
    title: str,
    out: Path,
) -> Figure:
    """Draw class activation maps over images, a row per image, a column per checkpoint (Figure 4).

    Args:
        images: (N, H, W, 3) RGB.
        labels: (N,) true classes.
        classes: Names of all classes.
        columns: Title and views of each checkpoint.
        title: Above all.
        out: The PNG: 0.1 + 1.8 inches a column wide, the images' own included; 1.9 inches a row
            high, and 1.5 for title, headings (0.13 more for each line above one) and colour scale,
            and 0.16 for each line of the title above three.

    Returns:
        The figure, as written.
    """
    headings = [textwrap.wrap(text, _HEADING) for text in ("image", *(text for text, _ in columns))]
    heading = 0.13 * (max(map(len, headings)) - 1)
    width = 0.1 + 1.8 * len(headings)
    title = wrapped(title, width)
    heading += 0.16 * max(0, title.count("\n") - 2)
    height = 1.5 + heading + 1.9 * len(images)
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(width, height))

        def cell(left: float, top: float, wide: float, high: float) -> Axes:
            rectangle = left / width, 1 - (top + high) / height, wide / width, high / height
            axes: Axes = figure.add_axes(rectangle)
            return axes

        for number, lines in enumerate(headings):
            x, y = (0.95 + 1.8 * number) / width, 1 - (0.75 + heading) / height
            figure.text(x, y, "\n".join(lines), ha="center", fontweight="bold")
        for row, pixels in enumerate(images):
            tops = 1.05 + heading + 1.9 * row
            first, *others = (cell(0.15 + 1.8 * n, tops, 1.6, 1.6) for n in range(len(headings)))
            first.imshow(pixels, interpolation="nearest")
            first.set_title(_short(classes[labels[row]], 26), pad=3, fontsize=8)
            first.set_axis_off()
            for axes, (_, seen) in zip(others, columns, strict=True):
                _overlay(axes, pixels, seen.cams[row], seen.focused[row])
                right = seen.predicted[row] == labels[row]
                name = _short(classes[seen.predicted[row]], 15)
                verdict = f"{'ok' if right else 'wrong'}: {name} {100 * seen.probability[row]:.0f}%"
                axes.set_title(verdict, pad=3, fontsize=8, color=_RIGHT if right else _WRONG)
        scale = cell(0.15, height - 0.4, width - 0.3, 0.1)
        figure.colorbar(
            ScalarMappable(cmap=_CMAP), scale, orientation="horizontal", alpha=_ALPHA
        ).outline.set_visible(False)
        scale.tick_params(length=0)
        figure.suptitle(title, y=1 - 0.1 / height, va="top", fontsize=9)
        save(figure, out)
    return figure


_CMAP, _ALPHA = "viridis", 0.6


def _overlay(
    axes: Axes, pixels: NDArray[np.uint8], cam: NDArray[np.float32], focused: NDArray[np.bool_]
) -> None:
    """Draw a map over the image in grey, and the outline of the focused area."""
    height, width = cam.shape
    extent = (0, width, height, 0)
    axes.set_axis_off()
    axes.imshow(pixels.mean(2), cmap="gray", vmin=0, vmax=255, extent=extent)
    axes.imshow(cam, cmap=_CMAP, vmin=0, vmax=1, alpha=_ALPHA, extent=extent)
    cell = width / focused.shape[1], height / focused.shape[0]
    lines = LineCollection(outline(focused) * cell, capstyle="projecting", clip_on=False)
    lines.set(color="white", linewidth=1.2)
    lines.set_path_effects([Stroke(linewidth=2.8, foreground="black"), Normal()])
    axes.add_collection(lines, autolim=False)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Find the sides on which a cell of a mask borders on one that is not in it.

    Args:
        mask: (h, w); what lies around it is not in it.

    Returns:
        Line segments (n, 2, 2), each of two points (x, y) in cells from the upper left corner.
    """
    padded = np.pad(mask, 1)
    y, x = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    return np.concatenate([level, upright]).astype(np.float64)


# ---- Figure 5, and the keep ratio ---------------------------------------------------------------


def plot_curves(runs: Sequence[LabelledRun], out: Path, title: str) -> Figure:
    """Draw validation accuracy and training loss against the epoch (Figure 5).

    Runs of one label make one line, their mean over the epochs that all of them have, in a band
    from the smallest to the largest. Dotted lines stand where a learning rate drops.

    Args:
        runs: Labels and records; a label may come several times.
        out: The PNG, 9 x (3.4 + 0.2 a label) inches.
        title: Above both panels.

    Returns:
        The figure, as written.

    Raises:
        InputError: If runs of one label have no epoch in common.
    """
    groups = group_runs(runs)
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(9, 3.4 + 0.2 * len(groups)), layout="constrained")
        accuracy, loss = figure.subplots(1, 2, sharex=True)
        draw_lines(accuracy, groups, "val_accuracy")
        draw_lines(loss, groups, "train_loss")
        accuracy.set_title("validation accuracy")
        accuracy.yaxis.set_major_formatter(_percent)
        loss.set_title("training loss")
        figure.legend(*accuracy.get_legend_handles_labels(), **_LEGEND)
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=9)
        save(figure, out)
    return figure


def plot_keep_ratio(runs: Sequence[LabelledRun], out: Path, title: str) -> Figure:
    """Draw the share of units that FocusedDropout kept in each epoch (section 5.2.2).

    The paper calls the share of zeros in the mask "keeping_ratio"; the right axis has it. Lines and
    bands as in `plot_curves`; epochs in which no step took part have no point.

    Args:
        runs: Labels and records; a label may come several times.
        out: The PNG, 6 x (3.4 + 0.2 a label) inches.
        title: Above the panel.

    Returns:
        The figure, as written.

    Raises:
        InputError: If runs of one label have no epoch in common.
    """
    groups = group_runs(runs)
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(6, 3.4 + 0.2 * len(groups)), layout="constrained")
        axes = figure.subplots()
        draw_lines(axes, groups, "focus_keep_ratio")
        axes.set(ylim=(0, 1), ylabel="ones in the mask: units kept")
        axes.yaxis.set_major_formatter(_percent)
        zeros = axes.secondary_yaxis("right", functions=(_complement, _complement))
        zeros.set_ylabel('zeros: the paper\'s "keeping_ratio"')
        zeros.yaxis.set_major_formatter(_percent)
        zeros.spines[:].set_visible(False)
        zeros.tick_params(length=0)
        figure.legend(*axes.get_legend_handles_labels(), **_LEGEND)
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=9)
        save(figure, out)
    return figure


_LEGEND: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "handlelength": 3.5}


def _percent(share: float, _: float) -> str:
    return f"{100 * share:g}%"


def _complement(share: ArrayLike) -> NDArray[np.float64]:
    return 1 - np.asarray(share, np.float64)


def group_runs(runs: Sequence[LabelledRun]) -> dict[str, list[list[dict[str, Any]]]]:
    """Collect the records of the runs of each label."""
    groups: dict[str, list[list[dict[str, Any]]]] = {}
    for label, records in runs:
        groups.setdefault(label, []).append(records)
    return groups


def colour_numbers(labels: Sequence[str]) -> list[int]:
    """Choose places in `COLOURS`: that of a label's arm, the same in every figure that has it.

    The baseline has the first, FocusedDropout the second, as in the detection report; where two
    would be alike, the later takes the next that is free.
    """
    arms = ["baseline", "fd", *(arm for arm in paper.ARMS if arm not in ("baseline", "fd"))]
    chosen: list[int] = []
    for label in labels:
        name = label.split(" ")[0]
        ends = [arm for arm in arms if name.endswith(f"-{arm}")]
        wish = arms.index(max(ends, key=len, default="baseline"))
        places = [(wish + step) % len(COLOURS) for step in range(len(COLOURS))]
        chosen.append(next((place for place in places if place not in chosen), places[0]))
    return chosen


def draw_lines(axes: Axes, groups: dict[str, list[list[dict[str, Any]]]], metric: str) -> None:
    """Draw one metric of every group of runs, and where the learning rates drop."""
    for (label, group), index in zip(groups.items(), colour_numbers([*groups]), strict=True):
        epochs, values = common_epochs(label, group, metric)
        colour = COLOURS[index]
        several = len(group) > 1
        axes.plot(
            epochs,
            values.mean(0),
            color=colour,
            linestyle=_DASHES[index % len(_DASHES)],
            linewidth=1.4,
            marker="o" if len(epochs) <= _FEW_EPOCHS else None,
            markersize=3,
            label=f"{label} (mean and range of {len(group)} runs)" if several else label,
        )
        if several:
            lowest, highest = values.min(0), values.max(0)
            axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.2, linewidth=0)
    drops = {e for group in groups.values() for records in group for e in rate_drops(records)}
    for number, epoch in enumerate(sorted(drops)):
        label = "_" if number else "a learning rate drops"
        axes.axvline(epoch, color=_INK, linewidth=0.8, linestyle=":", zorder=1, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    plain(axes)


def common_epochs(
    label: str, group: Sequence[list[dict[str, Any]]], metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the epochs (E,) in which all runs have a metric, and its values (runs, E).

    Raises:
        InputError: If there is no such epoch.
    """
    tables = [{r["epoch"]: r[metric] for r in run if r.get(metric) is not None} for run in group]
    epochs = sorted(set(tables[0]).intersection(*tables[1:]))
    if not epochs:
        raise InputError(
            f"the runs called {label} have no epoch with a {metric} in common: draw them apart"
        )
    return np.array(epochs), np.array([[table[epoch] for epoch in epochs] for table in tables])


def rate_drops(records: Sequence[dict[str, Any]]) -> list[int]:
    """Find the epochs after which a step schedule lowers the learning rate.

    A fall counts where the rate stands still before or after it: that of a cosine never does.
    """
    rates = [record["lr"] for record in records]
    return [
        records[i - 1]["epoch"]
        for i in range(1, len(rates))
        if rates[i] < rates[i - 1]
        and (rates[i - 1] in rates[max(0, i - 2) : i - 1] or rates[i] in rates[i + 1 : i + 2])
    ]
