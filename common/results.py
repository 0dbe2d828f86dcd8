"""Rows of finished runs in a CSV file, and what can be said over several seeds."""

import csv
import fcntl
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from common.errors import InputError

Row = TypeVar("Row")
KEY = ("recipe", "changes", "data", "seed", "started")
"""Columns that tell one training from all others."""


def changes(before: object, now: object) -> dict[str, Any]:
    """Return the fields, dotted names, in which a recipe differs from another of its kind."""
    old, new = (flat(asdict(recipe)) for recipe in (before, now))  # type: ignore[call-overload]
    return {key: value for key, value in new.items() if value != old[key]}


def describe_changes(before: object, now: object) -> str:
    """Name the changes in a line, as `field=value field=value,value`."""
    return " ".join(f"{key}={_plain(value)}" for key, value in changes(before, now).items())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every field of nested dictionaries one dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
        new = [row for row in rows if tuple(str(getattr(row, name)) for name in key) not in known]
        writer.writerows(asdict(row) for row in new)  # type: ignore[call-overload]
        file.write(text.getvalue())  # in one piece
    return len(new)


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1), which needs two values."""
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over pairs of runs of the same seed, with its 95% interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Compare two arms over the seeds that both have; None if there is none.

    The interval is Student's, for the mean of the differences: mean +- t(n - 1) * deviation /
    sqrt(n). It needs two pairs.

    Args:
        ours: Value of each seed.
        theirs: Value of each seed, subtracted.
    """
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    mean, deviation = mean_and_deviation(differences)
    if deviation is None:
        return Difference(mean, None, None, 1)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(differences) - 1)) * deviation / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half, len(differences))
