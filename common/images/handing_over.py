"""Batches on their way from the processes that read them, and what can go wrong there.

They pass through shared memory. torch moves them there in a thread of its own, which prints a
traceback where there is no room, drops the batch, and leaves the main process waiting for ever.
"""

import errno
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_iter
from torch.utils.data import DataLoader

from common.errors import NO_FILE_LEFT, ReaderKilled, SharedMemoryFull, named
from common.processes.signals import Terminated, stop_asked

POLL = 2.0
"""Seconds without a batch after which the main process looks around."""
PATIENCE = 5.0
"""Seconds for which a run that was asked to end waits for a batch: Docker grants ten in all."""
_TIMED_OUT = "DataLoader timed out"
_TOO_MANY_FILES = "Too many open files"
Handed: TypeAlias = Any
"""A batch, or in its place why it cannot be handed over."""


class _NotShared(str):
    """What torch said as it moved a batch to shared memory."""

    __slots__ = ()


def end_where_batches_are_lost() -> None:
    """Let this process, a reader, end where torch's thread cannot send a batch, or a file of one.

    That thread prints a traceback and drops the batch, for which the main process then waits.
    """

    def lost(error: BaseException, batch: object) -> NoReturn:
        if not _no_file_left(error):
            traceback.print_exception(error)  # of a kind that nobody has seen
        os._exit(NO_FILE_LEFT if _no_file_left(error) else 1)

    def refused(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if _no_file_left(error):
            os._exit(NO_FILE_LEFT)
        sys.__excepthook__(kind, error, trace)

    # Where multiprocessing sends batches, and files.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lost)  # type: ignore[attr-defined]
    sys.excepthook = refused


def _no_file_left(error: object) -> bool:
    return getattr(error, "errno", None) == errno.EMFILE or _TOO_MANY_FILES in str(error)


def share(batch: Any) -> Handed:
    """Move the tensors of a batch to shared memory, in the process that read them."""
    try:
        for leaf in tree_iter(batch):
            if isinstance(leaf, Tensor):
                leaf.share_memory_()
    except (RuntimeError, OSError, MemoryError) as error:
        return _NotShared(error)
    return batch


def received(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader.

    Raises:
        ReaderKilled: A worker was killed.
        SharedMemoryFull: There is no room for a batch.
        OSError: Too many files are open, or no more processes can be started.
        Terminated: The training was asked to end, and a batch does not come.
    """
    try:
        yield from _received(loader)
    except RuntimeError as error:
        # torch's handler reports a death once, whichever statement it interrupts: the search for
        # the name of the same death included.
        known = named(error)
        if known is error:
            raise
        raise known from error


def _received(loader: DataLoader[Any]) -> Iterator[Any]:
    try:
        if loader.num_workers:
            multiprocessing.Lock()  # first: a loader that fails half-way prints a traceback, too
        batches = iter(loader)
    except OSError as error:  # its queues have locks, which are files in /dev/shm
        if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE):
            raise
        raise SharedMemoryFull from error
    workers = multiprocessing.active_children()
    asked_for = time.monotonic()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            # Not a fault, and the next call keeps waiting.
            if str(error).startswith(_TIMED_OUT):
                if stop_asked() and time.monotonic() - asked_for > PATIENCE:
                    kill_workers()  # torch would wait five seconds for each
                    raise Terminated(
                        "ended on request while it waited for images: the last checkpoint serves"
                    ) from None
                continue
            _raise_named(error, workers)
        if isinstance(batch, _NotShared):
            _raise_unshared(batch)
        yield batch
        asked_for = time.monotonic()


def _raise_unshared(said: str) -> NoReturn:
    if _no_file_left(said):
        raise OSError(errno.EMFILE, _TOO_MANY_FILES)
    raise SharedMemoryFull


def _raise_named(error: Exception, workers: Sequence[BaseProcess]) -> NoReturn:
    """Name the death of a worker as what it is.

    It shows as one of several errors, by where the main process waited.
    """
    if _no_file_left(error):
        raise OSError(errno.EMFILE, _TOO_MANY_FILES) from error
    ending = wait([worker.sentinel for worker in workers], timeout=1.0)
    if not ending:
        raise error
    dying = [worker for worker in workers if worker.sentinel in ending]
    for worker in dying:  # its connections are closed: its end is near, but not there yet
        worker.join(timeout=5.0)
    codes = {worker.exitcode for worker in dying}
    if NO_FILE_LEFT in codes:
        raise OSError(errno.EMFILE, _TOO_MANY_FILES) from error
    raise (SharedMemoryFull if -signal.SIGBUS in codes else ReaderKilled) from error


def kill_workers() -> None:
    """Let this process end: at its exit multiprocessing sends SIGTERM and waits for all children.

    Ours are deaf to that, and one that waits for the lock of another that was killed never ends.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report these deaths
    for worker in multiprocessing.active_children():
        worker.kill()
