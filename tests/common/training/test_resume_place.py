"""A resumed run finds its place in the epoch by arithmetic, not by reading up to it."""

import time
from functools import partial
from pathlib import Path

import torch
from recipes import Training
from torch import Tensor, nn

from common.command.flags import Options
from common.images.loading import stream
from common.images.sampling import Sampling
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.training import loop
from common.training.task import Task

CPU = World(torch.device("cpu"))


def train_until(path: Path, stop: int, num_images: int) -> list[tuple[int, int]]:
    """Train on images that are drawn when they are read; return those, epoch and position."""
    read: list[tuple[int, int]] = []

    def draw(epoch: int, position: int) -> Tensor:
        read.append((epoch, position))
        return torch.tensor([position / num_images])

    def loss(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": network(batch).square().mean()}

    stage = Task(
        model=nn.Linear(1, 1),
        num_images=num_images,
        load=partial(stream, draw, collate=torch.stack, workers=0, device=CPU.device),
        loss=loss,
        evaluate=lambda network: {"score": 0.0},
        metric="score",
    )
    settings = Optimization(lr=0.1, batch_size=64, epochs=90)
    folder = RunFolder(path, {})
    try:
        loop.train(stage, Training(settings, Focus()), Options(stop_step=stop), CPU, folder)
    finally:
        folder.close()
    return read


def test_a_resume_reads_no_image_that_it_skips(tmp_path: Path) -> None:
    """In an epoch of ImageNet the first image read is the right one, after however many."""
    train_until(tmp_path, 1, num_images=64)
    extent = {"num_images": 1_280_000, "steps_per_epoch": 20_000}
    state = checkpoints.load(tmp_path / "last.pt") | extent
    order = Sampling(num_images=1_280_000, batch_size=64, seed=0).order(0)
    for step in (1, 10_000):
        checkpoints.save(state | {"step": step}, tmp_path / "last.pt")
        start = time.monotonic()
        read = train_until(tmp_path, step + 1, num_images=1_280_000)
        print(f"to step {step} and one step: {time.monotonic() - start:.1f} s")
        assert read == [(0, int(i)) for i in order[step * 64 :][:64]]
