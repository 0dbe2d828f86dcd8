"""Colours, style sheet and script of the page."""

from pathlib import Path

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

MORE, LESS = (40, 120, 205), (214, 110, 30)
_DARKEST = 0.55  # the ink stays readable on it in both schemes


def shade(share: float) -> str:
    """Return the colour of a cell by its share of its row; see-through, to suit both schemes.

    A difference of shares has the second colour where it is below 0.
    """
    red, green, blue = MORE if share >= 0 else LESS
    return f"rgba({red}, {green}, {blue}, {_DARKEST * min(1.0, abs(share)):.3f})"


def style_sheet() -> str:
    """Return the style sheet."""
    return (
        f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}"
        f"\n{_file('page.css')}"
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


SCRIPT = f"\n{_file('page.js')}\n{_file('gallery.js')}"
