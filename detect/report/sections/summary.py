"""The first screen: a sentence, dots with intervals, three pictures; the runs by their names."""

import math
from collections.abc import Sequence

from common.runs.over_seeds import Difference
from detect.report.comparison import Comparison, difference
from detect.report.sections.photographs import legend
from detect.report.sections.tables import by_size, scores
from detect.report.verdicts import arms_of, over_seeds, verdict
from detect.report.writers.blocks import (
    Block,
    Cell,
    Chart,
    Column,
    Details,
    Dot,
    DotRow,
    Dots,
    Drawing,
    Drawings,
    Lead,
    Note,
    Pair,
    Section,
    Table,
    Text,
)
from detect.scoring.bootstrap import Interval


def summary(comparison: Comparison, pictures: Sequence[Drawing]) -> Section:
    """Tell what a reader must know."""
    found = verdict(comparison)
    blocks: list[Block] = [Lead(found.sentence)]
    blocks += [Text(f"{found.basis} {found.deciding}".strip())] if found.basis else []
    blocks += [
        Pair(tuple(map_dots(comparison))),
        Chart("map.png", "mAP of all runs with intervals"),
    ]
    if pictures:
        blocks.append(legend(comparison))
        blocks.append(Drawings("row", "Three images", tuple(pictures)))
        blocks += [
            Chart(f"picture-{number}.jpg", f"{picture.name}. {picture.note}")
            for number, picture in enumerate(pictures, start=1)
        ]
    blocks += [_names(comparison), Details("Scores in numbers", tuple(_numbers(comparison)))]
    return Section("summary", "Summary", tuple(blocks))


def map_dots(comparison: Comparison) -> list[Dots]:
    """Return the mAP of all runs and their differences to the first, with intervals over images."""
    key, kind = f"map_{comparison.kind}", comparison.kind
    measure = {"11point": "mAP (11-point)", "area": "mAP (area)"}[kind]
    rows = [
        _row(run.label, index, run.intervals[key], "percent")
        for index, run in enumerate(comparison.runs)
    ]
    caption = f"{measure}, percent; lines: 95% intervals over images"
    plots = [Dots(caption, "percent", tuple(rows))]
    over = over_seeds(comparison)
    if over:
        plots.append(_by_seed(comparison, over, key))
    elif len(comparison.runs) > 1:
        first = comparison.runs[0]
        several = len(comparison.runs) > 2
        rows = [
            _row(
                run.label if several else f"{run.label} against {first.label}",
                index,
                difference(first, run)[key],
                "points",
            )
            for index, run in enumerate(comparison.runs[1:], start=1)
        ]
        caption = f"Difference to {first.label}, points; bold: the interval leaves out 0"
        plots.append(Dots(caption, "points", tuple(rows), zero=True))
    return plots


def _by_seed(comparison: Comparison, over: Difference, key: str) -> Dots:
    """Return the differences of two methods: of the runs of each seed, and their mean."""
    first, second = arms_of(comparison)
    of_first = {run.seed: run for run in comparison.runs if run.arm == first}
    pairs = [
        (index, of_first[run.seed], run)
        for index, run in enumerate(comparison.runs)
        if run.arm == second and run.seed in of_first
    ]
    rows = [
        _row(f"seed {run.seed}", index, difference(before, run)[key], "points")
        for index, before, run in pairs
    ]
    assert over.low is not None
    assert over.high is not None
    rows.append(
        _row(
            f"mean of {over.n} seeds",
            pairs[0][0],
            Interval(over.mean, over.low, over.high),
            "points",
        )
    )
    caption = (
        f"{second} against {first}, points; lines: 95% intervals, of a seed over images, of the "
        "mean over seeds; bold: leaves out 0"
    )
    return Dots(caption, "points", tuple(rows), zero=True)


def _row(name: str, run: int, interval: Interval, kind: str) -> DotRow:
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return DotRow(
        name,
        (Dot(run, value, low, high),),
        interval_text(interval, kind),
        kind == "points" and interval.decided,
    )


def interval_text(interval: Interval, kind: str) -> str:
    """Write a value and its ends: "45.2 [40.1, 49.9]"."""
    if math.isnan(interval.value):
        return "n/a"
    sign = "+" if kind == "points" else ""
    value, low, high = (
        f"{100 * x:{sign}.1f}" for x in (interval.value, interval.low, interval.high)
    )
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def _names(comparison: Comparison) -> Table:
    """Say the short names in full, once."""
    rows = []
    for run in comparison.runs:
        epoch, seed = run.evaluation.get("epoch"), run.seed
        made = [
            *([] if seed is None else [f"seed {seed}"]),
            *([] if epoch is None else [f"epoch {epoch}"]),
            *([] if not run.evaluation.get("checkpoint") else [
                f"{run.evaluation['checkpoint']} checkpoint"
            ]),
        ]  # fmt: skip
        rows.append((Cell(run.label), Cell(run.title), Cell(", ".join(made) or "not recorded")))
    columns = (Column("Here"), Column("In full"), Column("Trained with"))
    return Table("The runs", columns, tuple(rows))


def _numbers(comparison: Comparison) -> list[Block]:
    difficult = int(comparison.truth.difficult.sum())
    counted = len(comparison.truth.difficult) - difficult
    without = len(comparison.truth.classes) - len(comparison.classes)
    text = (
        f"{len(comparison.pictures)} images with {counted} objects in {len(comparison.classes)} "
        f"classes, and {difficult} more marked difficult, which are not counted."
    )
    if without:
        text += f" {without} more classes of the data have no counted object here and are left out."
    return [Note(text), *scores(comparison), by_size(comparison)]
