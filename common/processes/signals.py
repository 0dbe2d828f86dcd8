"""Ending a run from outside without losing it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Windows has the first alone."""
EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit code of a run that was asked to end and wrote its checkpoint."""


class Terminated(Exception):  # noqa: N818 - not an error: it was asked for
    """The run was asked to end; a checkpoint is written."""

    exit_code = EXIT_TERMINATED


ONE_REQUEST = 5.0
"""Seconds in which the same signal is the same request: a launcher passes on what its processes got
themselves."""


class StopRequest:
    """Remembers SIGTERM or SIGUSR1; the same one again, later, ends the process at once.

    Not the other one: clusters announce the end by SIGUSR1 and follow it up with SIGTERM.
    """

    def __init__(self) -> None:
        self.asked = False
        self._first: dict[int, float] = {}
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._first.setdefault(number, now) > ONE_REQUEST:
            os.write(2, b"ended at once, as asked a second time: the last checkpoint serves\n")
            os._exit(EXIT_TERMINATED)
        self.asked = True

    def close(self) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def ignore_requests() -> None:
    """Be deaf to further requests: this process is ending, and is to tell why.

    torchrun sends SIGTERM to all ranks as soon as one has left.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_asked() -> bool:
    """Tell whether this process was asked to end, for work that a loop does not see into.

    Such work skips the rest, but not what ranks do together: they may not all have been asked.
    """
    request = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(request, StopRequest) and request.asked


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process at a first signal, for work that leaves nothing to save.

    `finally` blocks run; a second signal does not wait for them.

    Raises:
        SystemExit: In the midst of the block's work. No `except Exception` can swallow it.
    """
    owner, asked = os.getpid(), False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked or os.getpid() != owner:  # a forked worker has nothing to clean up
            os._exit(EXIT_TERMINATED)
        asked = True
        os.write(2, b"ended on request: there was nothing to save\n")
        raise SystemExit(EXIT_TERMINATED)

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def left_to_the_system() -> Iterator[None]:
    """Let a first signal end the process by itself, for a call that may wait for minutes.

    Python runs handlers between its own instructions alone: while a library waits, none is heeded.
    For work that leaves nothing to save and nothing to clean up.
    """
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (*_SIGNALS, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
