"""Two ranks that train as `train` commands do, started as torchrun would, or by hand."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faults
import torch
import torch.distributed as dist
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common.command.flags import RunFlags
from common.images.sampling import MicroBatch
from common.processes.ranks import World
from common.recipe import Optimization
from common.training import launch
from common.training.task import Task

IMAGES = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
SETTINGS = Optimization(lr=0.1, batch_size=4, epochs=4)  # 10 steps per epoch
Hook = Callable[[int, int], Any]
"""Called with rank and step before the loss; what it returns is added to the loss."""


def train_rank(out: Path, hook: Hook, rank: int, **flags: Any) -> None:
    """Train on one of the ranks."""
    now = -1

    def at_step(done: float) -> None:
        nonlocal now
        now = round(done * 40)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], torch.from_numpy(m.indices) % 3) for m in micro_batches)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        added = hook(rank, now) or 0.0
        return {"loss": F.cross_entropy(network(batch[0]), batch[1]) + added}

    def build(world: World) -> tuple[Task, dict[str, Any]]:
        torch.manual_seed(0)
        stage = Task(
            model=nn.Linear(3, 3),
            num_images=40,
            load=load,
            loss=loss,
            evaluate=lambda network: {"score": 0.0},
            metric="score",
            at_step=at_step,
        )
        return stage, {}

    recipe = Training(SETTINGS)
    given = RunFlags(data=out, out=out, recipe=recipe, device="cpu", quiet=True, **flags)
    launch.launch("test", given, build)


def live(
    tmp_path: Path, work: Callable[[int], object], *, by_hand: bool = False
) -> tuple[list[int], list[str], float]:
    """Live on two ranks; return how they ended, what they printed, and the seconds."""
    environment = {"MASTER_ADDR": "localhost", "WORLD_SIZE": "2"}
    if by_hand:
        with socket.create_server(("localhost", 0)) as free:
            environment["MASTER_PORT"] = str(free.getsockname()[1])
    else:
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        environment |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        environment["TORCHELASTIC_RESTART_COUNT"] = "0"
    printed = [tmp_path / f"printed.{rank}" for rank in (0, 1)]
    begun = time.monotonic()
    pids = [
        faults.start(partial(work, rank), printed[rank], RANK=str(rank), **environment)
        for rank in (0, 1)
    ]
    codes = [faults.end(pid) for pid in pids]
    return codes, [file.read_text() for file in printed], time.monotonic() - begun
