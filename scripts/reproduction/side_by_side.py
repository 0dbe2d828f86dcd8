"""Several trainings at once on one machine, each a process of its own."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from common.errors import InputError
from common.processes.launcher import usable_cores
from common.processes.signals import Terminated

_GPU_BYTES = 12 * 2**30
"""Free memory of a GPU for each training on it: a WideResNet-28-10 at batch 128 fits."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """Commands that run one after the other, each only if the one before succeeded."""

    name: str
    commands: Sequence[Sequence[str]]
    log: Path
    """What they print goes here, behind what is there."""


@dataclass(frozen=True)
class Slot:
    """Where a job runs."""

    device: str
    environment: Mapping[str, str] = field(default_factory=dict)


def find_slots(device: str, count: int | None, wanted: int) -> list[Slot]:
    """Choose where jobs run side by side.

    Args:
        device: "auto" (GPUs where there are any), "cpu" or "cuda".
        count: How many at once. None: one per GPU; as many as fit, up to four, on a single one; one
            a core without.
        wanted: Number of jobs; there are no more slots than that.

    Raises:
        InputError: If a GPU is asked for and there is none.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        cores = usable_cores()
        at_once = max(1, min(count or cores, wanted))
        threads = {"OMP_NUM_THREADS": str(max(1, cores // at_once))}
        return [Slot("cpu", threads)] * at_once
    if not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch sees no GPU here, use --device cpu")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        str(number) for number in range(torch.cuda.device_count())
    )
    gpus = visible.split(",")
    if count is None:
        free, _ = torch.cuda.mem_get_info()
        count = len(gpus) if len(gpus) > 1 else max(1, min(4, free // _GPU_BYTES))
    return [
        Slot("cuda", {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]})
        for number in range(max(1, min(count, wanted)))
    ]


def run_side_by_side(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    done: Callable[[Job, int], None],
    status: Callable[[list[Job]], None],
    seconds: float = 60.0,
) -> None:
    """Run jobs until all have ended, each on a slot of its own.

    A SIGTERM, SIGUSR1 or Ctrl-C is passed on to the jobs as SIGTERM, and they are waited for. They
    get it as well when this process is killed (on Linux).

    Args:
        jobs: Started in this order.
        slots: One job each at a time.
        done: Called with a job that ended and the exit code of its last command. What it raises
            ends the other jobs.
        status: Called with the running jobs every so often.
        seconds: Time between calls of `status`.

    Raises:
        Terminated: After a signal, once all jobs have ended.
    """
    waiting, free = list(jobs), list(slots)
    running: list[_Running] = []
    asked: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in numbers}
    told = time.monotonic()
    try:
        while (waiting or running) and not asked:
            while waiting and free:
                running.append(_Running(waiting.pop(0), free.pop(0)))
            time.sleep(0.1)
            for one in [one for one in running if one.ended()]:
                running.remove(one)
                free.append(one.slot)
                done(one.job, one.code)
            if time.monotonic() - told > seconds and running:
                told = time.monotonic()
                status([one.job for one in running])
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Terminated("ended on request; the same command resumes where it stopped")


class _Running:
    """A job and its process."""

    def __init__(self, job: Job, slot: Slot) -> None:
        self.job, self.slot, self.code = job, slot, 0
        self._commands = list(job.commands)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with self.job.log.open("ab") as log:
            return subprocess.Popen(
                self._commands.pop(0),
                env={**os.environ, **self.slot.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone, which asks it to end
                preexec_fn=_end_with_parent(),
            )

    def ended(self) -> bool:
        """Tell whether the last command has ended; start the next one where there is one."""
        code = self.process.poll()
        if code is None:
            return False
        self.code = code
        if code == 0 and self._commands:
            self.process = self._start()
            return False
        return True


def _end_with_parent() -> Callable[[], Any] | None:
    """Return what makes a child get SIGTERM when this process dies; None where that cannot be."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
