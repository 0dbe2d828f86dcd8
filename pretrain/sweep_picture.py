"""Figure 6: accuracy against a setting of the method, as a PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.over_seeds import mean_and_deviation
from pretrain.experiments import Run
from pretrain.look_pictures import COLOURS, OPTIONS, plain, save, wrapped
from pretrain.results import Row

_LINES = (
    ("best epoch", "best_accuracy", COLOURS[0], "o", -0.06),
    ("last epoch", "last_accuracy", COLOURS[1], "s", 0.06),
)


def plot_sweep(
    runs: Sequence[Run], rows: Mapping[Path, Row], axis: str, out: Path, title: str
) -> Figure:
    """Draw accuracy, and the share of units dropped, against what Figure 6 varies.

    Points are means over the seeds, bars the sample standard deviation; the baseline's accuracy is
    a horizontal line. Settings without a finished run have no point.

    Args:
        runs: One of the experiments figure6a to figure6c.
        rows: The finished ones, by folder.
        axis: What is varied.
        out: The PNG, 9 x 3.8 inches.
        title: Above both panels.

    Returns:
        The figure, as written.
    """
    settings = list(dict.fromkeys(run.cell.value for run in runs if run.cell.value is not None))
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        accuracy, zeros = figure.subplots(1, 2)
        for label, column, colour, marker, shift in _LINES:
            found = {
                value: [
                    100 * getattr(rows[run.folder], column)
                    for run in runs
                    if run.cell.value == value and run.folder in rows
                ]
                for value in (None, *settings)
            }
            style = {"color": colour, "marker": marker, "label": label}
            _points(accuracy, [found[value] for value in settings], shift, style)
            if found[None]:
                mean, _ = mean_and_deviation(found[None])
                accuracy.axhline(mean, color=colour, linewidth=1, linestyle="--")
                accuracy.plot([], [], color=colour, linestyle="--", label=f"baseline, {label}")
        dropped = [
            [
                100 * (1 - ratio)
                for run in runs
                if run.cell.value == value
                and run.folder in rows
                and (ratio := rows[run.folder].keep_ratio) is not None
            ]
            for value in settings
        ]
        _points(zeros, dropped, 0, {"color": COLOURS[2], "marker": "D"})
        zeros.set_ylim(0, 100)
        accuracy.set_title("accuracy, %")
        zeros.set_title("units dropped in a participating step, %")
        for axes in (accuracy, zeros):
            axes.set_xticks(range(len(settings)), settings)
            axes.set_xlim(-0.5, len(settings) - 0.5)
            axes.set_xlabel(axis)
            plain(axes)
        figure.legend(
            *accuracy.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=9)
        save(figure, out)
    return figure


def _points(
    axes: Axes, values: Sequence[Sequence[float]], shift: float, style: Mapping[str, Any]
) -> None:
    """Draw means with their deviations, at the places 0, 1, ...; where there are values."""
    places = [place for place, found in enumerate(values) if found]
    statistics = [mean_and_deviation(values[place]) for place in places]
    axes.errorbar(
        [place + shift for place in places],
        [mean for mean, _ in statistics],
        [deviation or 0.0 for _, deviation in statistics],
        linestyle="none",
        capsize=3,
        **style,
    )
