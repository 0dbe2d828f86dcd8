"""Blocks as GitHub's Markdown, without drawings."""

import re
from collections.abc import Sequence

from detect.report.writers.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Drawings,
    Heading,
    Matrix,
    Table,
    Text,
    write_value,
)


def to_markdown(blocks: Sequence[Block]) -> str:
    """Write blocks as Markdown, percentages with two decimals."""
    return "\n\n".join(text for text in map(_block, blocks) if text) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Code(text):
            return "    " + " ".join(text.split())
        case Table():
            return _table(block)
        case Matrix():
            return _table(_as_table(block))
        case Drawings(kind):
            return "(Drawn on the HTML page.)" if kind == "legend" else ""
        case Details(summary, blocks):
            return to_markdown((Heading(3, summary), *blocks)).rstrip("\n")


def _as_table(matrix: Matrix) -> Table:
    columns = (Column(matrix.corner), *(Column(name, "count") for name in matrix.names))
    rows = tuple(
        (Cell(name), *map(Cell, counts))
        for name, counts in zip(matrix.names, matrix.counts, strict=True)
    )
    return Table(matrix.caption, columns, rows)


def _table(table: Table) -> str:
    rows = [" | ".join(_plain(column.name) for column in table.columns)]
    rows.append(" | ".join("---" if c.kind == "text" else "---:" for c in table.columns))
    for row in (*table.rows, *([table.total] if table.total else [])):
        texts = []
        for cell, column in zip(row, table.columns, strict=True):
            text = _plain(write_value(cell.value, column.kind))
            texts.append(f"**{text}**" if cell.marked else text)
        rows.append(" | ".join(texts))
    lines = "\n".join(f"| {row} |" for row in rows)
    return f"{_plain(table.caption)}:\n\n{lines}"


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    line = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split()))
    return line.replace("&", "&amp;").replace("<", "&lt;")
