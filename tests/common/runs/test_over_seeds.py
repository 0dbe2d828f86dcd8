"""Statistics over seeds, against hand values, published tables, scipy and simulations."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.runs.over_seeds import (
    SIGN_FLIPS_FROM,
    Difference,
    detectable,
    mean_and_deviation,
    paired_difference,
    power,
    seeds_needed,
    sign_flip_test,
    spread,
)


def test_a_spread_shows_what_there_is() -> None:
    assert [spread(values) for values in ((), (2,), (1, 2, 3))] == ["-", "2.00", "2.00 ± 1.00"]


def test_an_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, so +- 2.4841.
    found = paired_difference({0: 11, 1: 22, 2: 33, 7: 99}, {0: 10, 1: 20, 2: 30, 5: 0})
    assert found is not None
    assert (found.mean, found.n) == (2, 3)
    assert (found.low, found.high) == (pytest.approx(-0.48414, abs=1e-5), pytest.approx(4.48414))


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    found = paired_difference({0: 3.0}, {0: 1.0})
    assert found is not None and (found.mean, found.low, found.high, found.n) == (2, None, None, 1)
    assert paired_difference({0: 3.0}, {1: 1.0}) is None


values = st.floats(0, 100).map(lambda value: round(value, 2))


@given(st.lists(st.tuples(values, values), min_size=2, max_size=6))
def test_statistics_equal_numpy_and_scipy(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    mean, deviation = mean_and_deviation(ours.values())
    assert mean == pytest.approx(np.mean(list(ours.values())))
    assert deviation == pytest.approx(np.std(list(ours.values()), ddof=1), abs=1e-9)
    found = paired_difference(ours, theirs)
    assert found is not None and found.low is not None and found.high is not None
    differences = np.array(list(ours.values())) - np.array(list(theirs.values()))
    if np.ptp(differences) > 1e-6:
        low, high = stats.t.interval(
            0.95, len(pairs) - 1, loc=differences.mean(), scale=stats.sem(differences)
        )
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


# ---- sign flips ---------------------------------------------------------------------------------


def test_sign_flips_by_hand() -> None:
    # Of the 8 choices of signs for 1, 2, 4 the sums 7 and -7 lie as far as 7; for 1, 2, -4 these
    # are 1 and -1, and all lie as far.
    assert sign_flip_test([1, 2, 4]) == 2 / 8
    assert sign_flip_test([1, 2, -4]) == 1.0
    assert sign_flip_test([-1, 2, 4]) == 4 / 8  # 5, 7 and their negatives
    assert sign_flip_test([0.1] * 6) == 2 / 64  # the least that six can give
    assert sign_flip_test([0.1, 0.2, 0.3, -0.6]) == 1.0  # a sum of zero, but for rounding


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8))
def test_sign_flips_equal_scipys(differences: list[int]) -> None:
    found = stats.permutation_test(
        (np.array(differences, float),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_test([d / 7 for d in differences]) == pytest.approx(found.pvalue)


@pytest.mark.parametrize("n", [SIGN_FLIPS_FROM - 1, SIGN_FLIPS_FROM])
def test_sign_flips_stand_beside_the_interval_from_six_seeds_on(n: int) -> None:
    found = paired_difference({s: 1.0 + 0.1 * s for s in range(n)}, dict.fromkeys(range(n), 0.0))
    assert found is not None and found.low is not None and found.deviation is not None
    assert found.deviation == pytest.approx(np.std(0.1 * np.arange(n), ddof=1))
    if n < 6:
        assert found.sign_flip is None and str(found).endswith("]")
    else:
        assert found.sign_flip == 2 / 64 and str(found).endswith("] (p 0.031)")


@pytest.mark.parametrize(("n", "p"), [(16, 2 / 2**16), (17, None)])
def test_sign_flips_end_where_there_are_too_many(n: int, p: float | None) -> None:
    """A pair more takes twice the time."""
    found = paired_difference(dict.fromkeys(range(n), 1.0), dict.fromkeys(range(n), 0.5))
    assert found is not None and found.sign_flip == p


def test_a_difference_in_words() -> None:
    assert str(Difference(0.456, None, None, 1)) == "+0.46"
    assert str(Difference(-0.456, -1.0, 0.088, 3)) == "-0.46 [-1.00, +0.09]"


# ---- power --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_are_those_of_published_tables(effect: float, n: int) -> None:
    """G*Power's, for a paired t test, two-sided at 5%, power 80%."""
    assert seeds_needed(effect, 1.0) == n
    assert seeds_needed(-0.25 * effect, 0.25) == n  # only the ratio counts


