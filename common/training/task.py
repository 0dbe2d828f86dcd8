"""What `pretrain` and `detect` hand to the training loop."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from common.images.sampling import MicroBatch
from common.runs.data_parts import Parts
from common.runs.epoch_lines import Column
from common.runs.trackers import Picture

Metrics = Mapping[str, float | None]


class Watch(Protocol):
    """An observer of a training; every rank has one."""

    def begin(self, state: Any, data: Parts) -> None:
        """Observe the state that the training starts from, and what its data are known by."""
        ...

    def after_step(self, state: Any) -> None:
        """Observe the state after a step."""
        ...

    def saved(self, state: Any) -> None:
        """Observe the state that a checkpoint is about to hold."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the loop needs to know of a task."""

    model: nn.Module
    """The network, on its device; not wrapped."""
    num_images: int
    """Training images."""
    data: Parts = field(default_factory=dict)
    """What distinguishes these data, part by part; all ranks must have the same, and so must a
    resume, which names the parts that changed."""
    load: Callable[[Iterable[MicroBatch]], Iterator[Any]]
    """Turns micro-batches into batches on the device, in order."""
    loss: Callable[[nn.Module, Any], dict[str, Tensor]]
    """Means over a batch: "loss", which is minimised, and whatever else is worth showing."""
    evaluate: Callable[[nn.Module], Metrics]
    """Metrics of the network in eval mode, the same on every rank; None where one is undefined.

    Where `stop_asked` it may skip the rest: return anything, or raise Terminated on all ranks.
    """
    metric: str
    """The metric whose largest value is the best; where it is undefined, an evaluation never is."""
    columns: Sequence[Column] = ()
    """Of the lines that a person reads; losses and metrics by their names in metrics.jsonl."""
    pictures: Callable[[nn.Module], Mapping[str, Picture]] | None = None
    """Draws what the network, in eval mode, makes of a few images, by group/name: for trackers.
    Called on the main rank alone."""
    at_step: Callable[[float], None] | None = None
    """Called before every optimizer step with the share of the training's steps that are done."""
    groups: Sequence[int] | None = None
    """Group of each training image: batches are of one group, as far as `Sampling` can."""
    single_images: bool = True
    """Whether the network can be trained on one image at a time."""
    balanced_over: Sequence[int] | None = None
    """Class of each training image, if every epoch is to have as many images of each class."""
