"""Which steps take part: a pure function of (seed, step)."""

import math
from hashlib import blake2b

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common import FocusedDropout, FocusedTraining
from common.method.focused_training import participates

STEPS = 300 * 391  # the paper's CIFAR training: 300 epochs of 391 batches


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), FocusedDropout(0.5), nn.Conv2d(4, 2, 3))


def sgd(model: nn.Module, weight_decay: float = 1e-4) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)


def test_the_sequence_never_changes() -> None:
    """Golden: a checkpoint of one version must resume in the next with the same steps."""
    steps = [step for step in range(200) if participates(0.1, 0, step)]
    assert steps == [13, 20, 31, 58, 96, 107, 110, 137, 167, 169]
    assert [step for step in range(60) if participates(0.1, 1, step)] == [11, 14, 42, 51]
    assert [step for step in range(10**6, 10**6 + 60) if participates(0.1, 0, step)] == [
        1000002,
        1000030,
        1000034,
        1000040,
    ]
    exact = [step for step in range(60) if participates(0.1, 0, step, steps_per_epoch=30)]
    assert exact == [13, 19, 20, 31, 45, 58]


def drawn(seed: int, step: int) -> float:
    """The first 53 bits of the hash, as a share."""
    digest = blake2b(f"{seed} {step}".encode(), digest_size=8, person=b"participates").digest()
    return int.from_bytes(digest, "big") // 2**11 / 2**53


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (0, 13), (7, 10**9), (-3, 5)])
def test_a_step_takes_part_whose_draw_is_below_the_rate(seed: int, step: int) -> None:
    """Equal is not below: of a rate of 0 no step takes part, whatever its draw."""
    draw = drawn(seed, step)
    assert not participates(draw, seed, step)
    assert participates(math.nextafter(draw, 1), seed, step)


@pytest.mark.parametrize("seed", [0, 3])
def test_of_an_exact_number_the_lowest_draws_of_the_epoch_take_part(seed: int) -> None:
    for epoch in (0, 2):
        steps = range(10 * epoch, 10 * epoch + 10)
        lowest = sorted(steps, key=lambda step: drawn(seed, step))[:3]
        assert {step for step in steps if participates(0.3, seed, step, 10)} == set(lowest)


def test_pure_function_of_seed_and_step() -> None:
    forward = [participates(0.1, 7, step) for step in range(2000)]
    order = torch.randperm(2000).tolist()
    shuffled = {step: participates(0.1, 7, step) for step in order}
    assert [shuffled[step] for step in range(2000)] == forward
    model = network()
    focus = FocusedTraining(model, sgd(model), seed=7)
    later = FocusedTraining(model, sgd(model), seed=7)
    with focus.step(0):
        torch.rand(5)
    assert [focus.participates(step) for step in range(2000)] == forward
    assert [later.participates(step) for step in reversed(range(2000))] == forward[::-1]


def test_shares_over_a_whole_training_are_binomial() -> None:
    taking = torch.tensor([participates(0.1, 0, step) for step in range(STEPS)])
    # 11,730 +- 103 in all; five deviations.
    assert abs(int(taking.sum()) - STEPS * 0.1) < 5 * (STEPS * 0.1 * 0.9) ** 0.5
    per_epoch = taking.view(300, 391).sum(dim=1).double()
    assert 4.8 < per_epoch.std() < 7.1  # 5.93 by the binomial law, 0.24 its standard error
    assert per_epoch.min() > 39.1 - 5 * 5.93 and per_epoch.max() < 39.1 + 5 * 5.93
    # Neighbours are independent: a pair of steps takes part with probability 0.01.
    pairs = int((taking[1:] & taking[:-1]).sum())
    assert abs(pairs - STEPS * 0.01) < 5 * (STEPS * 0.01) ** 0.5
    # Inside an epoch no place is preferred (the coin that spends its budget early).
    thirds = taking.view(300, 391)[:, :390].view(300, 3, 130).sum(dim=(0, 2)).double()
    assert (thirds - 3900).abs().max() < 5 * (39000 * 0.09) ** 0.5


def test_seeds_are_independent() -> None:
    first, second = (
        torch.tensor([participates(0.1, seed, step) for step in range(20_000)]) for seed in (0, 1)
    )
    assert abs(int((first & second).sum()) - 200) < 5 * 200**0.5


@given(rate=st.floats(0, 1), seed=st.integers(-(2**70), 2**70), step=st.integers(0, 2**70))
def test_more_take_part_at_a_higher_rate(rate: float, seed: int, step: int) -> None:
    assert participates(1.0, seed, step) and not participates(0.0, seed, step)
    if participates(rate, seed, step):
        assert participates(min(1.0, rate * 1.5), seed, step)


@given(
    rate=st.floats(0, 1),
    steps_per_epoch=st.integers(1, 60),
    epoch=st.integers(0, 1000),
    seed=st.integers(0, 2**32),
)
def test_exact_number_in_every_epoch(
    rate: float, steps_per_epoch: int, epoch: int, seed: int
) -> None:
    steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
    taking = sum(participates(rate, seed, step, steps_per_epoch) for step in steps)
    assert taking == round(rate * steps_per_epoch)


def test_exact_number_at_the_papers_size() -> None:
    model = network()
    focus = FocusedTraining(model, sgd(model), steps_per_epoch=391)
    epochs = [[s for s in range(391) if focus.participates(391 * epoch + s)] for epoch in range(20)]
    assert {len(steps) for steps in epochs} == {39}
    assert len({tuple(steps) for steps in epochs}) == 20  # other steps in every epoch


def test_steps_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="steps count from 0; there is no step -1"):
        participates(0.1, 0, -1)
    with pytest.raises(TypeError):
        participates(0.1, 0, 1.0)  # type: ignore[arg-type]
    assert participates(0.1, 0, torch.tensor(13)) is True  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_zero_and_one_in_a_training(rate: float) -> None:
    model = network()
    focus = FocusedTraining(model, sgd(model), participation_rate=rate)
    for step in range(300):
        with focus.step(step) as participating:
            assert participating is (rate == 1)
    report = focus.end_epoch()
    assert report["steps"] == 300 and report["participating_steps"] == 300 * rate
