"""What a run tells while it goes: a log for programs, a bar or lines for people."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.storage import write_atomically


class MetricsLog:
    """metrics.jsonl, and TensorBoard scalars where that package is installed.

    Args:
        folder: The run folder.
        step: Optimizer steps done; records of later steps, from before a crash, are dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        records = zip(_lines(self.path), read_metrics(folder), strict=True)
        kept = [line for line, record in records if record["step"] <= step]
        write_atomically(self.path, lambda file: file.write("".join(kept).encode()))
        self._unflushed = False
        self._writer = _tensorboard(folder / "tensorboard", step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it has a "step", the number of optimizer steps done."""
        with self.path.open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")
        self._unflushed = True
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, record["step"])

    def flush(self) -> None:
        """Wait until the disk has all records; a checkpoint that follows says that it has."""
        if self._unflushed:
            with self.path.open("a") as file:
                os.fsync(file.fileno())
            self._unflushed = False

    def close(self) -> None:
        """Flush the scalars."""
        if self._writer is not None:
            self._writer.close()


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a log; a crash can leave half of one at the end."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the records of a run.

    Raises:
        InputError: If a line is damaged.
    """
    path = folder / "metrics.jsonl"
    records = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = json.loads(line)
            record["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged in line {number}: remove that line") from error
        records.append(record)
    return records


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
        """Whether `update` would show something now, so that reading the values is worth it."""
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
