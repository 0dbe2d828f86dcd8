"""A training's progress for people: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from common.runs import epoch_lines
from common.runs.epoch_lines import Column
from common.runs.terminal import duration, has_colour, styled, width
from common.text import say

_NARROWEST_BAR = 10
_LINES_A_HEAD = 25


class Progress:
    """A bar on a terminal, elsewhere a line every few seconds; on both a line an epoch.

    Args:
        total: Optimizer steps of the whole training.
        done: Steps done before.
        epochs: Epochs of the whole training.
        steps_per_epoch: Optimizer steps of one.
        columns: Of the epoch lines.
        show: Whether this process prints at all.
        seconds: Time between plain lines.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        epochs: int = 1,
        steps_per_epoch: int = 1,
        columns: Sequence[Column] = (),
        show: bool,
        seconds: float = 10.0,
    ) -> None:
        self._total, self._epochs, self._of_epoch = total, epochs, steps_per_epoch
        self._columns, self._show, self._seconds = columns, show, seconds
        self._bar = show and sys.stderr.isatty()
        self._drawn = ""
        self._lines = 0
        self._start = self._last = time.monotonic()
        self._first = done
        if self._bar:
            self._draw(done, {}, "")

    def due(self) -> bool:
        """Return whether `update` would show something now, and reading the values is worth it."""
        return self._show and time.monotonic() - self._last >= (0.5 if self._bar else self._seconds)

    def update(self, done: int, values: Mapping[str, float], images_per_second: float) -> None:
        """Show how far the training is after `done` steps, and the means of the epoch so far."""
        self._last = time.monotonic()
        left = (self._last - self._start) / max(1, done - self._first) * (self._total - done)
        end = f"{_rate(images_per_second)} images/s  {duration(left)} left"
        if self._bar:
            self._draw(done, values, end)
        elif self._show:
            print(f"{self._place(done)} {_percent(done, self._total)}  ", end="")
            print("  ".join([*_shown_means(values, self._columns), end]), flush=True)

    def waiting(self, done: int, for_what: str) -> None:
        """Say on the bar what takes its time now."""
        if self._bar:
            self._draw(done, {}, for_what)

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        """Print the line of an epoch; above the first, and again every so often, the head."""
        if not self._show:
            return
        columns = [
            column
            for column in self._columns
            if column.key in record or column.key.startswith("val_")  # not every epoch has these
        ]
        if self._lines % _LINES_A_HEAD == 0:
            self.say(styled(epoch_lines.head(columns, self._epochs), "dim"))
        self._lines += 1
        line = epoch_lines.line(record, columns, self._epochs, best)
        self.say(styled(line, "green") if best else line)

    def say(self, text: str) -> None:
        """Print a text of its own."""
        if not self._show:
            return
        drawn = self._drawn
        self._clear()
        say(text)
        self._write(drawn)

    def close(self) -> None:
        """Take the bar away."""
        self._clear()

    def _place(self, done: int) -> str:
        epoch = max(1, math.ceil(done / self._of_epoch))
        return f"epoch {epoch}/{self._epochs}"

    def _draw(self, done: int, values: Mapping[str, float], end: str) -> None:
        self._clear()
        line = bar_line(
            self._place(done),
            done / self._total,
            [*_shown_means(values, self._columns)[:1], *([end] if end else [])],
            width(sys.stderr) - 1,
            ascii_only=not _knows(sys.stderr.encoding, "━"),
        )
        self._write(line)

    def _write(self, line: str) -> None:
        if line:
            print(line, end="", file=sys.stderr, flush=True)
        self._drawn = line

    def _clear(self) -> None:
        if self._drawn:
            blank = "\r\033[K" if has_colour(sys.stderr) else f"\r{' ' * len(self._drawn)}\r"
            print(blank, end="", file=sys.stderr, flush=True)
        self._drawn = ""


def bar_line(
    label: str, done: float, parts: Sequence[str], columns: int, *, ascii_only: bool = False
) -> str:
    """Return a bar that fills its line; where the line is short, parts go, from the first.

    Args:
        label: Left of the bar.
        done: Share that is done.
        parts: Right of it, what matters most last.
        columns: Width of the line.
        ascii_only: Whether the terminal knows nothing else.
    """
    parts = [f"{100 * done:3.0f}%", *parts]
    while True:
        right = "  ".join(parts)
        room = columns - len(label) - len(right) - 2
        if room >= _NARROWEST_BAR or len(parts) == 1:
            break
        del parts[1]
    full, empty = ("#", ".") if ascii_only else ("━", "─")
    filled = int(max(0, room) * min(1.0, done))
    return f"{label} {full * filled}{empty * (max(0, room) - filled)} {right}"[:columns]


def _shown_means(values: Mapping[str, float], columns: Sequence[Column]) -> list[str]:
    """Return the running means that have a column, without its group; loss comes first."""
    shown = [c for c in columns if c.key.removeprefix("train_") in values]
    return [
        epoch_lines.short(c.key, values[c.key.removeprefix("train_")], columns).removeprefix(
            f"{c.group} "
        )
        for c in shown
    ]


def _percent(done: int, total: int) -> str:
    return f"{100 * done / max(1, total):.0f}%"


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:.{0 if images_per_second >= 100 else 1}f}"


def _knows(encoding: str | None, character: str) -> bool:
    try:
        character.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
