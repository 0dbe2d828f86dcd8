"""`python -m pretrain figure`: what finished runs show, as Figures 2, 4 and 5 of the paper show it.

Nothing is trained here.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.errors import InputError
from common.images.loading import Reading, default_workers
from common.images.sampling import MicroBatch
from common.method.placement import PENULTIMATE
from common.processes import ranks
from common.processes.ranks import World
from common.runs.finished import FinishedRun, open_run
from common.runs.folder import read_description
from common.runs.metrics_log import read_metrics
from common.runs.results import flatten
from common.storage import read_json
from common.training.network import move_network
from pretrain.data.augment import normalize
from pretrain.data.datasets import load
from pretrain.data.splits import Split, open_split
from pretrain.evaluate import build_classifier
from pretrain.figures.captions import (
    cams_show,
    caption,
    channels_show,
    curves_show,
    describe_trainings,
    share_in_focus,
)
from pretrain.figures.channels_and_cams import evenly_spaced, plot_cams, plot_strongest_channels
from pretrain.figures.curves import plot_curves, plot_keep_ratio
from pretrain.figures.feature_maps import MIDDLE_GAMMA, strongest_channels, views
from pretrain.figures.style import write_csv
from pretrain.networks import penultimate
from pretrain.recipes import Recipe
from pretrain.task import pixel_statistics

FigureName = Literal["channels", "cam", "curves", "keep-ratio"]


def draw_figure(
    figure: FigureName,
    runs: Sequence[Path],
    data: Path | None,
    out: Path,
    device: str = "auto",
    *,
    checkpoint: str = "best",
    classes: Sequence[str] = (),
    num_images: int = 8,
    seed: int = 0,
    workers: int | None = None,
    claim: str = "",
) -> list[Path]:
    """Draw a figure of finished runs.

    Runs are called by their recipe, and where two of the same recipe differ by the settings that
    differ; in curves, runs that differ in nothing but the seed make one line.

    Args:
        figure: "channels" (Figure 2, one run), "cam" (Figure 4), "curves" (Figure 5) or
            "keep-ratio" (section 5.2.2).
        runs: Folders of runs.
        data: Folder of the data set; not for curves and keep-ratio.
        out: The PNG; an SVG and the numbers as CSV go beside it.
        device: As `common.processes.ranks.start` takes it.
        checkpoint: "best" or "last", for channels and cam.
        classes: Names of the classes that "channels" draws; empty for four, evenly spaced.
        num_images: How many validation images "cam" draws.
        seed: Which ones.
        workers: Processes that read images; None: as many as cores.
        claim: What the paper says of it, for the caption.

    Returns:
        The files written.

    Raises:
        InputError: If the runs, the data or `out` do not serve.
    """
    if out.suffix != ".png":
        raise InputError(
            f"{out} does not end in .png: name the picture so; its numbers go beside it"
        )
    if not runs or len({folder.resolve() for folder in runs}) < len(runs):
        raise InputError("give at least one run, and each run once")
    if figure in ("curves", "keep-ratio"):
        return _draw_records(figure, runs, out, claim)
    if data is None:
        raise InputError(f"the figure {figure!r} looks at images: say with --data where they are")
    opened = [open_run(folder, "pretrain", Recipe, checkpoint) for folder in runs]
    with ranks.start(device) as world:
        split = _open_val(opened, data, workers, world)
        if figure == "channels":
            return _draw_channels(opened, split, classes, out, world, claim)
        chosen = choose_images(_val_labels(opened[0].recipe, data), num_images, seed)
        return _draw_cams(opened, split, chosen, out, world, claim)


def _open_val(
    runs: Sequence[FinishedRun[Recipe]], data: Path, workers: int | None, world: World
) -> Split:
    """Open the validation images, which must be the same for all runs."""
    first = runs[0]
    split = open_split(
        first.recipe.images,
        data,
        "val",
        Reading(workers=default_workers() if workers is None else workers, device=world.device),
        training=False,
        seed=first.seed,
        cache=first.folder.resolve(),
    )
    for run in runs:
        if run.fact("classes") != list(split.classes):
            raise InputError(
                f"{data} has other classes than the run {run.folder} was trained on: give its data"
            )
        for name in ("dataset", "size", "crop"):
            here, there = (getattr(r.recipe.images, name) for r in (first, run))
            if here != there:
                raise InputError(
                    f"{run.folder} sees other images than {first.folder} "
                    f"(images.{name} {there}, not {here}): draw them apart"
                )
    return split


def _val_labels(recipe: Recipe, data: Path) -> NDArray[np.int64]:
    return load(recipe.images.dataset, data, "val", recipe.images.num_classes).labels


def _open_network(run: FinishedRun[Recipe], world: World) -> nn.Module:
    network = build_classifier(run).eval()
    move_network(network, run.recipe.optimization, world.device)
    return network


def _draw_channels(
    runs: Sequence[FinishedRun[Recipe]],
    split: Split,
    names: Sequence[str],
    out: Path,
    world: World,
    claim: str,
) -> list[Path]:
    if len(runs) > 1:
        raise InputError(f"the figure 'channels' shows one run, not {len(runs)}: draw them apart")
    unknown = [name for name in names if name not in split.classes]
    if unknown:
        raise InputError(
            f"there is no class {unknown[0]!r}: choose from {', '.join(split.classes)}"
        )
    shown = [split.classes.index(name) for name in names] or evenly_spaced(len(split.classes), 4)
    counts = strongest_channels(_open_network(runs[0], world), split, runs[0].recipe, world)
    if not world.is_main:
        return []
    run = runs[0]
    trained = describe_trainings([run.name], [run.recipe], [run.environment])
    head = (
        f"{trained}, {run.name}, seed {run.seed}, weights of "
        f"epoch {run.state['epoch']}: channel with the largest mean, of the test or validation "
        "images classified correctly"
    )
    title = caption(head, claim, channels_show(counts, split.num_images))
    out.parent.mkdir(parents=True, exist_ok=True)
    plot_strongest_channels(counts, split.classes, shown, title, out)
    rows = [(split.classes[k], c, counts[k, c]) for k, c in np.argwhere(counts).tolist()]
    return [out, out.with_suffix(".svg"), write_csv(out, ("class", "channel", "images"), rows)]


def _draw_cams(
    runs: Sequence[FinishedRun[Recipe]],
    split: Split,
    chosen: NDArray[np.int64],
    out: Path,
    world: World,
    claim: str,
) -> list[Path]:
    images, labels = next(split.load([MicroBatch(0, chosen, 1.0)]))
    columns = []
    names_of = [run.name for run in runs]
    names = run_labels(names_of, [run.recipe for run in runs])
    for run, name in zip(runs, names, strict=True):
        place = run.recipe.focus.after
        if place in (None, PENULTIMATE):
            place = penultimate(run.recipe.network)
        inputs = normalize(images, *pixel_statistics(run.recipe))
        seed = f", seed {run.seed}" if names.count(name) > 1 else ""
        title = f"{name}{seed}, focused area after {place}"
        seen = views(_open_network(run, world), inputs, labels, place)
        if not seen.cams.any():
            raise InputError(
                f"{run.folder} has no class activation to show: the last feature maps of "
                f"{run.recipe.network} at {run.recipe.images.size} pixels have one place only, "
                "or say nothing"
            )
        columns.append((title, seen))
    if not world.is_main:
        return []
    trained = describe_trainings(names_of, [r.recipe for r in runs], [r.environment for r in runs])
    head = (
        f"{trained}: class "
        "activation map of the true class, each from 0 to 1; white line: focused area at gamma "
        f"{MIDDLE_GAMMA}"
    )
    title = caption(head, claim, cams_show(columns, labels.cpu().numpy()))
    out.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu())
    plot_cams(pixels, labels.cpu().numpy(), split.classes, columns, title, out)
    rows = [
        (position, split.classes[label], column, split.classes[guess], probability, inside, focused)
        for column, seen in columns
        for position, label, guess, probability, inside, focused in zip(
            chosen.tolist(),
            labels.tolist(),
            seen.predicted.tolist(),
            seen.probability.tolist(),
            share_in_focus(seen).tolist(),
            seen.focused.mean(axis=(1, 2)).tolist(),
            strict=True,
        )
    ]
    header = ("image", "class", "column", "predicted", "probability", "map_in_area", "area")
    return [out, out.with_suffix(".svg"), write_csv(out, header, rows)]


def _draw_records(figure: FigureName, runs: Sequence[Path], out: Path, claim: str) -> list[Path]:
    """Draw what metrics.jsonl holds; neither weights nor images are needed."""
    names, seeds, recipes = zip(
        *(read_description(folder, "pretrain", Recipe) for folder in runs), strict=True
    )
    labels = run_labels(names, recipes)
    records = [read_metrics(folder) for folder in runs]
    metrics = ("val_accuracy", "train_loss")
    lack = "holds no evaluation, so it has no curve: train it further"
    head, shown = describe_trainings(names, recipes, [_environment(f) for f in runs]), ""
    if figure == "keep-ratio":
        metrics = ("focus_keep_ratio", "focus_zeros_ratio")
        lack = "has no keep ratio: FocusedDropout was on in none of its steps"
        shown = "Units that FocusedDropout keeps, mean over the participating steps of an epoch"
    for folder, epochs in zip(runs, records, strict=True):
        if all(record.get(metrics[0]) is None for record in epochs):
            raise InputError(f"{folder} {lack}")
    if figure == "curves":
        plain = [not (r.focus.enabled or r.dropout.kind != "none") for r in recipes]
        first = plain.index(True) if any(plain) else 0
        shown = curves_show(list(zip(labels, records, strict=True)), labels[first])
    title = caption(head, claim, shown)
    out.parent.mkdir(parents=True, exist_ok=True)
    plot = plot_keep_ratio if figure == "keep-ratio" else plot_curves
    plot(list(zip(labels, records, strict=True)), out, title)
    header = ("label", "run", "seed", "epoch", "lr", *metrics)
    rows = [
        (label, folder, seed, *(record.get(name) for name in header[3:]))
        for label, folder, seed, epochs in zip(labels, runs, seeds, records, strict=True)
        for record in epochs
    ]
    return [out, out.with_suffix(".svg"), write_csv(out, header, rows)]


def _environment(folder: Path) -> dict[str, Any]:
    """Return what is known of a training; nothing where a log was kept without it."""
    path = folder / "environment.json"
    return read_json(path) if path.exists() else {}


def choose_images(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Choose images at random, a second one of a class only once every class has one.

    Args:
        labels: (N,) classes of the images.
        count: How many; all, if there are fewer.
        seed: The choice is a function of the labels and this.

    Returns:
        Positions (count,).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # how many images of its class come before
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels[order] == label)
        turn[of_class] = np.arange(len(of_class))
    return np.asarray(order[np.argsort(turn, kind="stable")][:count])


def run_labels(names: Sequence[str], recipes: Sequence[Recipe]) -> list[str]:
    """Call runs by their recipe and, where recipes of one name differ, by the fields that do.

    Args:
        names: Of the recipes.
        recipes: As they were resolved.
    """
    settings = [flatten(asdict(recipe)) for recipe in recipes]
    labels = []
    for name, mine in zip(names, settings, strict=True):
        others = [theirs for n, theirs in zip(names, settings, strict=True) if n == name]
        differing = [key for key in mine if any(theirs[key] != mine[key] for theirs in others)]
        labels.append(" ".join([name, *(f"{key}={mine[key]}" for key in differing)]))
    return labels
