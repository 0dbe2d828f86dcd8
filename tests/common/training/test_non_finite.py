"""When a training looks for NaN and infinity, and what it says of the images in question."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.images.sampling import MicroBatch
from common.processes.ranks import World
from common.training import non_finite
from common.training.epoch_means import EpochSums
from common.training.non_finite import POLL_STEPS, FiniteCheck, NonFiniteError

CPU = torch.device("cpu")


def world(size: int = 1) -> World:
    return World(CPU, 0, size)


def sums(loss: float) -> EpochSums:
    taken = EpochSums()
    taken.add({"loss": torch.tensor(loss)}, 4)
    return taken


def plan(*images: int, epoch: int = 2) -> list[MicroBatch]:
    return [MicroBatch(epoch, np.array(images), 1.0)]


def said(check: FiniteCheck, loss: float, step: int, *, now: bool = False) -> str:
    with pytest.raises(NonFiniteError) as caught:
        check.check(sums(loss), step, now=now)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_process_of_its_own_looks_before_each_update(tmp_path: Path) -> None:
    check = FiniteCheck(nn.Linear(1, 1), world(), tmp_path)
    for step in (6, 7):
        check.begin(step, plan(step, 10 + step))
        if step == 6:
            check.check(sums(1.0), step)
    assert said(check, math.nan, 7) == (
        "loss became non-finite at step 7: lower the learning rate or look at the data (training "
        "images 7, 17 of step 7, listed in non_finite.json); nothing was saved since"
    )
    assert json.loads((tmp_path / "non_finite.json").read_text()) == {
        "step": 7,
        "non_finite": ["loss"],
        "steps": [{"step": 7, "epoch": 2, "images": [[7, 17]]}],
    }


def test_where_looking_costs_it_looks_every_ten_steps() -> None:
    check = FiniteCheck(nn.Linear(1, 1), world(2), None)
    assert POLL_STEPS == 10
    for step in range(8, 13):
        check.begin(step, plan(step))
        if step != 10:
            check.check(sums(math.inf), step)  # not yet
    assert said(check, math.inf, 20) == (
        "loss became non-finite at step 20, or up to 12 before: lower the learning rate or look at "
        "the data (training images 8, 9, 10, 11, 12 of steps 8 to 12); nothing was saved since"
    )


def test_a_look_clears_all_steps_but_the_last() -> None:
    check = FiniteCheck(nn.Linear(1, 1), world(2), None)
    for step in range(8, 11):
        check.begin(step, plan(step))
    check.check(sums(1.0), 10)
    check.begin(11, plan(11))
    assert "(training images 10, 11 of steps 10 to 11)" in said(check, math.nan, 11, now=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_are_looked_at_before_they_are_saved(value: float) -> None:
    model = nn.Linear(2, 1)
    check = FiniteCheck(model, world(), None)
    check.begin(4, plan(1))
    check.check(sums(1.0), 4)
    with torch.no_grad():
        model.weight[0, 1] = value
    check.check(sums(1.0), 4)  # of a step alone, the sums are looked at
    assert said(check, 1.0, 5, now=True).startswith("a weight became non-finite at step 5, or up t")
    assert said(check, math.nan, 5, now=True).startswith("loss and a weight became non-finite")


def test_large_weights_are_finite() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[:] = 3e38  # the sum of their squares is not
    FiniteCheck(model, world(), None).check(sums(1.0), 5, now=True)


def test_after_the_same_step_it_looks_once() -> None:
    check = FiniteCheck(nn.Linear(1, 1), world(), None)
    check.check(sums(1.0), 0, now=True)
    check.check(sums(math.nan), 0, now=True)
    assert said(FiniteCheck(nn.Linear(1, 1), world(), None), math.nan, 0, now=True)
    check = FiniteCheck(nn.Linear(1, 1), world(), None)
    check.check(sums(1.0), 5)  # does not clear the weights
    assert said(check, math.nan, 5, now=True)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (range(8), "(training images 0, 1, 2, 3, 4, 5, 6, 7 of step 3)"),
        (range(9), "(training images 0, 1, 2, 3, 4, 5, 6, 7 and 1 more of step 3)"),
        (range(12), "(training images 0, 1, 2, 3, 4, 5, 6, 7 and 4 more of step 3)"),
    ],
)
def test_eight_images_are_named(images: range, told: str) -> None:
    check = FiniteCheck(nn.Linear(1, 1), world(), None)
    check.begin(3, plan(*images))
    assert told in said(check, math.nan, 3)


def test_before_any_step_there_are_no_images() -> None:
    check = FiniteCheck(nn.Linear(1, 1), world(), None)
    assert said(check, math.nan, 3).startswith("loss became non-finite at step 3: lower")


def test_a_poisoned_network_leaves_the_steps_before_in_question() -> None:
    model = nn.Linear(1, 1)
    check = FiniteCheck(model, world(), None)
    check.begin(3, plan(3))
    check.check(sums(1.0), 3)
    check.begin(4, plan(4))
    with torch.no_grad():
        model.bias[0] = math.nan  # the update of step 3
    assert "at step 4, or up to 1 before" in said(check, math.nan, 4)


def test_the_images_of_all_ranks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first rank lists them; another found the NaN, and a second name."""

    def gather(mine: Any) -> list[Any]:
        if isinstance(mine, bool):
            return [mine, False]
        if mine and isinstance(mine[0], dict):
            return [mine, [{**one, "images": [[50], [51]]} for one in mine]]
        return [mine, ["loss", "gradient_norm"]]

    monkeypatch.setattr(non_finite, "gather", gather)
    monkeypatch.setattr(non_finite, "any_rank", lambda bad, device: True)
    check = FiniteCheck(nn.Linear(1, 1), world(2), tmp_path)
    check.begin(9, plan(3))
    check.begin(10, plan(4))
    told = said(check, 1.0, 10)
    assert told.startswith("loss and gradient_norm became non-finite at step 10, or up to 1 before")
    assert "images 3, 50, 51, 4, 50, 51 of steps 9 to 10, listed in non_finite.json" in told
    assert json.loads((tmp_path / "non_finite.json").read_text())["steps"] == [
        {"step": 9, "epoch": 2, "images": [[3], [50], [51]]},
        {"step": 10, "epoch": 2, "images": [[4], [50], [51]]},
    ]
