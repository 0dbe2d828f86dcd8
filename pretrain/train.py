"""`python -m pretrain train`: from a recipe and a data folder to a trained classifier."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from common import job
from common.distributed import World
from common.dropout import FocusedDropout
from common.errors import InputError
from common.flags import RunFlags
from common.loading import default_workers
from common.optimization import place_focused_dropout
from common.train_loop import Stage
from pretrain.networks import build_network
from pretrain.recipes import Recipe
from pretrain.task import Split, classification_loss, evaluate, open_split


def run(name: str, recipe: Recipe, flags: RunFlags) -> dict[str, float]:
    """Train a recipe.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data or arguments are wrong.
    """
    return job.run(
        name,
        flags,
        {"stage": "pretrain", "recipe": asdict(recipe)},
        recipe.optimization,
        recipe.focus,
        partial(_build, recipe, flags),
    )


def _build(recipe: Recipe, flags: RunFlags, world: World) -> tuple[Stage, Mapping[str, Any]]:
    train, val = (_open(recipe, flags, split, world) for split in ("train", "val"))
    if val.classes != train.classes:
        raise InputError(f"{flags.data}: train and val do not have the same classes")
    torch.manual_seed(flags.seed)
    network = build_network(recipe.network, len(train.classes), recipe.stem)
    place_focused_dropout(network, recipe.focus)
    _try_focused_dropout(network, recipe)
    network.to(world.device)
    if recipe.optimization.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.optimization.compile:
        network.compile()
    # Ranks start from the same weights and draw their own gammas.
    torch.manual_seed(flags.seed * 1000 + world.rank)
    stage = Stage(
        model=network,
        num_images=train.num_images,
        load=train.load,
        loss=classification_loss(recipe),
        evaluate=partial(
            evaluate,
            split=val,
            recipe=recipe,
            world=world,
            limit=2 * recipe.optimization.batch_size if flags.dry_run else None,
        ),
        metric="val_accuracy",
    )
    facts = {
        "data": str(flags.data.resolve()),
        "train_images": train.num_images,
        "val_images": val.num_images,
        "classes": list(train.classes),
    }
    return stage, facts


def _try_focused_dropout(network: nn.Module, recipe: Recipe) -> None:
    """Send one image through a copy with the layer on: a bad place shows now, not at step 13."""
    copy = deepcopy(network)
    layers = [module for module in copy.modules() if isinstance(module, FocusedDropout)]
    for layer in layers:
        layer.active = True
    try:
        with torch.no_grad():
            copy(torch.zeros(2, 3, recipe.images.size, recipe.images.size))
    except (TypeError, ValueError) as error:
        if layers:
            raise InputError(f"--focus.after {recipe.focus.after}: {error}") from error
        raise


def _open(recipe: Recipe, flags: RunFlags, split: str, world: World) -> Split:
    return open_split(
        recipe,
        flags.data,
        split,
        training=split == "train",
        seed=flags.seed,
        workers=default_workers() if flags.workers is None else flags.workers,
        device=world.device,
    )
