"""What can be done with a finished run: evaluate it, export its backbone."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import distributed
from common.backbones import ARCHITECTURES, preprocessing, save_backbone, save_detectron2
from common.errors import InputError
from common.files import write_atomically
from common.finished_run import FinishedRun, open_run
from common.loading import default_workers
from common.progress import read_metrics
from common.run_folder import to_json
from pretrain.networks import build_network
from pretrain.recipes import Recipe
from pretrain.task import evaluate, open_split, pixel_statistics


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

    Raises:
        InputError: If the run or the data cannot be read, or has other classes.
    """
    run = open_run(folder, "pretrain", Recipe, checkpoint)
    with distributed.start(device) as world:
        split = open_split(
            run.recipe,
            data,
            "val",
            training=False,
            seed=run.seed,
            workers=default_workers() if workers is None else workers,
            device=world.device,
            cache=folder.resolve().parent,
        )
        if list(split.classes) != run.fact("classes"):
            raise InputError(f"{data} has other classes than the run {folder} was trained on")
        network = build_classifier(run).to(world.device).eval()
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
    run = open_run(folder, "pretrain", Recipe, checkpoint)
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
        "recipe": asdict(run.recipe),
        "seed": run.seed,
        "checkpoint": checkpoint,
        "epoch": run.state["epoch"],
        "metrics": run.state["metrics"],
        "last_metrics": epochs[-1] if epochs else {},
        "dataset": run.recipe.images.dataset,
        "train_images": run.fact("train_images"),
        "classes": run.fact("classes"),
        "preprocessing": preprocessing(run.recipe.images.size, mean, std),
        "focused_dropout": run.fact("focused-dropout"),
        "torch": run.fact("torch"),
        "commit": run.fact("commit"),
    }
    write = save_detectron2 if layout == "detectron2" else save_backbone
    write(run.state["model"], card, out)
    return card
