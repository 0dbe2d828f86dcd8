"""Rebuilding and scoring the classifier of a finished run."""

import sys
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import InputError
from common.images.loading import Reading, default_workers
from common.processes import ranks
from common.runs.finished import FinishedRun, open_run
from common.storage import write_json
from common.text import say
from common.training.network import move_network
from pretrain.data.datasets import has_validation
from pretrain.data.report import scored_on
from pretrain.data.splits import open_split
from pretrain.networks import build_network
from pretrain.recipes import Recipe
from pretrain.task import evaluate


def build_classifier(run: FinishedRun[Recipe]) -> nn.Module:
    """Rebuild the network of a run, on the CPU, without its dropouts.

    Raises:
        InputError: If the weights do not fit.
    """
    recipe = run.recipe
    network = build_network(recipe.network, len(run.fact("classes")), recipe.stem, recipe.block)
    run.load_into(network)
    return network


def evaluate_run(
    folder: Path, data: Path, checkpoint: str, device: str, workers: int | None
) -> dict[str, Any]:
    """Score a run on the validation images and write `evaluation.json` into its folder.

    Args:
        folder: The run.
        data: Folder of the data set.
        checkpoint: "best" or "last".
        device: As in training.
        workers: Processes that read images; None: as many as cores.

    Returns:
        What was scored (run, checkpoint, epoch, number of images), and the metrics of
        `pretrain.task.evaluate`.

    Raises:
        InputError: If the run or the data cannot be read, or has other classes.
    """
    run = open_run(folder, "pretrain", Recipe, checkpoint)
    with ranks.start(device) as world:
        reading = Reading(
            workers=default_workers() if workers is None else workers, device=world.device
        )
        split = open_split(
            run.recipe.images,
            data,
            "val",
            reading,
            training=False,
            seed=run.seed,
            cache=folder.resolve(),
        )
        if list(split.classes) != run.fact("classes"):
            raise InputError(
                f"{data} has other classes than the run {folder} was trained on: give its data"
            )
        if world.is_main:  # standard output is for the result alone
            images = run.recipe.images
            split_off = images.split_by is not None and not has_validation(images.dataset, data)
            say(scored_on(images, split, split_off=split_off), sys.stderr)
        network = build_classifier(run).eval()
        move_network(network, run.recipe.optimization, world.device)
        result: dict[str, Any] = {
            "run": str(folder),
            "checkpoint": checkpoint,
            "epoch": run.state["epoch"],
            "images": split.num_images,
            **evaluate(network, split, run.recipe, world),
        }
        if world.is_main:
            write_json(folder / "evaluation.json", result)
    return result
