"""A document as blocks, which `page` and `markdown` write.

Texts are plain and may come from anyone; the writers escape them. A `Drawing` alone carries HTML,
made by the program.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias


class Span(NamedTuple):
    """The ends of an interval, in the unit of its column."""

    low: float
    high: float


Value: TypeAlias = str | int | float | Span | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a table; `marked` is shown bold."""

    value: Value
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a column, and how its values are written.

    Attributes:
        name: The head.
        kind: "percent" is a fraction shown times 100, "points" a difference of two, with a sign,
            "number" is shown as it is, with three decimals below 1 and one above.
    """

    name: str
    kind: Literal["text", "count", "percent", "points", "number"] = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; the first cell of a row is its head.

    Attributes:
        caption: What the table shows, in a few words.
        columns: At least one.
        rows: One cell a column.
        total: A last row that sorting leaves in place, or none.
        sortable: Whether a click on a head sorts the rows.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] = ()
    sortable: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts of pairs of names, shaded by their share of the row.

    Attributes:
        caption: As of a table.
        corner: What the names of the rows and of the columns are.
        names: Of the rows, and of the columns in the same order.
        counts: A row for each name.
    """

    caption: str
    corner: str
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A line to copy."""

    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Safe HTML, as `jpeg` of `page` and the functions of `charts` make it, with name and note."""

    html: str
    name: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Drawings:
    """Drawings of one kind: a "legend", a "grid" that wraps, a "strip" that scrolls, a "chart"."""

    kind: Literal["legend", "grid", "strip", "chart"]
    label: str
    items: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """A section that the page folds away under its heading of level 3."""

    summary: str
    blocks: "tuple[Block, ...]"
    unfolded: bool = False


Block: TypeAlias = Heading | Text | Code | Table | Matrix | Drawings | Details


def write_value(value: Value, kind: str) -> str:
    """Write a value of a table as plain text, percent like the paper's; None is "n/a"."""
    if value is None:
        return "n/a"
    if isinstance(value, Span):
        return " to ".join(write_value(end, kind) for end in value)
    if isinstance(value, str) or kind in ("text", "count"):
        return str(value)
    if kind == "number":
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
    text = f"{100 * value:{'+' if kind == 'points' else ''}.2f}"
    return text[1:] if kind == "points" and not float(text) else text  # neither +0.00 nor -0.00


def count(number: int, one: str, more: str = "") -> str:
    """Write a number of things: "1 class", "3 classes"."""
    return f"{number} {one if number == 1 else more or one + 's'}"
