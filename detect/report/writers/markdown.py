"""Blocks as GitHub's Markdown, with links to the charts beside it."""

import re
from collections.abc import Sequence
from urllib.parse import quote

from detect.report.writers.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Column,
    Details,
    Dots,
    Drawings,
    Heading,
    Html,
    Lead,
    Matrices,
    Matrix,
    Note,
    Section,
    Table,
    Text,
    write_value,
)


def to_markdown(blocks: Sequence[Block], charts: str) -> str:
    """Write blocks as Markdown; `charts` is the folder of the charts beside the file."""
    return "\n\n".join(text for text in (_block(block, charts) for block in blocks) if text) + "\n"


def _block(block: Block, charts: str) -> str:
    match block:
        case Section(_, title, blocks):
            return to_markdown((Heading(2, title), *blocks), charts).rstrip("\n")
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Lead(text):
            return f"**{_plain(text)}**"
        case Text(text) | Note(text):
            return _plain(text)
        case Code(text):
            return "    " + " ".join(text.split())
        case Table():
            return _table(block)
        case Matrices(_, items):
            return "\n\n".join(_table(_as_table(matrix)) for matrix in items)
        case Chart(name, alt):
            return f"![{_plain(alt)}]({quote(f'{charts}/{name}')})"
        case Details(summary, blocks):
            return to_markdown((Heading(3, summary), *blocks), charts).rstrip("\n")
        case Dots() | Bars() | Drawings() | Html():
            return ""  # a Chart beside them shows the same


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
