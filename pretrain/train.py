"""`python -m pretrain train`: from a recipe and a data folder to a trained classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from common.command.flags import RunFlags
from common.errors import InputError
from common.processes import launcher
from common.processes.ranks import World
from common.runs import ending
from common.storage import read_json
from common.text import in_line, say
from common.training import batch_size, launch
from common.training.network import insert_layer, prepare, takes_single_images, try_layers
from common.training.task import Metrics, Task, Watch
from common.weights.initial import describe_origin, initial_unless_resumed, load_initial
from pretrain.data.report import report, why_one_class
from pretrain.data.splits import Split, data_parts, open_split
from pretrain.networks import build_network
from pretrain.networks.dropouts import place_dropouts, set_progress
from pretrain.recipes import Dataset, Recipe
from pretrain.task import COLUMNS, METRIC, balancing_weights, classification_loss, evaluate


def train_classifier(flags: RunFlags[Recipe], watch: Watch | None = None) -> Metrics:
    """Train a recipe.

    Args:
        flags: What is trained, and how.
        watch: Observes the states in place of the writer of certificate.json.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data or arguments are wrong.
    """
    flags = batch_size.with_fitting_batch(_named_as_resumed(flags), train_classifier)
    described = describe_origin(flags.init, flags.out, flags.resume)
    return launch.launch("pretrain", flags, partial(_build, flags), described, watch)


def train(flags: RunFlags[Recipe], program: str) -> None:
    """Train a recipe, and say at the end where everything is.

    Args:
        flags: What is trained, and how.
        program: What the user typed, for the command that comes next.

    Raises:
        InputError: If data or arguments are wrong.
    """
    metrics = train_classifier(flags)
    if flags.dry_run or not launcher.is_main():
        return
    backbone = flags.out.with_name(f"{flags.out.name}.safetensors")
    words = ("export", "--run", flags.out, "--out", backbone)
    ending.end(flags.out, metrics, METRIC, COLUMNS, ending.command(*program.split(), *words))


def _named_as_resumed(flags: RunFlags[Recipe]) -> RunFlags[Recipe]:
    """Return the flags with the resumed run's name for class folders; both names read the same.

    The toy recipes once called their drawn shapes "imagenet".
    """
    described = flags.out / "recipe.json"
    recipe = read_json(described).get("recipe") if described.is_file() else None
    images = recipe.get("images") if isinstance(recipe, dict) else None
    before = images.get("dataset") if isinstance(images, dict) else None
    if {before, flags.recipe.images.dataset} != {"folders", "imagenet"}:
        return flags
    name: Dataset = "imagenet" if before == "imagenet" else "folders"
    images = replace(flags.recipe.images, dataset=name)
    return replace(flags, recipe=replace(flags.recipe, images=images))


def _build(flags: RunFlags[Recipe], world: World) -> tuple[Task, Mapping[str, Any]]:
    recipe = flags.recipe
    scored = "held-out" if recipe.images.held_out else "val"
    train, val = (_open(flags, split, world) for split in ("train", scored))
    if val.classes != train.classes:
        raise InputError(f"{flags.data}: train and val do not have the same classes")
    if len(train.classes) < 2:
        raise InputError(f"{flags.data} {why_one_class(flags.data, train.classes[0])}")
    if world.is_main:
        report(recipe.images, train, val)
    torch.manual_seed(flags.seed)
    network, at_step = build_model(recipe, len(train.classes))
    initial = initial_unless_resumed(flags.init, flags.out, flags.resume, loud=world.is_main)
    if initial:
        text = load_initial(network, initial, train.classes, head=("fc",))
        if world.is_main:
            say(text)
    try_layers(network, recipe.images.size, _placing(recipe))
    single_images = takes_single_images(network, recipe.images.size)
    prepare(network, recipe.optimization, world.device)
    weights = None
    if recipe.class_weights and train.images:
        weights = balancing_weights(train.images.labels, len(train.classes)).to(world.device)
        if world.is_main:
            say(_describe_weights(weights.tolist(), train.classes))
    task = Task(
        model=network,
        num_images=train.num_images,
        data=data_parts(train, val),
        load=train.load,
        loss=classification_loss(recipe, train.finish, weights),
        evaluate=partial(
            evaluate,
            split=val,
            recipe=recipe,
            world=world,
            limit=2 * recipe.optimization.batch_size if flags.dry_run else None,
        ),
        metric=METRIC,
        columns=COLUMNS,
        at_step=at_step,
        single_images=single_images,
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


def _describe_weights(weights: Sequence[float], classes: Sequence[str]) -> str:
    """Name the classes that weigh the least and the most."""
    there = [(weight, name) for weight, name in zip(weights, classes, strict=True) if weight]
    ends = " to ".join(
        f"{weight:.3g} ({in_line(name)})" for weight, name in (min(there), max(there))
    )
    return f"losses weighed by class: {ends}"


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
    insert_layer(network, recipe.focus)
    dropouts = place_dropouts(network, recipe.dropout)
    return network, (
        partial(set_progress, dropouts, recipe.dropout) if recipe.dropout.rises else None
    )


def _placing(recipe: Recipe) -> str:
    """Return the flags by which layers were placed, for messages."""
    others = recipe.dropout.after
    flags = [f"--focus.after {recipe.focus.after}"] if recipe.focus.after else []
    return " ".join([*flags, *([f"--dropout.after {' '.join(others)}"] if others else [])])


def _open(flags: RunFlags[Recipe], split: str, world: World) -> Split:
    return open_split(
        flags.recipe.images,
        flags.data,
        split,
        launch.reading(flags, world),
        training=split == "train",
        seed=flags.seed,
        cache=None if flags.dry_run else flags.out.resolve(),
        limit=flags.limit_images,
    )
