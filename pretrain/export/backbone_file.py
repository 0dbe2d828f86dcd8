"""Exporting a finished run: the backbone file, its card in JSON, its model card in markdown."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.runs.certificate import certified
from common.runs.finished import FinishedRun, open_run
from common.runs.metrics_log import read_metrics
from common.storage import read_json, write_text
from common.weights.backbone import (
    check_card_is_free,
    preprocessing,
    save_backbone,
    write_backbone,
)
from common.weights.layouts import check_ending
from common.weights.resnets import TORCHVISION
from pretrain.evaluate import build_classifier
from pretrain.export import consumers
from pretrain.export.model_card import check_markdown, markdown_path, model_card, same_recipe
from pretrain.export.onnx import INPUT, OPSET, OUTPUT, onnx_bytes
from pretrain.recipes import RECIPES, Recipe
from pretrain.results import describe_changes
from pretrain.task import pixel_statistics


def export_run(
    folder: Path, layout: str, out: Path, checkpoint: str, results: Path | None = None
) -> dict[str, Any]:
    """Write the backbone of a run, with both cards.

    Args:
        folder: The run.
        layout: "torchvision", "timm", "detectron2", "mmdet" or "onnx".
        out: Target, with an ending that the layout has.
        checkpoint: "best" or "last".
        results: A CSV file of finished runs; those of the same recipe give the error bars.

    Returns:
        The card.

    Raises:
        InputError: If the network has no such layout, the name ends wrongly, or `results` has no
            run of the recipe.
    """
    check_ending(out, layout)
    check_markdown(markdown_path(out))
    check_card_is_free(out)
    run = open_run(folder, "pretrain", Recipe, checkpoint)
    if run.recipe.network not in TORCHVISION and layout not in ("torchvision", "onnx"):
        raise InputError(
            f"{folder} holds a {run.recipe.network}, which {layout} has no class for: take "
            "--format torchvision (its own keys, for pretrain.networks) or onnx"
        )
    card = _card(run, layout, checkpoint)
    card["use"] = consumers.settings(card, Path(out.name))
    rows = same_recipe(results, card) if results else []
    if layout == "onnx":
        card["onnx"] = {"opset": OPSET, "input": INPUT, "output": OUTPUT, "batch": "any"}
        content = onnx_bytes(build_classifier(run), run.recipe.images.size)
        card = write_backbone(content, card, out)
    else:
        card = save_backbone(run.state["model"], card, out, layout)  # type: ignore[arg-type]
    names = consumers.class_map(card) if layout == "timm" else None
    if names is not None:
        write_text(consumers.class_map_path(out), names)
    text = model_card(card, rows)
    write_text(markdown_path(out), text)
    return card


def _card(run: FinishedRun[Recipe], layout: str, checkpoint: str) -> dict[str, Any]:
    recipe = run.recipe
    mean, std = pixel_statistics(recipe)
    epochs = read_metrics(run.folder)
    return {
        "architecture": recipe.network,
        "layout": layout,
        "stem": recipe.stem,
        "block": recipe.block,
        "recipe_name": run.name,
        "changes": describe_changes(run.name, recipe) if run.name in RECIPES else None,
        "recipe": asdict(recipe),
        "seed": run.seed,
        "checkpoint": checkpoint,
        "epoch": run.state["epoch"],
        "metrics": run.state["metrics"],
        "last_metrics": epochs[-1] if epochs else {},
        "test_metrics": _test_metrics(run, checkpoint),
        "dataset": recipe.images.dataset,
        "train_images": run.fact("train_images"),
        "scored_images": run.environment.get("val_images"),
        "classes": run.fact("classes"),
        "preprocessing": preprocessing(recipe.images.size, mean, std),
        "focused_dropout": run.fact("focused-dropout"),
        "torch": run.fact("torch"),
        "hardware": run.environment.get("hardware"),
        "commit": run.fact("commit"),
        "certificate": certified(run.folder, run.state.get("step", 0), run.state["model"]),
    }


def _test_metrics(run: FinishedRun[Recipe], checkpoint: str) -> Mapping[str, Any] | None:
    """Return what `evaluate` found for these weights; None if it has not scored them."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        return None
    found = read_json(path)
    if (found.get("checkpoint"), found.get("epoch")) != (checkpoint, run.state["epoch"]):
        return None
    return {k: v for k, v in found.items() if k == "images" or k.startswith("val_")}
