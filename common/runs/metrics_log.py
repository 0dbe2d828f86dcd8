"""metrics.jsonl: what a run reports to programs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.storage import parse_json, read_text, write_text


class MetricsLog:
    """metrics.jsonl, written a line at a time.

    Args:
        folder: The run folder.
        step: Optimizer steps done; records of later steps, from before a crash, are dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        records = zip(_lines(self.path), read_metrics(folder), strict=True)
        kept = [line for line, record in records if record["step"] <= step]
        write_text(self.path, "".join(kept))
        self._unflushed = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it has a "step", the number of optimizer steps done."""
        with self.path.open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")
        self._unflushed = True

    def flush(self) -> None:
        """Wait until the disk has all records; a checkpoint that follows says that it has."""
        if self._unflushed:
            with self.path.open("a") as file:
                os.fsync(file.fileno())
            self._unflushed = False


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a log; a crash can leave half of one at the end."""
    if not path.exists():
        return []
    *lines, _ = read_text(path).split("\n")
    return [f"{line}\n" for line in lines]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the records of a run.

    Raises:
        InputError: If a line is damaged.
    """
    path = folder / "metrics.jsonl"
    records = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if not (isinstance(record, dict) and type(record.get("step")) is int):
            raise InputError(f"{path} is damaged in line {number}: remove that line")
        records.append(record)
    return records
