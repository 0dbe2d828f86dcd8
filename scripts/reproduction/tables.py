"""Results beside the paper's, as markdown."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.runs.over_seeds import paired_difference, spread
from pretrain import paper
from pretrain.recipes import RECIPES
from pretrain.results import Row
from reproduction.experiments import Cell, Experiment, Run

Values = dict[int, float]
"""A value of each seed."""

_NOTES = """\
Accuracy in percent, mean ± sample standard deviation over n seeds. Behind a slash: the difference
to our baseline, mean over the seeds that both have, with its 95% interval (Student's t, paired by
seed; none from one seed), and from six seeds on the p-value of the sign-flip test."""
_BEST_AND_LAST = """\
Best epoch: the highest accuracy on the test images over all epochs, as the paper reports it; the
choice flatters every arm. Last epoch: after the whole training."""
_HELD_OUT = """\
The epoch was chosen by {count:,} training images that were kept back; the test images were scored
once, with its weights."""


def render(experiment: Experiment, runs: Sequence[Run], rows: Mapping[Path, Row]) -> str:
    """Write an experiment's table.

    Args:
        experiment: What it reproduces.
        runs: All that belong to it, run or not.
        rows: The finished ones, by folder.
    """
    lines = [f"# {experiment.title}: {paper.DATASETS[experiment.dataset]}", ""]
    held_out = runs[0].recipe.images.held_out
    columns: dict[str, Callable[[Row], float]] = {
        "best epoch": lambda row: row.best_accuracy,
        "last epoch": lambda row: row.last_accuracy,
    }
    if held_out:
        columns = {"chosen epoch": lambda row: row.test_accuracy or 0.0}
    for network in experiment.networks:
        here = [run for run in runs if run.cell.network == network]
        lines += [f"## {network}", "", *_scale(here[0]), *_table(here, rows, columns), ""]
    done = [rows[run.folder] for run in runs if run.folder in rows]
    lines += [_NOTES, _HELD_OUT.format(count=held_out) if held_out else _BEST_AND_LAST, ""]
    lines += [_provenance(done, len(runs)), ""]
    return "\n".join(lines)


def _scale(run: Run) -> list[str]:
    """Say how much shorter than the recipe a training is."""
    full, epochs = RECIPES[run.cell.name]().optimization.epochs, run.recipe.optimization.epochs
    if epochs == full:
        return []
    share = f"{epochs / full:.1%}"
    return [f"**Scaled: {epochs} of {full} epochs ({share}).** Not the paper's training.", ""]


def _table(
    runs: Sequence[Run], rows: Mapping[Path, Row], columns: Mapping[str, Callable[[Row], float]]
) -> list[str]:
    cells = list(dict.fromkeys(run.cell for run in runs))
    baseline = next((cell for cell in cells if cell.is_baseline), None)
    lines = [
        "| | paper | n | " + " | ".join(columns) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for cell in cells:
        shown = [cell.label, _reported(cell, baseline)]
        found = [_values(runs, rows, cell, value) for value in columns.values()]
        shown.append(str(len(found[0])))
        for values, value in zip(found, columns.values(), strict=True):
            base = _values(runs, rows, baseline, value) if baseline else {}
            shown.append(_ours(values, {} if cell.is_baseline else base))
        lines.append("| " + " | ".join(shown) + " |")
    return lines


def _values(
    runs: Sequence[Run], rows: Mapping[Path, Row], cell: Cell, value: Callable[[Row], float]
) -> Values:
    return {
        run.seed: 100 * value(rows[run.folder])
        for run in runs
        if run.cell == cell and run.folder in rows
    }


def _reported(cell: Cell, baseline: Cell | None) -> str:
    if cell.reported is None:
        return "-"
    text = f"{cell.reported[0]:.2f} ± {cell.reported[1]:.2f}"
    if baseline and baseline.reported and not cell.is_baseline:
        text += f" / {cell.reported[0] - baseline.reported[0]:+.2f}"
    return text


def _ours(values: Values, baseline: Values) -> str:
    if not values:
        return "not run"
    text, difference = spread(values.values()), paired_difference(values, baseline)
    return f"{text} / {difference}" if difference else text


def _provenance(rows: Sequence[Row], planned: int) -> str:
    """Say of what the table is made."""
    if not rows:
        return f"None of {planned} runs is done."

    def all_of(name: str) -> str:
        return ", ".join(sorted({str(getattr(row, name)) for row in rows}))

    seconds = sum(row.seconds for row in rows)
    return (
        f"{len(rows)} of {planned} runs; seeds {all_of('seed')}; data {all_of('data')}, "
        f"{all_of('train_images')} training images; {all_of('hardware')}; torch "
        f"{all_of('torch')}; commit {all_of('commit')}; {seconds / 3600:.2f} hours of training."
    )
