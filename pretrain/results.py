"""Finished runs as rows of a table, and what can be said over several seeds."""

import csv
import fcntl
import io
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.progress import read_metrics
from common.run_folder import read_description, read_json
from pretrain.recipes import RECIPES, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A finished run. Accuracies are shares of the images scored, losses means over images."""

    recipe: str
    changes: str
    """What differs from the recipe of that name."""
    data: str
    train_images: int
    scored_images: int
    held_out: int
    """Training images kept back; they were scored after each epoch, where there are any."""
    seed: int
    epochs: int
    started: str
    commit: str | None
    hardware: str
    torch: str
    seconds: float
    """Of training, without evaluations."""
    best_accuracy: float
    best_epoch: int
    last_accuracy: float
    last_top5: float
    last_loss: float
    train_accuracy: float
    train_loss: float
    keep_ratio: float | None
    """Mean over the epochs, of the participating steps."""
    participating_steps: int | None
    test_accuracy: float | None
    """Of the test images, scored once with the weights of the best epoch on the held-out ones."""


def row_of(folder: Path) -> Row | None:
    """Read a run folder; None if the run is not finished.

    Raises:
        InputError: If the folder holds something else than a run of this stage.
    """
    if not (folder / "recipe.json").exists():
        return None
    name, seed, recipe = read_description(folder, "pretrain", Recipe)
    epochs = read_metrics(folder)
    if not epochs or epochs[-1]["epoch"] < recipe.optimization.epochs:
        return None
    last = epochs[-1]
    best = max((e for e in epochs if "val_accuracy" in e), key=lambda e: e["val_accuracy"])
    kept = [e["focus_keep_ratio"] for e in epochs if e.get("focus_keep_ratio") is not None]
    steps = [e["focus_participating_steps"] for e in epochs if "focus_participating_steps" in e]
    environment = read_json(folder / "environment.json")
    test = None
    if recipe.images.held_out:
        if not (folder / "evaluation.json").exists():
            return None
        test = read_json(folder / "evaluation.json")["val_accuracy"]
    return Row(
        recipe=name,
        changes=describe_changes(name, recipe),
        data=f"{recipe.images.dataset} ({environment['source']})",
        train_images=environment["train_images"],
        scored_images=environment["val_images"],
        held_out=recipe.images.held_out,
        seed=seed,
        epochs=recipe.optimization.epochs,
        started=environment["started"],
        commit=environment["commit"],
        hardware=environment["hardware"],
        torch=environment["torch"],
        seconds=round(sum(e["seconds"] for e in epochs), 1),
        best_accuracy=best["val_accuracy"],
        best_epoch=best["epoch"],
        last_accuracy=last["val_accuracy"],
        last_top5=last["val_top5"],
        last_loss=last["val_loss"],
        train_accuracy=last["train_accuracy"],
        train_loss=last["train_loss"],
        keep_ratio=statistics.fmean(kept) if kept else None,
        participating_steps=sum(steps) if steps else None,
        test_accuracy=test,
    )


def changes(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return the fields in which a recipe differs from the one called `name`."""
    before, now = flat(asdict(RECIPES[name]())), flat(asdict(recipe))
    return {key: value for key, value in now.items() if value != before[key]}


def describe_changes(name: str, recipe: Recipe) -> str:
    """Name the changes in a line, as `field=value field=value,value`."""
    return " ".join(f"{key}={_plain(value)}" for key, value in changes(name, recipe).items())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every field of nested dictionaries one dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def append_rows(path: Path, rows: Iterable[Row]) -> int:
    """Append the runs that a CSV file does not hold yet; made if it is not there.

    Several processes may append at once.

    Returns:
        How many were new.

    Raises:
        InputError: If the file has other columns.
    """
    columns = [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        reader = csv.DictReader(file)
        if reader.fieldnames not in (None, columns):
            raise InputError(f"{path} has other columns than this version writes: move it away")
        key = ("recipe", "changes", "data", "seed", "started")
        known = {tuple(line[name] for name in key) for line in reader}
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        new = [row for row in rows if tuple(str(getattr(row, name)) for name in key) not in known]
        writer.writerows(asdict(row) for row in new)
        file.write(text.getvalue())  # in one piece
    return len(new)


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), which needs two values."""
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over pairs of runs of the same seed, with its 95% interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Compare two arms over the seeds that both have; None if there is none.

    The interval is Student's, for the mean of the differences: mean +- t(n - 1) * deviation /
    sqrt(n). It needs two pairs.

    Args:
        ours: Value of each seed.
        theirs: Value of each seed, subtracted.
    """
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    mean, deviation = mean_and_deviation(differences)
    if deviation is None:
        return Difference(mean, None, None, 1)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(differences) - 1)) * deviation / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half, len(differences))
