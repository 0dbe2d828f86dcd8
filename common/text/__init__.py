"""Texts from foreign files, as they may be shown, and numbers with their nouns."""

from common.text.counting import counted
from common.text.escaping import (
    in_csv,
    in_file_name,
    in_html,
    in_line,
    in_lines,
    in_markdown,
    shown,
)

__all__ = [
    "counted",
    "in_csv",
    "in_file_name",
    "in_html",
    "in_line",
    "in_lines",
    "in_markdown",
    "shown",
]
