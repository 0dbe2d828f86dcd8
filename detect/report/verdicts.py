"""The report in a sentence: who leads, by how much, how sure that is, what would decide it.

Two things move a difference of two mAPs. Other images would: the interval over resampled images
says how far. Another seed of the training would, too, and no resampling of the images knows of it.
So one run of each method never decides between methods, only between two networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.runs.over_seeds import Difference, paired_difference, seeds_needed
from common.text import counted
from detect.report.comparison import Comparison, Run, difference
from detect.report.writers.blocks import write_value
from detect.scoring.bootstrap import MAPS, Interval
from detect.scoring.over_seeds import FEWEST_IMAGES, FEWEST_RUNS, too_few

_FEWEST_IMAGES = 10
"""Of fewer, resamples of the images say nothing."""
_MOST_IMAGES = 1_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a report says first."""

    sentence: str
    """What was compared on what, who leads by how much, decided or not."""
    basis: str
    """What the interval is over, and what it leaves out."""
    deciding: str = ""
    """What would decide it; empty for a single run."""
    decided: bool = False
    """Whether the methods can be told apart, which takes several seeds and many images."""


def verdict(comparison: Comparison) -> Verdict:
    """Sum up a comparison."""
    found = _by_voc(comparison)
    if not comparison.leads_by_coco:
        return found
    # The numbers that follow are of another metric, which the reader is to see before them.
    of = f"{_by_coco(comparison)} With an interval, {_measure(comparison)}: "
    return replace(found, sentence=of + found.sentence)


def _by_voc(comparison: Comparison) -> Verdict:
    arms = arms_of(comparison)
    if len(comparison.runs) == 1:
        return _of_one(comparison)
    over = over_seeds(comparison)
    return _of_seeds(comparison, arms, over) if over else _of_runs(comparison, arms)


def _by_coco(comparison: Comparison) -> str:
    """Say COCO's AP of each run, which has no interval: "COCO AP: A 41.0, B 42.5."."""
    several = len(comparison.runs) > 1
    parts = [
        f"{run.label} {write_value(run.coco.get('ap'), 'percent')}"
        if several
        else f"{write_value(run.coco.get('ap'), 'percent')}, AP50 "
        f"{write_value(run.coco.get('ap50'), 'percent')}"
        for run in comparison.runs
    ]
    return f"COCO AP{':' if several else ''} {', '.join(parts)}."


def arms_of(comparison: Comparison) -> list[str]:
    """Return the methods that are compared, in their order."""
    return list(dict.fromkeys(run.arm for run in comparison.runs))


def images_needed(interval: Interval, images: int) -> int | None:
    """Return how many images would make the interval leave out 0, were the difference to stay.

    An interval shrinks with the square root of the number of images. None for a difference of 0 or
    where a million would not do.
    """
    half = (interval.high - interval.low) / 2
    if not abs(interval.value) > 0 or not math.isfinite(half):
        return None
    needed = images * (half / abs(interval.value)) ** 2
    if needed > _MOST_IMAGES:
        return None
    digits = max(0, len(str(int(needed))) - 2)
    return int(math.ceil(needed / 10**digits) * 10**digits)  # two digits: it is an estimate


def on_images(comparison: Comparison) -> str:
    """Put the images in words: "150 images (drawn shapes, 2007:test)"."""
    split = comparison.runs[0].evaluation["split"]
    return f"{counted(len(comparison.pictures), 'image')} ({comparison.data}, {split})"


def _points(value: float) -> str:
    return write_value(value, "points")


def _interval(interval: Interval | Difference) -> str:
    if interval.low is None or interval.high is None or math.isnan(interval.low):
        return ""
    return f" [{_points(interval.low)}, {_points(interval.high)}]"


def _each(runs: Sequence[Run]) -> str:
    return "one run each" if any(run.seed is None for run in runs) else "one seed each"


def _measure(comparison: Comparison) -> str:
    return f"mAP ({MAPS[f'map_{comparison.kind}']})"


def _of_one(comparison: Comparison) -> Verdict:
    run = comparison.runs[0]
    interval = run.intervals[f"map_{comparison.kind}"]
    ends = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    value = run.mean(comparison.kind)
    reached = "no class has a counted object" if value is None else f"{100 * value:.1f}"
    return Verdict(
        f"{run.title}: {reached}{ends if value is not None else ''} {_measure(comparison)} on "
        f"{on_images(comparison)}.",
        "The interval (95%) is over images alone: how far other images of this kind would move the "
        "score. Another seed of the training would move it too. Give the folder of a second run to "
        "compare.",
    )


