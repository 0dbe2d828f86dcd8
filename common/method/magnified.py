"""Magnified weight decay (MWD) in an optimizer's parameter groups."""

import warnings
from collections.abc import Sequence
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer


class Magnified(float):
    """A magnified weight decay; its copies and pickles are the base decay that it stands in for.

    So whatever is saved within a step holds the base decay, and a decay that somebody else sets
    there can be told from ours.
    """

    __slots__ = ("base",)
    base: float

    def __new__(cls, value: float, base: float) -> Self:
        """Magnify `base` to `value`."""
        made = super().__new__(cls, value)
        made.base = base
        return made

    def __copy__(self) -> float:
        return self.base

    def __deepcopy__(self, memo: dict[int, Any]) -> float:
        return self.base

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (self.base,)


def warn_of_no_magnification(groups: list[dict[str, Any]], weight_decay: float) -> None:
    """Warn where magnifying would change nothing, or lower the decay."""
    largest = max(group.get("weight_decay", 0) for group in groups)
    if largest == 0:
        warnings.warn(
            "no parameter group has a weight decay to magnify: give the optimizer one, "
            "or pass weight_decay=None",
            stacklevel=3,
        )
    elif largest > weight_decay:
        warnings.warn(
            f"the magnified weight decay {weight_decay} is below the optimizer's own {largest}: "
            "raise it (AdamW needs larger decays than SGD), or pass weight_decay=None",
            stacklevel=3,
        )


def warn_of_strangers(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    """Warn if the optimizer holds none of the network's parameters, but those of another one."""
    ours = {id(parameter) for parameter in model.parameters()}
    if ours and not any(id(p) in ours for group in groups for p in group["params"]):
        warnings.warn(
            "the optimizer holds no parameter of the network: its decay is magnified, which "
            "reaches the network only if they are copies (DeepSpeed, apex); else build it anew",
            stacklevel=3,
        )


def innermost_of(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """Return the optimizers that were given, each without its wrappers."""
    given: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    if not given:
        raise ValueError("FocusedTraining needs an optimizer, or a list of them, not an empty list")
    other = next((type(one).__name__ for one in given if not isinstance(one, Optimizer)), None)
    if other:
        raise TypeError(
            f"FocusedTraining needs a torch optimizer, or a list of them, not a {other}"
        )
    return [_innermost(one) for one in given]


def _innermost(optimizer: Optimizer) -> Optimizer:
    """Find the optimizer inside the wrappers of Accelerate, Lightning and timm's Lookahead.

    It is the one that state dicts come from, and the one that keeps its groups when loaded anew.
    """
    for name in ("optimizer", "_base_optimizer"):
        inner = getattr(optimizer, name, None)
        if isinstance(inner, Optimizer) and inner.param_groups is optimizer.param_groups:
            return _innermost(inner)
    return optimizer


def hide_magnified_decay(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Keep the magnified decay out of a state dict taken inside a step."""
    for group in state["param_groups"]:
        if isinstance(group.get("weight_decay"), Magnified):
            group["weight_decay"] = group["weight_decay"].base
