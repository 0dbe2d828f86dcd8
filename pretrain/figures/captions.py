"""What the captions of figures say: what was trained, and what the numbers show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.runs.over_seeds import mean_and_deviation
from common.text import in_line
from pretrain import paper
from pretrain.data.report import WORDNET_ID
from pretrain.figures.channels_and_cams import Views
from pretrain.figures.curves import LabelledRun, common_epochs, group_runs, rate_drops
from pretrain.recipes import RECIPES, Recipe


def describe_trainings(
    names: Sequence[str],
    recipes: Sequence[Recipe],
    environments: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Say which networks were trained on which data for how many of their recipe's epochs.

    Args:
        names: Of the recipes.
        recipes: As they were resolved.
        environments: What environment.json says of each, if known: the classes.
    """
    known = environments or [{}] * len(names)
    found = (_describe(*each) for each in zip(names, recipes, known, strict=True))
    return "; ".join(dict.fromkeys(found))


def _describe(name: str, recipe: Recipe, environment: Mapping[str, Any]) -> str:
    images, epochs = recipe.images, recipe.optimization.epochs
    data = paper.DATASETS.get(images.dataset) or _folders(images.dataset, environment)
    if images.num_classes:
        data = f"{images.num_classes} classes of {data}"
    if images.held_out:
        data += f" less {images.held_out:,} held-out images"
    full = RECIPES[name]().optimization.epochs if name in RECIPES else epochs
    return f"{recipe.network} on {data}, {epochs} of {full} epochs"


def _folders(dataset: str, environment: Mapping[str, Any]) -> str:
    """Call class folders what they are: ImageNet by its classes, others by theirs."""
    classes = environment.get("classes")
    if not classes:
        return "ImageNet" if dataset == "imagenet" else "class folders"
    if all(WORDNET_ID.fullmatch(str(name)) for name in classes):
        return "ImageNet" if len(classes) == 1000 else f"{len(classes)} classes of ImageNet"
    shown = ", ".join(in_line(str(name)) for name in classes[:3])
    return f"own images of {len(classes)} classes ({shown}{', ...' if len(classes) > 3 else ''})"


def caption(head: str, claim: str, shown: str) -> str:
    """Put a caption together: what is drawn, the paper's claim if there is one, ours."""
    if not claim:
        return f"{head}. {shown[:1].upper()}{shown[1:]}."
    return f"{head}. The paper: {claim}. Here: {shown}."


def channels_show(counts: NDArray[np.int64], total: int) -> str:
    """Say how far a few channels dominate (Figure 2).

    Args:
        counts: Numbers of correctly classified images (num_classes, channels).
        total: All images.
    """
    text = f"{counts.sum():,} of {total:,} images are classified correctly"
    top_two = np.sort(counts, axis=1)[:, -2:].sum(1)[counts.sum(1) > 0]
    if not len(top_two):
        return text
    shares = 100 * top_two / counts.sum(1)[counts.sum(1) > 0]
    return (
        f"{text}; the two strongest channels of a class have {shares.min():.0f} to "
        f"{shares.max():.0f}% of its images"
    )


def share_in_focus(seen: Views) -> NDArray[np.float64]:
    """Return which part of each map's sum lies in the focused area, (N,); NaN for zeros."""
    _, height, width = seen.cams.shape
    _, rows, columns = seen.focused.shape
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    inside = (seen.cams * seen.focused[:, y][:, :, x]).sum(axis=(1, 2), dtype=np.float64)
    whole = seen.cams.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(inside / np.where(whole > 0, whole, np.nan))


def cams_show(columns: Sequence[tuple[str, Views]], labels: NDArray[np.int64]) -> str:
    """Say how much of the maps is in the focused area, and what is classified right (Figure 4)."""
    inside = (100 * float(np.nanmean(share_in_focus(seen))) for _, seen in columns)
    right = (int((seen.predicted == labels).sum()) for _, seen in columns)
    return (
        f"from left to right {', '.join(f'{share:.0f}' for share in inside)}% of a map's sum lie "
        f"in the focused area, and {', '.join(map(str, right))} of {len(labels)} images are "
        "classified correctly"
    )


def curves_show(runs: Sequence[LabelledRun], baseline: str) -> str:
    """Tell how far each label is ahead of one, before and after the learning rate falls (Figure 5).

    Args:
        runs: Labels and records.
        baseline: The label to compare with.
    """
    groups = group_runs(runs)
    drops = [drop for _, records in runs for drop in rate_drops(records)[:1]]
    before = common_epochs(baseline, groups[baseline], "val_accuracy")
    parts = []
    for label, group in groups.items():
        if label == baseline:
            continue
        epochs, values = common_epochs(label, group, "val_accuracy")
        shared, mine, theirs = np.intersect1d(epochs, before[0], return_indices=True)
        gaps = 100 * (values.mean(0)[mine] - before[1].mean(0)[theirs])
        sides = [gaps[shared <= min(drops)], gaps[shared > min(drops)]] if drops else [gaps]
        words = ("before the rate first falls", "after") if drops else ("over all epochs",)
        metrics = [
            f"{gap.mean():+.2f} points {word}"
            for gap, word in zip(sides, words, strict=True)
            if len(gap)
        ]
        parts.append(f"{label} {', '.join(metrics)}")
    return f"against {baseline}: {'; '.join(parts)}" if parts else "one arm, nothing to compare"


def sweep_shows(found: Mapping[str, Sequence[float]], baseline: Sequence[float]) -> str:
    """Tell where accuracy is highest (Figure 6).

    Args:
        found: Accuracies in percent, one per seed, by what the setting is called.
        baseline: The same of the baseline.
    """
    done = {name: values for name, values in found.items() if values}
    if len(done) < 2:
        return "too few settings are trained to compare"
    best = max(done, key=lambda name: mean_and_deviation(done[name])[0])
    mean, deviation = mean_and_deviation(done[best])
    text = f"highest at {best}, {mean:.2f}" + (f" ± {deviation:.2f}" if deviation else "")
    if baseline:
        text += f", where the baseline has {mean_and_deviation(baseline)[0]:.2f}"
    counts = sorted({len(values) for values in done.values()})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{text} (best epoch, {seeds} seed{'s' if counts[-1] > 1 else ''} a setting)"
