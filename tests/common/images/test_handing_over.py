"""Batches that reading processes cannot hand over: a line in time, never a wait without an end."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ReaderKilled, SharedMemoryFull
from common.images import handing_over
from common.images.loading import stream
from common.images.sampling import MicroBatch
from common.processes.signals import StopRequest, Terminated

CPU = torch.device("cpu")


def batches(read: Callable[[int, int], Tensor], count: int = 6) -> Iterator[Tensor]:
    """Read single images in two processes."""
    plan = [MicroBatch(0, np.array([position]), 1.0) for position in range(count)]
    return stream(read, plan, torch.stack, workers=2, device=CPU)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, those in shared memory included: all that this user can."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def growing(epoch: int, position: int) -> Tensor:
    return torch.full((1000 if position < 3 else 100_000,), float(position))


def test_shared_memory_that_is_full_after_some_batches() -> None:
    seen = []
    with files_of_at_most(50_000), pytest.raises(SharedMemoryFull) as caught:
        seen.extend(batch[0, 0].item() for batch in batches(growing))
    assert seen == [0, 1, 2]
    message = str(caught.value)
    assert "\n" not in message
    for told in ("shared memory", "--shm-size", "--workers 0"):
        assert told in message
    assert [batch[0, 0].item() for batch in batches(growing)] == [0, 1, 2, 3, 4, 5]


def bus_error() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_file_left() -> None:
    os._exit(71)  # EX_OSERR


DEATHS = [(bus_error, SharedMemoryFull), (kill, ReaderKilled), (no_file_left, OSError)]


def end_by(end: Callable[[], None]) -> Callable[[int, int], Tensor]:
    def read(epoch: int, position: int) -> Tensor:
        if position == 2:
            end()
        return torch.zeros(3)

    return read


@pytest.mark.parametrize(("end", "kind"), DEATHS)
def test_a_process_that_was_killed(end: Callable[[], None], kind: type[Exception]) -> None:
    """A system that promised the memory kills by SIGBUS, one that is out of it by SIGKILL."""
    with pytest.raises(kind):
        list(batches(end_by(end)))


def dying_slowly(end: Callable[[], None]) -> Callable[[int, int], Tensor]:
    """Close all connections half a second before the end, as the system does just before it."""

    def read(epoch: int, position: int) -> Tensor:
        if position == 2:
            time.sleep(0.1)  # the batch before it is on its way
            os.closerange(3, 1024)
            time.sleep(0.5)
            end()
        return torch.zeros(3)

    return read


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the main process find its first batch behind a closed connection."""
    children = multiprocessing.active_children

    def slow() -> list[multiprocessing.process.BaseProcess]:
        time.sleep(0.4)
        return children()

    monkeypatch.setattr(multiprocessing, "active_children", slow)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("end", "kind"), DEATHS)
def test_a_process_that_closes_its_connections_before_it_is_gone(
    end: Callable[[], None], kind: type[Exception]
) -> None:
    """As each does, for a moment: nothing tells yet how it ended, and torch's word comes later."""
    with pytest.raises(kind):
        list(batches(dying_slowly(end)))


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("end", "kind"), DEATHS)
def test_the_word_of_torch_comes_while_the_dead_are_looked_for(
    end: Callable[[], None], kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised by a handler of a signal, out of whichever statement runs just then."""

    def interrupted(sentinels: list[int], timeout: float) -> list[int]:
        time.sleep(3.0)
        return []

    monkeypatch.setattr(handing_over, "wait", interrupted)
    with pytest.raises(kind) as caught:
        list(batches(dying_slowly(end)))
    assert str(caught.value.__cause__).startswith("DataLoader worker (pid ")


def test_open_files_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to open shared memory object </t>: Too many open files (24)")

    monkeypatch.setattr(Tensor, "share_memory_", refused)
    with pytest.raises(OSError, match="Too many open files"):
        list(batches(growing))


def hoarding(epoch: int, position: int) -> Tensor:
    """Open so many files that the thread of torch that sends the batch finds none left."""
    if position == 2:
        kept = [os.open("/dev/null", os.O_RDONLY)]
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        # One more, for the memory of the batch itself, which is made here.
        resource.setrlimit(resource.RLIMIT_NOFILE, (kept[0] + 2, most))
    return torch.zeros(3)


def test_open_files_run_out_where_batches_are_sent(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="Too many open files"):
        list(batches(hoarding))
    assert "Traceback" not in capfd.readouterr().err


def test_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that fails is a lock, before there is half a loader to take apart."""

    def refused() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(multiprocessing, "Lock", refused)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SharedMemoryFull, match=r"\(/dev/shm: none that can be written\)"):
        list(batches(growing))


def sleeping(epoch: int, position: int) -> Tensor:
    time.sleep(60 * (position == 1))
    return torch.zeros(3)


def test_a_run_that_waits_for_images_ends_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once: a batch that comes soon lets the run save. Unasked it waits on."""
    monkeypatch.setattr(handing_over, "POLL", 0.2)
    monkeypatch.setattr(handing_over, "PATIENCE", 0.5)
    waiting = batches(sleeping)
    next(waiting)
    request = StopRequest()
    before = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(Terminated, match="the last checkpoint serves"):
            next(waiting)
    finally:
        request.close()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_slow_images_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "POLL", 0.1)

    def slow(epoch: int, position: int) -> Tensor:
        time.sleep(0.4)
        return torch.tensor(position)

    assert [int(batch[0]) for batch in batches(slow, 4)] == [0, 1, 2, 3]