def _of_runs(comparison: Comparison, arms: Sequence[str]) -> Verdict:
    """Sum up one run of each method, or runs that do not pair up by seeds."""
    runs, key = comparison.runs, f"map_{comparison.kind}"
    if any(run.mean(comparison.kind) is None for run in runs):
        text = f"{counted(len(runs), 'run')} on {on_images(comparison)}"
        return Verdict(f"{text}: no class has a counted object.", "")
    if len(runs) == 2:
        first, second = runs
        picked = ""
    else:
        second, first = sorted(runs, key=lambda run: -(run.mean(comparison.kind) or 0))[:2]
        picked = " The leader was picked after looking, which favours it."
    between = difference(first, second)[key]
    if not between.value:
        picked = ""
    apart = between.decided and len(comparison.pictures) >= _FEWEST_IMAGES
    text = "these two networks differ, the methods are not decided" if apart else "not decided"
    by = f"{_points(between.value)} points of {_measure(comparison)}{_interval(between)}"
    # As much as the next is no lead: the order of the command line came first then.
    leads = "leads" if between.value else "is no better than another of the"
    start = (
        f"{second.label} against {first.label}: {by}"
        if len(runs) == 2
        else f"{second.label} {leads} {len(runs)} runs; against {first.label}, the next: {by}"
    )
    more = images_needed(between, len(comparison.pictures))
    networks = (
        f"; for these two networks alone, about {more:,} such images, if the difference stayed"
        if more and not apart
        else ""
    )
    return Verdict(
        f"{start} on {on_images(comparison)}, {_each(runs)}: {text}.",
        "The interval is over images alone (95%, the same resamples for both). Another seed of the "
        "training would move the difference too, so one run each never decides between methods, "
        f"however narrow the interval.{picked}",
        "What would decide it: five or more seeds of each method, given together to one report"
        f"{networks}.",
    )


def over_seeds(comparison: Comparison) -> Difference | None:
    """Sum up the difference of the second of two methods to the first over the seeds of both.

    None where there are more or fewer methods, or not two seeds that both have.
    """
    arms = arms_of(comparison)
    if len(arms) != 2:
        return None
    values: list[dict[int, float]] = [{}, {}]
    for run in comparison.runs:
        mean = run.mean(comparison.kind)
        if run.seed is None or mean is None or run.seed in values[arms.index(run.arm)]:
            return None
        values[arms.index(run.arm)][run.seed] = mean
    over = paired_difference(values[1], values[0])
    return over if over and over.n > 1 else None


def _of_seeds(comparison: Comparison, arms: Sequence[str], over: Difference) -> Verdict:
    assert over.low is not None
    assert over.high is not None
    origins = [_backbones(comparison, arm) for arm in arms]
    one_file = origins[0] != origins[1] and max(map(len, origins)) == 1
    apart = over.low > 0 or over.high < 0
    few = too_few(over.n, len(comparison.pictures))
    decided = apart and not one_file and not few
    text = "decided" if decided else "not decided"
    sentence = (
        f"{arms[1]} against {arms[0]}: {_points(over.mean)} points of {_measure(comparison)}"
        f"{_interval(over)} on {on_images(comparison)}, {over.n} seeds each: {text}."
    )
    basis = (
        f"The interval (95%) is over seeds: Student's, of the {over.n} differences between runs of "
        "one seed, all on the same images."
    )
    if one_file:
        return Verdict(
            sentence,
            f"{basis} Every run of a method began from one and the same backbone file, so these "
            "are seeds of the fine-tuning alone.",
            "What would decide it: several pretrainings of each, and a fine-tuning of every one.",
        )
    if apart and few:
        enough = f"{FEWEST_RUNS} seeds of each method on {FEWEST_IMAGES} images"
        basis += f" It leaves out 0, but {few}."
        return Verdict(sentence, basis, f"What would decide it: {enough}.")
    return Verdict(sentence, basis, "" if decided else _more_seeds(over), decided)


def _more_seeds(over: Difference) -> str:
    try:
        needed = seeds_needed(over.mean, over.deviation or 0.0)
    except ValueError:
        return (
            "What would decide it: no affordable number of seeds, for the difference is too small."
        )
    seeds = max(needed, over.n + 1, FEWEST_RUNS)
    return (
        f"What would decide it: {seeds} seeds of each would see a difference of this size in four "
        "of five cases, by the spread of these."
    )


def _backbones(comparison: Comparison, arm: str) -> set[object]:
    """Return what distinguishes the backbone files of a method's runs."""
    files: set[object] = set()
    for run in comparison.runs:
        backbone = run.evaluation.get("backbone")
        if run.arm == arm and isinstance(backbone, dict):
            files.add((backbone.get("recipe_name"), backbone.get("seed"), backbone.get("file")))
    return files
