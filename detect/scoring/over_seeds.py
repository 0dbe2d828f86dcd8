"""Two methods, several seeds each: an interval that holds over images and over seeds.

An interval over images says what other images would have changed for these very networks; another
seed of the training gives another network. Here both vary:

- images: the mean difference of the runs, on resamples of the images that all runs share (paired,
  so what is hard for all cancels);
- seeds: the runs of a method are a sample, too, with the standard deviation that they show, pooled
  over both methods. A resample draws a mean of as many runs: Student's t with the degrees of
  freedom that estimate that deviation, since a plain bootstrap of three runs draws intervals a
  third too short.

What differs from run to run on the same images is in both parts, so it is taken out of the first.
The middle 95% of the resamples is the interval; `scripts/benchmarks/coverage.py` shows that it
holds the true difference in 95 of 100 simulated comparisons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.text import counted

FEWEST_RUNS, FEWEST_IMAGES = 5, 200
"""Below these, a decision is named with the number it rests on."""
MOST_RUNS = 100
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first method."""

    value: float
    """Of the means over the runs."""
    low: float
    """2.5th percentile."""
    high: float
    """97.5th."""
    probability_better: float
    """Share of the resamples in which the second is better."""
    seed_deviation: float | None
    """Of a single run, over seeds; None with one run each."""
    image_deviation: float
    """Of the difference, over images."""
    more_runs: int | None
    """Runs that each method needs beyond those that it has, for an interval without 0 if value and
    deviations stay; 0 if none are needed; None if no `MOST_RUNS` would do."""

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def compare_runs(
    first: Sequence[NDArray[np.float64]],
    second: Sequence[NDArray[np.float64]],
    seed: int = 0,
) -> Difference:
    """Compare two methods.

    Args:
        first: For each run of a method, (resamples + 1,) its value on the split and on resamples of
            its images, which are the same for all runs.
        second: The same of the other method.
        seed: Of what is drawn for the seeds.

    Raises:
        ValueError: A method has no run.
    """
    if not first or not second:
        raise ValueError("each method needs a run")
    means = [np.mean(runs, axis=0) for runs in (first, second)]
    value, *resampled = (means[1] - means[0]).tolist()
    images = np.array(resampled)
    images = images[~np.isnan(images)]
    spread = float(images.std(ddof=1)) if len(images) > 1 else 0.0
    counts = len(first), len(second)
    freedom = sum(counts) - 2
    deviation = _pooled_deviation([[run[0] for run in runs] for runs in (first, second)])
    scale = 0.0 if deviation is None else deviation * math.sqrt(1 / counts[0] + 1 / counts[1])
    if spread:
        twice = (1 / counts[0] + 1 / counts[1]) * _of_runs_and_images((first, second))
        shared = math.sqrt(max(0.0, 1 - twice / spread**2))
        images = images.mean() + shared * (images - images.mean())
        spread *= shared
    rng = np.random.default_rng(seed)
    drawn = images + (scale * rng.standard_t(freedom, len(images)) if scale else 0.0)
    known = len(drawn) > 0 and not math.isnan(value)
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist() if known else (math.nan, math.nan)
    better = np.count_nonzero(drawn > 0) + np.count_nonzero(drawn == 0) / 2
    return Difference(
        value=float(value),
        low=low,
        high=high,
        probability_better=float(better / len(drawn)) if known else math.nan,
        seed_deviation=deviation,
        image_deviation=spread,
        more_runs=0
        if low > 0 or high < 0
        else _more_runs(abs(value), spread, deviation, max(counts)),
    )


def verdict(difference: Difference, runs: tuple[int, int], images: int) -> str:
    """Say in one sentence what was found, what it holds over, and what it rests on."""
    if math.isnan(difference.low):
        return "not defined: no class has counted objects"
    seeds = difference.seed_deviation is not None
    over = f"over {runs[0]} and {runs[1]} seeds and the images" if seeds else "over images alone"
    if not difference.decided:
        return f"not decided at 95% {over}{_what_would(difference, seeds)}"
    direction = "better" if difference.value > 0 else "worse"
    few = too_few(min(runs), images)
    if not few:
        return f"the second is {direction}: decided at 95% {over}"
    return f"the second looks {direction}: its 95% interval {over} leaves out 0, but {few}"


def too_few(runs: int, images: int) -> str:
    """Say what an interval rests on where that is less than a decision takes; else nothing."""
    few = [f"{counted(runs, 'run')} per side"] if runs < FEWEST_RUNS else []
    few += [counted(images, "image")] if images < FEWEST_IMAGES else []
    rests = " and ".join(few)
    return rests and f"rests on {rests} (decided takes {FEWEST_RUNS} and {FEWEST_IMAGES})"


def _what_would(difference: Difference, seeds: bool) -> str:
    if not seeds:
        return "; more seeds would show what a seed changes"
    if difference.more_runs is None:
        return f"; up to {MOST_RUNS} seeds per side would not decide it on these images"
    return f"; about {difference.more_runs} more seeds per side would, if the difference stays"


def _pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups; None where each is of one."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum(float(((np.array(group) - np.mean(group)) ** 2).sum()) for group in groups)
    return math.sqrt(squares / freedom)


def _of_runs_and_images(groups: Sequence[Sequence[NDArray[np.float64]]]) -> float:
    """Return the variance over images of run minus method; 0 with one run each."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return 0.0
    total = 0.0
    for group in groups:
        resampled = np.stack(group)[:, 1:]
        apart = resampled - resampled.mean(axis=0)
        total += float(np.nansum(np.nanvar(apart, axis=1)))
    return total / freedom


def _more_runs(value: float, images: float, seeds: float | None, runs: int) -> int | None:
    """Return how many runs per side, beyond `runs`, would leave out 0 if nothing else changed."""
    if seeds is None:
        return None
    from scipy.special import ndtri, stdtrit

    tail = (1 + _LEVEL) / 2
    for count in range(runs, MOST_RUNS + 1):
        of_seeds = seeds * math.sqrt(2 / count)
        total = math.hypot(images, of_seeds)
        if not total:  # equal methods, whatever is drawn
            return None
        # Between the normal of the images and the t of the seeds, by their shares of the variance.
        share = (of_seeds / total) ** 2
        freedom = max(2 * count - 2, 1)
        quantile = float(stdtrit(freedom / max(share**2, 1e-9), tail)) if share else ndtri(tail)
        if value > quantile * total:
            return max(count - runs, 1)
    return None
