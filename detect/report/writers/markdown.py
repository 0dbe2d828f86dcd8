"""Blocks as GitHub's Markdown, with links to the charts beside it."""

from collections.abc import Sequence
from urllib.parse import quote

from common.text import in_markdown
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
    Pair,
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
            return f"{'#' * level} {in_markdown(text)}"
        case Lead(text):
            return f"**{in_markdown(text)}**"
        case Text(text) | Note(text):
            return in_markdown(text)
        case Code(text):
            return "    " + " ".join(text.split())
        case Table():
            return _table(block)
        case Matrices(_, items):
            return "\n\n".join(_table(_as_table(matrix)) for matrix in items)
        case Chart(name, alt):
            return f"![{in_markdown(alt)}]({quote(f'{charts}/{name}')})"
        case Details(summary, blocks):
            return to_markdown((Heading(3, summary), *blocks), charts).rstrip("\n")
        case Dots() | Pair() | Bars() | Drawings() | Html():
            return ""  # a Chart beside them shows the same


def _as_table(matrix: Matrix) -> Table:
    columns = (Column(matrix.corner), *(Column(name, "count") for name in matrix.names))
    rows = tuple(
        (Cell(name), *map(Cell, texts))
        for name, texts in zip(matrix.names, matrix.texts, strict=True)
    )
    return Table(matrix.caption, columns, rows)


def _table(table: Table) -> str:
    rows = [" | ".join(in_markdown(column.name) for column in table.columns)]
    rows.append(" | ".join("---" if c.kind == "text" else "---:" for c in table.columns))
    for row in (*table.rows, *([table.total] if table.total else [])):
        texts = []
        for cell, column in zip(row, table.columns, strict=True):
            text = write_value(cell.value, column.kind)
            text = in_markdown(text) if isinstance(cell.value, str) else text
            texts.append(f"**{text}**" if cell.marked else text)
        rows.append(" | ".join(texts))
    lines = "\n".join(f"| {row} |" for row in rows)
    return f"{in_markdown(table.caption)}:\n\n{lines}"
