"""`python -m pretrain train`: from a recipe and a data folder to a trained classifier."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from common.command.flags import RunFlags
from common.errors import InputError
from common.method.controls import InParticipatingSteps
from common.method.dropout import FocusedDropout
from common.optimization.optimizer import compile_network, place_focused_dropout
from common.processes.ranks import World
from common.text import in_line
from common.training import launch
from common.training.loop import Task
from pretrain.data.report import report
from pretrain.data.splits import Split, data_parts, open_split
from pretrain.networks import build_network
from pretrain.networks.dropouts import place_dropouts, set_progress
from pretrain.recipes import Recipe
from pretrain.task import classification_loss, evaluate


def run(name: str, recipe: Recipe, flags: RunFlags) -> dict[str, float]:
    """Train a recipe.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data or arguments are wrong.
    """
    return launch.run(
        name,
        flags,
        {"stage": "pretrain", "recipe": recipe},
        recipe.optimization,
        recipe.focus,
        partial(_build, recipe, flags),
    )


def _build(recipe: Recipe, flags: RunFlags, world: World) -> tuple[Task, Mapping[str, Any]]:
    scored = "held-out" if recipe.images.held_out else "val"
    train, val = (_open(recipe, flags, split, world) for split in ("train", scored))
    if val.classes != train.classes:
        raise InputError(f"{flags.data}: train and val do not have the same classes")
    if len(train.classes) < 2:
        raise InputError(
            f"{flags.data} holds images of one class only, {in_line(train.classes[0])}: there is "
            "nothing to tell apart; put each class into a folder of its own"
        )
    if world.is_main:
        report(recipe.images, train, val)
    torch.manual_seed(flags.seed)
    network, at_step = build_model(recipe, len(train.classes))
    _try_dropouts(network, recipe)
    network.to(world.device)
    if recipe.optimization.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.optimization.compile:
        compile_network(network)
    # Ranks start from the same weights and draw their own gammas.
    torch.manual_seed(flags.seed * 1000 + world.rank)
    task = Task(
        model=network,
        num_images=train.num_images,
        data=data_parts(train, val),
        load=train.load,
        loss=classification_loss(recipe, train.finish),
        evaluate=partial(
            evaluate,
            split=val,
            recipe=recipe,
            world=world,
            limit=2 * recipe.optimization.batch_size if flags.dry_run else None,
        ),
        metric="val_accuracy",
        compile=compile_network if recipe.optimization.compile else None,
        at_step=at_step,
        balanced_over=train.images.labels.tolist()
        if recipe.images.sampling == "balanced" and train.images
        else None,
    )
    facts = {
        "data": str(flags.data.resolve() if flags.data.exists() else flags.data),  # or a URL
        "source": train.source
        if val.source == train.source
        else f"{train.source}, scored on {val.source}",
        "train_images": train.num_images,
        "val_images": val.num_images,
        "classes": list(train.classes),
    }
    return task, facts


def build_model(
    recipe: Recipe, num_classes: int
) -> tuple[nn.Module, Callable[[float], None] | None]:
    """Build a recipe's network with its dropouts.

    Returns:
        The network, and what is to be called before each step with the share of the training done.

    Raises:
        InputError: If the recipe names a place that the network does not have.
    """
    network = build_network(recipe.network, num_classes, recipe.stem, recipe.block)
    place_focused_dropout(network, recipe.focus)
    dropouts = place_dropouts(network, recipe.dropout)
    scheduled = recipe.dropout.kind == "dropblock" and recipe.dropout.linear
    return network, partial(set_progress, dropouts, recipe.dropout) if scheduled else None


def _try_dropouts(network: nn.Module, recipe: Recipe) -> None:
    """Send one image through a copy with the layers on: a bad place shows now, not at step 13."""
    copy = deepcopy(network)
    for module in copy.modules():
        if isinstance(module, FocusedDropout | InParticipatingSteps):
            module.active = True
    focused, others = recipe.focus.after, " ".join(recipe.dropout.after)
    given = f"--focus.after {focused} " * bool(focused) + f"--dropout.after {others} " * bool(
        others
    )
    try:
        with torch.no_grad():
            copy(torch.zeros(2, 3, recipe.images.size, recipe.images.size))
    except (TypeError, ValueError) as error:
        if given:
            raise InputError(f"{given.strip()}: {error}") from error
        raise


def _open(recipe: Recipe, flags: RunFlags, split: str, world: World) -> Split:
    return open_split(
        recipe.images,
        flags.data,
        split,
        launch.reading(flags, world),
        training=split == "train",
        seed=flags.seed,
        cache=None if flags.dry_run else flags.out.resolve().parent,
        limit=flags.limit_images,
    )
