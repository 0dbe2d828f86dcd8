"""What can be done with a trained detector, or with anybody's detections: score them."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import distributed
from common.errors import InputError
from common.finished_run import open_run
from common.loading import default_workers
from common.run_folder import describe_environment, to_json
from detect.detections import (
    Detections,
    GroundTruth,
    read_detections,
    write_coco_json,
    write_voc_text,
)
from detect.recipes import Recipe
from detect.retinanet import build_retinanet
from detect.score import score, write_metrics
from detect.task import EvaluationSet, detect
from detect.train import prepare
from detect.voc import read_classes, read_split


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
        out: Target: `metrics.json`, `evaluation.json`, `detections.json` and `voc/`.
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
        raise InputError(f"{data} has other classes than the run {folder} was trained on")
    test = EvaluationSet.of(read_split(data, split, classes), classes)
    with distributed.start(device) as world:
        if world.is_main:
            out.mkdir(parents=True, exist_ok=True)
        pixels = run.fact("pixels")
        network = build_retinanet(
            recipe.detector, recipe.body, len(classes), pixels["mean"], pixels["std"]
        )
        run.load_into(network)
        prepare(network, recipe, world.device)
        network.eval()
        started = time.perf_counter()
        detections = detect(
            network, test, recipe, world, default_workers() if workers is None else workers
        )
        seconds = time.perf_counter() - started
        if not world.is_main:
            return {}
        write_voc_text(detections, test.truth, out / "voc")
        write_coco_json(detections, test.truth, out / "detections.json")
        facts = {
            "title": _title(run.name, run.fact("backbone")),
            "detections": "detections.json",
            "seed": run.seed,
            "checkpoint": checkpoint,
            "epoch": run.state["epoch"],
            "seconds": seconds,
            "images_per_second": len(test.images) / seconds,
            "recipe": asdict(recipe),
            "environment": run.environment,
            "backbone": run.fact("backbone"),
            "command": describe_environment(str(world.device), world.size)["command"],
        }
        return _score_into(out, test.truth, detections, data, split, facts)


def _title(recipe: str, backbone: Mapping[str, Any]) -> str:
    """Name a detector by what tells two of them apart: recipe and origin of the backbone."""
    origin = backbone.get("recipe_name")
    return f"{recipe} from {origin}" if origin else recipe


def score_detections(path: Path, data: Path, split: str, out: Path) -> dict[str, Any]:
    """Score anybody's detections: VOC text or a COCO results file.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: If the detections or the data cannot be read, or do not fit each other.
    """
    classes = read_classes(data)
    test = EvaluationSet.of(read_split(data, split, classes), classes)
    detections = read_detections(path, test.truth)
    unknown = ("checkpoint", "epoch", "seconds", "images_per_second", "recipe", "environment")
    facts = {
        "title": path.resolve().stem,
        "detections": str(path.resolve()),
        **dict.fromkeys((*unknown, "backbone")),
        "command": describe_environment("cpu", 1)["command"],
    }
    out.mkdir(parents=True, exist_ok=True)
    return _score_into(out, test.truth, detections, data, split, facts)


def _score_into(
    out: Path,
    truth: GroundTruth,
    detections: Detections,
    data: Path,
    split: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    metrics = score(truth, detections)
    write_metrics(metrics, out / "metrics.json")
    evaluation = {**facts, "data": str(data.resolve()), "split": split}
    evaluation |= {"images": len(truth.image_ids), "classes": list(truth.classes)}
    (out / "evaluation.json").write_text(to_json(evaluation))
    return metrics
