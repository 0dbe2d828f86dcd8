"""Blocks as one self-contained HTML page.

The page loads nothing: its security policy forbids it, and allows no script but its own.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from common.text import in_html
from detect.report.drawing.style import SCRIPT, shade, style_sheet
from detect.report.writers import plots
from detect.report.writers.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Details,
    Dots,
    Drawing,
    Drawings,
    Heading,
    Html,
    Lead,
    Matrices,
    Matrix,
    Note,
    Pair,
    Section,
    Span,
    Table,
    Text,
    write_value,
)

FEW_NAMES = 9
"""Up to so many names a matrix has room for its numbers."""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Write blocks as a page, with the titles of the sections as its contents."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    sections = [block for block in blocks if isinstance(block, Section)]
    contents = "".join(
        f'<li><a href="#{in_html(part.key)}">{in_html(part.title)}</a></li>' for part in sections
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
            f"<title>{in_html(title)}</title>",
            f"<style>{style_sheet()}</style>",
            "</head>",
            "<body>",
            f'<nav aria-label="Contents"><ol>{contents}</ol></nav>',
            "<main>",
            *map(_block, blocks),
            "</main>",
            f"<script>{SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        )
    )


def script_json(value: Any) -> str:
    """Write JSON that may stand in a <script>: nothing in it ends the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _block(block: Block) -> str:
    match block:
        case Section(key, title, blocks):
            return "\n".join(
                (
                    f'<section id="{in_html(key)}" aria-labelledby="{in_html(key)}-title">',
                    f'<h2 id="{in_html(key)}-title">{in_html(title)}</h2>',
                    *map(_block, blocks),
                    "</section>",
                )
            )
        case Heading(level, text):
            return f"<h{level}>{in_html(text)}</h{level}>"
        case Lead(text):
            return f'<p class="lead">{_signed(text)}</p>'
        case Text(text):
            return f"<p>{_signed(text)}</p>"
        case Note(text):
            return f'<p class="note">{_signed(text)}</p>'
        case Code(text):
            return f'<pre tabindex="0"><code>{in_html(text)}</code></pre>'
        case Html(html):
            return html
        case Chart():
            return ""  # the page shows the same with means of its own
        case Dots():
            return plots.dots(block)
        case Pair(items):
            return "\n".join(('<div class="pair">', *map(plots.dots, items), "</div>"))
        case Bars():
            return plots.bars(block)
        case Table():
            return _table(block)
        case Matrices(label, items):
            parts = "\n".join(map(_matrix, items))
            name = in_html(label)
            return f'<div class="matrices" role="group" aria-label="{name}">{parts}</div>'
        case Drawings():
            return _drawings(block)
        case Details(summary, blocks, unfolded):
            head = f"<summary><h3>{in_html(summary)}</h3></summary>"
            tag = "<details open>" if unfolded else "<details>"
            return "\n".join((tag, head, *map(_block, blocks), "</details>"))


def _signed(text: str) -> str:
    """Escape a text of ours, its minus signs as such."""
    words = (
        f"&minus;{word[1:]}" if word[:1] == "-" and word[1:2].isdigit() else
        f"[&minus;{word[2:]}" if word[:2] == "[-" and word[2:3].isdigit() else word
        for word in in_html(text).split(" ")
    )  # fmt: skip
    return " ".join(words)


def _framed(kind: str, caption: str, heads: str, body: Sequence[str], foot: str = "") -> str:
    lines = (
        f'<div class="scroll" role="region" aria-label="{in_html(caption)}" tabindex="0">',
        f'<table class="{kind}">',
        f"<caption>{in_html(caption)}</caption>",
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
        f'<th scope="col" class="{column.kind}">{in_html(column.name)}</th>'
        for column in table.columns
    )
    foot = f"<tfoot>\n{_row(table.total, table)}\n</tfoot>" if table.total else ""
    body = [_row(row, table) for row in table.rows]
    return _framed("sortable" if table.sortable else "plain", table.caption, heads, body, foot)


def _row(row: Sequence[Cell], table: Table) -> str:
    cells = []
    for index, (cell, column) in enumerate(zip(row, table.columns, strict=True)):
        text = in_html(write_value(cell.value, column.kind))
        if column.kind == "points":
            text = text.replace("-", "&minus;")
        if cell.marked:
            text = f"<strong>{text}</strong>"
        value = cell.value.low if isinstance(cell.value, Span) else cell.value
        key = f' data-value="{value!r}"' if isinstance(value, int | float) else ""
        if index == 0:
            cells.append(f'<th scope="row" class="{column.kind}"{key}>{text}</th>')
        else:  # the head again, for narrow screens, where a row becomes a list
            name = in_html(column.name)
            cells.append(f'<td class="{column.kind}" data-head="{name}"{key}>{text}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _matrix(matrix: Matrix) -> str:
    names = [in_html(name) for name in matrix.names]
    few = len(names) <= FEW_NAMES
    heads = f'<th scope="col" class="text">{in_html(matrix.corner)}</th>'
    heads += "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    body = []
    for row, row_name in enumerate(names):
        cells = []
        for name, number, part, text in zip(
            names, matrix.counts[row], matrix.shades[row], matrix.texts[row], strict=True
        ):
            if not number:
                cells.append("<td></td>")
                continue
            title = f"{row_name}, {name}: {number}".replace(": -", ": &minus;")
            shown = in_html(text).replace("-", "&minus;") if few else ""
            colour = f"background:{shade(part)}"
            cells.append(f'<td title="{title}" style="{colour}">{shown}</td>')
        body.append(f'<tr><th scope="row" class="text">{row_name}</th>{"".join(cells)}</tr>')
    kind = "matrix few" if few else "matrix"
    return _framed(kind, matrix.caption, heads, body)


def _drawings(drawings: Drawings) -> str:
    if drawings.kind == "legend":
        items = "".join(f"<li>{item.html}{in_html(item.name)}</li>" for item in drawings.items)
        return f'<ul class="legend" aria-label="{in_html(drawings.label)}">{items}</ul>'
    head = f'<div class="{drawings.kind}" role="group" aria-label="{in_html(drawings.label)}">'
    return "\n".join((head, *map(_figure, drawings.items), "</div>"))


def _figure(item: Drawing) -> str:
    note = f"<br>{in_html(item.note)}" if item.note else ""
    caption = f"<figcaption><b>{in_html(item.name)}</b>{note}</figcaption>"
    return f'<figure style="--aspect:{item.aspect:.3f}">{item.html}{caption}</figure>'
