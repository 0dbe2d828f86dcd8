"""Training on small images: our loop against a plain one, the six networks of the paper.

On a GPU in bfloat16, ours eager and as CUDA graphs, compiled if asked for. The plain loop reads by
a DataLoader; "plain-fed" has its batches on the device, so that the step alone is compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import measure
from benchmarks.floors import count_training, floors, rates
from benchmarks.loops import Side, fed_cifar, our_cifar, plain_cifar, random_images, sides_of
from benchmarks.measure import Comparison, Run, Settings
from benchmarks.timing import StepTimes
from common.errors import InputError
from pretrain.networks import build_network

ON_CPU = ("ours", "plain", "ours-bf16")
ON_GPU = ("ours-graphed", "ours", "ours-tuned", "plain", "plain-fed")
COMPILED = ("ours-compiled", "ours-compiled-graphed")
LOOPS = tuple(dict.fromkeys((*ON_CPU, *ON_GPU, *COMPILED)))


@dataclass(frozen=True)
class Case:
    """Images of a step; steps of a region, regions of a process; processes of each side."""

    batch: int
    steps: int
    rounds: int
    regions: int = 1
    warm_up: int = 2


CPU_CASES = {
    "cifar-resnet20": Case(128, 5, 2),
    "cifar-resnet56": Case(32, 4, 2),
    "cifar-resnet110": Case(16, 4, 2),
    "vgg19-bn": Case(32, 4, 2),
    "densenet100-bc": Case(16, 4, 2),
    "wrn-28-10": Case(4, 3, 2),
}
"""Batches are smaller than the paper's where a step on a CPU would take many seconds."""
GPU_CASES = dict.fromkeys(CPU_CASES, Case(128, 100, 1, regions=5, warm_up=20))
TINY = Case(4, 3, 1)


def cases(settings: Settings) -> dict[str, Case]:
    """Return the networks to train.

    Raises:
        InputError: If one is named that is none of them.
    """
    known = GPU_CASES if settings.device.type == "cuda" else CPU_CASES
    if settings.network is None:
        return {"cifar-resnet20": TINY} if settings.tiny else known
    if settings.network not in known:
        raise InputError(f"cifar has no network {settings.network}: choose from {', '.join(known)}")
    return {settings.network: TINY if settings.tiny else known[settings.network]}


def one(settings: Settings) -> Run:
    """Train with one loop in this process."""
    ((network, case),) = cases(settings).items()
    device, side = settings.device, Side.of(settings)
    torch.backends.cudnn.benchmark = side.tuned
    times = StepTimes(device, case.steps, case.regions, case.warm_up)
    if settings.loop == "plain-fed":
        fed_cifar(network, case.batch, side, device, times)
    else:
        data = random_images(times.batches * case.batch)
        loop = plain_cifar if side.loop == "plain" else our_cifar
        loop(network, data, case.batch, side, device, times)
    return Run.of(times, device)


def run(settings: Settings) -> Iterator[Comparison]:
    """Time the loops in turn, each in a process of its own."""
    cuda = settings.device.type == "cuda"
    for network, case in cases(settings).items():
        names = sides_of(settings, ON_CPU, ON_GPU, COMPILED)
        if names == ON_CPU and network != "cifar-resnet20":
            names = ON_CPU[:2]
        shared = ["cifar", "--network", network, *settings.flags()]
        runs = measure.in_processes(
            {name: [*shared, "--loop", name] for name in names}, case.rounds
        )
        work = count_training(partial(_forward, network, case.batch), bf16=cuda)
        yield measure.of_runs(
            runs,
            case=f"{network}, batch {case.batch}, a step" + ", bf16" * cuda,
            faster={"plain": 1.5} if "plain" in names else {},
            **floors(work, rates(settings.device)),
            images=case.batch,
        )


def _forward(network: str, batch: int) -> measure.Call:
    built, images = build_network(network, 10), torch.randn(batch, 3, 32, 32)
    return lambda: built(images).sum()
