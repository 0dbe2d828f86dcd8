"""What can be done with a finished run: evaluate it, export its backbone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import checkpoints, distributed
from common.backbones import ARCHITECTURES, preprocessing, save_backbone, save_detectron2
from common.checkpoints import write_atomically
from common.errors import InputError
from common.loading import default_workers
from common.progress import read_metrics
from common.run_folder import read_json, to_json
from common.settings import from_json
from pretrain.networks import build_network
from pretrain.recipes import Recipe
from pretrain.task import evaluate, open_split, pixel_statistics


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with a checkpoint."""

    name: str
    seed: int
    recipe: Recipe
    environment: dict[str, Any]
    state: dict[str, Any]
    checkpoint: str


def open_run(folder: Path, checkpoint: str) -> FinishedRun:
    """Read a run folder.

    Args:
        folder: As `python -m pretrain train` wrote it.
        checkpoint: "best" or "last".

    Raises:
        InputError: If the folder holds no such run or checkpoint.
    """
    description = read_json(folder / "recipe.json")
    if description.get("stage") != "pretrain":
        raise InputError(f"{folder} is no run of `python -m pretrain train`")
    try:
        recipe = from_json(Recipe, description["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'recipe.json'} does not fit this version: {error}") from error
    state = checkpoints.load(folder / f"{checkpoint}.pt")
    environment = read_json(folder / "environment.json")
    return FinishedRun(
        description["name"], description["seed"], recipe, environment, state, checkpoint
    )


def _build(run: FinishedRun) -> nn.Module:
    network = build_network(run.recipe.network, len(run.environment["classes"]), run.recipe.stem)
    network.load_state_dict(run.state["model"])
    return network


def evaluate_run(
    folder: Path, data: Path, checkpoint: str, device: str, workers: int | None
) -> dict[str, Any]:
    """Score a run on the validation images and write `evaluation.json` into its folder.

    Raises:
        InputError: If the run or the data cannot be read, or has other classes.
    """
    run = open_run(folder, checkpoint)
    with distributed.start(device) as world:
        split = open_split(
            run.recipe,
            data,
            "val",
            training=False,
            seed=run.seed,
            workers=default_workers() if workers is None else workers,
            device=world.device,
        )
        if list(split.classes) != run.environment["classes"]:
            raise InputError(f"{data} has other classes than the run {folder} was trained on")
        network = _build(run).to(world.device).eval()
        if run.recipe.optimization.channels_last:
            network.to(memory_format=torch.channels_last)
        result: dict[str, Any] = {
            "run": str(folder),
            "checkpoint": checkpoint,
            "epoch": run.state["epoch"],
            "images": split.num_images,
            **evaluate(network, split, run.recipe, world),
        }
        if world.is_main:
            content = to_json(result).encode()
            write_atomically(folder / "evaluation.json", lambda file: file.write(content))
    return result


def export_run(folder: Path, layout: str, out: Path, checkpoint: str) -> dict[str, Any]:
    """Write the backbone of a run, with its card.

    Args:
        folder: The run.
        layout: "torchvision", "timm", "mmdet" (the same keys) or "detectron2".
        out: Target: .safetensors, or .pkl for detectron2.
        checkpoint: "best" or "last".

    Returns:
        The card.

    Raises:
        InputError: If the run is not of a torchvision ResNet, or the name ends wrongly.
    """
    run = open_run(folder, checkpoint)
    if run.recipe.network not in ARCHITECTURES:
        raise InputError(
            f"{folder} holds a {run.recipe.network}, which no detector builds on: "
            f"export one of {', '.join(ARCHITECTURES)}"
        )
    mean, std = pixel_statistics(run.recipe)
    epochs = read_metrics(folder)
    card = {
        "architecture": run.recipe.network,
        "layout": layout,
        "stem": run.recipe.stem,
        "recipe_name": run.name,
        "recipe": read_json(folder / "recipe.json")["recipe"],
        "seed": run.seed,
        "checkpoint": checkpoint,
        "epoch": run.state["epoch"],
        "metrics": run.state["metrics"],
        "last_metrics": epochs[-1] if epochs else {},
        "dataset": run.recipe.images.dataset,
        "train_images": run.environment["train_images"],
        "classes": run.environment["classes"],
        "preprocessing": preprocessing(run.recipe.images.size, mean, std),
        "focused_dropout": run.environment["focused-dropout"],
        "torch": run.environment["torch"],
        "commit": run.environment["commit"],
    }
    write = save_detectron2 if layout == "detectron2" else save_backbone
    write(run.state["model"], card, out)
    return card
