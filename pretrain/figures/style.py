"""What all figures share: their look, and the files that each is written as."""

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.storage import write_atomically, write_text
from common.text import in_csv

DPI = 150
"""Of the PNG files, whose sizes are stated in inches."""
OPTIONS = {"font.size": 8.0, "text.parse_math": False}
"""For `matplotlib.rc_context`; class names and labels are no formulas."""
COLOURS = ("#0a5cad", "#b3440a", "#006e55", "#8a3b8f", "#6e5600", "#4a4f57")
"""Of the lines, those of the detection report."""
_RULE = "#dddddd"


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


def write_csv(out: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Write the numbers of a picture beside it, and return their path."""
    text = io.StringIO()
    lines = [[in_csv(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    path = out.with_suffix(".csv")
    write_text(path, text.getvalue())
    return path


def wrapped(title: str, inches: float) -> str:
    """Break a title of 9 points into lines for a figure of that width."""
    return textwrap.fill(title, round(14 * inches))


def plain(axes: Axes) -> None:
    """Remove the frame; keep the grid and the numbers."""
    axes.grid(color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
