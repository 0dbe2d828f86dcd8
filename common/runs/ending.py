"""What a training says at its end: how good it is, where everything lies, what comes next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.runs import epoch_lines
from common.runs.epoch_lines import Column
from common.runs.metrics_log import read_metrics
from common.runs.terminal import duration, emit, styled


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
    for line in lines(folder, records, metric, columns, following):
        print(line)
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
    following: str,
) -> list[str]:
    """Return the lines that a person reads.

    Args:
        folder: Of the run.
        records: Of metrics.jsonl.
        metric: That of the best epoch.
        columns: How values are shown.
        following: The command that is likely to come next.
    """
    told = []
    scored = [record for record in records if record.get(metric) is not None]
    if scored:
        best = max(scored, key=lambda record: record[metric])  # the first, if several are equal
        told.append(f"best  {_of(best, metric, columns)}: {folder / 'best.pt'}")
        told.append(f"last  {_of(scored[-1], metric, columns)}: {folder / 'last.pt'}")
    seconds = sum(record.get("seconds", 0.0) for record in records)
    told.append(f"log   {folder / 'metrics.jsonl'}; {duration(seconds)} in training steps")
    told.append(f"next  {styled(following, 'bold')}")
    return told


def _of(record: Mapping[str, Any], metric: str, columns: Sequence[Column]) -> str:
    value = epoch_lines.short(metric, record[metric], columns)
    return f"{value} in epoch {record['epoch']}"


def command(*words: object) -> str:
    """Put a command together as a shell takes it."""
    return shlex.join(map(str, words))
