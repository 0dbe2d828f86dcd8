"""What can be said over several seeds: spread, paired differences, and what could have been seen.

An arm and its baseline share what a seed decides (initial weights, order, augmentation), so they
are compared seed by seed. All tests are two-sided, at 5%.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

ALPHA = 0.05
POWER = 0.8
"""The chance of seeing a true difference that an experiment is usually planned for."""
SIGN_FLIPS_FROM = 6
"""Pairs. With five, all of one sign still gives 2 / 2**5 = 0.06: the test could never decide."""
_MOST_FLIPPED = 16  # pairs; the time doubles with each


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), which needs two values."""
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def spread(values: Iterable[float]) -> str:
    """Write mean and sample deviation as far as they exist: "82.69 ± 0.36", "82.69", "-"."""
    values = list(values)
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over pairs of runs of the same seed, with its 95% interval."""

    mean: float
    low: float | None
    high: float | None
    n: int
    deviation: float | None = None
    """Sample deviation of the differences."""
    sign_flip: float | None = None
    """P-value of the sign-flip test, from six pairs on."""

    def __str__(self) -> str:
        """Write mean, interval and p-value, as far as they exist."""
        text = f"{self.mean:+.2f}"
        if self.low is not None:
            text += f" [{self.low:+.2f}, {self.high:+.2f}]"
        if self.sign_flip is not None:
            text += f" (p {self.sign_flip:.2g})"
        return text


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Compare two arms over the seeds that both have; None if there is none.

    The interval is Student's, for the mean of the differences: mean +- t(n - 1) * deviation /
    sqrt(n). It needs two pairs, and differences that are about normal; from six pairs on the
    sign-flip test, which needs no such thing, stands beside it.

    Args:
        ours: Value of each seed.
        theirs: Value of each seed, subtracted.
    """
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    n = len(differences)
    mean, deviation = mean_and_deviation(differences)
    if deviation is None:
        return Difference(mean, None, None, 1)
    half = _critical(n) * deviation / math.sqrt(n)
    flipped = sign_flip_test(differences) if SIGN_FLIPS_FROM <= n <= _MOST_FLIPPED else None
    return Difference(mean, mean - half, mean + half, n, deviation, flipped)


def sign_flip_test(differences: Sequence[float]) -> float:
    """Return the p-value of a mean difference if each of its differences could have either sign.

    Exact, over all 2**n choices of signs: the share of those whose mean lies as far from zero.
    """
    observed = abs(math.fsum(differences))
    least = observed * (1 - 1e-9)  # another order of adding must not tell equal sums apart
    # The choices come in pairs of opposite signs: half of them will do.
    first, *rest = differences
    choices = product((1, -1), repeat=len(rest))
    sums = (
        first + math.fsum(sign * d for sign, d in zip(signs, rest, strict=True))
        for signs in choices
    )
    as_far = sum(abs(total) >= least for total in sums)
    return float(as_far / 2 ** len(rest))


def power(difference: float, deviation: float, n: int) -> float:
    """Return the probability that a paired t test of n seeds sees a true difference.

    Exact, by the noncentral t distribution.

    Args:
        difference: The true mean difference.
        deviation: Of the paired differences over seeds, in the same unit.
        n: Seeds, at least two.

    Raises:
        ValueError: If the deviation is not positive, or n is below two.
    """
    if not deviation > 0:
        raise ValueError(f"the deviation must be above 0, not {deviation}")
    if n < 2:
        raise ValueError(f"a test over seeds needs at least two, not {n}")
    from scipy.stats import nct

    shift = abs(difference) / deviation * math.sqrt(n)
    critical = _critical(n)
    # The lower tail by symmetry: nct.cdf(-critical, n - 1, shift) is NaN here and there.
    return float(nct.sf(critical, n - 1, shift) + nct.sf(critical, n - 1, -shift))


def seeds_needed(difference: float, deviation: float, wanted: float = POWER) -> int:
    """Return the fewest seeds by which a true difference is seen with probability `wanted`.

    Raises:
        ValueError: As `power`; or if that would take more than 100,000 seeds.
    """
    most = 100_000
    if power(difference, deviation, most) < wanted:
        raise ValueError(f"a difference of {difference} would take more than {most:,} seeds")
    too_few, enough = 1, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if power(difference, deviation, middle) < wanted:
            too_few = middle
        else:
            enough = middle
    return enough


def detectable(deviation: float, n: int, wanted: float = POWER) -> float:
    """Return the true difference that n seeds see with probability `wanted`.

    Raises:
        ValueError: As `power`.
    """
    too_small, enough = 0.0, deviation
    while power(enough, deviation, n) < wanted:
        too_small, enough = enough, 2 * enough
    while enough - too_small > 1e-9 * enough:
        middle = (too_small + enough) / 2
        if power(middle, deviation, n) < wanted:
            too_small = middle
        else:
            enough = middle
    return enough


def _critical(n: int) -> float:
    """Return the Student's t that the mean of n differences must exceed."""
    from scipy.stats import t

    return float(t.ppf(1 - ALPHA / 2, n - 1))
