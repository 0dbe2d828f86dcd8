"""Drawings of the strongest channels (Figure 2) and of class activation maps (Figure 4)."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from common.text import in_line
from pretrain.figures.style import COLOURS, OPTIONS, plain, save, wrapped

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
_RIGHT, _WRONG = COLOURS[2], COLOURS[1]


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
