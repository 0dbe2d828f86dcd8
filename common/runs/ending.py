"""What a training says at its end: how good it is, where everything lies, what comes next."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.runs import epoch_lines
from common.runs.epoch_lines import Column
from common.runs.metrics_log import read_metrics
from common.runs.terminal import duration, emit, styled
from common.text import say
from common.text.saying import columns as columns_of


def end(
    folder: Path, metrics: Mapping[str, Any], metric: str, columns: Sequence[Column], following: str
) -> None:
    """Print the end of a training, or, where a program listens, a line of JSON.

    Args:
        folder: Of the run.
        metrics: What the training returned.
        metric: That of the best epoch.
        columns: How values are shown.
        following: The command that is likely to come next.
    """
    records = read_metrics(folder)
    for line in lines(folder, records, metric, columns):
        say(line)
    # Not `say`: a shell takes the line up again only behind a backslash.
    print(f"next  {styled(wrapped_command(columns_of(sys.stdout), following), 'bold')}", flush=True)
    emit(
        {
            "run": str(folder),
            "best_checkpoint": str(folder / "best.pt"),
            "last_checkpoint": str(folder / "last.pt"),
            **metrics,
        }
    )


def lines(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    metric: str,
    columns: Sequence[Column],
) -> list[str]:
    """Return the lines that a person reads, but for the command that comes next.

    Args:
        folder: Of the run.
        records: Of metrics.jsonl.
        metric: That of the best epoch.
        columns: How values are shown.
    """
    notes = []
    scored = [record for record in records if record.get(metric) is not None]
    if scored:
        best = max(scored, key=lambda record: record[metric])  # the first, if several are equal
        notes.append(f"best  {_of(best, metric, columns)}: {folder / 'best.pt'}")
        notes.append(f"last  {_of(scored[-1], metric, columns)}: {folder / 'last.pt'}")
    seconds = sum(record.get("seconds", 0.0) for record in records)
    notes.append(f"log   {folder / 'metrics.jsonl'}; {duration(seconds)} in training steps")
    return notes


def wrapped_command(columns: int | None, command: str) -> str:
    """Break a command before its flags, behind backslashes, so that a shell takes it as it is.

    Args:
        columns: Of a terminal, of which "next  " takes six; None leaves one line.
        command: As `command` returns it.
    """
    parts: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if parts and not word.startswith("--"):
            parts[-1] += f" {word}"  # a value stays with its flag
        else:
            parts.append(word)
    lines = parts[:1]
    for part in parts[1:]:
        if columns is None or len(f"      {lines[-1]} {part} \\") <= columns:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return " \\\n      ".join(lines)


def _of(record: Mapping[str, Any], metric: str, columns: Sequence[Column]) -> str:
    value = epoch_lines.short(metric, record[metric], columns)
    return f"{value} in epoch {record['epoch']}"


def command(*words: object) -> str:
    """Put a command together as a shell takes it."""
    return shlex.join(map(str, words))
