"""Names that hold anything: each escape against the reader of its place."""

import csv
import io
import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.text import in_csv, in_file_name, in_html, in_line, in_lines, in_markdown

NASTY = (
    "car/truck",
    "../../etc/passwd",
    "..",
    "",
    "-rf",
    "=cmd|' /C calc'!A0",
    "__proto__",
    "<script>alert('x')</script>",
    'a" onload="x',
    "a|b\nc\r\td\0",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp.exe\u200f",
    "\u2028\u0085",
    "# head",
    "1. one",
    "[a](http://b.c) ![d](e) www.f.g https://h.i",
    "**bold** _it_ ~~no~~ `code` {x} \\",
    "&lt;&amp;#60;",
    "$(reboot) `id` ; rm",
    "\ud800 lone",
    "\U0001f469\u200d\U0001f33e e\u0301",
    "x" * 300,
    "\u00e9" * 300,
)
ANY = st.text() | st.text(st.sampled_from("<>&\"'|*_`[](){}#!~\\-+=@./:% \n\t\0ab1\u202e\ud800"))


def nasty(test):  # type: ignore[no-untyped-def]
    for text in NASTY:
        test = example(text)(test)
    return settings(max_examples=300)(given(ANY)(test))


def test_plain_names_stay_as_they_are() -> None:
    for number in ("0.7500", "-0.35", "+1"):
        assert in_markdown(number) == in_csv(number) == number
    for name in ("aeroplane", "diningtable", "stop sign", "T-shirt", "v1.5", "snake_case"):
        for escape in (in_line, in_lines, in_html, in_markdown, in_csv, in_file_name):
            assert escape(name) == name
    assert in_line("\u5b57 \u043c\u0438\u0440 \U0001f600") == "\u5b57 \u043c\u0438\u0440 \U0001f600"


@nasty
def test_a_terminal_gets_one_line_without_codes(text: str) -> None:
    line = in_line(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", line)
    assert in_lines(f"{text}\n{text}").count("\n") == 2 * text.count("\n") + 1


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@nasty
def test_a_page_and_a_drawing_show_the_name(text: str) -> None:
    shown = f'<p title="{in_html(text)}">{in_html(text)}</p>'
    seen = Seen()
    seen.feed(shown)
    seen.close()
    assert seen.tags == [("p", [("title", in_line(text))])]
    assert seen.text == in_line(text)
    element = ET.fromstring(shown)
    assert (element.text or "", element.get("title")) == (in_line(text), in_line(text))


@nasty
def test_markdown_shows_the_name(text: str) -> None:
    """By the rules of CommonMark, and without any tag of another reader of Markdown."""
    shown = in_markdown(text)
    assert "\n" not in shown
    read = re.sub(
        r"\\([!-/:-@\[-`{-~])|&(lt|gt|amp);",
        lambda m: m[1] or {"lt": "<", "gt": ">", "amp": "&"}[m[2]],
        shown,
    )
    assert read == in_line(" ".join(text.split()))
    bare = re.sub(r"\\.|&\w+;", "", shown)
    assert not re.search(r"[`*\[\]|<>&~]|\w://", bare)
    assert re.findall(r"<(\w+)", markdown.markdown(f"x {shown}")) == ["p"]
    assert set(re.findall(r"<(\w+)", markdown.markdown(shown))) <= {"p"}
    assert set(re.findall(r"<(\w+)", markdown.markdown(f"x\n\n{shown}\n{shown}"))) <= {"p"}


@nasty
def test_a_spreadsheet_gets_text(text: str) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([in_csv(text), "next"])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert row[1:] == ["next"]
    assert row[0] in (in_line(text), f"'{in_line(text)}")
    assert row[0][:1] not in tuple("=+-@") or isinstance(float(row[0]), float)


@nasty
def test_a_file_name_stays_in_its_folder(text: str) -> None:
    part = in_file_name(text)
    assert part
    assert not re.search(r"""[\x00-\x1f/\\:*?"'<>|$;&`()]""", part)
    assert part[0] not in "-. "
    assert part[-1] not in ". "
    assert len(os.fsencode(part)) <= 200
    folder = Path("/some/folder")
    assert (folder / part).resolve().parent == folder
    assert in_file_name(part) == part or "%" in part


@settings(max_examples=300)
@given(st.lists(ANY, unique=True, min_size=2, max_size=30))
def test_different_names_stay_different(names: list[str]) -> None:
    assert len(set(map(in_file_name, names))) == len(names)


def test_different_long_names_stay_different(tmp_path: Path) -> None:
    names = ["x" * 300, "x" * 301, "x" * 300 + "/", "\u00e9" * 300, "/" * 90, "/" * 91]
    for name in (*names, *NASTY):
        (tmp_path / f"comp4_det_test_{in_file_name(name)}.txt").touch()
    assert len(list(tmp_path.iterdir())) == len({*names, *NASTY})


@pytest.mark.parametrize(
    ("name", "part"),
    [("car/truck", "car%2Ftruck"), ("100%", "100%25"), ("..", "%2E%2E"), ("e\u0301", "e%CC%81")],
)
def test_what_a_file_is_called(name: str, part: str) -> None:
    assert in_file_name(name) == part
