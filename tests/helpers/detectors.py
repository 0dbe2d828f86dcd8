"""Runs of detectors that were not trained, as `detect train` leaves them."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.runs import checkpoints
from common.storage import to_json
from detect.network.retinanet import BatchedRetinaNet, build_retinanet
from detect.recipes import Recipe, toy_retinanet

PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def small_recipe(body: str = "resnet18", **settings: Any) -> Recipe:
    """A detector of few channels for images of 64 to 96 pixels."""
    recipe = replace(toy_retinanet(), body=body)
    sizes = {"fpn_channels": 16, "train_sizes": (64,), "test_size": 64, "max_size": 96}
    return replace(recipe, detector=replace(recipe.detector, **(sizes | settings)))


def confident(network: BatchedRetinaNet) -> None:
    """Spread the scores over all of (0, 1), and the statistics of the body."""
    head = network.head
    nn.init.constant_(head.classification_head.cls_logits.bias, -2.5)
    nn.init.normal_(head.classification_head.cls_logits.weight, std=0.05)
    nn.init.normal_(head.regression_head.bbox_reg.weight, std=0.02)
    for name, value in network.backbone.body.state_dict().items():
        if ("bn" in name or "downsample.1" in name) and value.is_floating_point():
            value.uniform_(*((0.3, 0.6) if name.endswith("weight") else (0.5, 1.0)))


def write_detector_run(
    folder: Path, classes: tuple[str, ...] = ("disc", "ring"), recipe: Recipe | None = None
) -> Path:
    """Write a run of one epoch."""
    recipe = recipe or small_recipe()
    torch.manual_seed(0)
    network = build_retinanet(
        recipe.detector, recipe.body, len(classes), PIXELS["mean"], PIXELS["std"]
    )
    confident(network)
    folder.mkdir(parents=True)
    described = {"stage": "detect", "recipe": asdict(recipe), "backbone": "scratch"}
    (folder / "recipe.json").write_text(to_json(described | {"name": "toy-retinanet", "seed": 0}))
    facts = {"classes": list(classes), "pixels": PIXELS, "backbone": {"recipe_name": "scratch"}}
    (folder / "environment.json").write_text(json.dumps(facts))
    metrics = {"val_map_11point": 0.5, "val_map_area": 0.5, "val_coco_ap": 0.25}
    state = {"model": network.state_dict(), "step": 3, "epoch": 1, "metrics": metrics}
    for name in ("best", "last"):
        checkpoints.save(state, folder / f"{name}.pt")
    return folder
