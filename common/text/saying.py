"""Lines for people: on a terminal broken between words, so that no line is cut or folded."""

import os
import sys
import textwrap
from typing import TextIO


def columns(stream: TextIO) -> int | None:
    """Return the width of a terminal, or what COLUMNS says; None where lines may have any length.

    Args:
        stream: Where the lines go; a file and a pipe have no width.
    """
    stated = os.environ.get("COLUMNS", "")
    if stated.isdecimal() and int(stated):
        return int(stated)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # ValueError: a stream without a file
        return None


def wrapped(text: str, width: int | None) -> str:
    """Break the lines of a text between words; further lines are indented by two more spaces.

    A word that is longer than a line, such as a path, stays whole.

    Args:
        text: One line or several.
        width: Columns; None leaves the text as it is.
    """
    if width is None:
        return text
    return "\n".join(_lines(line, width) for line in text.split("\n"))


def _lines(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
    parts = textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text for people at once, its lines broken where the terminal ends.

    Args:
        text: One line or several.
        stream: Where it goes; None: standard output.
    """
    stream = stream or sys.stdout
    print(wrapped(text, columns(stream)), file=stream, flush=True)
