"""How the program speaks: times, colours, silence, lines for programs."""

import io
import json
import os
import sys

import pytest

from common.runs.terminal import duration, emit, has_colour, speaking, styled, width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (1.4, "0:01"),
        (1.6, "0:02"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (62, "1:02"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (3723, "1:02:03"),
        (86399, "23:59:59"),
        (86400, "1 d 00:00"),
        (2 * 86400 + 3 * 3600 + 4 * 60 + 59, "2 d 03:04"),
    ],
)
def test_a_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    codes = {"bold": "1", "dim": "2", "green": "1;32"}
    for style, code in codes.items():
        assert styled("x", style, Terminal()) == f"\033[{code}mx\033[0m"
        assert styled("x", style, io.StringIO()) == "x"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert styled("x", "dim") == "\033[2mx\033[0m"
    monkeypatch.setenv("NO_COLOR", "")  # set to nothing: not set, https://no-color.org
    assert has_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colour(Terminal())


def test_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width(io.StringIO()) == 80
    monkeypatch.setenv("COLUMNS", "57")
    assert width(io.StringIO()) == 57


def test_a_line_for_a_program_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held))
    with speaking(json_lines=True):
        emit({"step": 1})
        assert held.getvalue() == b'{"step": 1}\n'


def test_who_hears_what(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"nobody": "listens"})
    with speaking():
        print("for people")
    assert capsys.readouterr() == ("for people\n", "")
    with speaking(json_lines=True):
        print("for people")
        emit({"loss": 0.5, "map": None})
    out, err = capsys.readouterr()
    assert (out, json.loads(out), err) == (
        '{"loss": 0.5, "map": null}\n',
        {"loss": 0.5, "map": None},
        "for people\n",
    )
    with speaking(quiet=True):
        print("for people")
        print("a fault", file=sys.stderr)
        assert sys.stdout.name == os.devnull
    assert capsys.readouterr() == ("", "a fault\n")
    with speaking(quiet=True, json_lines=True):
        print("for people")
        emit({"step": 1})
    emit({"nobody": "listens"})
    assert capsys.readouterr() == ('{"step": 1}\n', "")
