"""Finished runs as rows of a CSV file, with their logs."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from common.errors import InputError
from common.storage import file_locks, write_atomically

Row = TypeVar("Row")
KEY = ("recipe", "changes", "data", "seed", "started")
"""Columns that identify a training."""


def changes(before: object, now: object) -> dict[str, Any]:
    """Return the fields, dotted names, in which a recipe differs from another of its kind."""
    old, new = (flatten(asdict(recipe)) for recipe in (before, now))  # type: ignore[call-overload]
    return {key: value for key, value in new.items() if value != old[key]}


def describe_changes(before: object, now: object) -> str:
    """Name the changes in one line, as `field=value field=value,value`."""
    return " ".join(f"{key}={_plain(value)}" for key, value in changes(before, now).items())


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every field of nested mappings one dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Facts(TypedDict):
    """What the rows of both stages say of a training."""

    train_images: int
    started: str
    commit: str | None
    hardware: str
    torch: str
    seconds: float
    participating_steps: int | None


def facts(environment: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> Facts:
    """Collect what both stages report about a training.

    Args:
        environment: Content of environment.json.
        epochs: Records of metrics.jsonl.
    """
    steps = [e["focus_participating_steps"] for e in epochs if "focus_participating_steps" in e]
    return Facts(
        train_images=environment["train_images"],
        started=environment["started"],
        commit=environment["commit"],
        hardware=environment["hardware"],
        torch=environment["torch"],
        seconds=round(sum(e["seconds"] for e in epochs), 1),
        participating_steps=sum(steps) if steps else None,
    )


def log_path(table: Path, line: Mapping[str, str], key: Sequence[str] = KEY) -> Path:
    """Name the metrics log that is kept of a run: `logs/<recipe>-<digest>-seed<seed>.jsonl.gz`.

    The digest is the start of the SHA-256 of the key's columns, joined by newlines, so a row of
    the table is enough to find its log.

    Args:
        table: The CSV file; the folder lies beside it.
        line: A row as `csv.DictReader` gives it.
        key: Columns that tell one run from all others.
    """
    text = "\n".join(line[name] for name in key)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return table.parent / "logs" / f"{line['recipe']}-{digest}-seed{line['seed']}.jsonl.gz"


def record_runs(
    table: Path, kind: type[Row], runs: Mapping[Path, Row], key: Sequence[str] = KEY
) -> int:
    """Append finished runs to a CSV file, and keep the metrics log of each beside it.

    A log that is there already is left alone; one that an older table lacks is added.

    Args:
        table: As in `append_rows`.
        kind: As in `append_rows`.
        runs: Rows by the folders of their trainings, which hold metrics.jsonl.
        key: As in `append_rows`.

    Returns:
        How many rows were new.

    Raises:
        InputError: If the file has other columns, or a log cannot be written.
    """
    for folder, row in runs.items():  # first, so that no row is ever without its log
        log = log_path(table, _line(row), key)
        if not log.exists():
            _keep_log(folder / "metrics.jsonl", log)
    return append_rows(table, kind, runs.values(), key)


def _keep_log(metrics: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(metrics.read_bytes(), mtime=0)  # no time: same records, same bytes
    write_atomically(target, lambda file: file.write(packed))


def append_rows(path: Path, kind: type[Row], rows: Iterable[Row], key: Sequence[str] = KEY) -> int:
    """Append the runs that a CSV file does not hold yet; made if it is not there.

    Several processes may append at once.

    Args:
        path: The file.
        kind: Dataclass of the rows; its fields are the columns.
        rows: Finished runs.
        key: Columns that tell one run from all others.

    Returns:
        How many were new.

    Raises:
        InputError: If the file has other columns.
    """
    columns = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="") as file:
        fcntl = file_locks()
        fcntl.lockf(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        reader = csv.DictReader(file)
        if reader.fieldnames not in (None, columns):
            raise InputError(f"{path} has other columns than this version writes: move it away")
        known = {tuple(line[name] for name in key) for line in reader}
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        new: dict[tuple[str, ...], dict[str, str]] = {}
        for line in map(_line, rows):
            if (run := tuple(line[name] for name in key)) not in known:
                new.setdefault(run, line)  # two folders may hold one and the same run
        writer.writerows(new.values())
        file.write(text.getvalue())  # in one piece
    return len(new)


def _line(row: object) -> dict[str, str]:
    """Write the fields of a row as a CSV file has them; None is empty."""
    values = asdict(row)  # type: ignore[call-overload]
    return {name: "" if value is None else str(value) for name, value in values.items()}
