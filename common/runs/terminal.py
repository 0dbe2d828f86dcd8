"""How this program speaks on a terminal: width, colour, silence, lines for machines."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from common.text.saying import columns

_STYLES = {"bold": "1", "dim": "2", "green": "1;32"}
_machine: list[TextIO] = []
"""Where `--json` writes: standard output, while what is for people goes to standard error."""


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Colour a text where a person sees it: on a terminal, unless NO_COLOR is set.

    Args:
        text: To be shown.
        style: "bold", "dim" or "green".
        stream: Where it goes; None: standard output.
    """
    return f"\033[{_STYLES[style]}m{text}\033[0m" if has_colour(stream or sys.stdout) else text


def has_colour(stream: TextIO) -> bool:
    """Return whether colours may be used; see https://no-color.org."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def width(stream: TextIO) -> int:
    """Return the columns of a terminal; 80 where it is none, or does not say."""
    return columns(stream) or 80


def duration(seconds: float) -> str:
    """Write a time as 1:02 (minutes and seconds), 1:02:03 or 2 d 03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def speaking(*, quiet: bool = False, json_lines: bool = False) -> Iterator[None]:
    """Be silent but for faults, or leave standard output to `emit`."""
    with contextlib.ExitStack() as stack:
        if json_lines:
            _machine.append(sys.stdout)
            stack.callback(_machine.pop)
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123  # no path of ours
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def emit(record: Mapping[str, Any]) -> None:
    """Write a line of JSON to standard output, if `speaking` leaves it to machines."""
    if _machine:
        print(json.dumps(dict(record)), file=_machine[-1], flush=True)
