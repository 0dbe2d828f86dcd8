"""How the runs were made: recipes and where they differ, environments, commands, speed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from detect.report.comparison import Run, flatten
from detect.report.writers.blocks import Block, Cell, Code, Column, Details, Heading, Table, Text

_EVALUATION = (
    "data",
    "data_fingerprint",
    "split",
    "detections",
    "checkpoint",
    "epoch",
    "seed",
    "seconds",
    "images_per_second",
    "training",
)
_PARTS = {"recipe": "Recipe", "backbone": "Backbone file", "environment": "Environment"}


def run_settings(runs: Sequence[Run]) -> list[Block]:
    """Tells how each run was made, and where the runs differ."""
    return [
        Heading(2, "Runs"),
        *_other_data(runs),
        *_settings_that_differ(runs),
        *(_run_details(run, runs) for run in runs),
    ]


def _other_data(runs: Sequence[Run]) -> list[Text]:
    marks = {run.evaluation.get("data_fingerprint") for run in runs} - {None}
    told = "The data fingerprints of the runs differ: images, objects or classes were not the same."
    return [Text(told)] if len(marks) > 1 else []


def speed(runs: Sequence[Run]) -> list[Block]:
    """Tables latency and throughput where a run measured them."""
    rows = [
        (
            Cell(run.title),
            *(Cell(_number(run, "latency", key)) for key in ("p50_ms", "p90_ms", "batch_size")),
            *(Cell(_number(run, "throughput", k)) for k in ("images_per_second", "batch_size")),
        )
        for run in runs
    ]
    if all(cell.value is None for row in rows for cell in row[1:]):
        return []
    columns = (
        Column("Run"),
        Column("Latency, median, ms", "number"),
        Column("Latency, 90%, ms", "number"),
        Column("Batch size of latency", "count"),
        Column("Images per second", "number"),
        Column("Batch size of images per second", "count"),
    )
    return [Table("Speed of detection", columns, tuple(rows))]


def _number(run: Run, part: str, key: str) -> int | float | None:
    measured = run.evaluation.get(part)
    value = measured.get(key) if isinstance(measured, Mapping) else None
    return value if isinstance(value, int | float) else None


def _differing(part: str, runs: Sequence[Run]) -> list[str]:
    """The dotted keys on which the runs that have this part do not agree."""
    flat = [flatten(run.evaluation[part]) for run in runs if run.evaluation.get(part)]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [key for key in keys if len({_written(settings, key) for settings in flat}) > 1]


def _written(settings: Mapping[str, object], key: str) -> str:
    if key not in settings:
        return "not set"
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _settings_that_differ(runs: Sequence[Run]) -> list[Block]:
    made = [run for run in runs if run.evaluation.get("recipe")]
    if len(made) < 2:
        return []
    keys = _differing("recipe", made)
    if not keys:
        return [Text("The recipes of the runs are the same.")]
    flat = [flatten(run.evaluation["recipe"]) for run in made]
    rows = [(Cell(key), *(Cell(_written(settings, key)) for settings in flat)) for key in keys]
    columns = (Column("Setting"), *(Column(run.title) for run in made))
    return [Table("What differs between the recipes", columns, tuple(rows))]


def _run_details(run: Run, runs: Sequence[Run]) -> Details:
    evaluation = {key: run.evaluation[key] for key in _EVALUATION if key in run.evaluation}
    blocks: list[Block] = [_settings("Evaluation", evaluation, ())]
    for part, caption in _PARTS.items():
        if run.evaluation.get(part):
            blocks.append(_settings(caption, run.evaluation[part], _differing(part, runs)))
        else:
            blocks.append(Text(f"{caption}: not recorded."))
    if run.evaluation.get("command"):
        command = str(run.evaluation["command"])
        blocks += [Text("The command that wrote this evaluation:"), Code(command)]
    environment = run.evaluation.get("environment")
    if isinstance(environment, Mapping) and environment.get("command"):
        blocks += [Text("The command that trained:"), Code(str(environment["command"]))]
    return Details(run.title, tuple(blocks))


def _settings(caption: str, settings: Mapping[str, Any], differing: Sequence[str]) -> Table:
    flat = flatten(settings)
    rows = tuple((Cell(key), Cell(_written(flat, key), key in differing)) for key in flat)
    if differing:
        caption += "; bold: differs between the runs"
    return Table(caption, (Column("Setting"), Column("Value")), rows)
