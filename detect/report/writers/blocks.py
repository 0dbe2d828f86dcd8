"""A document as blocks, which `page` and `markdown` write.

Texts are plain and may come from anyone; the writers escape them. A `Drawing` alone carries HTML,
made by the program.
"""

import math
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
    """Head of a column, and how its values are written."""

    name: str
    """The head."""
    kind: Literal["text", "count", "percent", "points", "number"] = "text"
    """How a value is shown: "percent" a fraction times 100, "points" a difference of two, with a
    sign, "number" as it is, with three decimals below 1 and one above."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; the first cell of a row is its head."""

    caption: str
    """What the table shows, in a few words."""
    columns: tuple[Column, ...]
    """At least one."""
    rows: tuple[tuple[Cell, ...], ...]
    """One cell a column."""
    total: tuple[Cell, ...] = ()
    """A last row that sorting leaves in place, or none."""
    sortable: bool = False
    """Whether a click on a head sorts the rows."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Numbers of pairs of names, shaded."""

    caption: str
    """As of a table."""
    corner: str
    """What the names of the rows and of the columns are."""
    names: tuple[str, ...]
    """Of the rows, and of the columns in the same order."""
    counts: tuple[tuple[float, ...], ...]
    """A row for each name."""
    shades: tuple[tuple[float, ...], ...]
    """Of each cell, in [-1, 1]: below 0 in the second colour."""
    texts: tuple[tuple[str, ...], ...]
    """What each cell shows; empty where nothing."""


@dataclass(frozen=True, slots=True)
class Matrices:
    """Matrices of the same names, side by side."""

    label: str
    items: tuple[Matrix, ...]


class Dot(NamedTuple):
    """A value of a run with its interval, in the unit of its axis; NaN ends for none."""

    run: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DotRow:
    """A row of `Dots`."""

    name: str
    """What the row is of."""
    dots: tuple[Dot, ...]
    """On it, one per line."""
    text: str
    """The numbers, as text beside it."""
    marked: bool = False
    """Shown bold."""


@dataclass(frozen=True, slots=True)
class Dots:
    """Dots and intervals over one axis."""

    caption: str
    """What is shown."""
    unit: str
    """Name of the axis."""
    rows: tuple[DotRow, ...]
    """From above."""
    zero: bool = False
    """Whether the axis has a line at 0 and holds it."""
    runs: tuple[str, ...] = ()
    """Labels of the runs, for a legend where rows do not name them; "" for one that is not drawn,
    empty for no legend."""

    @property
    def span(self) -> tuple[float, float]:
        """The ends of what the axis holds: of shares that are all 0, nothing below that."""
        ends = [e for row in self.rows for dot in row.dots for e in dot[1:] if math.isfinite(e)]
        ends += [0.0] if self.zero or not ends else []
        if any(ends):
            return min(ends), max(ends)
        return (-1.0, 1.0) if self.zero else (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Pair:
    """Plots side by side where there is room."""

    items: tuple[Dots, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """Groups of bars, one bar per run; `values` are (groups, runs)."""

    caption: str
    unit: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart among the files beside the page, which the Markdown file shows."""

    name: str
    alt: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a place in its contents; `key` is its anchor."""

    key: str
    title: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class Lead:
    """What is said first, larger than the rest."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph that may stand back."""

    text: str


@dataclass(frozen=True, slots=True)
class Html:
    """Safe HTML, made by the program, that Markdown lacks."""

    html: str


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
    """Safe HTML, as the functions of `drawing` make it, with name and note."""

    html: str
    name: str = ""
    note: str = ""
    aspect: float = 1.0
    """Width by height."""


@dataclass(frozen=True, slots=True)
class Drawings:
    """Drawings of one kind.

    A "legend", a "grid" of charts, "pictures" of one width, a "row" of pictures of one height.
    """

    kind: Literal["legend", "grid", "pictures", "row"]
    label: str
    items: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """A section that the page folds away under its heading of level 3."""

    summary: str
    blocks: "tuple[Block, ...]"
    unfolded: bool = False


Block: TypeAlias = (
    Bars
    | Chart
    | Code
    | Details
    | Dots
    | Drawings
    | Heading
    | Html
    | Lead
    | Matrices
    | Note
    | Pair
    | Section
    | Table
    | Text
)


def write_value(value: Value, kind: str) -> str:
    """Write a value of a table as plain text, percent like the paper's; None is "n/a"."""
    if value is None:
        return "n/a"
    if isinstance(value, Span):
        return " to ".join(write_value(end, kind) for end in value)
    if isinstance(value, str) or kind == "text":
        return str(value)
    if kind == "count":
        return f"{value:,}"
    if kind == "number":
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
    text = f"{100 * value:{'+' if kind == 'points' else ''}.1f}"
    return text[1:] if kind == "points" and not float(text) else text  # neither +0.0 nor -0.0
