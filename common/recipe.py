"""The parts of a recipe that both stages share, and the learning rate they define.

Free of torch, so that help and lists appear at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """What a number may be: `Annotated[float, Range(high=1)]` is the type of a field in [0, 1].

    None passes; of a tuple every member counts. Infinity never passes.
    """

    low: float = 0
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is too small."""
    below: bool = False
    """Whether `high` itself is too large."""

    def check(self, name: str, value: Any) -> None:
        """Check the value of a field.

        Raises:
            ValueError: If it, or a member of it, is out of the range; the message names the field.
        """
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            enough = number > self.low if self.above else number >= self.low
            few = number < self.high if self.below else number <= self.high
            if not (enough and few and math.isfinite(number)):
                least = f"above {self.low}" if self.above else f"at least {self.low}"
                most = f" and {'below' if self.below else 'at most'} {self.high}"
                upper = "" if self.high == math.inf else most
                raise ValueError(f"{name} must be {least}{upper}, not {number}")


NOT_NEGATIVE = Range()
POSITIVE = Range(above=True)
AT_LEAST_ONE = Range(low=1)
SHARE = Range(high=1)


def _fields(kind: type) -> tuple[tuple[str, Any, tuple[Range, ...]], ...]:
    """Return the fields of a dataclass, each with its type and its ranges."""
    plain, annotated = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    return tuple(
        (
            name,
            plain[name],
            tuple(extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)),
        )
        for name, hint in annotated.items()
    )


def check(values: Any) -> None:
    """Check the fields of a dataclass, as its annotations say; `__post_init__` calls it.

    The command line gives the right types; Python code and the JSON of a run may not.

    Raises:
        TypeError: If a number, text, flag or tuple of them is none; the message names the field.
        ValueError: If one is out of its `Range`, or no word of its Literal.
    """
    for name, hint, ranges in _fields(type(values)):
        value = getattr(values, name)
        if not _is_of(value, hint):
            kind = ValueError if isinstance(value, str) and _words(hint) else TypeError
            raise kind(f"{name} must be {_described(hint)}, not {value!r}")
        for allowed in ranges:
            allowed.check(name, value)


_PLAIN = {float: "a number", int: "a whole number", bool: "True or False", str: "a text"}


