"""Colours, style sheet and script of the page."""

LIGHT = {
    "page": "#ffffff",
    "card": "#f5f6f8",
    "ink": "#1d2127",
    "soft": "#555e69",
    "rule": "#d3d8de",
    "accent": "#0a5cad",
    "mark": "#fff1c2",
    "run-1": "#0a5cad",
    "run-2": "#b3440a",
    "run-3": "#006e55",
    "run-4": "#8a3b8f",
    "run-5": "#6e5600",
    "run-6": "#4a4f57",
}
DARK = {
    "page": "#14171b",
    "card": "#1d2127",
    "ink": "#e7e9ec",
    "soft": "#a4adb8",
    "rule": "#3a414a",
    "accent": "#7bb8f5",
    "mark": "#4a3d10",
    "run-1": "#7bb8f5",
    "run-2": "#ff9f68",
    "run-3": "#54d0ab",
    "run-4": "#dba2e3",
    "run-5": "#dfc04f",
    "run-6": "#c3c9d1",
}
RUN_COLOURS = 6

_SHADE = (40, 120, 205)
_DARKEST = 0.6  # the ink stays readable on it in both schemes


def shade(share: float) -> str:
    """Colour of a cell that holds that share of its row; see-through, so for both schemes."""
    red, green, blue = _SHADE
    return f"rgba({red}, {green}, {blue}, {_DARKEST * share:.3f})"


def style_sheet() -> str:
    """Return the style sheet."""
    return (
        f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}"
        f"{_RULES}"
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


_RULES = """
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
thead th.text:first-child { min-width: min(11rem, 30vw); }
td:not(.text) { white-space: nowrap; }
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
.matrix { font-size: .8rem; }
.matrix th, .matrix td { padding: .2rem .35rem; }
.matrix td { min-width: 2rem; border: 1px solid var(--rule); text-align: center;
  print-color-adjust: exact; }
.matrix thead th { min-width: 0; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap;
  max-height: 10rem; overflow: hidden; }

.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 1rem 0;
  padding: 0; }
.legend svg { width: 2.25rem; height: .75rem; margin-right: .5rem; vertical-align: middle; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr));
  gap: 1rem; margin: 1rem 0; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(15rem, 24rem);
  gap: 1rem; overflow-x: auto; margin: .5rem 0 1.5rem; padding-bottom: .25rem; }
.chart { max-width: 28rem; margin: 1rem 0; }
figure { margin: 0; display: flex; flex-direction: column; justify-content: space-between;
  gap: .4rem; }
.grid figure { background: var(--card); border-radius: .4rem; padding: .6rem .7rem; }
figcaption { font-size: .85rem; line-height: 1.4; color: var(--soft); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit !important; }
img { display: block; width: 100%; height: auto; border-radius: .25rem; }

details { border: 1px solid var(--rule); border-radius: .4rem; padding: 0 1rem; margin: .75rem 0; }
summary { cursor: pointer; padding: .6rem 0; }
summary h3 { display: inline; margin: 0; }
pre { background: var(--card); border-radius: .4rem; padding: .75rem 1rem; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details pre { margin: .5rem 0 1rem; }
@media print {
  html { font-size: 75%; }
  main { max-width: none; padding: 0; }
  th, td { padding: .25rem .4rem; }
  thead th, thead th.text:first-child, td.text { min-width: 0; }
  .scroll { overflow: visible; }
  .strip { grid-auto-flow: row; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr));
    overflow: visible; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  th button::after { content: none; }
  th:first-child { position: static; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  tr, figure, summary { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
}
"""

SCRIPT = """
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
