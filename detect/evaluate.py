"""What can be done with a trained detector: detect and score."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.images.loading import default_workers
from common.processes import ranks
from common.recipe import Focus
from common.runs.environment import describe_environment
from common.runs.finished import open_run
from common.training.network import prepare
from detect.data.voc import read_classes, read_split
from detect.inference import measure_latency
from detect.network.retinanet import BatchedRetinaNet, build_retinanet
from detect.operating_point import remember_evaluation
from detect.recipes import Recipe
from detect.scoring.formats.class_texts import write_class_texts
from detect.scoring.formats.coco_json import write_coco_json
from detect.scoring.scored_folder import Scoring, data_fingerprint, score_into
from detect.task import EvaluationSet, detect


def evaluate_run(
    folder: Path,
    data: Path,
    split: str,
    out: Path,
    checkpoint: str,
    device: str,
    workers: int | None,
) -> dict[str, Any]:
    """Detect with a run's weights, write the detections in both formats, and score them.

    Args:
        folder: As `python -m detect train` wrote it.
        data: VOC devkit.
        split: YEAR:SET, comma-separated.
        out: Target: what `score_into` writes, `detections.json` and `voc/`.
        checkpoint: "best" or "last".
        device: As in training.
        workers: Processes that read images.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: If the run or the data cannot be read, or has other classes.
    """
    run = open_run(folder, "detect", Recipe, checkpoint)
    recipe = run.recipe
    classes = read_classes(data)
    if list(classes) != run.fact("classes"):
        raise InputError(
            f"{data} has other classes than the run {folder} was trained on: give its data"
        )
    test = EvaluationSet.of(read_split(data, split, classes), classes)
    with ranks.start(device) as world:
        if world.is_main:
            out.mkdir(parents=True, exist_ok=True)
        pixels = run.fact("pixels")
        network = build_retinanet(
            recipe.detector, recipe.body, len(classes), pixels["mean"], pixels["std"]
        )
        run.load_into(network)
        prepare(network, recipe.optimization, world.device)
        network.eval()
        workers = default_workers() if workers is None else workers
        started = time.perf_counter()
        detections = detect(network, test, recipe, world, workers)
        seconds = time.perf_counter() - started
    # Without the group: the other ranks are not to wait until this one has scored.
    if not world.is_main:
        return {}
    speed = _speed(network, test, recipe, world.device, seconds)
    write_class_texts(detections, test.truth, out / "voc")
    write_coco_json(detections, test.truth, out / "detections.json")
    facts = {
        "title": title_of(run.name, recipe.focus, run.fact("backbone")),
        "detections": "detections.json",
        "seed": run.seed,
        "checkpoint": checkpoint,
        "epoch": run.state["epoch"],
        "seconds": seconds,
        "images_per_second": len(test.images) / seconds,
        **speed,
        "training": str(folder.resolve()),
        "data_fingerprint": data_fingerprint(test.truth, split),
        "recipe": asdict(recipe),
        "environment": run.environment,
        "backbone": run.fact("backbone"),
        "command": describe_environment(str(world.device), world.size)["command"],
    }
    metrics = score_into(out, test.truth, detections, data, split, facts, Scoring())
    remember_evaluation(folder, out)
    return metrics


def _speed(
    network: BatchedRetinaNet,
    test: EvaluationSet,
    recipe: Recipe,
    device: torch.device,
    seconds: float,
) -> dict[str, Any]:
    """Measure the latency, and print it with the throughput of the pass over the whole set."""
    throughput = {
        "batch_size": recipe.detector.test_batch_size,
        "images_per_second": len(test.images) / seconds,
    }
    latency = measure_latency(network, test, recipe, device)
    if latency:
        print(
            f"{throughput['images_per_second']:.4g} images/s, reading included (batch "
            f"{throughput['batch_size']}); latency p50 {latency['p50_ms']:.4g} ms, "
            f"p90 {latency['p90_ms']:.4g} ms (batch 1, {latency['images']} images, from pixels)"
        )
    return {"latency": latency, "throughput": throughput}


def title_of(recipe: str, focus: Focus, backbone: Mapping[str, Any]) -> str:
    """Name a detector by what tells two of them apart: recipe, method, origin of the backbone."""
    method = " with FocusedDropout" if focus.after else ""
    origin = backbone.get("recipe_name")
    return f"{recipe}{method} from {origin}" if origin else f"{recipe}{method}"
