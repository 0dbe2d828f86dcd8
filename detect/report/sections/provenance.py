"""How the runs were made: recipes and where they differ, environments, commands, speed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.runs.results import flatten
from detect.report.comparison import Comparison, Run
from detect.report.writers.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Dot,
    DotRow,
    Dots,
    Heading,
    Note,
    Section,
    Table,
    Text,
)

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


def provenance(comparison: Comparison) -> Section:
    """Tell how each run was made, where the runs differ, and how to read the numbers."""
    runs = comparison.runs
    return Section(
        "made",
        "How it was made",
        (
            *_other_data(runs),
            *_settings_that_differ(runs),
            *_readings(runs),
            *(_run_details(run, runs) for run in runs),
            Heading(3, "How to read the numbers"),
            *map(Text, _definitions(runs[0].voc.iou)),
        ),
    )


def _other_data(runs: Sequence[Run]) -> list[Text]:
    marks = {run.evaluation.get("data_fingerprint") for run in runs} - {None}
    text = "The data fingerprints of the runs differ: images, objects or classes were not the same."
    return [Text(text)] if len(marks) > 1 else []


def _readings(runs: Sequence[Run]) -> list[Text]:
    """List the remarks made while the detections were read."""
    return [
        Text(f"{run.label}: {line}")
        for run in runs
        for line in run.analysis_file.get("reading") or ()
        if isinstance(line, str)
    ]


def speed(runs: Sequence[Run]) -> list[Section]:
    """Tabulate latency with its spread and throughput, where a run measured them."""
    rows = [
        (
            Cell(run.label),
            *(Cell(_number(run, "latency", key)) for key in ("p50_ms", "p90_ms", "batch_size")),
            *(Cell(_number(run, "throughput", k)) for k in ("images_per_second", "batch_size")),
            Cell(_machine(run)),
        )
        for run in runs
    ]
    if all(cell.value is None for row in rows for cell in row[1:-1]):
        return []
    columns = (
        Column("Run"),
        Column("Latency, median, ms", "number"),
        Column("Latency, 90%, ms", "number"),
        Column("Batch size of latency", "count"),
        Column("Images per second", "number"),
        Column("Batch size of images per second", "count"),
        Column("On"),
    )
    blocks: list[Block] = [Note(_warning(runs)), *_latency(runs)]
    blocks.append(Table("Speed of detection", columns, tuple(rows)))
    return [Section("speed", "Speed", tuple(blocks))]


def _latency(runs: Sequence[Run]) -> list[Dots]:
    dots = []
    for index, run in enumerate(runs):
        middle, high = (_number(run, "latency", key) for key in ("p50_ms", "p90_ms"))
        if middle is not None and high is not None:
            text = f"{middle:.1f} ms, 90% under {high:.1f}"
            dots.append(DotRow(run.label, (Dot(index, middle, middle, high),), text))
    caption = "Latency of one image, ms: the median, and up to where 90% lie"
    return [Dots(caption, "ms", tuple(dots), zero=True)] if dots else []


def _warning(runs: Sequence[Run]) -> str:
    """Say what a difference of speeds is worth."""
    text = "On a shared machine these times are noise: repeat them on a quiet one before use."
    networks = {
        json.dumps([(run.evaluation.get("recipe") or {}).get(key) for key in ("body", "detector")])
        for run in runs
        if run.evaluation.get("recipe")
    }
    if len(runs) > 1 and len(networks) == 1:
        text = (
            "All runs have the same network, so differences here are those of the machine. " + text
        )
    return text


def _machine(run: Run) -> str | None:
    environment = run.evaluation.get("environment")
    value = environment.get("hardware") if isinstance(environment, Mapping) else None
    return value if isinstance(value, str) else None


def _number(run: Run, part: str, key: str) -> int | float | None:
    measured = run.evaluation.get(part)
    value = measured.get(key) if isinstance(measured, Mapping) else None
    return value if isinstance(value, int | float) else None


def _differing(part: str, runs: Sequence[Run]) -> list[str]:
    """Return the dotted keys on which the runs that have this part do not agree."""
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
    columns = (Column("Setting"), *(Column(run.label) for run in made))
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
    return Details(f"{run.label}: {run.title}", tuple(blocks))


def _settings(caption: str, settings: Mapping[str, Any], differing: Sequence[str]) -> Table:
    flat = flatten(settings)
    rows = tuple((Cell(key), Cell(_written(flat, key), key in differing)) for key in flat)
    if differing:
        caption += "; bold: differs between the runs"
    return Table(caption, (Column("Setting"), Column("Value")), rows)


def _definitions(iou: float) -> tuple[str, ...]:
    return (
        f"VOC: a detection is true if the object of its class that it overlaps most, with an "
        f"intersection over union of {iou:g} or more, is not yet taken by one with a higher score; "
        "objects marked difficult are not counted, and detections of them neither help nor harm. "
        "AP (11-point), the measure of VOC 2007, is the mean over the recalls 0, 0.1, .., 1 of the "
        "highest precision at that recall or above; AP (area), the measure since VOC 2010, is the "
        "area under the same curve; mAP is the mean over the classes that have counted objects.",
        "95% intervals over images: the middle 95% of the scores of 1,000 resamples of the test "
        "images (as many images, drawn with replacement). Resampled scores lie a little high, so "
        "the score itself need not be in the middle. A difference is taken on the same resamples "
        "for both runs. Such intervals show what other images would change, not what another seed "
        "of the training would; methods are compared over seeds.",
        "COCO: as pycocotools computes it; AP is the mean over the overlaps 0.50, 0.55, .., 0.95, "
        "AP50 and AP75 are those at 0.50 and 0.75; difficult objects are given as crowds "
        "(iscrowd), the nearest that it has: they are not counted, and absorb any number of "
        "detections. Small objects have an area "
        "of less than 32 x 32 pixels, large ones of more than 96 x 96; COCO's AP takes one of "
        "exactly that area in both sizes.",
        "Errors, by the rules of TIDE in its order: localization (overlap of 0.1 to 0.5 with an "
        "object of its class), classification (overlap of 0.5 or more with one of another class), "
        "duplicate (its object is taken), background (no overlap above 0.1), both (the rest: wrong "
        "class and too little overlap), and missed, an object that no detection would find if its "
        "class or its place were corrected.",
        "Best F1: the score from which on the detections of all classes together have the highest "
        "F1. AP values and overlaps of mAP are in percent; n/a stands for a value that is not "
        "defined, such as the threshold of a class without a hit.",
    )
