"""Checks of the arguments that users of the method give; each error names the argument."""

from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any, get_args

from torch import nn


def check_number(name: str, value: Any) -> None:
    """Check that an argument is a number.

    Raises:
        TypeError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {_described(value)}")


def whole_number(name: str, value: Any) -> int:
    """Return an argument that is a whole number, of whatever type, as an int.

    Raises:
        TypeError: If it is not.
    """
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {_described(value)}") from None


def check_flag(name: str, value: object, hint: str = "") -> None:
    """Check that an argument is true or false.

    Args:
        name: Of the argument.
        value: What was given.
        hint: What else may have been meant, behind the message.

    Raises:
        TypeError: If it is not: of a text or a number Python takes nearly all for true.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {_described(value)}{hint}")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Check an argument whose type is a Literal.

    Raises:
        ValueError: If it is none of the choices.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, not {value!r}")


def gamma_range(gamma: Any) -> tuple[float, float]:
    """Return the range of gamma that a layer is given, of which one number is both ends.

    Raises:
        TypeError: If it is neither a number nor a pair of numbers.
        ValueError: If not 0 <= low <= high < 1.
    """
    ends: Any = (gamma, gamma) if isinstance(gamma, Real) else gamma
    numbers = isinstance(ends, Sequence) and all(isinstance(end, Real) for end in ends)
    if not numbers or len(ends) != 2:
        raise TypeError(f"gamma must be a number or a pair of numbers, (low, high), not {gamma!r}")
    low, high = ends
    if not 0 <= low <= high < 1:
        raise ValueError(f"gamma must satisfy 0 <= low <= high < 1, not ({low}, {high})")
    return float(low), float(high)


def check_module(name: str, value: object) -> None:
    """Check that an argument is a module: a network or a layer of one.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, not {_described(value)}")


def _described(value: object) -> str:
    """Name a value in a message: itself if it is short, else its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}: build one, {value.__name__}(...)"
    if isinstance(value, str | int | float | tuple | list | None) and len(repr(value)) <= 60:
        return repr(value)
    return f"a {type(value).__name__}"
