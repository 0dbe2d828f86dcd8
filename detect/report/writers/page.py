"""Blocks as one self-contained HTML page.

The page loads nothing: its security policy forbids it, and allows no script but its own.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from detect.report.drawing.style import SCRIPT, shade, style_sheet
from detect.report.writers.blocks import (
    Block,
    Cell,
    Code,
    Details,
    Drawing,
    Drawings,
    Heading,
    Matrix,
    Span,
    Table,
    Text,
    write_value,
)


def jpeg(content: bytes, alt: str, width: int, height: int) -> str:
    """Embed a JPEG of `width` x `height` pixels."""
    data = base64.b64encode(content).decode("ascii")
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" {size}>'


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Write blocks as a page, percentages with one decimal."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{style_sheet()}</style>",
            "</head>",
            "<body>",
            "<main>",
            *map(_block, blocks),
            "</main>",
            f"<script>{SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        )
    )


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Code(text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case Table():
            return _table(block)
        case Matrix():
            return _matrix(block)
        case Drawings():
            return _drawings(block)
        case Details(summary, blocks, unfolded):
            head = f"<summary><h3>{escape(summary)}</h3></summary>"
            tag = "<details open>" if unfolded else "<details>"
            return "\n".join((tag, head, *map(_block, blocks), "</details>"))


def _framed(kind: str, caption: str, heads: str, body: Sequence[str], foot: str = "") -> str:
    lines = (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">',
        f'<table class="{kind}">',
        f"<caption>{escape(caption)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody>",
        foot,
        "</table>",
        "</div>",
    )
    return "\n".join(filter(None, lines))


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col" class="{column.kind}">{escape(column.name)}</th>'
        for column in table.columns
    )
    foot = f"<tfoot>\n{_row(table.total, table)}\n</tfoot>" if table.total else ""
    body = [_row(row, table) for row in table.rows]
    return _framed("sortable" if table.sortable else "plain", table.caption, heads, body, foot)


def _row(row: Sequence[Cell], table: Table) -> str:
    cells = []
    for index, (cell, column) in enumerate(zip(row, table.columns, strict=True)):
        text = escape(write_value(cell.value, column.kind))
        if column.kind == "points":
            text = text.replace("-", "&minus;")
        if cell.marked:
            text = f"<strong>{text}</strong>"
        value = cell.value.low if isinstance(cell.value, Span) else cell.value
        key = f' data-value="{value!r}"' if isinstance(value, int | float) else ""
        tag = 'th scope="row"' if index == 0 else "td"
        cells.append(f'<{tag} class="{column.kind}"{key}>{text}</{tag[:2]}>')
    return f"<tr>{''.join(cells)}</tr>"


def _matrix(matrix: Matrix) -> str:
    names = [escape(name) for name in matrix.names]
    heads = f'<th scope="col" class="text">{escape(matrix.corner)}</th>'
    heads += "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    body = []
    for row_name, counts in zip(names, matrix.counts, strict=True):
        total = sum(counts)
        cells = []
        for name, number in zip(names, counts, strict=True):
            if not number:
                cells.append("<td></td>")
                continue
            title = f"{row_name}, {name}: {number} of {total}"
            colour = shade(number / total)
            share = f"{100 * number / total:.0f}" if 200 * number >= total else "&lt;1"
            cells.append(f'<td title="{title}" style="background: {colour}">{share}</td>')
        body.append(f'<tr><th scope="row" class="text">{row_name}</th>{"".join(cells)}</tr>')
    return _framed("matrix", matrix.caption, heads, body)


def _drawings(drawings: Drawings) -> str:
    if drawings.kind == "legend":
        items = "".join(f"<li>{item.html}{escape(item.name)}</li>" for item in drawings.items)
        return f'<ul class="legend" aria-label="{escape(drawings.label)}">{items}</ul>'
    focus = ' tabindex="0"' if drawings.kind == "strip" else ""
    head = (
        f'<div class="{drawings.kind}" role="group" aria-label="{escape(drawings.label)}"{focus}>'
    )
    return "\n".join((head, *map(_figure, drawings.items), "</div>"))


def _figure(item: Drawing) -> str:
    note = f"<br>{escape(item.note)}" if item.note else ""
    caption = f"<figcaption><b>{escape(item.name)}</b>{note}</figcaption>"
    return f"<figure>{caption}{item.html}</figure>"