def _is_of(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type of plain values; of any other type every value is."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_is_of(value, member) for member in members)
    if origin is Literal:
        return value in members
    if origin is tuple:
        of = members[:1] * len(value) if ... in members and isinstance(value, tuple) else members
        return isinstance(value, tuple) and len(value) == len(of) and all(map(_is_of, value, of))
    if hint is type(None):
        return value is None
    if hint not in _PLAIN:
        return True
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> tuple[str, ...]:
    """Return the words that a type admits."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for member in get_args(hint) for word in _words(member))


def _described(hint: Any) -> str:
    """Say in words what `_is_of` takes."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(map(_described, members))
    if origin is Literal:
        return f"one of {', '.join(members)}"
    if origin is tuple:
        number = "any number" if ... in members else len(members)
        return f"a tuple of {number}, each {_described(members[0])}"
    return "None" if hint is type(None) else _PLAIN.get(hint, str(hint))


@dataclass(frozen=True, kw_only=True, slots=True)
class Focus:
    """FocusedDropout and magnified weight decay (MWD), arXiv 2103.15425; off by default."""

    after: str | None = None
    """Submodule whose output the layer masks, such as layer3, or "penultimate", which finds the
    last stage but one; None places no layer."""
    gamma: Annotated[tuple[float, float], Range(high=1, below=True)] = (0.3, 0.6)
    """Threshold as a share of the reference channel's maximum, drawn from this range."""
    gamma_per: Literal["image", "unit", "batch"] = "image"
    """Draw it for each image; each unit, as Algorithm 1 read literally does; or once a batch."""
    opposite: bool = False
    """Drop the focused area and keep the rest (Table 4, "opposite approach")."""
    reference: Literal["strongest", "random"] = "strongest"
    """The channel that decides the focused area; random: a control, not in the paper."""
    places: Literal["focused", "shuffled"] = "focused"
    """Keep the focused area, or as many places at random: a control, not in the paper."""
    participation_rate: Annotated[float, SHARE] = 0.1
    """Share of optimizer steps that take part, 0 to 1."""
    exact: bool = False
    """Exactly round(rate * steps) steps of every epoch take part, not each by its own draw."""
    weight_decay: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight decay of the participating steps (the paper's is 1e-3); None: no MWD."""
    freeze_bn_stats: bool = False
    """Keep masked maps out of the running statistics of BatchNorm (not in the paper)."""

    @property
    def enabled(self) -> bool:
        """Whether anything of the method is on."""
        return self.after is not None or self.weight_decay is not None

    def __post_init__(self) -> None:
        check(self)
        low, high = self.gamma
        if low > high:
            raise ValueError(f"gamma must be a low and a high end, not {low} {high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """Optimizer, schedule and precision."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW with its default betas."""
    lr: Annotated[float, POSITIVE]
    """Peak learning rate, for the whole batch of a step."""
    momentum: Annotated[float, Range(high=1, below=True)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum of SGD."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 1e-4
    """Weight decay of all parameters."""
    batch_size: Annotated[int, POSITIVE]
    """Images per optimizer step, over all ranks and micro-batches."""
    accumulate: Annotated[int, POSITIVE] = 1
    """Micro-batches per optimizer step on each rank."""
    epochs: Annotated[int, POSITIVE]
    """Passes over the training images."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate after the warm-up: by steps, or half a cosine to zero."""
    milestones: Annotated[tuple[float, ...], NOT_NEGATIVE] = ()
    """Epochs at which the step schedule multiplies the rate."""
    lr_factor: Annotated[float, POSITIVE] = 0.1
    """Factor at each milestone."""
    warmup_steps: Annotated[int, NOT_NEGATIVE] = 0
    """Steps of linear warm-up."""
    warmup_start: Annotated[float, SHARE] = 1e-3
    """Share of the peak rate at the first warm-up step."""
    clip_norm: Annotated[float | None, POSITIVE] = None
    """Largest gradient norm; None: no clipping."""
    ema_decay: Annotated[float | None, Range(high=1, above=True, below=True)] = None
    """Decay per step of an average of the weights that is evaluated and exported; None: none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast precision; auto is bf16 on a GPU and fp32 on a CPU; fp16 scales the loss."""
    channels_last: bool = True
    """Memory format of the weights; images come channels last."""
    compile: bool = False
    """Compile the network with torch.compile."""
    cuda_graphs: bool = False
    """Replay captured CUDA graphs, one for each kind of step."""

    @property
    def tied_to_epochs(self) -> str | None:
        """What in the schedule depends on the number of epochs; None: nothing does."""
        return None if self.schedule == "step" else f"the {self.schedule} schedule"

    def __post_init__(self) -> None:
        check(self)
        if self.nesterov and self.optimizer == "sgd" and not self.momentum > 0:
            raise ValueError("nesterov needs a momentum above 0")


@runtime_checkable
class Recipe(Protocol):
    """What the loop reads of a stage's recipe, which has more: a frozen dataclass."""

    @property
    def optimization(self) -> Optimization:
        """Optimizer, schedule and precision."""
        ...

    @property
    def focus(self) -> Focus:
        """FocusedDropout and magnified weight decay."""
        ...

    @property
    def tied_to_epochs(self) -> str | None:
        """What in the training depends on the number of its epochs; None: nothing does."""
        ...


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def learning_rate(optimization: Optimization, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0 over the whole training."""
    o = optimization
    if step < o.warmup_steps:
        done = step / o.warmup_steps
        return o.lr * (o.warmup_start + (1 - o.warmup_start) * done)
    if o.schedule == "step":
        passed = sum(step >= round(epoch * steps_per_epoch) for epoch in o.milestones)
        return o.lr * o.lr_factor**passed
    total = o.epochs * steps_per_epoch
    done = (step - o.warmup_steps) / max(1, total - o.warmup_steps)
    return o.lr * 0.5 * (1 + math.cos(math.pi * done))


def lengthened(before: Any, now: Any) -> bool:
    """Tell whether two recipes differ by their epochs alone, of which the later one has more."""
    if not (isinstance(before, Recipe) and isinstance(now, Recipe)):
        return False
    epochs = now.optimization.epochs
    longer = replace(before.optimization, epochs=epochs)
    return epochs > before.optimization.epochs and replace(before, optimization=longer) == now  # type: ignore[type-var]


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild a recipe from the JSON that a run folder keeps.

    Raises:
        TypeError: If a field is of a wrong type, or a needed one is missing.
        ValueError: If a field is unknown or refused.
    """
    hints = get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    built: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]  # a recipe is a dataclass
        if field.name in values:
            value = values[field.name]
            if is_dataclass(hints[field.name]):
                value = from_json(hints[field.name], value)
            built[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)
