"""Curves over epochs: accuracy and loss (Figure 5), and the keep ratio (section 5.2.2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from pretrain import paper
from pretrain.figures.style import COLOURS, OPTIONS, plain, save, wrapped

LabelledRun = tuple[str, list[dict[str, Any]]]
"""What a run is called, and the records of its metrics.jsonl, one per epoch."""
_INK = "#222222"
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
_FEW_EPOCHS = 20  # so few points are marked, and a single one would be invisible otherwise


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
