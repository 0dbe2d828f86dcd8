"""What a run tells while it goes: a log for programs, a bar or lines for people."""

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """A bar on a terminal; elsewhere one plain line every few seconds.

    Args:
        total: Optimizer steps of the whole training.
        done: Steps done before.
        label: What is trained.
        show: Whether this process prints at all.
        seconds: Time between plain lines.
    """

    def __init__(
        self, total: int, done: int, label: str, *, show: bool, seconds: float = 10.0
    ) -> None:
        self._total, self._label, self._seconds = total, label, seconds
        self._show = show
        self._bar: Any = None
        if show and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, unit="step")
        self._start = self._last = time.monotonic()
        self._first = done

    def due(self) -> bool:
        """Return whether `update` would show something now, and reading the values is worth it."""
        return self._show and time.monotonic() - self._last >= (0.5 if self._bar else self._seconds)

    def step(self) -> None:
        """Count one optimizer step."""
        if self._bar is not None:
            self._bar.update()

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Show the values after `done` steps."""
        self._last = time.monotonic()
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._show:
            left = (self._last - self._start) / max(1, done - self._first) * (self._total - done)
            eta = time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left:.0f} s"
            print(f"{self._label} step {done}/{self._total} {text} ETA {eta}", flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._show:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
