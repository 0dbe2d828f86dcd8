"""Dots with intervals, and bars, in HTML: they wrap, scale and speak like the text around them."""

import math
from collections.abc import Sequence
from itertools import chain

from common.text import in_html
from detect.report.drawing.charts import LEAST_GAIN
from detect.report.drawing.panels import ticks as round_ticks
from detect.report.drawing.style import RUN_COLOURS
from detect.report.writers.blocks import Bars, DotRow, Dots


def dots(plot: Dots) -> str:
    """Write rows of dots with intervals."""
    ticks = round_ticks(*plot.span)
    legend = _legend(plot.runs)
    rows = [_dot_row(row, ticks) for row in plot.rows]
    return _plot("dots", plot.caption, plot.unit, ticks, rows, legend, plot.zero)


def bars(plot: Bars) -> str:
    """Write groups of bars, one bar per run."""
    ticks = round_ticks(0.0, max([LEAST_GAIN, *chain(*plot.values)]))
    rows = []
    for name, group in zip(plot.names, plot.values, strict=True):
        drawn = "".join(
            f'<i class="bar" style="width:{_place(max(0.0, value), ticks):.2f}%;'
            f'background:{_colour(run)}"></i>'
            for run, value in enumerate(group)
        )
        text = " | ".join(f"{value:.1f}" for value in group)
        rows.append(_row(name, drawn, text, ' style="--lines:' + str(len(group)) + '"'))
    legend = _legend(plot.runs) if len(plot.runs) > 1 else ""
    return _plot("bars", plot.caption, plot.unit, ticks, rows, legend, False)


def _plot(
    kind: str,
    caption: str,
    unit: str,
    ticks: Sequence[float],
    rows: Sequence[str],
    legend: str,
    zero: bool,
) -> str:
    lines = "".join(f'<i class="tick" style="left:{_place(t, ticks):.2f}%"></i>' for t in ticks)
    if zero:
        lines += f'<i class="zero" style="left:{_place(0.0, ticks):.2f}%"></i>'
    numbers = "".join(
        f'<span style="left:{_place(tick, ticks):.2f}%">{_number(tick)}</span>' for tick in ticks
    )
    return "\n".join(
        (
            f'<figure class="plot {kind}">',
            f"<figcaption>{in_html(caption)}</figcaption>",
            legend,
            f'<ul aria-label="{in_html(caption)}">',
            *(row.replace("<!--ticks-->", lines) for row in rows),
            f'<li class="axis" aria-hidden="true"><span></span><span class="field">{numbers}</span>'
            f'<span class="value">{in_html(unit)}</span></li>',
            "</ul>",
            "</figure>",
        )
    )


def _row(name: str, drawn: str, text: str, attributes: str = "", marked: bool = False) -> str:
    phrase = in_html(text).replace("-", "&minus;")
    phrase = f"<strong>{phrase}</strong>" if marked else phrase
    return (
        f'<li{attributes}><span class="name">{in_html(name)}</span>'
        f'<span class="field" aria-hidden="true"><!--ticks-->{drawn}</span>'
        f'<span class="value">{phrase}</span></li>'
    )


def _dot_row(row: DotRow, ticks: Sequence[float]) -> str:
    drawn = ""
    for line, dot in enumerate(row.dots):
        if not math.isfinite(dot.value):
            continue
        place = f"top:calc({(line + 0.5) / len(row.dots) * 100:.1f}%)"
        colour = _colour(dot.run)
        if math.isfinite(dot.low):
            left, right = _place(dot.low, ticks), _place(dot.high, ticks)
            drawn += (
                f'<i class="line" style="left:{left:.2f}%;width:{right - left:.2f}%;{place};'
                f'background:{colour}"></i>'
            )
        drawn += (
            f'<i class="dot" style="left:{_place(dot.value, ticks):.2f}%;{place};'
            f'background:{colour}"></i>'
        )
    lines = f' style="--lines:{len(row.dots)}"'
    return _row(row.name, drawn, row.text, lines, row.marked)


def _legend(runs: Sequence[str]) -> str:
    if not runs:
        return ""
    items = "".join(
        f'<li><i class="dot" style="background:{_colour(run)}"></i>{in_html(label)}</li>'
        for run, label in enumerate(runs)
        if label
    )
    return f'<ul class="legend" aria-label="Runs">{items}</ul>'


def _colour(run: int) -> str:
    return f"var(--run-{run % RUN_COLOURS + 1})"


def _place(value: float, ticks: Sequence[float]) -> float:
    """Return a value's place between the first and the last tick, in percent."""
    return 100 * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "&minus;")
