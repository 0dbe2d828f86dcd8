"""A document as blocks, written as one self-contained HTML page and as Markdown.

Both writers show the same tables; drawings are on the page only. Every text is escaped here, so
that names and titles may come from anyone; a `Drawing` alone carries HTML, made by the program.
The page loads nothing: its security policy forbids it, and allows no script but the one below.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, TypeAlias

Value: TypeAlias = str | int | float | None


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
        kind: "percent" is a fraction shown times 100, "points" a difference of two, with a sign.
    """

    name: str
    kind: Literal["text", "count", "percent", "points"] = "text"


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
    """Safe HTML, as `jpeg` and `detect.report_pictures` make it, over a name and a note."""

    html: str
    name: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Drawings:
    """Drawings of one kind: a "legend", a "grid" that wraps, or a "strip" that scrolls."""

    kind: Literal["legend", "grid", "strip"]
    label: str
    items: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """A section that the page folds away under its heading of level 3."""

    summary: str
    blocks: "tuple[Block, ...]"


Block: TypeAlias = Heading | Text | Code | Table | Drawings | Details


def jpeg(content: bytes, alt: str, width: int, height: int) -> str:
    """Embed a JPEG of `width` x `height` pixels."""
    data = base64.b64encode(content).decode("ascii")
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" {size}>'


def write_value(value: Value, kind: str, digits: int) -> str:
    """Write a value of a table as plain text; None is "n/a"."""
    if value is None:
        return "n/a"
    if isinstance(value, str) or kind in ("text", "count"):
        return str(value)
    text = f"{100 * value:{'+' if kind == 'points' else ''}.{digits}f}"
    return text[1:] if kind == "points" and not float(text) else text  # neither +0.0 nor -0.0


# ---- Markdown -----------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """Write blocks as GitHub's Markdown, percentages with two decimals, without drawings."""
    return "\n\n".join(text for text in map(_markdown, blocks) if text) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Code(text):
            return "    " + " ".join(text.split())
        case Table():
            return _markdown_table(block)
        case Drawings(kind):
            return "(Drawn on the HTML page.)" if kind == "legend" else ""
        case Details(summary, blocks):
            return to_markdown((Heading(3, summary), *blocks)).rstrip("\n")


def _markdown_table(table: Table) -> str:
    rows = [" | ".join(_plain(column.name) for column in table.columns)]
    rows.append(" | ".join("---" if c.kind == "text" else "---:" for c in table.columns))
    for row in (*table.rows, *([table.total] if table.total else [])):
        texts = []
        for cell, column in zip(row, table.columns, strict=True):
            text = _plain(write_value(cell.value, column.kind, digits=2))
            texts.append(f"**{text}**" if cell.marked else text)
        rows.append(" | ".join(texts))
    lines = "\n".join(f"| {row} |" for row in rows)
    return f"{_plain(table.caption)}:\n\n{lines}"


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    line = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split()))
    return line.replace("&", "&amp;").replace("<", "&lt;")


# ---- HTML ---------------------------------------------------------------------------------------


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Write blocks as a page, percentages with one decimal."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode("ascii")
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
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *map(_html, blocks),
            "</main>",
            f"<script>{_SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        )
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Code(text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case Table():
            return _html_table(block)
        case Drawings():
            return _html_drawings(block)
        case Details(summary, blocks):
            head = f"<summary><h3>{escape(summary)}</h3></summary>"
            return "\n".join(("<details>", head, *map(_html, blocks), "</details>"))


def _html_table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col" class="{column.kind}">{escape(column.name)}</th>'
        for column in table.columns
    )
    foot = f"<tfoot>\n{_html_row(table.total, table)}\n</tfoot>" if table.total else ""
    lines = (
        f'<div class="scroll" role="region" aria-label="{escape(table.caption)}" tabindex="0">',
        f"<table{' class=sortable' if table.sortable else ''}>",
        f"<caption>{escape(table.caption)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *(_html_row(row, table) for row in table.rows),
        "</tbody>",
        foot,
        "</table>",
        "</div>",
    )
    return "\n".join(filter(None, lines))


def _html_row(row: Sequence[Cell], table: Table) -> str:
    cells = []
    for index, (cell, column) in enumerate(zip(row, table.columns, strict=True)):
        text = escape(write_value(cell.value, column.kind, digits=1))
        if column.kind == "points":
            text = text.replace("-", "&minus;")
        if cell.marked:
            text = f"<strong>{text}</strong>"
        key = f' data-value="{cell.value!r}"' if isinstance(cell.value, int | float) else ""
        tag = 'th scope="row"' if index == 0 else "td"
        cells.append(f'<{tag} class="{column.kind}"{key}>{text}</{tag[:2]}>')
    return f"<tr>{''.join(cells)}</tr>"