@pytest.mark.parametrize(
    ("n", "effect"), [(2, 2.0), (2, 8.0), (2, 11.5), (3, 0.0), (3, 2.0), (8, 1.2)]
)
def test_power_is_the_share_of_simulated_tests(n: int, effect: float) -> None:
    trials = 40_000
    rng = np.random.default_rng(0)
    draws = rng.normal(effect, 1.0, (trials, n))
    share = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert power(effect, 1.0, n) == pytest.approx(
        share, abs=4 * math.sqrt(max(share * (1 - share), 1e-4) / trials)
    )


def test_power_grows_with_the_difference_and_the_seeds() -> None:
    """Where scipy's lower tail is NaN, too (n 2, difference 8)."""

    def grows(values: Sequence[float]) -> bool:
        return all(0 <= a <= b <= 1 for a, b in pairwise(values))

    for n in (2, 3, 8, 50):
        assert grows([power(d, 0.3, n) for d in np.geomspace(0.01, 30, 60)])
    assert grows([power(0.3, 0.3, n) for n in range(2, 60)])


@pytest.mark.parametrize("n", [2, 3, 6, 8, 20])
@pytest.mark.parametrize("wanted", [0.8, 0.95])
@pytest.mark.parametrize("deviation", [0.25, 3.0])
def test_what_could_be_seen_is_seen_so_often(n: int, wanted: float, deviation: float) -> None:
    difference = detectable(deviation, n, wanted)
    assert power(difference, deviation, n) == pytest.approx(wanted, abs=1e-6)
    assert seeds_needed(1.0001 * difference, deviation, wanted) == n
    assert seeds_needed(0.9999 * difference, deviation, wanted) == n + 1


@pytest.mark.parametrize("n", [2, 7, 30])
def test_a_chance_that_is_reached_exactly_is_reached(n: int) -> None:
    assert seeds_needed(0.3, 0.5, power(0.3, 0.5, n)) == n


def test_the_plans_figures() -> None:
    """pretrain/plan-tenth-of-cifar10.md: eight pairs of a deviation of 0.25."""
    assert power(0.30, 0.25, 8) == pytest.approx(0.83, abs=0.005)
    assert stats.t.ppf(0.975, 7) * 0.25 / math.sqrt(8) == pytest.approx(0.21, abs=0.005)


@pytest.mark.parametrize(("deviation", "n", "message"), [(0.0, 3, "above 0"), (1.0, 1, "two")])
def test_nothing_is_said_without_a_spread(deviation: float, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        power(1.0, deviation, n)


def test_no_number_of_seeds_is_enough() -> None:
    with pytest.raises(ValueError, match="more than 100,000 seeds"):
        seeds_needed(1e-9, 1.0)


def test_a_hundred_thousand_seeds_are_the_most_and_two_the_least() -> None:
    least = detectable(1.0, 100_000)
    assert seeds_needed((1 + 1e-6) * least, 1.0) == 100_000
    with pytest.raises(ValueError, match=r"^a difference of .* more than 100,000 seeds$"):
        seeds_needed((1 - 1e-6) * least, 1.0)
    assert seeds_needed(1000.0, 1.0) == 2
    for deviation in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"must be above 0, not {deviation}"):
            power(1.0, deviation, 3)


def test_power_by_hand() -> None:
    """Without a difference, the level of the test; of a large one, certainty."""
    for n in (2, 3, 10):
        assert power(0.0, 1.0, n) == pytest.approx(0.05, abs=1e-9)
    assert power(100.0, 1.0, 5) == pytest.approx(1.0, abs=1e-9)
    assert power(-0.3, 0.25, 8) == power(0.3, 0.25, 8)
    # By the noncentral t itself: beyond 4.3027, of two degrees, at a shift of 3 ** 0.5.
    expected = stats.nct.sf(4.302652729749464, 2, 3**0.5) + stats.nct.sf(
        4.302652729749464, 2, -(3**0.5)
    )
    assert power(2.0, 2.0, 3) == pytest.approx(expected, rel=1e-9)
    assert detectable(2.0, 8, 0.9) > detectable(2.0, 8) == detectable(2.0, 8, 0.8)
    assert seeds_needed(0.5, 1.0) == seeds_needed(0.5, 1.0, 0.8) < seeds_needed(0.5, 1.0, 0.9)
