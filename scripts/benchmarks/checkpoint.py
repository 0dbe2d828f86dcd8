"""Saving and resuming, beside a plain torch.save, which does not wait for the disk."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision.models as models

from benchmarks.measure import Comparison, Settings
from benchmarks.timing import CPU, elapsed, in_turn
from common.command.flags import RunFlags
from common.images.sampling import MicroBatch, Sampling
from common.runs import checkpoints

SHARE = 0.02
IMAGES, BATCH = 12_800_000, 64


def trained_state(network: str) -> dict[str, Any]:
    """Return what a checkpoint of a ResNet under SGD holds: weights and momentum."""
    model = models.get_model(network, weights=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}


def first_batch(sampling: Sampling, step: int) -> MicroBatch:
    """Find the images of a step."""
    return next(sampling.micro_batches(step, step + 1))


def write_flushed(path: Path, content: bytes) -> None:
    """Write bytes and wait for the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def run(settings: Settings) -> list[Comparison]:
    """Time a save and a load in turn with torch's own, and the way to a place in an epoch."""
    network, rounds, images = ("resnet18", 1, 10_000) if settings.tiny else ("resnet50", 7, IMAGES)
    state = trained_state(network)
    with tempfile.TemporaryDirectory() as name:
        plain, ours, raw = (Path(name) / file for file in ("plain.pt", "last.pt", "raw"))
        saves = {
            "ours, flushed, the one before kept": partial(
                checkpoints.save, state, ours, keep_previous=True
            ),
            "torch.save, not flushed": partial(torch.save, state, plain),
        }
        saved = in_turn(saves, rounds, warm_up=1)
        loads = {
            "ours, with the checksums read": partial(checkpoints.load, ours),
            "torch.load": partial(torch.load, plain, weights_only=True),
        }
        loaded = in_turn(loads, rounds, warm_up=1)
        content = ours.read_bytes()
        bare = min(elapsed(partial(write_flushed, raw, content), CPU).seconds for _ in range(3))
    size = f"{network} with momentum, {len(content) / 1e6:.0f} MB"
    limit = SHARE * 60 * RunFlags.checkpoint_minutes
    sampling = Sampling(num_images=images, batch_size=BATCH, seed=0)
    comparisons = [
        Comparison(
            case=f"save, {size}; one every {60 * RunFlags.checkpoint_minutes:.0f} s",
            seconds=saved,
            limit=limit,
            floor=(bare, "the same bytes, written and flushed"),
        ),
        Comparison(case=f"load, {size}", seconds=loaded),
    ]
    for step in (1, images // BATCH // 2):
        find = {"the order of the epoch is drawn": partial(first_batch, sampling, step)}
        comparisons.append(
            Comparison(
                case=f"resume at step {step:,} of an epoch of {images:,} images",
                seconds=in_turn(find, min(rounds, 3), warm_up=1),
            )
        )
    return comparisons
