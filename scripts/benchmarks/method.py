"""A training step with the whole method against the plain step.

A tenth of the steps take part, chosen by chance: both kinds of step are timed in turn with the
plain one, and weighed 1 to 9. On a GPU in bfloat16, and with CUDA graphs as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle

import torch
from torch import Tensor, nn

from benchmarks.floors import Work, floors, rates
from benchmarks.measure import Comparison, Settings
from benchmarks.timing import take_turns
from common import FocusedTraining
from common.optimization.cuda_graphs import WARM_UP_STEPS, Capture, GraphedStep
from common.optimization.optimizer import build_optimizer
from common.optimization.step import StepParts
from common.processes import memory
from common.recipe import Focus
from common.training.network import insert_layer
from pretrain.networks import build_network
from pretrain.recipes import RECIPES
from pretrain.task import classification_loss

RATE = 0.1
BATCHES = 4
"""They take turns."""
OURS, PLAIN = "the method, p = 0.1", "plain step"


@dataclass(frozen=True)
class Case:
    """A recipe with the method, its number of classes, and a batch that suits the machine."""

    recipe: str
    classes: int
    batch: int
    rounds: int
    graphed: bool = False


CPU_CASES = (
    Case("cifar10-resnet20-fd", 10, 64, 21),
    Case("tiny-imagenet-resnet18-fd", 200, 16, 21),
)
GPU_CASES = (
    Case("cifar10-resnet20-fd", 10, 128, 21, graphed=True),
    Case("cifar10-resnet20-fd", 10, 128, 21),
    Case("imagenet-resnet50-fd", 1000, 256, 9),
)


class Trainer:
    """A network in training on one batch, as the loop steps it; with the method or without.

    Args:
        case: What is trained.
        focus: The method.
        device: Where.
    """

    def __init__(self, case: Case, focus: Focus, device: torch.device) -> None:
        recipe = RECIPES[case.recipe]()
        settings = replace(recipe.optimization, cuda_graphs=case.graphed)
        torch.manual_seed(0)
        self.network: nn.Module = build_network(
            recipe.network, case.classes, recipe.stem, recipe.block
        )
        insert_layer(self.network, focus)
        self.network.to(device).to(memory_format=torch.channels_last).train()
        optimizer = build_optimizer(self.network, settings)
        parts = StepParts(self.network, classification_loss(recipe), optimizer, settings, device)
        self._whole = parts.step_for_graph
        self._graphed = (
            GraphedStep(parts.step_for_graph, optimizer, parts.changed, Capture(device))
            if case.graphed
            else None
        )
        self.focus = (
            FocusedTraining(self.network, optimizer, RATE, focus.weight_decay)
            if focus.enabled
            else None
        )
        size = recipe.images.size
        labels = torch.arange(case.batch).to(device) % 10
        shape = (case.batch, size, size, 3)
        few = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(BATCHES)]
        self.batches = cycle([(images.permute(0, 3, 1, 2).to(device), labels) for images in few])

    def step(self, number: int | None) -> dict[str, Tensor]:
        """Train one step; its number decides whether the method takes part, None leaves it out."""
        if self.focus is None or number is None:
            return self._run(participating=False)
        with self.focus.step(number) as participating:
            return self._run(participating=participating)

    def _run(self, *, participating: bool) -> dict[str, Tensor]:
        batch = next(self.batches)
        if self._graphed:
            return self._graphed(batch, participating=participating, full=True)
        return self._whole(batch)


def first_step(focus: FocusedTraining, *, participating: bool) -> int:
    """Find the first step from 2 on that takes part, or that does not.

    Steps 0 and 1 again and again look like epochs that each start their count again.
    """
    return next(step for step in range(2, 10_000) if focus.participates(step) == participating)


def compare(case: Case, rounds: int, device: torch.device) -> Comparison:
    """Time both kinds of step and the plain one in turn."""
    focus = RECIPES[case.recipe]().focus
    plain, ours = Trainer(case, Focus(), device), Trainer(case, focus, device)
    assert ours.focus is not None
    off, on = (first_step(ours.focus, participating=flag) for flag in (False, True))
    with Work() as work:
        plain.step(None)
    turns = take_turns(
        {
            PLAIN: lambda: plain.step(None),
            "off": lambda: ours.step(off),
            "on": lambda: ours.step(on),
        },
        rounds,
        device,
        warm_up=WARM_UP_STEPS + 2 if case.graphed else 2,
    )
    precision = "bf16" if device.type == "cuda" else "fp32"
    graphed = ", CUDA graphs" if case.graphed else ""
    return Comparison(
        case=f"{case.recipe}, batch {case.batch}, {precision}{graphed}",
        seconds=_weighed(turns.seconds),
        host=_weighed(turns.host) if turns.host else {},
        faster={PLAIN: 1 / 1.01},
        **floors(work, rates(device)),
        images=case.batch,
    )


def _weighed(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Put the mixture of both kinds of step before the three that were timed."""
    mixed = [
        (1 - RATE) * idle + RATE * active
        for idle, active in zip(times["off"], times["on"], strict=True)
    ]
    return {
        OURS: mixed,
        PLAIN: times[PLAIN],
        "a step without the method": times["off"],
        "a step with the method": times["on"],
    }


def run(settings: Settings) -> Iterator[Comparison]:
    """Time the cases; memory is kept as in a training."""
    if settings.device.type == "cpu":
        memory.keep_freed_memory()
    cases: tuple[Case, ...] = GPU_CASES if settings.device.type == "cuda" else CPU_CASES
    if settings.tiny:
        cases = (Case("cifar10-resnet20-fd", 10, 2, 2),)
    for case in cases:
        yield compare(case, case.rounds, settings.device)
