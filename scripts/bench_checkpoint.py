"""`python scripts/bench.py checkpoint`: saving and going on, beside a plain torch.save."""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision.models as models

from common import checkpoints
from common.sampling import MicroBatch, Sampling
from common.train_loop import CHECKPOINT_SECONDS

ROUNDS = 7
IMAGES, BATCH = 12_800_000, 64


def resnet50_state() -> dict[str, Any]:
    """Return what a checkpoint of a ResNet-50 under SGD holds: weights and momentum, 205 MB."""
    model = models.resnet50(weights=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def write(name: str, values: list[float], note: str) -> None:
    """Print the median and the range."""
    low, high = min(values), max(values)
    print(f"{name:34} {statistics.median(values):7.3f} s ({low:.3f} to {high:.3f})  {note}")


def first_batch(sampling: Sampling, step: int) -> MicroBatch:
    """Find the images of a step."""
    return next(sampling.micro_batches(step, step + 1))


def run() -> None:
    """Time a save and a load in turn with torch's own, and the way to a place in an epoch."""
    state = resnet50_state()
    times: dict[str, list[float]] = {name: [] for name in ("plain", "save", "torch load", "load")}
    with tempfile.TemporaryDirectory() as name:
        plain, ours = Path(name) / "plain.pt", Path(name) / "last.pt"
        for _ in range(ROUNDS):
            times["plain"].append(seconds(lambda: torch.save(state, plain)))
            times["save"].append(seconds(lambda: checkpoints.save(state, ours, keep_previous=True)))
            times["torch load"].append(seconds(lambda: torch.load(plain, weights_only=True)))
            times["load"].append(seconds(lambda: checkpoints.load(ours)))
        size = ours.stat().st_size
    share = statistics.median(times["save"]) / CHECKPOINT_SECONDS
    print(f"ResNet-50 with momentum, {size / 1e6:.0f} MB, n={ROUNDS}")
    write("torch.save, not flushed", times["plain"], "")
    write("ours, flushed to the disk", times["save"], f"{share:.2%} of {CHECKPOINT_SECONDS:.0f} s")
    write("torch.load", times["torch load"], "")
    write("ours, with the checksums read", times["load"], "")
    sampling = Sampling(num_images=IMAGES, batch_size=BATCH, seed=0)
    for step in (1, 100_000):
        first = [seconds(partial(first_batch, sampling, step)) for _ in range(ROUNDS)]
        write(f"to step {step:,} of {IMAGES:,} images", first, "the order of the epoch is drawn")
