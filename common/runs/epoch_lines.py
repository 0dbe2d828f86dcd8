"""The lines that a training prints, one an epoch: aligned columns under a head, within 80 columns.

Shares are percent here, for people read them; metrics.jsonl keeps fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from common.runs.terminal import duration

Kind = Literal["number", "percent", "rate", "speed", "time", "memory"]
_WIDTH = {"number": 5, "percent": 5, "rate": 7, "speed": 5, "time": 7, "memory": 4}
_COLUMNS = 80
BEST = " best"
"""Marks the best epoch so far."""


@dataclass(frozen=True)
class Column:
    """A column: a value of the epoch's record, and how a person reads it."""

    key: str
    """In metrics.jsonl."""
    head: str
    """What stands over it; of a percentage without its sign."""
    kind: Kind = "number"
    group: str = ""
    """What stands over several columns, such as "train"."""

    @property
    def width(self) -> int:
        """Characters, without the space before it."""
        return max(_WIDTH[self.kind], len(self.head))


OF_EVERY_TRAINING = (
    Column("lr", "lr", "rate"),
    Column("images_per_second", "images/s", "speed"),
    Column("seconds", "time", "time"),
)
MEMORY = Column("gpu_memory_gib", "GPU", "memory")
"""Only where there is a GPU."""


def head(columns: Sequence[Column], epochs: int) -> str:
    """Return what stands above the columns: groups, names and, once, the units."""
    first, gap = _first_width(epochs), _gap(columns, epochs)
    groups = [(name, list(members)) for name, members in groupby(columns, lambda c: c.group)]
    over = "".join(
        _over(name, sum(c.width + gap for c in members), gap) for name, members in groups
    )
    names = "epoch".rjust(first) + "".join(c.head.rjust(c.width + gap) for c in columns)
    units = " " * first + "".join(_unit(c).rjust(c.width + gap) for c in columns)
    return "\n".join(line.rstrip() for line in (" " * first + over, names, units))


def line(record: Mapping[str, Any], columns: Sequence[Column], epochs: int, best: bool) -> str:
    """Return the line of an epoch."""
    gap = _gap(columns, epochs)
    values = "".join(_shown(record.get(c.key), c.kind).rjust(c.width + gap) for c in columns)
    epoch = f"{record['epoch']}/{epochs}".rjust(_first_width(epochs))
    return f"{epoch}{values}{BEST if best else ''}"


def short(key: str, value: float | None, columns: Sequence[Column]) -> str:
    """Return a value with its name and unit, for a sentence: "validation accuracy 34.50%"."""
    for column in columns:
        if column.key == key:
            name = f"{column.group} {column.head}".strip()
            sign = "%" if column.kind == "percent" and value is not None else ""
            return f"{name} {_shown(value, column.kind)}{sign}"
    return f"{key} {_shown(value, 'number')}"


def _first_width(epochs: int) -> int:
    return max(len("epoch"), 2 * len(str(epochs)) + 1)


def _gap(columns: Sequence[Column], epochs: int) -> int:
    """Return the spaces before each column: two where there is room."""
    total = _first_width(epochs) + sum(column.width + 2 for column in columns) + len(BEST)
    return 2 if total <= _COLUMNS else 1


def _over(name: str, width: int, gap: int) -> str:
    """Draw a group's name in a rule as wide as its columns."""
    return " " * width if not name else " " * gap + f" {name} ".center(width - gap, "-")


def _unit(column: Column) -> str:
    return {"percent": "%", "memory": "GiB"}.get(column.kind, "")


def _shown(value: Any, kind: Kind) -> str:
    if value is None:
        return "-"
    if kind == "percent":
        text = f"{100 * value:.2f}"
        return text if len(text) < 6 else f"{100 * value:.1f}"
    if kind == "time":
        return duration(value)
    if kind == "rate":
        return f"{value:.2g}"
    if kind == "speed":
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    if kind == "memory":
        return f"{value:.1f}"
    return four_digits(value)


def four_digits(value: float) -> str:
    """Write a number in at most six characters."""
    for limit, decimals in ((10, 3), (100, 2), (1000, 1), (100_000, 0)):
        if abs(value) < limit:
            return f"{value:.{decimals}f}"
    return f"{value:.0e}"
