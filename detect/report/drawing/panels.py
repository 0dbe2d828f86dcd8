"""Small charts with lines, as SVG in the colours of the page."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.text import in_html
from detect.report.drawing.charts import DASHES, FEW_POINTS, Bin, Line, interpolated
from detect.report.drawing.style import RUN_COLOURS
from detect.scoring.voc import ClassScore

_WIDTH, _HEIGHT = 280.0, 205.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 8.0, 8.0, 34.0
_STEPS = (1, 2, 2.5, 5, 10, 20, 25, 50)
_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers that enclose a range, at most this many."""
    if not high > low:
        around = abs(low) / 2
        low, high = (low - around, high + around) if low else (0.0, 1.0)
    size = 10.0 ** math.floor(math.log10((high - low) / (most - 1)))
    for factor in _STEPS:
        step = factor * size
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            return [float(f"{tick * step:.12g}") for tick in range(first, last + 1)]
    return [low, high]


def curve_panel(scores: Sequence[ClassScore]) -> str:
    """Draw the precision-recall curves of one class, a line per run, as steps."""
    lines = []
    for index, score in enumerate(scores):
        recall, precision = interpolated(score)
        # A precision holds up to its recall: down at the recall before, then along.
        x, y = np.repeat(recall, 2)[:-1], np.repeat(precision, 2)[1:]
        lines.append(Line(index, x, y))
    return _panel(lines, _FRACTIONS, _FRACTIONS, "recall", "precision")


def line_panel(lines: Sequence[Line]) -> str:
    """Draw one quantity of the trainings over their epochs; no line is empty."""
    last = max(float(line.epoch.max()) for line in lines)
    values = np.concatenate([line.value for line in lines])
    across = ticks(0.0, max(last, 1.0))
    across = [tick for tick in across if tick == int(tick)]
    return _panel(lines, across, ticks(float(values.min()), float(values.max()), 5), "epoch", "")


def reliability_panel(bins: Sequence[Sequence[Bin]]) -> str:
    """Draw how often detections of a score are true; a calibrated run lies on the diagonal."""
    lines = [
        Line(
            run,
            np.array([part.score for part in of_run], np.float64),
            np.array([part.precision for part in of_run], np.float64),
        )
        for run, of_run in enumerate(bins)
    ]
    return _panel(lines, _FRACTIONS, _FRACTIONS, "score", "share that is true", diagonal=True)


def line_sample(index: int) -> str:
    """Draw the line of a run for the legend, as the panels draw it."""
    return f'<svg viewBox="0 0 36 12" aria-hidden="true"><path d="M0 6H36" {_look(index)}/></svg>'


def _look(run: int) -> str:
    dashes = " ".join(f"{length:g}" for length in DASHES[run % len(DASHES)])
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'fill="none" stroke-width="2"{dashed} style="stroke:var(--run-{run % RUN_COLOURS + 1})"'


def _short(tick: float) -> str:
    """Return a number of at most five letters or so: 0.00075 is 7.5e-4."""
    if tick and (abs(tick) < 0.01 or abs(tick) >= 100_000):
        digits, _, power = f"{tick:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{tick:g}"


def _panel(
    lines: Sequence[Line],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_name: str,
    y_name: str,
    diagonal: bool = False,
) -> str:
    def across(value: NDArray[np.float64]) -> NDArray[np.float64]:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return np.asarray(_LEFT + share * (_WIDTH - _LEFT - _RIGHT))

    def up(value: NDArray[np.float64]) -> NDArray[np.float64]:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return np.asarray(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM))

    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick, place in zip(x_ticks, across(np.array(x_ticks)).tolist(), strict=True):
        parts.append(f'<path class="rule" d="M{place:.1f} {_TOP:g}V{bottom:g}"/>')
        if tick in (0.25, 0.75):
            continue  # of fractions, 0, 0.5 and 1 will do
        parts.append(
            f'<text x="{place:.1f}" y="{bottom + 14:g}" text-anchor="middle">{_short(tick)}</text>'
        )
    for tick, place in zip(y_ticks, up(np.array(y_ticks)).tolist(), strict=True):
        parts.append(f'<path class="rule" d="M{_LEFT:g} {place:.1f}H{right:g}"/>')
        if y_name and tick in (0.25, 0.75):
            continue
        parts.append(
            f'<text x="{_LEFT - 5:g}" y="{place + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle:g}" y="{_HEIGHT - 5:g}" text-anchor="middle">{in_html(x_name)}</text>'
    )
    if y_name:
        height = (_TOP + bottom) / 2
        parts.append(
            f'<text transform="translate(10 {height:g})rotate(-90)" text-anchor="middle">'
            f"{in_html(y_name)}</text>"
        )
    if diagonal:
        parts.append(f'<path class="rule" stroke-dasharray="4 3" d="M{_LEFT:g} {bottom:g}'
                     f'L{right:g} {_TOP:g}"/>')  # fmt: skip
    for line in lines:
        points = list(zip(across(line.epoch).tolist(), up(line.value).tolist(), strict=True))
        if not points:
            continue
        drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path {_look(line.run)} d="M{drawn}"/>')
        if len(points) <= FEW_POINTS and x_name != "recall":
            colour = f"var(--run-{line.run % RUN_COLOURS + 1})"
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{colour}"/>'
                for x, y in points
            ]
    return f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" aria-hidden="true">{"".join(parts)}</svg>'
