"""Finished runs of this stage as rows of a table."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.runs import results
from common.runs.folder import read_description
from common.runs.metrics_log import read_metrics
from common.storage import read_json
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
        InputError: If the folder holds anything but a run of this stage.
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
        scored_images=environment["val_images"],
        held_out=recipe.images.held_out,
        seed=seed,
        epochs=recipe.optimization.epochs,
        best_accuracy=best["val_accuracy"],
        best_epoch=best["epoch"],
        last_accuracy=last["val_accuracy"],
        last_top5=last["val_top5"],
        last_loss=last["val_loss"],
        train_accuracy=last["train_accuracy"],
        train_loss=last["train_loss"],
        keep_ratio=statistics.fmean(kept) if kept else None,
        test_accuracy=test,
        **results.facts(environment, epochs),
    )


def changes(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return the fields in which a recipe differs from the one called `name`."""
    return results.changes(RECIPES[name](), recipe)


def describe_changes(name: str, recipe: Recipe) -> str:
    """Name the changes in one line, as `field=value field=value,value`."""
    return results.describe_changes(RECIPES[name](), recipe)