def _html_drawings(drawings: Drawings) -> str:
    if drawings.kind == "legend":
        items = "".join(f"<li>{item.html}{escape(item.name)}</li>" for item in drawings.items)
        return f'<ul class="legend" aria-label="{escape(drawings.label)}">{items}</ul>'
    focus = ' tabindex="0"' if drawings.kind == "strip" else ""
    head = (
        f'<div class="{drawings.kind}" role="group" aria-label="{escape(drawings.label)}"{focus}>'
    )
    return "\n".join((head, *map(_html_figure, drawings.items), "</div>"))


def _html_figure(item: Drawing) -> str:
    note = f"<br>{escape(item.note)}" if item.note else ""
    caption = f"<figcaption><b>{escape(item.name)}</b>{note}</figcaption>"
    return f"<figure>{caption}{item.html}</figure>"


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f5f6f8; --ink: #1d2127; --soft: #555e69; --rule: #d3d8de;
  --accent: #0a5cad; --mark: #fff1c2;
  --run-1: #0a5cad; --run-2: #b3440a; --run-3: #006e55; --run-4: #8a3b8f; --run-5: #6e5600;
  --run-6: #4a4f57;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2127; --ink: #e7e9ec; --soft: #a4adb8; --rule: #3a414a;
    --accent: #7bb8f5; --mark: #4a3d10;
    --run-1: #7bb8f5; --run-2: #ff9f68; --run-3: #54d0ab; --run-4: #dba2e3; --run-5: #dfc04f;
    --run-6: #c3c9d1;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); font-weight: 600; vertical-align: bottom;
  min-width: 4.5rem; max-width: 14rem; overflow-wrap: break-word; }
th.text, td.text { text-align: left; }
td.text { overflow-wrap: anywhere; min-width: 8rem; max-width: 32rem; }
tbody th, tfoot th { font-weight: 400; max-width: 16rem; overflow-wrap: break-word; }
th:first-child { position: sticky; left: 0; background: var(--page); }
tfoot th, tfoot td { border-bottom: 0; border-top: 2px solid var(--soft); }
td strong { font-weight: 750; }
td.text strong { background: var(--mark); padding: 0 .25em; border-radius: .2em; }
th button { all: unset; cursor: pointer; display: inline; }
th button::after { content: "\\a0\\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort="ascending"] button::after { content: "\\a0\\2191"; color: inherit; }
th[aria-sort="descending"] button::after { content: "\\a0\\2193"; color: inherit; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 1rem 0;
  padding: 0; }
.legend svg { width: 2.25rem; height: .75rem; margin-right: .5rem; vertical-align: middle; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr));
  gap: 1rem; margin: 1rem 0; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(15rem, 24rem);
  gap: 1rem; overflow-x: auto; margin: .5rem 0 1.5rem; padding-bottom: .25rem; }
figure { margin: 0; display: flex; flex-direction: column; justify-content: space-between;
  gap: .4rem; }
.grid figure { background: var(--card); border-radius: .4rem; padding: .6rem .7rem; }
figcaption { font-size: .85rem; line-height: 1.4; color: var(--soft); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: inherit !important; }
img { display: block; width: 100%; height: auto; border-radius: .25rem; }

details { border: 1px solid var(--rule); border-radius: .4rem; padding: 0 1rem; margin: .75rem 0; }
summary { cursor: pointer; padding: .6rem 0; }
summary h3 { display: inline; margin: 0; }
pre { background: var(--card); border-radius: .4rem; padding: .75rem 1rem; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details pre { margin: .5rem 0 1rem; }
@media print { details > * { display: block; } .scroll, .strip { overflow: visible; } }
"""

_SCRIPT = """
"use strict";
// A click on a head sorts the rows: numbers fall first, names rise first, gaps stay last.
function compare(a, b, numeric, sign) {
  if (!numeric) return sign * a.textContent.localeCompare(b.textContent);
  const [x, y] = [a.dataset.value, b.dataset.value];
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  return sign * (Number(x) - Number(y));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numeric = !head.classList.contains("text");
      const before = head.getAttribute("aria-sort");
      const rising = before ? before === "descending" : !numeric;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[column], b.cells[column], numeric, rising ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}
"""
