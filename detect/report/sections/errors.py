"""What goes wrong: the kinds of error as one comparison, and which class is taken for which."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detect.report.comparison import Run
from detect.report.writers.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Column,
    Details,
    Matrices,
    Matrix,
    Note,
    Section,
    Table,
    Text,
)
from detect.scoring.error_kinds import ERROR_KINDS

BACKGROUND = "background"
MOST_CLASSES = 40
"""Of a matrix that is shown; larger ones are in the JSON file."""


def errors(runs: Sequence[Run]) -> Section:
    """Show the weight of TIDE's kinds of error, as bars and numbers."""
    return Section(
        "errors",
        "Errors",
        (
            Note(
                "What mAP (area) at an overlap of 0.5 would gain, if that kind of error alone were "
                "corrected (TIDE); the kinds do not add up."
            ),
            error_bars(runs),
            Chart("errors.png", "Gain of mAP by kind of error"),
            Details("Errors in numbers", (_error_table(runs),)),
        ),
    )


def error_bars(runs: Sequence[Run]) -> Bars:
    """Draw the gains as bars."""
    gains = error_gains(runs)
    values = tuple(tuple(of_run[kind] for of_run in gains) for kind in range(len(ERROR_KINDS)))
    labels = tuple(run.label for run in runs)
    return Bars(
        "Gain of mAP by kind of error, points", "points", tuple(ERROR_KINDS), values, labels
    )


def error_gains(runs: Sequence[Run]) -> list[list[float]]:
    """Return the gains (runs, kinds) in percentage points."""
    return [[100 * run.analysis.errors.delta_ap[kind] for kind in ERROR_KINDS] for run in runs]


def _error_table(runs: Sequence[Run]) -> Table:
    labels = [f", {run.label}" if len(runs) > 1 else "" for run in runs]
    columns = [Column("Error")]
    for label in labels:
        columns += [Column(f"Gain of mAP{label}", "points"), Column(f"Number{label}", "count")]
    rows = []
    for kind in (*ERROR_KINDS, "false_positive", "false_negative"):
        cells = [Cell(kind.replace("_", " "))]
        for run in runs:
            cells += [Cell(run.analysis.errors.delta_ap[kind]), Cell(_number(run, kind))]
        rows.append(tuple(cells))
    return Table("Errors, gain in percentage points", tuple(columns), tuple(rows), sortable=True)


def _number(run: Run, kind: str) -> int:
    counts = run.analysis.errors.counts
    if kind == "false_positive":
        return int(np.count_nonzero(~run.voc.true_positive & ~run.voc.ignored))
    if kind == "false_negative":
        objects = sum(score.objects for score in run.voc.per_class.values())
        return objects - int(run.voc.true_positive.sum())
    return int(counts[kind])


# ---- confusion ----------------------------------------------------------------------------------


def confusion(runs: Sequence[Run]) -> Section:
    """Show the confusion matrices side by side, and their differences to the first."""
    kept = confused(runs)
    if len(kept) > MOST_CLASSES + 1:
        text = f"The matrices of {len(kept) - 1} classes are in the JSON file."
        return Section("confusion", "Confusion", (Text(text),))
    names = tuple([*runs[0].voc.per_class, BACKGROUND][index] for index in kept)
    counts = [run.analysis.confusion[np.ix_(kept, kept)] for run in runs]
    matrices = [
        _shares(f"{run.label}, {run.shown_from}", names, matrix)
        for run, matrix in zip(runs, counts, strict=True)
    ]
    differences = [
        _difference(f"{run.label} against {runs[0].label}, points", names,
                    counts[0], matrix)
        for run, matrix in zip(runs[1:], counts[1:], strict=True)
    ]  # fmt: skip
    blocks: list[Block] = [
        Note(
            "Percent of the row: rows are the true classes, columns the detected ones. What was "
            "not detected is in the last column, what was detected where nothing is in the last "
            "row. Each run counts "
            "from the score of its best F1 over all classes"
            + (", so the thresholds differ." if len(runs) > 1 else ".")
        ),
    ]
    if len(runs) == 2:
        blocks.append(Matrices("Confusion matrices", (*matrices, *differences)))
    else:
        blocks.append(Matrices("Confusion matrices", tuple(matrices)))
        if differences:
            shown = Matrices("Differences of confusion matrices", tuple(differences))
            blocks.append(Details(f"Differences to {runs[0].label}", (shown,)))
    blocks.append(Chart("confusion.png", "Confusion matrices"))
    return Section("confusion", "Confusion", tuple(blocks))


def confused(runs: Sequence[Run]) -> list[int]:
    """Return the classes that a run has in a row or column, and the background."""
    total = sum(run.analysis.confusion for run in runs)
    used = np.asarray(total).sum(axis=0) + np.asarray(total).sum(axis=1)
    return [index for index in range(len(used)) if used[index] or index == len(used) - 1]


def shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide each count by the sum of its row; 0 in a row without any."""
    return np.asarray(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), np.float64)


def _shares(caption: str, names: tuple[str, ...], counts: NDArray[np.int64]) -> Matrix:
    part = shares(counts)
    texts = tuple(
        tuple(_percent(value, number) for value, number in zip(*row, strict=True))
        for row in zip(part.tolist(), counts.tolist(), strict=True)
    )
    return Matrix(caption, "True", names, _rows(counts), _rows(part), texts)


def _percent(share: float, number: int) -> str:
    if not number:
        return ""
    return f"{100 * share:.0f}" if share >= 0.005 else "<1"


def _difference(
    caption: str, names: tuple[str, ...], first: NDArray[np.int64], second: NDArray[np.int64]
) -> Matrix:
    change = shares(second) - shares(first)
    texts = tuple(
        tuple(f"{100 * value:+.0f}" if abs(value) >= 0.005 else "" for value in row)
        for row in change.tolist()
    )
    return Matrix(caption, "True", names, _rows(second - first), _rows(change), texts)


def _rows(values: NDArray[np.generic]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
