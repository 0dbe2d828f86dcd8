"""What a stage hands to the training loop, and how a run is carried out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from common.images.sampling import MicroBatch
from common.runs.data_parts import Parts


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the loop needs to know of a task."""

    model: nn.Module
    """The network, on its device; not wrapped."""
    num_images: int
    """Training images."""
    data: Parts = field(default_factory=dict)
    """What tells these data from others, part by part; all ranks must have the same, and so must a
    resume, which names the parts that changed."""
    load: Callable[[Iterable[MicroBatch]], Iterator[Any]]
    """Turns micro-batches into batches on the device, in order."""
    loss: Callable[[nn.Module, Any], dict[str, Tensor]]
    """Means over a batch: "loss", which is minimised, and whatever else is worth showing."""
    evaluate: Callable[[nn.Module], dict[str, float]]
    """Metrics of the network in eval mode, the same on every rank.

    Where `stop_asked` it may skip the rest: return anything, or raise Terminated on all ranks.
    """
    metric: str
    """The metric whose largest value is the best."""
    compile: Callable[[Any], None] | None = None
    """Compiles a copy of the network as this one is; None where it is not."""
    at_step: Callable[[float], None] | None = None
    """Called before every optimizer step with the share of the training's steps that are done."""
    groups: Sequence[int] | None = None
    """Group of each training image: batches are of one group, as far as `Sampling` can."""
    balanced_over: Sequence[int] | None = None
    """Class of each training image, if every epoch is to have as many images of each class."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is carried out, as opposed to what is run."""

    seed: int = 0
    resume: str = "auto"
    label: str = "train"
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    checkpoint_minutes: float = 5.0
    """Minutes after which a checkpoint is written whatever else happens; 0 is after every step."""
    stop_step: int | None = None
    """Stop after this many optimizer steps (a dry run)."""
    overfit_batches: int | None = None
    """Train on N batches only, drawn once: the loss must go to zero."""
