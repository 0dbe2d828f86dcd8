"""What it costs that a run can be checked: its certificate, and sums in the order of the parts.

A certificate describes a state every 1,000 steps and with each checkpoint; here it holds 500 states
already, which are written again with each new one. The sums are those of the gradients and of
BatchNorm's statistics over two ranks of one thread each. `--deterministic` takes them in the order
of the parts of a step, after the backward pass instead of during it.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure
from benchmarks.loops import RECIPE_OF, random_images, recipe_for, train_ours
from benchmarks.measure import Comparison, Run, Settings, duration
from benchmarks.timing import CPU, StepTimes, in_turn
from common.command.flags import RunFlags
from common.images.sampling import MicroBatch
from common.optimization.optimizer import build_optimizer
from common.processes.determinism import deterministic
from common.processes.ranks import World, gather, start
from common.runs.certificate import NAME, Certificate
from common.training.certifying import record_of
from common.training.checkpointing import TrainingState
from pretrain.data.augment import ResidentImages
from pretrain.data.image_sets import PixelSet
from pretrain.data.splits import Batch
from pretrain.networks import build_network

LOOPS = ("step", "sums")
WARM_UP = 2
SHARE = 0.01
"""Of the time of a training, that its certificate may take."""
STATES = 500


def shape(settings: Settings, network: str) -> tuple[int, int, int, int]:
    """Return images of a step, their side in pixels, timed steps, rounds of both sides."""
    if settings.tiny:
        return 4, 32, 2, 1
    return (128, 32, 8, 7) if network == "cifar-resnet20" else (8, 224, 3, 5)


def one(settings: Settings) -> Run:
    """Train on as many ranks as torchrun started; the times are of a step.

    The loop "sums" takes turns: with ordered sums, without, and so on.
    """
    network = settings.network or "cifar-resnet20"
    *_, rounds = shape(settings, network)
    turns = [True, False] * rounds if settings.loop == "sums" else [False]
    with start("cpu") as world:
        return Run([step(settings, network, world, ordered=ordered) for ordered in turns])


def step(settings: Settings, network: str, world: World, *, ordered: bool) -> float:
    """Return the seconds of a step on the slowest rank."""
    batch, side, steps, _ = shape(settings, network)
    times = StepTimes(world.device, steps, 1, WARM_UP)
    data = images(times.batches * batch, side)
    recipe = recipe_for(network, batch, "fp32")
    resident = ResidentImages(data, recipe.images.padding, seed=0, device=CPU)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for micro_batch in micro_batches:
            yield resident.train_batch(micro_batch.epoch, micro_batch.indices)

    with deterministic(ordered):
        train_ours(recipe, build_network(network, len(data.classes)), load, world, times)
    return max(gather(times.took()[0].seconds))


def images(count: int, side: int) -> PixelSet:
    """Make a set of noise; large images are few ones, over and over."""
    if side == 32:
        return random_images(count)
    drawn = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    pixels = np.resize(drawn, (count, side, side, 3))
    return PixelSet(pixels, np.arange(count) % 10, tuple("abcdefghij"))


def sums(settings: Settings, network: str) -> Comparison:
    """Time a step of two ranks with ordered sums and with all-reduce, in turn."""
    batch, side, *_ = shape(settings, network)
    arguments = ["proof", *replace(settings, threads=1, network=network).flags(), "--loop", "sums"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher = {"both": [*torchrun, "--nproc-per-node", "2"]}
    seconds = measure.in_processes({"both": arguments}, 1, launcher=launcher)["both"].seconds
    return Comparison(
        case=f"{network}, a step of {batch} images of {side} px on 2 gloo ranks",
        seconds={"--deterministic": seconds[::2], "without": seconds[1::2]},
    )


def trained(network: str) -> TrainingState:
    """Return a state with momenta."""
    recipe = recipe_for(network, 128, "fp32")
    model = build_network(network, 10 if network.startswith("cifar") else 1000)
    optimizer = build_optimizer(model, recipe.optimization)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    extent = {"steps_per_epoch": 1}
    return TrainingState(
        model=model, optimizer=optimizer, focus=None, average=None, scaling=None, extent=extent
    )


def certificate(network: str, seconds: float, every: str, rounds: int) -> Comparison:
    """Time the description of a state and the writing of all of them.

    Args:
        network: Whose state.
        seconds: Between two states.
        every: What lies between them, in words.
        rounds: How often.
    """
    state = trained(network)
    with tempfile.TemporaryDirectory() as name:
        record = record_of(state)
        digits = "".join(record["tensors"].values())
        states = [{**record, "step": step, "tensors": digits} for step in range(STATES)]
        known = {"parts": [], "tensors": list(record["tensors"]), "states": states}
        (Path(name) / NAME).write_text(json.dumps(known))
        kept = Certificate(Path(name), {}, {"step": STATES})

        def certify() -> None:
            state.step += 1
            kept.add(record_of(state))

        seen = in_turn({"a state described, all written": certify}, rounds, warm_up=1)
    return Comparison(
        case=f"{RECIPE_OF[network]}, {STATES} states; one every {duration(seconds)} ({every})",
        seconds=seen,
        limit=SHARE * seconds,
    )


def run(settings: Settings) -> Iterator[Comparison]:
    """Time the certificate of a small and a large network, then sums; of one network, sums."""
    rounds = 1 if settings.tiny else 9
    if settings.network:
        yield sums(settings, settings.network)
        return
    arguments = ["proof", *replace(settings, network="cifar-resnet20").flags(), "--loop", "step"]
    of_step = measure.in_processes({"step": arguments}, 1)["step"].seconds[0]
    batch, *_ = shape(settings, "cifar-resnet20")
    steps = RunFlags.certify_steps
    told = f"{steps:,} steps of {batch} images, {duration(of_step)} each"
    yield certificate("cifar-resnet20", steps * of_step, told, rounds)
    yield certificate("resnet50", 60 * RunFlags.checkpoint_minutes, "with each checkpoint", rounds)
    for network in ("cifar-resnet20", "resnet50"):
        yield sums(settings, network)
