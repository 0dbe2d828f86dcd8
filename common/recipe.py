"""The parts of a recipe that both stages share, and the learning rate they define.

Free of torch, so that help and lists appear at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, get_type_hints, runtime_checkable

T = TypeVar("T")


def check_range(
    recipe: object, names: str, low: float = 0, high: float = math.inf, *, above: bool = False
) -> None:
    """Check that fields of a dataclass lie in [low, high], or (low, high] with `above`.

    None passes; of a tuple every member counts.

    Args:
        recipe: The dataclass.
        names: Names of fields, separated by spaces.
        low: Smallest value.
        high: Largest value; infinity itself never passes.
        above: Whether `low` itself is too small.

    Raises:
        ValueError: If one does not; the message names it.
    """
    for name in names.split():
        value = getattr(recipe, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            enough = number > low if above else number >= low
            if not (enough and number <= high and math.isfinite(number)):
                least = f"above {low}" if above else f"at least {low}"
                most = "" if high == math.inf else f" and at most {high}"
                raise ValueError(f"{name} must be {least}{most}, not {number}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Focus:
    """FocusedDropout and magnified weight decay (MWD), arXiv 2103.15425; off by default."""

    after: str | None = None
    """Submodule whose output the layer masks, such as layer3; None places no layer."""
    gamma: tuple[float, float] = (0.3, 0.6)
    """Threshold as a share of the reference channel's maximum, drawn from this range."""
    gamma_per: Literal["image", "unit", "batch"] = "image"
    """Draw it for each image; each unit, as Algorithm 1 read literally does; or once a batch."""
    opposite: bool = False
    """Drop the focused area and keep the rest (Table 4, "opposite approach")."""
    reference: Literal["strongest", "random"] = "strongest"
    """The channel that tells the focused area; random: a control, not in the paper."""
    places: Literal["focused", "shuffled"] = "focused"
    """Keep the focused area, or as many places at random: a control, not in the paper."""
    participation_rate: float = 0.1
    """Share of optimizer steps that take part, 0 to 1."""
    exact: bool = False
    """Exactly round(rate * steps) steps of every epoch take part, not each by its own draw."""
    weight_decay: float | None = None
    """Weight decay of the participating steps (the paper's is 1e-3); None: no MWD."""
    freeze_bn_stats: bool = False
    """Keep masked maps out of the running statistics of BatchNorm (not in the paper)."""

    @property
    def enabled(self) -> bool:
        """Whether anything of the method is on."""
        return self.after is not None or self.weight_decay is not None

    def __post_init__(self) -> None:
        low, high = self.gamma
        if not 0 <= low <= high < 1:
            raise ValueError(f"gamma must satisfy 0 <= low <= high < 1, not {low} {high}")
        check_range(self, "participation_rate", high=1)
        check_range(self, "weight_decay")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """Optimizer, schedule and precision."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW with its default betas."""
    lr: float
    """Peak learning rate, for the whole batch of a step."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of all parameters."""
    batch_size: int
    """Images per optimizer step, over all ranks and micro-batches."""
    accumulate: int = 1
    """Micro-batches per optimizer step on each rank."""
    epochs: int
    """Passes over the training images."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate after the warm-up: by steps, or half a cosine to zero."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the step schedule multiplies the rate."""
    lr_factor: float = 0.1
    """Factor at each milestone."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    warmup_start: float = 1e-3
    """Share of the peak rate at the first warm-up step."""
    clip_norm: float | None = None
    """Largest gradient norm; None: no clipping."""
    ema_decay: float | None = None
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
        check_range(self, "lr batch_size accumulate epochs lr_factor clip_norm", above=True)
        check_range(self, "momentum weight_decay milestones warmup_steps")
        check_range(self, "warmup_start", high=1)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, not {self.ema_decay}")
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
