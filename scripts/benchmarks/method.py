"""A training step with the whole method against the plain step.

A tenth of the steps take part, chosen by chance: both kinds of step are timed in turn with the
plain one, and weighed 1 to 9.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.measure import Comparison, Settings, arithmetic_floor, in_turn
from common import FocusedTraining, allocator
from common.distributed import World
from common.optimization import build_optimizer, place_focused_dropout
from common.settings import Focus
from common.step_parts import StepParts
from pretrain.networks import build_network
from pretrain.recipes import RECIPES
from pretrain.task import classification_loss

RATE = 0.1
OURS, PLAIN = "the method, p = 0.1", "plain step"


@dataclass(frozen=True)
class Case:
    """A recipe with the method, its number of classes, and a batch that suits the machine."""

    recipe: str
    classes: int
    batch: int
    rounds: int


CASES = (
    Case("cifar10-resnet20-fd", 10, 64, 21),
    Case("tiny-imagenet-resnet18-fd", 200, 16, 21),
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
        settings = recipe.optimization
        torch.manual_seed(0)
        self.network: nn.Module = build_network(
            recipe.network, case.classes, recipe.stem, recipe.block
        )
        place_focused_dropout(self.network, focus)
        self.network.to(device).to(memory_format=torch.channels_last).train()
        optimizer = build_optimizer(self.network, settings)
        self.parts = StepParts(
            self.network, classification_loss(recipe), optimizer, settings, World(device)
        )
        self.focus = (
            FocusedTraining(self.network, optimizer, RATE, focus.weight_decay)
            if focus.enabled
            else None
        )
        size = recipe.images.size
        pixels = torch.randint(0, 256, (case.batch, size, size, 3), dtype=torch.uint8)
        self.batch = pixels.permute(0, 3, 1, 2).to(device), torch.arange(case.batch).to(device) % 10

    def step(self, number: int | None) -> dict[str, Tensor]:
        """Train one step; its number decides whether the method takes part, None leaves it out."""
        if self.focus is None or number is None:
            return self.parts.whole(self.batch)
        with self.focus.step(number):
            return self.parts.whole(self.batch)


def first_step(focus: FocusedTraining, *, participating: bool) -> int:
    """Find the first step that takes part, or that does not."""
    return next(step for step in range(10_000) if focus.participates(step) == participating)


def compare(case: Case, rounds: int, device: torch.device) -> Comparison:
    """Time both kinds of step and the plain one in turn."""
    focus = RECIPES[case.recipe]().focus
    plain, ours = Trainer(case, Focus(), device), Trainer(case, focus, device)
    assert ours.focus is not None
    off, on = (first_step(ours.focus, participating=flag) for flag in (False, True))
    seconds = in_turn(
        {
            PLAIN: lambda: plain.step(None),
            "off": lambda: ours.step(off),
            "on": lambda: ours.step(on),
        },
        rounds,
        device,
    )
    mixed = [
        (1 - RATE) * idle + RATE * active
        for idle, active in zip(seconds["off"], seconds["on"], strict=True)
    ]
    return Comparison(
        case=f"{case.recipe}, batch {case.batch}",
        seconds={
            OURS: mixed,
            PLAIN: seconds[PLAIN],
            "a step that takes no part": seconds["off"],
            "a participating step": seconds["on"],
        },
        faster={PLAIN: 1 / 1.01},
        floor=arithmetic_floor(lambda: plain.step(None), device),
    )


def run(settings: Settings) -> list[Comparison]:
    """Time the cases; memory is kept as in a training."""
    if settings.device.type == "cpu":
        allocator.keep_freed_memory()
    if settings.tiny:
        return [compare(Case("cifar10-resnet20-fd", 10, 2, 2), 2, settings.device)]
    return [compare(case, case.rounds, settings.device) for case in CASES]
