"""`python -m detect train`: from a backbone file and annotated images to a trained detector."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.command.flags import RunFlags
from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from common.processes import launcher, ranks
from common.processes.ranks import World
from common.runs import ending
from common.storage import read_json
from common.text import say
from common.training import batch_size, launch
from common.training.network import insert_layer, prepare
from common.training.task import Metrics, Task, Watch
from common.weights.backbone import card_path, fingerprint, load_backbone
from common.weights.initial import (
    describe_origin,
    initial_unless_resumed,
    load_initial,
    pixels_of_resumed_run,
)
from detect.data.dataset import DetectionData
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.parts import data_parts
from detect.data.splits import NO_SET, is_of_a_year
from detect.data.training import TrainingData, look_over, read_training, record_images
from detect.network.retinanet import build_retinanet
from detect.recipes import SCRATCH, Recipe
from detect.samples import sample_pictures
from detect.task import (
    COLUMNS,
    EvaluationSet,
    aspect_groups,
    detection_loss,
    evaluate,
    training_batches,
)

_ALL_STAGES = 5
_HEAD = ("head.classification_head.cls_logits",)
"""Has a row for each anchor and class."""
_DRY_IMAGES = 4


def train_detector(
    flags: RunFlags[Recipe],
    backbone: Path | None,
    options: DataOptions | None = None,
    watch: Watch | None = None,
) -> Metrics:
    """Fine-tune a recipe from a backbone file, or train it from random weights.

    Args:
        flags: What is trained, and how.
        backbone: None: random weights.
        options: How the data are read.
        watch: Is shown the states, instead of what writes the certificate.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data, backbone or arguments are wrong.
    """
    _check(flags.recipe, scratch=backbone is None and flags.init is None)
    if backbone and flags.init:
        raise InputError("--init brings weights of the whole detector: leave out --backbone")
    flags = batch_size.with_fitting_batch(
        flags, lambda given, seen: train_detector(given, backbone, options, seen)
    )
    origin = {"backbone": fingerprint(backbone) if backbone else SCRATCH}
    origin |= describe_origin(flags.init, flags.out, flags.resume)
    build = partial(_build, flags, backbone, options or DataOptions())
    return launch.launch("detect", flags, build, origin, watch)


def train(
    flags: RunFlags[Recipe],
    program: str,
    backbone: Path | None,
    options: DataOptions | None = None,
) -> None:
    """Train a recipe as `train_detector` does, and say at the end where everything is.

    Args:
        flags: What is trained, and how.
        program: What the user typed, for the command that comes next.
        backbone: None: random weights.
        options: How the data are read.

    Raises:
        InputError: If data, backbone or arguments are wrong.
    """
    metrics = train_detector(flags, backbone, options)
    if flags.dry_run or not launcher.is_main():
        return
    bests = [name.removeprefix("best_") for name in metrics if name.startswith("best_")]
    metric = bests[0] if bests else "val_map_11point"
    words = _next(flags, options or DataOptions())
    ending.end(flags.out, metrics, metric, COLUMNS, ending.command(*program.split(), *words))


def _next(flags: RunFlags[Recipe], options: DataOptions) -> list[object]:
    """Return the words of the command that evaluates on what validated."""
    words: list[object] = [
        "evaluate",
        "--run",
        flags.out,
        "--data",
        flags.data,
        "--out",
        flags.out / "test",
    ]
    if options.images:
        words += ["--images", options.images]
    if options.split_by is not None:
        return [*words, "--split-by", f"{options.split_by:g}"]
    split = flags.recipe.val_split
    # Versions that did not record the kind read devkits alone.
    kind = read_json(flags.out / "environment.json").get("data_kind", "a VOC devkit")
    if split != NO_SET and (kind == "a VOC devkit" or not is_of_a_year(split)):
        words += ["--split", split]
    return words


def _check(recipe: Recipe, *, scratch: bool) -> None:
    detector = recipe.detector
    if scratch and (detector.norm != "batch" or detector.trainable_stages < _ALL_STAGES):
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
    flags: RunFlags[Recipe], backbone: Path | None, options: DataOptions, world: World
) -> tuple[Task, Mapping[str, Any]]:
    recipe = flags.recipe
    weights, card = None, dict[str, Any](recipe_name=SCRATCH)
    if backbone:
        weights, card = load_backbone(backbone, recipe.body)
    initial = initial_unless_resumed(flags.init, flags.out, flags.resume, loud=world.is_main)
    if initial:
        card = {"file": str(initial.source), "preprocessing": initial.pixels}
    known = pixels_of_resumed_run(flags.out, flags.resume)
    if known:
        card = {**card, "preprocessing": known}
    data = open_data(flags.data, options)
    classes = data.classes
    found = _read(data, flags, options, world)
    images, test_images = found.train, found.val
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
    if initial:
        text = load_initial(network, initial, classes, _HEAD)
        if world.is_main:
            say(text)
    _insert_layer(network.backbone.body, recipe)
    prepare(network, recipe.optimization, world.device)
    task = Task(
        model=network,
        num_images=len(images),
        data=data_parts(classes, images, test_images),
        load=training_batches(images, recipe, reading, seed=flags.seed),
        loss=detection_loss,
        evaluate=partial(evaluate, test=test, recipe=recipe, world=world, workers=reading.workers),
        columns=COLUMNS,
        pictures=sample_pictures(test.images, classes, recipe) if test.images else None,
        metric="val_coco_ap" if data.metric == "coco" else "val_map_11point",
        groups=aspect_groups(images) if recipe.group_by_aspect else None,
    )
    facts = {
        "data": str(flags.data.resolve()),
        "train_images": len(images),
        "val_images": len(test_images),
        "classes": list(classes),
        "data_kind": data.kind,
        "coordinates": options.xml_coordinates,
        "split_by": options.split_by,
        "pixels": pixels,
        "backbone": card or {"file": backbone.name if backbone else SCRATCH},
    }
    return task, facts


def _read(
    data: DetectionData, flags: RunFlags[Recipe], options: DataOptions, world: World
) -> TrainingData:
    """Read what to train and to validate on, and say what was found, once."""
    recipe = flags.recipe
    found = read_training(
        data,
        options,
        recipe.train_split,
        recipe.val_split,
        difficult=recipe.difficult,
        limit=flags.limit_images,
    )
    said, digests = ranks.from_main(partial(look_over, data, options, found))
    if world.is_main:
        say("\n".join((*found.said, *said)))
        # Of a resume the data may yet turn out to be others.
        if not (flags.dry_run or (flags.out / "last.pt").exists()):
            record_images(flags.out, found.train, digests)
    return found


def _pixel_statistics(card: Mapping[str, Any], backbone: Path | None) -> dict[str, list[float]]:
    """Return mean and standard deviation per channel, of the backbone's training or ImageNet's.

    Raises:
        InputError: If the backbone's card holds something else.
    """
    pixels = card.get("preprocessing") or {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    sound = isinstance(pixels, Mapping) and all(map(_are_three, map(pixels.get, ("mean", "std"))))
    if not sound or min(pixels["std"]) <= 0:
        path = card_path(backbone or Path(SCRATCH))
        raise InputError(f"{path} lacks mean and std of the pixels: export again")
    return {name: list(pixels[name]) for name in ("mean", "std")}


def _are_three(values: object) -> bool:
    """Tell whether these are numbers of the three channels."""
    return (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(value, int | float) and abs(value) < 1e6 for value in values)
    )


def _insert_layer(body: nn.Module, recipe: Recipe) -> None:
    """Insert the recipe's layer, if it has one.

    Raises:
        InputError: If the body has no such stage, or it is not trained.
    """
    after = insert_layer(body, recipe.focus)
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
