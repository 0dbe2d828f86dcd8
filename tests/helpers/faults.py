"""Processes that die on purpose, and what their runs leave behind.

The tests of faults, signals and ranks import this. A process is forked, which takes milliseconds
where a new start takes seconds, and dies by SIGKILL at a moment that was chosen before.
"""

import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # imported late by torch, in seconds: here once for all processes
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from common.command import cli
from common.runs import checkpoints
from common.runs.metrics_log import read_metrics

with suppress(ImportError):  # as late, by the log
    import torch.utils.tensorboard

SECONDS = 200
"""A process that hangs is ended by its own alarm after so long."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
TIMES = ("seconds", "images_per_second")
Work = Callable[[], object]


def start(work: Work, printed: Path, **environment: str) -> int:
    """Fork a process that does some work as a command would; return its number.

    Args:
        work: What to do; its exceptions become exit codes as in `common.command.cli.dispatch`.
        printed: File for standard output and error.
        environment: Variables to set there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.environ.update(environment)
        with printed.open("w", buffering=1) as sys.stdout:
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stdout.fileno(), 2)
            sys.stderr = sys.stdout
            try:
                code = cli.dispatch("test", {"work": lambda _: work()}, "", ["work"])
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def end(pid: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def live(work: Work, printed: Path) -> int:
    """Do some work in a process of its own; return how it ended."""
    return end(start(work, printed))


def live_ranks(work: Callable[[int], object], printed: Path, first: int = 0) -> list[int]:
    """Do some work on two ranks, as torchrun would; return how they ended.

    Args:
        work: Called with the rank.
        printed: File for the output of rank 0; that of rank 1 goes beside it.
        first: The rank to wait for first; if it is killed, the other one is killed, too.
    """
    # A port that this process holds, as torchrun does: nobody can take it in between.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    files = [printed, printed.with_suffix(".1")]
    pids = [
        start(partial(work, rank), files[rank], RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in (0, 1)
    ]
    codes = {first: end(pids[first])}
    if codes[first] == -signal.SIGKILL:
        os.kill(pids[1 - first], signal.SIGKILL)
    codes[1 - first] = end(pids[1 - first])
    return [codes[0], codes[1]]


class Moments:
    """The moments of a run between which a kill makes a difference; the process dies at one.

    A moment is called by the optimizer step and its number within the step. The process dies at the
    first one of the right kind that is not before the given one.

    Args:
        step: Optimizer step, from 0; -1 is before the first step of this process.
        number: Moments of that step to survive.
        kind: Die only at a moment whose name holds this.
        journal: File to write the kind and place of the death to.
    """

    def __init__(
        self, step: int, number: int = 0, *, kind: str = "", journal: Path | None = None
    ) -> None:
        self._fatal, self._kind, self._journal = (step, number), kind, journal
        self._here = (-1, 0)

    def at_step(self, step: int) -> None:
        """Begin an optimizer step."""
        self._here = (step, 0)

    def pass_by(self, kind: str) -> None:
        """Survive a moment, or not."""
        step, number = self._here
        if (step, number) >= self._fatal and self._kind in kind:
            if self._journal:
                self._journal.write_text(f"{step} {number} {kind}")
            os.kill(os.getpid(), signal.SIGKILL)
        self._here = (step, number + 1)

    def watch(self) -> None:
        """Make moments of the updates of the weights and of what is done to files."""
        register_optimizer_step_pre_hook(lambda *_: self.pass_by("before the update"))
        register_optimizer_step_post_hook(lambda *_: self.pass_by("after the update"))
        for name in ("rename", "replace"):
            setattr(os, name, self._watched(name, getattr(os, name)))
        # Nothing else: the system forgets nothing when a process dies, and a disk is slow.
        os.fsync = lambda descriptor: self.pass_by("fsync")

    def watch_command(self, network: type[nn.Module]) -> None:
        """Watch a command, whose steps are counted from its start, and where it evaluates."""

        def evaluated(module: nn.Module, _: Any) -> None:
            if isinstance(module, network) and not module.training:
                self.pass_by("evaluation")

        register_module_forward_pre_hook(evaluated)
        register_optimizer_step_pre_hook(lambda *_: self.at_step(self._here[0] + 1))
        self.watch()

    def _watched(self, name: str, call: Callable[..., None]) -> Callable[..., None]:
        def watched(source: Any, target: Any, **options: Any) -> None:
            self.pass_by(f"{name} to {Path(target).name}")
            call(source, target, **options)

        return watched


def journal(path: Path) -> tuple[int, int, str]:
    """Read where a process died."""
    step, number, kind = path.read_text().split(maxsplit=2)
    return int(step), int(number), kind


def same(a: Any, b: Any) -> bool:
    """Compare to the bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def records(folder: Path) -> list[dict[str, Any]]:
    """Read the log without times."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_metrics(folder)]


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that a finished run came to, part by part."""
    state = checkpoints.load(folder / "last.pt")
    model = state.pop("model")
    buffers = {name for name in model if name.rpartition(".")[2] in STATISTICS}
    took_part = participation(folder)
    return {
        "parameters": {name: model[name] for name in model.keys() - buffers},
        "buffers": {name: model[name] for name in buffers},
        "momentum": state.pop("optimizer"),
        "log": records(folder),
        "participation": sorted(set(took_part.read_text().split()) if took_part.exists() else ()),
        "best": checkpoints.load(folder / "best.pt"),
        "rest": state,
    }


def resumes(folder: Path) -> bool:
    """Tell whether a run has something to resume from."""
    return any(folder.glob("last*.pt"))


def participation(folder: Path) -> Path:
    """Name the file of "step:took part" words, beside the run's folder."""
    return folder.with_suffix(".participation")


def different(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    """Name the parts of two outcomes that differ."""
    return {part for part in a if not same(a[part], b[part])}


def reseed(seed: int) -> None:
    """Put the generators elsewhere."""
    random.seed(seed)
    torch.manual_seed(seed)
