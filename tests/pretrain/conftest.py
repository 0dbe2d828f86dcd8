"""What tests of this stage share: class folders; runs with weights that were not trained."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from common.runs import checkpoints
from common.storage import to_json
from pretrain.networks import build_network
from pretrain.recipes import RECIPES


def write_run(
    folder: Path,
    name: str,
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    *,
    held_out: int = 0,
    **changes: Any,
) -> Path:
    """Write a run of two epochs; `changes` are fields of the recipe."""
    recipe = RECIPES[name]()
    small = replace(recipe.optimization, epochs=2, milestones=())
    images = replace(recipe.images, held_out=held_out)
    recipe = replace(recipe, optimization=small, images=images, **changes)
    network = build_network(recipe.network, len(classes), recipe.stem, recipe.block)
    for key, buffer in network.named_buffers():  # statistics that are not the initial ones
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        if key.endswith("running_mean"):
            buffer.normal_(std=0.1)
    folder.mkdir(parents=True)
    description = {"stage": "pretrain", "name": name, "seed": 4, "recipe": asdict(recipe)}
    (folder / "recipe.json").write_text(to_json(description))
    environment = {
        "commit": "0123456789ab",
        "torch": "2.15.0",
        "focused-dropout": "0.1.0",
        "hardware": "a processor | 2 cores",
        "classes": classes,
        "train_images": 80,
        "val_images": 20,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    log = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "val_accuracy": accuracy,
            "val_top5": 0.9,
            "val_loss": 1.5,
        }
        for epoch, accuracy in ((1, 0.75), (2, 0.5))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    metrics = {"val_loss": 1.5, "val_accuracy": 0.75, "val_top5": 0.9}
    state = {"model": network.state_dict(), "step": 10, "epoch": 1, "metrics": metrics}
    checkpoints.save(state, folder / "best.pt")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1).state_dict()
    checkpoints.save(state | {"step": 20, "epoch": 2, "optimizer": optimizer}, folder / "last.pt")
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw two classes that differ in colour, 12 and 5 images of each; copy what you change."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 80, (40, 36, 3), dtype=np.uint8)
                pixels[..., label] += 150
                cv2.imwrite(str(root / split / name / f"{number}.jpg"), pixels)
    return root


@pytest.fixture(scope="session")
def drawn_run() -> Callable[..., Path]:
    """Return `write_run`."""
    return write_run
