"""Learning rates worked out by hand, and recipes that survive JSON."""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import pytest
from recipes import Training

import common.recipe
import detect.flags
import detect.recipes
import pretrain.flags
import pretrain.recipes.recipe
from common.command import flags
from common.recipe import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Focus,
    Optimization,
    Range,
    check,
    from_json,
    learning_rate,
    lengthened,
)
from detect.recipes import RECIPES as DETECT
from pretrain.recipes import RECIPES as PRETRAIN
from pretrain.recipes import Recipe

MODULES = (
    *(common.recipe, flags, detect.recipes, detect.flags),
    *(pretrain.recipes.recipe, pretrain.flags),
)
KINDS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type)
    and kind.__module__ == module.__name__
    and any(ranges for _, _, ranges in common.recipe._fields(kind))
]


def test_there_are_ranges() -> None:
    assert {Focus, Optimization, Recipe, flags.RunFlags} <= set(KINDS)
    assert {kind.__module__ for kind in KINDS} == {module.__name__ for module in MODULES}


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0008),  # lr * warmup_start
        (1, 0.2006),  # a quarter of the way from 0.0008 to 0.8
        (2, 0.4004),
        (4, 0.8),
        (19, 0.8),
        (20, 0.4),  # epoch 2
        (24, 0.4),
        (25, 0.2),  # epoch 2.5
        (49, 0.2),
    ],
)
def test_steps_after_a_warm_up(step: int, rate: float) -> None:
    settings = Optimization(
        lr=0.8, batch_size=1, epochs=5, milestones=(2, 2.5), lr_factor=0.5, warmup_steps=4
    )
    assert learning_rate(settings, step, steps_per_epoch=10) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.002), (2, 2.0), (3, 1.7071067811865475), (4, 1.0), (5, 0.2928932188134524), (6, 0.0)],
)
def test_cosine_after_a_warm_up(step: int, rate: float) -> None:
    """Quarters of half a cosine over steps 2 to 6: 1 + cos of 0, 45, 90, 135 and 180 degrees."""
    settings = Optimization(lr=2.0, batch_size=1, epochs=2, schedule="cosine", warmup_steps=2)
    assert learning_rate(settings, step, steps_per_epoch=3) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize(
    "build", [*PRETRAIN.values(), *DETECT.values()], ids=lambda build: build.__name__
)
def test_every_recipe_survives_json(build: Callable[[], Any]) -> None:
    recipe = build()
    again = from_json(type(recipe), json.loads(json.dumps(asdict(recipe))))
    assert again == recipe
    assert hash(again) == hash(recipe)  # tuples, not lists


def test_an_unknown_field_is_refused() -> None:
    values = asdict(PRETRAIN["cifar10-resnet20"]())
    values["optimization"]["momentun"] = 0.5
    with pytest.raises(ValueError, match="Optimization has no field momentun"):
        from_json(Recipe, values)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"accumulate": 0},
        {"epochs": -1},
        {"momentum": -0.1},
        {"momentum": 1.0},
        {"optimizer": "adam"},
        {"schedule": "cosin"},
        {"precision": "fp8"},
        {"weight_decay": -1e-4},
        {"warmup_steps": -1},
        {"nesterov": True, "momentum": 0.0},
        {"ema_decay": 0.0},
        {"ema_decay": 1.0},
    ],
    ids=str,
)
def test_impossible_optimization_is_refused(change: dict[str, Any]) -> None:
    (name,) = set(change) - {"momentum"} or {"momentum"}
    with pytest.raises(ValueError, match=name):
        Optimization(**{"lr": 0.1, "batch_size": 4, "epochs": 1} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"nesterov": True},
        {"nesterov": True, "momentum": 1e-3},
        {"nesterov": True, "momentum": 0.0, "optimizer": "adamw"},
        {"ema_decay": 1e-3},
        {"ema_decay": 0.9999},
        {"weight_decay": 0.0, "momentum": 0.0, "warmup_steps": 0, "warmup_start": 1.0},
        {"weight_decay": 0, "momentum": 0.999, "milestones": (1, 1.5)},
    ],
    ids=str,
)
def test_what_is_just_possible_is_not_refused(change: dict[str, Any]) -> None:
    Optimization(**{"lr": 0.1, "batch_size": 4, "epochs": 1} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"gamma": (0.6, 0.3)},
        {"gamma": (-0.1, 0.3)},
        {"gamma": (0.3, 1.0)},
        {"participation_rate": 1.1},
        {"participation_rate": -0.1},
        {"weight_decay": float("inf")},
    ],
    ids=str,
)
def test_impossible_focus_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Focus(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "0.1"}, "lr must be a number, not '0.1'"),
        ({"lr": None}, "lr must be a number, not None"),
        ({"momentum": True}, "momentum must be a number, not True"),
        ({"batch_size": 8.5}, "batch_size must be a whole number, not 8.5"),
        ({"clip_norm": "1"}, "clip_norm must be a number or None, not '1'"),
        ({"nesterov": "no"}, "nesterov must be True or False, not 'no'"),
        ({"milestones": [1]}, "milestones must be a tuple of any number, each a number, not [1]"),
        ({"milestones": ("1",)}, "milestones must be a tuple of any number, each a number, not"),
        ({"milestones": 1}, "milestones must be a tuple of any number, each a number, not 1"),
        ({"optimizer": None}, "optimizer must be one of sgd, adamw, not None"),
    ],
)
def test_a_wrong_type_is_refused(change: dict[str, Any], message: str) -> None:
    """Python code and a run's JSON may give any; the command line gives none."""
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        Optimization(**{"lr": 0.1, "batch_size": 4, "epochs": 1} | change)


