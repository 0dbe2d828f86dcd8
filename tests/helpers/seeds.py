"""Which seed every generator of a training is given."""

import importlib
from collections import defaultdict
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest

LOOP = (
    "common.training.assembly.Sampling",  # the order of the images
    "common.training.checkpointing.FocusedTraining",  # which steps take part
    "common.training.steps.image_keys",  # gamma
    "common.training.steps.seed_generators",  # other dropouts
)


def watch(patch: pytest.MonkeyPatch, *names: str) -> dict[str, set[Any]]:
    """Note what is given as `seed` to functions and classes, by where their callers find them."""
    seen: dict[str, set[Any]] = defaultdict(set)

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        parameters = signature(original)

        def call(*arguments: Any, **named: Any) -> Any:
            seen[name].add(parameters.bind(*arguments, **named).arguments["seed"])
            return original(*arguments, **named)

        return call

    for name in names:
        module, _, attribute = name.rpartition(".")
        original = getattr(importlib.import_module(module), attribute)
        patch.setattr(name, noting(name, original))
    return seen
