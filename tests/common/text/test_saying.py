"""Lines broken for a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.text import say
from common.text.saying import columns, wrapped

WORDS = st.lists(st.text("ab-/.:", min_size=1, max_size=12), min_size=1)


@given(WORDS, st.integers(12, 40), st.integers(0, 3))
def test_every_line_fits_and_no_word_is_broken(words, width, indent):
    lines = wrapped(" " * indent + " ".join(words), width).split("\n")
    assert [word for line in lines for word in line.split()] == words
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    if indent + len(words[0]) <= width:
        assert lines[0].startswith(" " * indent)
    assert all(line.startswith(" " * (indent + 2)) for line in lines[1:])


def test_lines_stay_lines_and_those_that_fit_as_they_are():
    text = "epoch   loss\n\n  a table  of two   columns"
    assert wrapped(text, 30) == text
    assert wrapped(text, 12) == "epoch   loss\n\n  a table\n    of two\n    columns"
    assert wrapped("x " * 100, None) == "x " * 100


@pytest.mark.parametrize(("stated", "width"), [("40", 40), ("0", None), ("", None), ("wide", None)])
def test_a_pipe_has_the_width_that_columns_says(monkeypatch, stated, width):
    monkeypatch.setenv("COLUMNS", stated)
    assert columns(io.StringIO()) == width


def test_say_breaks_what_is_wider_than_columns(monkeypatch, capsys):
    say("one two three")
    monkeypatch.setenv("COLUMNS", "8")
    say("one two three")
    assert capsys.readouterr().out == "one two three\none two\n  three\n"
