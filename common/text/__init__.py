"""Texts from foreign files, as they may be shown, numbers with their nouns, lines for people."""

from common.text.counting import counted
from common.text.escaping import (
    in_csv,
    in_file_name,
    in_html,
    in_line,
    in_lines,
    in_markdown,
    no_name,
    shown,
)
from common.text.numbers import parse_number
from common.text.saying import say
from common.text.spelling import alike, folded, respelt

__all__ = [
    "alike",
    "counted",
    "folded",
    "in_csv",
    "in_file_name",
    "in_html",
    "in_line",
    "in_lines",
    "in_markdown",
    "no_name",
    "parse_number",
    "respelt",
    "say",
    "shown",
]