@pytest.mark.parametrize("gamma", ["0.3", 0.3, (0.3,), ("0.3", "0.6"), [0.3, 0.6]])
def test_a_gamma_that_is_no_pair_is_refused(gamma: Any) -> None:
    with pytest.raises(TypeError, match="^gamma must be a tuple of 2, each a number, not "):
        Focus(gamma=gamma)


def test_the_method_is_off_by_default() -> None:
    assert not Focus().enabled
    assert Focus(after="layer3").enabled
    assert Focus(weight_decay=1e-3).enabled


def test_what_a_longer_run_would_change() -> None:
    steps = Optimization(lr=0.1, batch_size=4, epochs=3, milestones=(1,))
    assert steps.tied_to_epochs is None
    assert replace(steps, schedule="cosine").tied_to_epochs == "the cosine schedule"


def test_a_run_is_lengthened_by_epochs_alone() -> None:
    run = Training(Optimization(lr=0.1, batch_size=4, epochs=3))

    def changed(**values: Any) -> Training:
        return replace(run, optimization=replace(run.optimization, **values))

    assert lengthened(run, changed(epochs=4))
    assert not lengthened(run, run)
    assert not lengthened(run, changed(epochs=2))
    assert not lengthened(run, changed(epochs=4, lr=0.2))
    assert not lengthened(run, replace(changed(epochs=4), focus=Focus(weight_decay=1e-3)))
    assert not lengthened("a recipe of old", changed(epochs=4))
    assert not lengthened(run, {"epochs": 4})


@pytest.mark.parametrize(
    ("allowed", "taken", "refused"),
    [
        (NOT_NEGATIVE, [0, 1e300], [-1e-300]),
        (POSITIVE, [1e-300, 1e300], [0, -1]),
        (AT_LEAST_ONE, [1, 10**30], [0, 1 - 1e-9]),
        (SHARE, [0, 0.5, 1], [-1e-300, 1 + 1e-9]),
    ],
)
def test_the_ends_of_ranges(allowed: Range, taken: list[float], refused: list[float]) -> None:
    allowed.check("x", tuple(taken))
    allowed.check("x", None)
    for number in [*refused, float("nan"), float("inf")]:
        with pytest.raises(ValueError, match="^x must be "):
            allowed.check("x", number)


@dataclass(frozen=True, kw_only=True)
class Ranged:
    share: Annotated[float, Range(high=1)] = 0.5
    sizes: Annotated[tuple[int, ...], Range(low=2)] = ()
    most: Annotated[float | None, Range(above=True)] = None
    free: float = -1.0
    part: Annotated[float, Range(high=1, above=True, below=True)] = 0.5

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": -0.1}, "share must be at least 0 and at most 1, not -0.1"),
        ({"share": float("nan")}, "share must be at least 0 and at most 1, not nan"),
        ({"sizes": (2, 1)}, "sizes must be at least 2, not 1"),
        ({"part": 0}, "part must be above 0 and below 1, not 0"),
        ({"part": 1}, "part must be above 0 and below 1, not 1"),
        ({"most": 0}, "most must be above 0, not 0"),
        ({"most": float("inf")}, "most must be above 0, not inf"),
    ],
)
def test_ranges_stand_in_the_types_of_fields(values: dict[str, Any], message: str) -> None:
    Ranged(sizes=(2, 3), most=1e-9, share=1)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Ranged(**values)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_class_with_ranges_checks_them(kind: type) -> None:
    """Written in the types of fields, a range would else be forgotten without a word."""
    source = "".join(
        inspect.getsource(part.__post_init__)
        for part in kind.__mro__
        if "__post_init__" in vars(part)
    )
    assert "check(self)" in source
