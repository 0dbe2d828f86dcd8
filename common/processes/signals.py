"""Ending a run from outside without losing it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Windows has the first alone."""
_REQUESTS = (*_SIGNALS, signal.SIGINT)
"""What asks a training to end: Ctrl-C, too, once there is something to save."""
EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit code of a run that was asked to end and wrote its checkpoint."""
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""The same, where it was asked by Ctrl-C."""


class Terminated(Exception):  # noqa: N818 - not an error: it was asked for
    """The run was asked to end; a checkpoint is written.

    Args:
        message: After which step.
        interrupted: Whether Ctrl-C asked.
    """

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        super().__init__(message)
        self.exit_code = EXIT_INTERRUPTED if interrupted else EXIT_TERMINATED


ONE_REQUEST = 5.0
"""Seconds in which the same signal is the same request: a launcher passes on what its processes got
themselves."""


class StopRequest:
    """Remembers SIGTERM, SIGUSR1 or Ctrl-C; the same one again, later, ends the process at once.

    Not another one: clusters announce the end by SIGUSR1 and follow it up with SIGTERM. A second
    Ctrl-C need not be later, unless a launcher repeats the first one, which the terminal sends to
    all processes.
    """

    def __init__(self) -> None:
        self.asked = self.interrupted = False
        self._first: dict[int, float] = {}
        # Commands in the background of a script ignore Ctrl-C, which is meant for another.
        numbers = [n for n in _REQUESTS if signal.getsignal(n) != signal.SIG_IGN or n in _SIGNALS]
        self._before = {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now, again = time.monotonic(), number in self._first
        interrupt = number == signal.SIGINT
        one_request = 0.0 if interrupt and "TORCHELASTIC_RUN_ID" not in os.environ else ONE_REQUEST
        if again and now - self._first[number] > one_request:
            os.write(2, b"ended at once, as asked a second time: the last checkpoint serves\n")
            os._exit(EXIT_INTERRUPTED if interrupt else EXIT_TERMINATED)
        self._first.setdefault(number, now)
        if interrupt and not self.asked:
            self.interrupted = True
            os.write(2, b"\nending after a checkpoint; Ctrl-C again ends at once, without\n")
        self.asked = True

    def close(self) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def ignore_requests() -> None:
    """Ignore further requests: this process is ending, and must still say why.

    torchrun sends SIGTERM to all ranks as soon as one has left.
    """
    for number in _REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def stop_asked() -> bool:
    """Tell whether this process was asked to end, for work that a loop does not see into.

    Such work skips the rest, but not what ranks do together: they may not all have been asked.
    """
    request = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(request, StopRequest) and request.asked


@contextmanager
def ending_at_once(left: str = "there was nothing to save") -> Iterator[None]:
    """End the process at a first signal, for work without checkpoints.

    `finally` blocks run; a second signal does not wait for them.

    Args:
        left: What is said about the work's results.

    Raises:
        SystemExit: In the midst of the block's work. No `except Exception` can swallow it.
    """
    owner, asked = os.getpid(), False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked or os.getpid() != owner:  # a forked worker has nothing to clean up
            os._exit(EXIT_TERMINATED)
        asked = True
        os.write(2, f"ended on request: {left}\n".encode())
        raise SystemExit(EXIT_TERMINATED)

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def default_signal_handling() -> Iterator[None]:
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
