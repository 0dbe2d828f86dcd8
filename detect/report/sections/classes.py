"""The classes: dots and intervals, the largest differences first; the numbers folded below."""

import math

import numpy as np
from numpy.typing import NDArray

from detect.report.comparison import Comparison
from detect.report.sections.tables import ap_by_class, f1_by_class
from detect.report.writers.blocks import (
    Block,
    Chart,
    Details,
    Dot,
    DotRow,
    Dots,
    Note,
    Section,
)
from detect.scoring.bootstrap import MAPS

_LEVEL = 0.05
FEWEST_IMAGES = 10
"""With counted objects of a class: of fewer, resamples of the images say nothing."""


def classes(comparison: Comparison) -> Section:
    """Tell where the runs differ."""
    several = len(comparison.runs) > 1
    blocks: list[Block] = [
        Note(_explanation(comparison)),
        class_dots(comparison),
        Chart("classes.png", "AP by class"),
    ]
    blocks += [
        Details("AP by class in numbers", tuple(ap_by_class(comparison, kind) for kind in MAPS)),
        Details(
            "Thresholds of the best F1 by class",
            tuple(f1_by_class(comparison, run) for run in comparison.runs),
        ),
    ]
    return Section("classes", "Classes" if several else "AP by class", tuple(blocks))


def _explanation(comparison: Comparison) -> str:
    measure = {"11point": "AP (11-point)", "area": "AP (area)"}[comparison.kind]
    if len(comparison.runs) == 1:
        return f"{measure} of each class, the highest first; lines: 95% intervals over images."
    first, last = comparison.runs[0].label, comparison.runs[-1].label
    shown = (
        f"Difference of {measure}, {last} - {first}"
        if len(comparison.runs) == 2
        else f"Differences of {measure} to {first}, sorted by their mean"
    )
    return (
        f"{shown}; lines: 95% intervals over images. Bold: the interval leaves out 0 even when "
        f"widened for looking at {len(comparison.classes)} classes at once (Bonferroni); two "
        "networks differ there; with one run each, that says nothing about their methods."
    )


def class_dots(comparison: Comparison) -> Dots:
    """Return the differences of AP to the first run, or the AP of a single run."""
    runs, several = comparison.runs, len(comparison.runs) > 1
    row_of = {name: index for index, name in enumerate(comparison.truth.classes)}
    kind = 0 if comparison.kind == "11point" else 1
    ap = [100 * run.resampled[:, :, kind] for run in runs]
    shown = [(0, ap[0])] if len(runs) == 1 else [
        (index, ap[index] - ap[0]) for index in range(1, len(runs))
    ]  # fmt: skip
    tests = len(comparison.classes) * len(shown)
    rows = []
    for name in comparison.classes:
        column = row_of[name]
        dots = tuple(_dot(run, values[:, column]) for run, values in shown)
        apart = [run for run, values in shown if several and decided(values[:, column], tests)]
        if _images_with(comparison, column) < FEWEST_IMAGES:
            dots = tuple(Dot(dot.run, dot.value, math.nan, math.nan) for dot in dots)
            apart = []
        text = _text(comparison, name, dots[-1])
        if len(runs) > 2:
            parts = [f"{runs[d.run].label} {d.value:+.1f}" for d in dots if d.run in apart]
            few = "few images" if math.isnan(dots[-1].low) else "none is decided"
            text = ", ".join(parts) or few
        rows.append(DotRow(name, dots, text, bool(apart)))
    rows.sort(key=lambda row: -sum(dot.value for dot in row.dots))
    labels = ("", *(run.label for run in runs[1:])) if len(runs) > 2 else ()
    measure = {"11point": "AP (11-point)", "area": "AP (area)"}[comparison.kind]
    if not several:
        return Dots(f"{measure}, percent", "percent", tuple(rows))
    caption = f"Difference of {measure} to {runs[0].label}, points"
    return Dots(caption, "points", tuple(rows), True, labels)


def _images_with(comparison: Comparison, label: int) -> int:
    """Count the images that have counted objects of a class."""
    truth = comparison.truth
    return len(np.unique(truth.image[(truth.label == label) & ~truth.difficult]))


def _text(comparison: Comparison, name: str, last: Dot) -> str:
    sign = "+" if len(comparison.runs) > 1 else ""
    value = f"{last.value:{sign}.1f}"
    if math.isnan(last.low):
        value += " (few images)"
    else:
        value += f" [{last.low:{sign}.1f}, {last.high:{sign}.1f}]"
    if len(comparison.runs) != 2:
        return value
    before, after = (
        getattr(run.voc.per_class[name], f"ap_{comparison.kind}") for run in comparison.runs
    )
    return f"{100 * before:.1f} to {100 * after:.1f}: {value}"


def _dot(run: int, values: NDArray[np.float64]) -> Dot:
    """Return the value of the split, and the middle 95% of its resamples."""
    known = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(known, (2.5, 97.5)).tolist() if len(known) else (math.nan,) * 2
    return Dot(run, float(values[0]), low, high)


def decided(values: NDArray[np.float64], tests: int) -> bool:
    """Return whether 0 lies outside the interval of a difference that is one of several.

    By Bonferroni: at a level of 5% divided by the number of tests. Beyond what 1,000 resamples
    resolve that is the whole of their range.

    Args:
        values: Of the split, then of its resamples; NaN where there is none.
        tests: How many differences are looked at.
    """
    known = values[1:][~np.isnan(values[1:])]
    if not len(known):
        return False
    tail = 100 * _LEVEL / 2 / tests
    low, high = np.percentile(known, (tail, 100 - tail))
    return bool(low > 0 or high < 0)
