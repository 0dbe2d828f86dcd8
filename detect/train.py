"""`python -m detect train`: from a backbone file and a VOC devkit to a trained detector."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.command.flags import RunFlags
from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from common.processes.ranks import World
from common.training import launch
from common.training.network import insert_layer, prepare
from common.training.task import Metrics, Task
from common.weights.backbone import card_path, fingerprint, load_backbone
from detect.data.parts import data_parts
from detect.data.voc import read_classes, read_split
from detect.network.retinanet import build_retinanet
from detect.recipes import SCRATCH, Recipe
from detect.task import (
    EvaluationSet,
    aspect_groups,
    detection_loss,
    evaluate,
    training_batches,
)

_ALL_STAGES = 5
_DRY_IMAGES = 4


def run(flags: RunFlags[Recipe], backbone: Path | None) -> Metrics:
    """Fine-tune a recipe from a backbone file, or train it from random weights.

    Args:
        flags: What is trained, and how.
        backbone: None: random weights.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data, backbone or arguments are wrong.
    """
    _check(flags.recipe, scratch=backbone is None)
    origin = fingerprint(backbone) if backbone else SCRATCH
    return launch.run("detect", flags, partial(_build, flags, backbone), {"backbone": origin})


def _check(recipe: Recipe, *, scratch: bool) -> None:
    settings = recipe.detector
    if scratch and (settings.norm != "batch" or settings.trainable_stages < _ALL_STAGES):
        raise InputError(
            "--backbone scratch begins with random weights, which must be trained: leave out "
            "--detector.norm and --detector.trainable-stages, or give a backbone file"
        )
    if recipe.optimization.cuda_graphs and not recipe.augmentation.scale:
        raise InputError(
            "--optimization.cuda-graphs needs batches of one shape, which --augmentation.scale "
            "makes: set it, or leave this out"
        )


def _build(
    flags: RunFlags[Recipe], backbone: Path | None, world: World
) -> tuple[Task, Mapping[str, Any]]:
    recipe = flags.recipe
    weights, card = None, dict[str, Any](recipe_name=SCRATCH)
    if backbone:
        weights, card = load_backbone(backbone, recipe.body)
    classes = read_classes(flags.data)
    images = read_split(flags.data, recipe.train_split, classes)
    test_images = read_split(flags.data, recipe.val_split, classes)
    if not images:
        raise InputError(f"{flags.data}: {recipe.train_split} lists no images")
    test = EvaluationSet.of(test_images[:_DRY_IMAGES] if flags.dry_run else test_images, classes)
    reading = launch.reading(flags, world)
    pixels = _pixel_statistics(card, backbone)
    torch.manual_seed(flags.seed)
    network = build_retinanet(
        recipe.detector,
        recipe.body,
        len(classes),
        pixels["mean"],
        pixels["std"],
        weights,
        backbone or Path(SCRATCH),
    )
    _insert_layer(network.backbone.body, recipe)
    prepare(network, recipe.optimization, world.device)
    torch.manual_seed(flags.seed * 1000 + world.rank)
    task = Task(
        model=network,
        num_images=len(images),
        data=data_parts(classes, images, test_images),
        load=training_batches(images, recipe, reading, seed=flags.seed),
        loss=detection_loss,
        evaluate=partial(evaluate, test=test, recipe=recipe, world=world, workers=reading.workers),
        metric="val_map_11point",
        groups=aspect_groups(images) if recipe.group_by_aspect else None,
    )
    facts = {
        "data": str(flags.data.resolve()),
        "train_images": len(images),
        "val_images": len(test_images),
        "classes": list(classes),
        "pixels": pixels,
        "backbone": card or {"file": backbone.name if backbone else SCRATCH},
    }
    return task, facts


def _pixel_statistics(card: Mapping[str, Any], backbone: Path | None) -> dict[str, list[float]]:
    """Return mean and standard deviation per channel, of the backbone's training or ImageNet's.

    Raises:
        InputError: If the backbone's card holds something else.
    """
    pixels = card.get("preprocessing") or {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if not isinstance(pixels, Mapping) or any(
        np.shape(pixels.get(name, ())) != (3,) for name in ("mean", "std")
    ):
        path = card_path(backbone or Path(SCRATCH))
        raise InputError(f"{path} lacks mean and std of the pixels: export again")
    return {name: list(pixels[name]) for name in ("mean", "std")}


def _insert_layer(body: nn.Module, recipe: Recipe) -> None:
    """Insert the recipe's layer, if it has one.

    Raises:
        InputError: If the body has no such stage, or it is not trained.
    """
    after = recipe.focus.after
    insert_layer(body, recipe.focus)
    trained = [
        name
        for name, stage in body.named_children()
        if any(parameter.requires_grad for parameter in stage.parameters())
    ]
    if after and after.partition(".")[0] not in trained:
        raise InputError(
            f"FocusedDropout cannot follow {after}, which this recipe does not train "
            f"(it trains {', '.join(trained) or 'no stage'}): name another stage, or raise "
            "--detector.trainable-stages"
        )
