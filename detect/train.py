"""`python -m detect train`: from a backbone file and a VOC devkit to a trained detector."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.models.detection.retinanet import RetinaNet

from common import job
from common.backbones import card_path, fingerprint, load_backbone
from common.distributed import World
from common.errors import InputError
from common.flags import RunFlags
from common.images import IMAGENET_MEAN, IMAGENET_STD
from common.loading import default_workers, skip_bad
from common.settings import Focus
from common.train_loop import Stage
from detect.recipes import Recipe
from detect.retinanet import build_retinanet
from detect.task import EvaluationSet, detection_loss, evaluate, training_batches
from detect.voc import read_classes, read_split

_DRY_IMAGES = 4


def run(name: str, recipe: Recipe, backbone: Path, flags: RunFlags) -> dict[str, float]:
    """Fine-tune a recipe from a backbone file.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data, backbone or arguments are wrong.
    """
    return job.run(
        name,
        flags,
        {"stage": "detect", "recipe": asdict(recipe), "backbone": fingerprint(backbone)},
        recipe.optimization,
        Focus(),
        partial(_build, recipe, backbone, flags),
    )


def _build(
    recipe: Recipe, backbone: Path, flags: RunFlags, world: World
) -> tuple[Stage, Mapping[str, Any]]:
    weights, card = load_backbone(backbone, recipe.body)
    classes = read_classes(flags.data)
    images = read_split(flags.data, recipe.train_split, classes)
    test_images = read_split(flags.data, recipe.val_split, classes)
    if not images:
        raise InputError(f"{flags.data}: {recipe.train_split} lists no images")
    test = EvaluationSet.of(test_images[:_DRY_IMAGES] if flags.dry_run else test_images, classes)
    workers = default_workers() if flags.workers is None else flags.workers
    torch.manual_seed(flags.seed)
    pixels = card.get("preprocessing") or {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if len(pixels.get("mean", ())) != 3 or len(pixels.get("std", ())) != 3:
        raise InputError(f"{card_path(backbone)} lacks mean and std of the pixels: export again")
    network = build_retinanet(
        recipe.detector,
        recipe.body,
        len(classes),
        pixels["mean"],
        pixels["std"],
        weights,
        backbone,
    )
    prepare(network, recipe, world.device)
    torch.manual_seed(flags.seed * 1000 + world.rank)
    stage = Stage(
        model=network,
        num_images=len(images),
        load=training_batches(
            images,
            recipe,
            seed=flags.seed,
            workers=workers,
            device=world.device,
            skip=skip_bad(flags, len(images)),
        ),
        loss=detection_loss,
        evaluate=partial(evaluate, test=test, recipe=recipe, world=world, workers=workers),
        metric="val_map_11point",
    )
    facts = {
        "data": str(flags.data.resolve()),
        "train_images": len(images),
        "val_images": len(test_images),
        "classes": list(classes),
        "pixels": {"mean": list(pixels["mean"]), "std": list(pixels["std"])},
        "backbone": card or {"file": backbone.name},
    }
    return stage, facts


def prepare(network: RetinaNet, recipe: Recipe, device: torch.device) -> None:
    """Put a detector on its device, in its memory format, compiled if the recipe says so."""
    network.to(device)
    if recipe.optimization.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.optimization.compile:
        network.backbone.compile()
