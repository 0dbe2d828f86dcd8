"""Training on small images: our loop against a plain one, the six networks of the paper."""

from dataclasses import dataclass

import torch

from benchmarks import measure
from benchmarks.loops import Precision, our_cifar, plain_cifar, random_images, seconds_per_step
from benchmarks.measure import Comparison, Settings, arithmetic_floor
from pretrain.networks import build_network

LOOPS = ("ours", "plain", "ours-bf16")
WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """Images of a step, steps of a process, processes of each side."""

    batch: int
    steps: int
    rounds: int


CASES = {
    "cifar-resnet20": Case(128, 8, 2),
    "cifar-resnet56": Case(32, 7, 2),
    "cifar-resnet110": Case(16, 7, 2),
    "vgg19-bn": Case(32, 7, 2),
    "densenet100-bc": Case(16, 7, 2),
    "wrn-28-10": Case(4, 6, 2),
}
"""Batches are smaller than the paper's where a step on a CPU would take many seconds."""
TINY = Case(4, 6, 1)


def one(settings: Settings) -> float:
    """Train with one loop in this process; return its seconds per step."""
    case = TINY if settings.tiny else CASES[settings.network]
    data = random_images(case.steps * case.batch)
    if settings.loop == "plain":
        starts = plain_cifar(settings.network, data, case.batch, settings.device)
    else:
        precision: Precision = "bf16" if settings.loop == "ours-bf16" else "fp32"
        starts = our_cifar(settings.network, data, case.batch, precision, settings.device)
    return seconds_per_step(starts, WARM_UP)


def run(settings: Settings) -> list[Comparison]:
    """Time the loops in turn, each in a process of its own."""
    comparisons = []
    for network, case in {"cifar-resnet20": TINY}.items() if settings.tiny else CASES.items():
        loops = LOOPS if network == "cifar-resnet20" else LOOPS[:2]
        shared = ["cifar", "--network", network, *settings.flags()]
        images = torch.randn(case.batch, 3, 32, 32)
        built = build_network(network, 10)
        comparisons.append(
            Comparison(
                case=f"{network}, batch {case.batch}, a step",
                seconds=measure.in_processes(
                    {loop: [*shared, "--loop", loop] for loop in loops}, case.rounds
                ),
                faster={"plain": 1.5},
                floor=arithmetic_floor(
                    lambda built=built, images=images: built(images).sum().backward(),  # type: ignore[misc]
                    torch.device("cpu"),
                ),
            )
        )
    return comparisons
