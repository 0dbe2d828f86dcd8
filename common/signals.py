"""Ending a run from outside without losing it."""

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit code of a run that was asked to end and wrote its checkpoint."""


class Terminated(Exception):  # noqa: N818 - not an error: it was asked for
    """The run was asked to end; a checkpoint is written."""

    exit_code = EXIT_TERMINATED


class StopRequest:
    """Remembers SIGTERM or SIGUSR1; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(EXIT_TERMINATED)
        self.asked = True

    def close(self) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
