"""Arguments of a wrong type: one sentence that names the argument, what it got and what it takes.

Python's own errors come from deep within, or not at all: most texts and numbers count as true.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from common.method import (
    FocusedDropout,
    FocusedTraining,
    arguments,
    focus_mask,
    focused_dropout,
    insert_after,
    penultimate_stage,
    remove_focused_dropout,
)
from common.method.controls import InParticipatingSteps

X = torch.rand(2, 3, 4, 4)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), FocusedDropout())


def focus(**arguments: Any) -> FocusedTraining:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
    return FocusedTraining(model, optimizer, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FocusedDropout("0.3"), "gamma must be a number or a pair of numbers, (low, high)"),  # type: ignore[arg-type]
        (lambda: FocusedDropout("36"), "pair of numbers, (low, high), not '36'"),  # type: ignore[arg-type]
        (lambda: FocusedDropout(None), "pair of numbers, (low, high), not None"),  # type: ignore[arg-type]
        (
            lambda: FocusedDropout(("0.3", "0.6")),
            "pair of numbers, (low, high), not ('0.3', '0.6')",
        ),  # type: ignore[arg-type]
        (lambda: FocusedDropout((0.3,)), "pair of numbers, (low, high), not (0.3,)"),  # type: ignore[arg-type]
        (lambda: FocusedDropout((0.1, 0.2, 0.3)), "pair of numbers, (low, high), not (0.1, 0.2"),  # type: ignore[arg-type]
        (
            lambda: FocusedDropout(0.3, 0.6),  # type: ignore[arg-type]
            "opposite must be True or False, not 0.6: a range is a pair, FocusedDropout((low, high",
        ),
        (lambda: FocusedDropout(opposite="no"), "opposite must be True or False, not 'no'"),  # type: ignore[arg-type]
        (lambda: FocusedDropout(signed="no"), "signed must be True or False, not 'no'"),  # type: ignore[arg-type]
        (lambda: focused_dropout(X, "0.3"), "gamma must be a number, not '0.3'"),  # type: ignore[arg-type]
        (lambda: focused_dropout(X, (0.3, 0.6)), "gamma must be a number, not (0.3, 0.6)"),  # type: ignore[arg-type]
        (lambda: focus_mask(X, np.ones(2)), "gamma must be a number, not a ndarray"),  # type: ignore[arg-type]
        (lambda: focus_mask(X.numpy(), 0.3), "needs a tensor of feature maps, not a ndarray"),  # type: ignore[arg-type]
        (lambda: focus(participation_rate="0.1"), "participation_rate must be a number, not '0.1'"),
        (lambda: focus(participation_rate=None), "participation_rate must be a number, not None"),
        (lambda: focus(weight_decay="1e-3"), "weight_decay must be a number, not '1e-3'"),
        (lambda: focus(weight_decay=True), "weight_decay must be a number, not True"),
        (lambda: focus(seed=0.5), "seed must be a whole number, not 0.5"),
        (lambda: focus(steps_per_epoch=390.5), "steps_per_epoch must be a whole number, not 390.5"),
        (lambda: focus(decay_only="no"), "decay_only must be True or False, not 'no'"),
        (lambda: focus(freeze_bn_stats=1), "freeze_bn_stats must be True or False, not 1"),
        (lambda: focus().participates("3"), "step must be a whole number, not '3'"),  # type: ignore[arg-type]
        (lambda: focus().step(3.0).__enter__(), "step must be a whole number, not 3.0"),  # type: ignore[arg-type]
        (lambda: FocusedTraining(None, sgd()), "model must be a torch.nn.Module, not None"),  # type: ignore[arg-type]
        (lambda: FocusedTraining(sgd(), network()), "needs a torch optimizer, or a list of them"),  # type: ignore[arg-type]
        (
            lambda: insert_after(network(), nn.ReLU(), FocusedDropout()),  # type: ignore[arg-type]
            'name must be the dotted name of a submodule, such as "layer3", not a ReLU',
        ),
        (lambda: insert_after("resnet18", "0", FocusedDropout()), "model must be a torch.nn.Modul"),  # type: ignore[arg-type]
        (lambda: remove_focused_dropout({}), "model must be a torch.nn.Module, not a dict"),  # type: ignore[arg-type]
        (lambda: penultimate_stage("resnet18"), "model must be a torch.nn.Module, not 'resnet18'"),  # type: ignore[arg-type]
        (
            lambda: InParticipatingSteps(nn.Dropout),  # type: ignore[arg-type]
            "layer must be a torch.nn.Module, not the class Dropout: build one, Dropout(...)",
        ),
    ],
)
def test_a_wrong_type_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma_per": "images"}, "gamma_per must be one of image, unit, batch, not 'images'"),
        ({"gamma": (0.6, 0.3)}, "gamma must satisfy 0 <= low <= high < 1, not (0.6, 0.3)"),
        ({"gamma": 1}, "not (1, 1)"),
    ],
)
def test_a_wrong_value_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FocusedDropout(**arguments)


def test_a_value_of_sixty_characters_is_shown_a_longer_one_by_its_type() -> None:
    for text, shown in (("x" * 58, repr("x" * 58)), ("x" * 59, "a str")):
        with pytest.raises(TypeError, match=f"not {shown}$"):
            focused_dropout(X, text)  # type: ignore[arg-type]


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(network().parameters(), lr=0.1, weight_decay=1e-4)


def test_numbers_of_other_types_will_do() -> None:
    assert FocusedDropout(np.float32(0.5)).gamma == (0.5, 0.5)  # type: ignore[arg-type]
    assert FocusedDropout([0, np.float64(0.5)]).gamma == (0.0, 0.5)  # type: ignore[arg-type]
    numbers = focus(seed=np.int64(3), steps_per_epoch=np.int64(50), weight_decay=1)
    assert (numbers.seed, numbers.steps_per_epoch) == (3, 50)
    assert numbers.participates(np.int64(7)) == numbers.participates(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x" * 58, repr("x" * 58)),  # 60 characters with its quotes
        ("x" * 59, "a str"),
        ([1, 2], "[1, 2]"),
        ({1: 2}, "a dict"),
        (None, "None"),
        (nn.Dropout, "the class Dropout: build one, Dropout(...)"),
    ],
)
def test_short_values_are_shown_and_others_by_their_type(value: object, told: str) -> None:
    assert arguments._described(value) == told


@pytest.mark.parametrize("gamma", [-0.1, 1, (0.6, 0.3), (0.3, 1.0), (-0.1, 0.5), math.nan])
def test_a_range_of_gamma_is_between_0_and_1(gamma: Any) -> None:
    with pytest.raises(ValueError, match=r"^gamma must satisfy 0 <= low <= high < 1, not \("):
        arguments.gamma_range(gamma)


def test_the_ends_of_a_range_of_gamma() -> None:
    assert arguments.gamma_range((0, 0.999)) == (0.0, 0.999)
    assert arguments.gamma_range(0.25) == arguments.gamma_range((0.25, 0.25)) == (0.25, 0.25)
    assert all(type(end) is float for end in arguments.gamma_range(0))


def test_choices_and_flags() -> None:
    choices = Literal["image", "batch"]
    arguments.check_choice("per", "batch", choices)
    with pytest.raises(ValueError, match=r"^per must be one of image, batch, not 'unit'$"):
        arguments.check_choice("per", "unit", choices)
    arguments.check_flag("exact", False)
    with pytest.raises(TypeError, match=r"^exact must be True or False, not 0$"):
        arguments.check_flag("exact", 0)
    assert arguments.whole_number("seed", np.int8(-3)) == -3
    arguments.check_module("model", nn.Identity())


def test_the_checks_are_part_of_no_graph() -> None:
    """One that Dynamo cannot follow would split the network in two."""
    compiled = torch.compile(focused_dropout, backend="eager", fullgraph=True)
    for gamma in (0.3, 0.5, 0.7):
        assert torch.equal(compiled(X, gamma), focused_dropout(X, gamma))
