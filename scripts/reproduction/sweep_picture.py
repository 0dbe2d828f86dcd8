"""Figure 6: accuracy against a setting of the method, as a PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.runs.metrics_log import read_metrics
from common.runs.over_seeds import mean_and_deviation
from pretrain import paper
from pretrain.figures.captions import caption, describe_trainings, sweep_shows
from pretrain.figures.curves import draw_lines, group_runs
from pretrain.figures.style import COLOURS, OPTIONS, plain, save, wrapped, write_csv
from pretrain.results import Row
from reproduction.experiments import Experiment, Run

_MEASURES = (("best epoch", "best_accuracy", "o", "-"), ("last epoch", "last_accuracy", "s", ":"))


def draw_sweep(
    experiment: Experiment, runs: Sequence[Run], rows: Mapping[Path, Row], out: Path
) -> list[Path]:
    """Draw what varies one setting, and write its numbers.

    Figures 6a and 6c, and the rates of the other dropouts, are connected points on the setting's
    own axis; 6b, whose ranges have no order, is points side by side, and beside them the share of
    units dropped by epoch, a curve a setting.

    Args:
        experiment: One that varies something.
        runs: All that belong to it.
        rows: The finished ones, by folder; at least one.
        out: The PNG. A CSV beside it has a row per run; of Figure 6b one more, NAME-epochs.csv,
            with a row per epoch.

    Returns:
        The files written.
    """
    done = [run for run in runs if run.folder in rows]
    field = experiment.varied.rpartition(".")[2].replace("_", " ")
    settings = list(dict.fromkeys(setting(experiment, run) for run in runs))
    shown = [name for name in settings if name is not None]
    found = {name: _accuracies(experiment, done, rows, name, "best_accuracy") for name in shown}
    baseline = [100 * rows[run.folder].best_accuracy for run in done if run.cell.is_baseline]
    trained = describe_trainings([r.cell.name for r in done], [r.recipe for r in done])
    title = caption(
        f"{experiment.title}: {trained}", experiment.claim, sweep_shows(found, baseline)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    plot_sweep(experiment, done, rows, out, title)
    lines = [
        (
            *(run.cell.label, setting(experiment, run), run.seed),
            *(getattr(rows[run.folder], name) for name in ("best_accuracy", "last_accuracy")),
            rows[run.folder].keep_ratio,
        )
        for run in done
    ]
    header = ("label", field, "seed", "best_accuracy", "last_accuracy", "keep_ratio")
    written = [out, write_csv(out, header, lines)]
    if field == "gamma":
        by_epoch = [
            (run.cell.value, run.seed, record["epoch"], record.get("focus_zeros_ratio"))
            for run in done
            if run.cell.value
            for record in read_metrics(run.folder)
        ]
        columns = (field, "seed", "epoch", "zeros_ratio")
        written.append(write_csv(out.with_name(f"{out.stem}-epochs.png"), columns, by_epoch))
    return written


def setting(experiment: Experiment, run: Run) -> str | None:
    """Tell what a run has of the varied setting, as the axis has it; None: it is a reference.

    The baseline takes part in no step: rate 0. The mask alone has the base decay in its steps.
    """
    field = experiment.varied.rpartition(".")[2]
    if run.cell.value is not None:
        return run.cell.label if len(experiment.varied_arms) > 1 else run.cell.value
    if field == "participation_rate" and run.cell.is_baseline:
        return "0"
    if field == "weight_decay" and run.cell.arm == "fd-no-mwd":
        return f"{run.recipe.optimization.weight_decay:g}"
    return None


def _accuracies(
    experiment: Experiment, done: Sequence[Run], rows: Mapping[Path, Row], name: str, column: str
) -> list[float]:
    """Return percent of each seed of a setting."""
    return [
        100 * getattr(rows[run.folder], column) for run in done if setting(experiment, run) == name
    ]


def plot_sweep(
    experiment: Experiment, done: Sequence[Run], rows: Mapping[Path, Row], out: Path, title: str
) -> Figure:
    """Draw means over the seeds with their sample deviations; see `draw_sweep`.

    Args:
        experiment: One that varies something.
        done: Its finished runs.
        rows: Theirs, by folder.
        out: The PNG, 9 x 4.2 inches.
        title: Above all.

    Returns:
        The figure, as written.
    """
    field = experiment.varied.rpartition(".")[2]
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        panels = figure.subplots(1, 2 if field == "gamma" else 1, squeeze=False)[0]
        accuracy = panels[0]
        if len(experiment.varied_arms) > 1:
            for number, arm in enumerate(experiment.varied_arms):
                own = [run for run in done if run.cell.arm.rpartition("-")[0] == arm]
                style = {"color": COLOURS[number % len(COLOURS)], "marker": "os^Dvx"[number % 6]}
                _connect(
                    accuracy, _by_place(own, rows, "best_accuracy", field), paper.ARMS[arm], style
                )
            _references(accuracy, done, rows)
        elif field == "gamma":
            _side_by_side(accuracy, done, rows)
            curves = [(run.cell.value, read_metrics(run.folder)) for run in done if run.cell.value]
            if curves:
                draw_lines(panels[1], group_runs(curves), "focus_zeros_ratio")
                panels[1].set_title('units dropped, the paper\'s "keeping_ratio"')
                panels[1].set_ylim(0, 1)
                panels[1].legend(frameon=False, handlelength=3.5)
        else:
            on_axis = [run for run in done if setting(experiment, run) is not None]
            for (label, column, marker, dash), colour in zip(_MEASURES, COLOURS, strict=False):
                style = {"color": colour, "marker": marker, "linestyle": dash}
                _connect(accuracy, _by_place(on_axis, rows, column, field), label, style)
            if field == "weight_decay":
                _references(accuracy, done, rows)
        if field == "weight_decay":
            places = list(_by_place(done, rows, "best_accuracy", field))
            accuracy.set_xscale("log")
            accuracy.set_xticks(places, [f"{place:g}" for place in places])
            accuracy.minorticks_off()
        accuracy.set_title("accuracy, %")
        if field != "gamma":
            accuracy.set_xlabel(field.replace("_", " "))
        plain(accuracy)
        figure.legend(
            *accuracy.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=9)
        save(figure, out)
    return figure


def _by_place(
    runs: Sequence[Run], rows: Mapping[Path, Row], column: str, field: str
) -> dict[float, list[float]]:
    """Collect percent by the place on the axis, in its order."""
    found: dict[float, list[float]] = {}
    for run in runs:
        if field == "rate":
            place = run.recipe.dropout.rate
        elif field == "participation_rate":
            place = 0.0 if run.cell.is_baseline else run.recipe.focus.participation_rate
        else:
            decay = run.recipe.focus.weight_decay
            place = run.recipe.optimization.weight_decay if decay is None else decay
        found.setdefault(place, []).append(100 * getattr(rows[run.folder], column))
    return dict(sorted(found.items()))


def _connect(
    axes: Axes, found: Mapping[float, Sequence[float]], label: str, style: Mapping[str, Any]
) -> None:
    """Draw means with their deviations, and a line through them."""
    statistics = [mean_and_deviation(values) for values in found.values()]
    axes.errorbar(
        list(found),
        [mean for mean, _ in statistics],
        [deviation or 0.0 for _, deviation in statistics],
        capsize=3,
        label=label,
        **style,
    )


def _references(axes: Axes, done: Sequence[Run], rows: Mapping[Path, Row]) -> None:
    """Draw what has no place on the axis as horizontal lines: the baseline, the method."""
    for (arm, dash), colour in zip(
        (("baseline", "--"), ("fd", "-.")), ("#222222", COLOURS[3]), strict=True
    ):
        values = [100 * rows[run.folder].best_accuracy for run in done if run.cell.arm == arm]
        if values:
            mean, _ = mean_and_deviation(values)
            axes.axhline(mean, color=colour, linewidth=1, linestyle=dash, label=paper.ARMS[arm])


def _side_by_side(axes: Axes, done: Sequence[Run], rows: Mapping[Path, Row]) -> None:
    names = list(dict.fromkeys(run.cell.value for run in done if run.cell.value is not None))
    for number, (label, column, marker, _) in enumerate(_MEASURES):
        values = [
            [100 * getattr(rows[r.folder], column) for r in done if r.cell.value == name]
            for name in names
        ]
        statistics = [mean_and_deviation(of_setting) for of_setting in values]
        axes.errorbar(
            [place + 0.12 * number - 0.06 for place in range(len(names))],
            [mean for mean, _ in statistics],
            [deviation or 0.0 for _, deviation in statistics],
            linestyle="none",
            capsize=3,
            color=COLOURS[number],
            marker=marker,
            label=label,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("gamma")
    axes.set_xlim(-0.5, max(0.5, len(names) - 0.5))
    _references(axes, done, rows)
