"""What can be done with a trained detector: detect and score."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.images.loading import default_workers
from common.processes import launcher, ranks
from common.recipe import Focus
from common.runs.environment import describe_environment
from common.runs.finished import FinishedRun, open_run
from common.storage import sole_writer
from common.text import counted, in_line, say
from common.training.network import prepare
from detect.data.dataset import DetectionData, Entry, read_all, shown
from detect.data.opening import open_data
from detect.data.options import Coordinates, DataOptions
from detect.data.splits import scored_set, training_sets
from detect.data.training import count_trained_on
from detect.inference import measure_latency
from detect.network.retinanet import BatchedRetinaNet, build_retinanet
from detect.operating_point import remember_evaluation
from detect.recipes import Recipe
from detect.scoring.formats.class_texts import write_class_texts
from detect.scoring.formats.coco_json import write_coco_json
from detect.scoring.scored_folder import (
    Scoring,
    coordinate_warnings,
    data_fingerprint,
    recorded,
    score_into,
)
from detect.task import EvaluationSet, detect


def evaluate_run(
    folder: Path,
    data: Path,
    split: str | None,
    out: Path,
    checkpoint: str,
    device: str,
    workers: int | None,
    options: DataOptions | None = None,
) -> dict[str, Any]:
    """Detect with a run's weights, write the detections in both formats, and score them.

    Images without any annotation are detected on and not scored.

    Args:
        folder: As `python -m detect train` wrote it.
        data: As for `open_data`.
        split: Sets, comma-separated; None: that of the data which validates.
        out: Target: what `score_into` writes, `detections.json` and `voc/`.
        checkpoint: "best" or "last".
        device: As in training.
        workers: Processes that read images.
        options: How the data are read; where they say nothing of it, as in the training.

    Returns:
        The content of metrics.json; nothing where there is nothing to score by.

    Raises:
        InputError: If the run or the data cannot be read, or has other classes.
    """
    run = open_run(folder, "detect", Recipe, checkpoint)
    options = _as_split(data, split, options or DataOptions(), run)
    opened, options, said = _open(data, options, run)
    split = scored_set(opened, split)
    test, annotated = _read(opened, split)
    if launcher.is_main():
        said.insert(1, f"{split} of {counted(len(test.images), 'image')}")
        say("; ".join(map(in_line, said)))
        for text in (_trained_on(opened, test, run), _chosen_on(opened, split, checkpoint, run)):
            if text:
                say(in_line(f"warning: {text}"))
    with contextlib.ExitStack() as writing:
        with ranks.start(device) as world:
            if world.is_main:
                for line in coordinate_warnings(opened, test.truth, options):
                    say(line)
                writing.enter_context(sole_writer(out))
            network = build_detector(run)
            prepare(network, run.recipe.optimization, world.device)
            workers = default_workers() if workers is None else workers
            started = time.perf_counter()
            detections = detect(network, test, run.recipe, world, workers)
            seconds = time.perf_counter() - started
        # Without the group: the other ranks are not to wait until this one has scored.
        if not world.is_main:
            return {}
        facts = {
            "checkpoint": checkpoint,
            "seconds": seconds,
            **_speed(network, test, run.recipe, world.device, seconds),
            "data_options": recorded(options),
            "metric": opened.metric,
            "data_fingerprint": data_fingerprint(test.truth, split),
            "command": describe_environment(str(world.device), world.size)["command"],
            **_origin(run),
        }
        write_class_texts(detections, test.truth, out / "voc")
        write_coco_json(detections, test.truth, out / "detections.json")
        if annotated:
            metrics = score_into(out, test.truth, detections, data, split, facts, Scoring())
            remember_evaluation(folder, out)
            return metrics
        say(
            f"{counted(len(detections.score), 'detection')} on "
            f"{counted(len(test.images), 'image')}, in {out / 'detections.json'}; without "
            "annotated objects they are not scored"
        )
        return {}


def build_detector(run: FinishedRun[Recipe]) -> BatchedRetinaNet:
    """Rebuild the network of a run, on the CPU, in eval mode.

    Raises:
        InputError: If the weights do not fit.
    """
    recipe, pixels = run.recipe, run.fact("pixels")
    network = build_retinanet(
        recipe.detector, recipe.body, len(run.fact("classes")), pixels["mean"], pixels["std"]
    )
    run.load_into(network)
    network.eval()
    return network


def _origin(run: FinishedRun[Recipe]) -> dict[str, Any]:
    """Return what evaluation.json says of the run that the detections come from."""
    return {
        "title": title_of(run.name, run.recipe.focus, run.fact("backbone")),
        "detections": "detections.json",
        "seed": run.seed,
        "epoch": run.state["epoch"],
        "training": str(run.folder.resolve()),
        "recipe": asdict(run.recipe),
        "environment": run.environment,
        "backbone": run.fact("backbone"),
    }


def _same_data(data: Path, run: FinishedRun[Recipe]) -> bool:
    return run.environment.get("data") == str(data.resolve())


def _as_split(
    data: Path, split: str | None, options: DataOptions, run: FinishedRun[Recipe]
) -> DataOptions:
    """Set aside the images that the training set aside, where its own data are evaluated on."""
    share = run.environment.get("split_by")
    if share is None or options.split_by is not None or not _same_data(data, run):
        return options
    return replace(options, split_by=share) if split in (None, "train", "val") else options


def _trained_on(data: DetectionData, test: EvaluationSet, run: FinishedRun[Recipe]) -> str | None:
    """Say how many of the images to evaluate on the run was trained on."""
    count = count_trained_on(run.folder, test.images)
    if not count:
        return None
    share, remedy = run.environment.get("split_by"), ""
    if share is not None and len(data.sets) == 1:
        remedy = f"; --split-by {share:g} leaves them out"
    elif len(data.sets) == 1:
        remedy = "; train with --split-by to keep some"
    return (
        f"{data.path}: the run was trained on {count} of these {len(test.images)} images; what is "
        f"measured on them says nothing about others{remedy}"
    )


def _chosen_on(
    data: DetectionData, split: str, checkpoint: str, run: FinishedRun[Recipe]
) -> str | None:
    """Say that a checkpoint was chosen by its score on the images to evaluate on."""
    _, val = training_sets(data, run.recipe.train_split, run.recipe.val_split)
    if checkpoint != "best" or val is None or not _same_data(data.path, run):
        return None
    scored, chosen = (
        {data.set_called(name.strip()) for name in names.split(",")} for names in (split, val)
    )
    if not scored & chosen:
        return None
    return (
        f"{data.path}: best.pt was chosen by its score on {val}, so that score is too high; "
        "evaluate it on other images, or the last checkpoint"
    )


def _open(
    data: Path, options: DataOptions, run: FinishedRun[Recipe]
) -> tuple[DetectionData, DataOptions, list[str]]:
    """Open data as the run had its own, with the classes of the run, and say what they are.

    Raises:
        InputError: The data cannot be opened, or lack a class of the run.
    """
    if options.classes is not None:
        raise InputError("--classes is for training: a run is evaluated on the classes it knows")
    opened, classes = open_data(data, options), run.fact("classes")
    options = replace(options, coordinates=options.coordinates or _coordinates(opened, run))
    missing = [name for name in classes if name not in opened.classes]
    if missing:
        raise InputError(
            f"{data} lacks classes that the run {run.folder} was trained on: "
            f"{', '.join(map(shown, missing))}; give data that name them"
        )
    said = [f"{data}: {opened.kind}", *opened.notes]
    rest = [name for name in opened.classes if name not in classes]
    if rest:
        what = "are no classes" if len(rest) > 1 else "is no class"
        said.append(f"{', '.join(map(shown, rest))} {what} of the run: such objects do not count")
    if list(opened.classes) != classes:
        options = replace(options, classes=",".join(classes))
    return open_data(data, options), options, said


def _coordinates(opened: DetectionData, run: FinishedRun[Recipe]) -> Coordinates | None:
    """Return how the training counted VOC's boxes, where these are VOC's, too."""
    known: Coordinates | None = run.environment.get("coordinates")
    return known if opened.metric == "voc" else None


def _read(data: DetectionData, split: str) -> tuple[EvaluationSet, bool]:
    """Read the images of a set, and whether there is anything to score by."""
    entries = data.listed(split)
    if any(entry.source.exists() for entry in entries):
        images = read_all(entries, Entry.load, split)
    else:
        images = read_all(entries, Entry.unlabelled, split)
    annotated = any(len(image.annotation.labels) for image in images)
    names = [entry.name for entry in entries]
    return EvaluationSet.of(images, data.classes, data.category_ids, names), annotated


def _speed(
    network: BatchedRetinaNet,
    test: EvaluationSet,
    recipe: Recipe,
    device: torch.device,
    seconds: float,
) -> dict[str, Any]:
    """Measure the latency, and print it with the throughput of the pass over the whole set."""
    rate = len(test.images) / seconds
    throughput = {
        "batch_size": recipe.detector.test_batch_size,
        "images_per_second": rate,
    }
    latency = measure_latency(network, test, recipe, device)
    if latency:
        say(
            f"{rate:.4g} images/s, reading included (batch "
            f"{throughput['batch_size']}); latency p50 {latency['p50_ms']:.4g} ms, "
            f"p90 {latency['p90_ms']:.4g} ms (batch 1, {latency['images']} images, from pixels)"
        )
    return {"images_per_second": rate, "latency": latency, "throughput": throughput}


def title_of(recipe: str, focus: Focus, backbone: Mapping[str, Any]) -> str:
    """Name a detector by what distinguishes it: recipe, method, origin of the backbone."""
    method = " with FocusedDropout" if focus.after else ""
    origin = backbone.get("recipe_name")
    return f"{recipe}{method} from {origin}" if origin else f"{recipe}{method}"
