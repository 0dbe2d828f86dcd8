"""Names and texts from foreign files, escaped for wherever they are shown; free of torch.

Classes, ids, file names and titles may hold anything: spaces, dots, slashes, quotes, markup,
control characters, line breaks, marks that turn the direction of reading. Each function is for one
place. For a shell there is `shlex.quote`.
"""

import html
import re
import unicodedata
from hashlib import blake2b

_JOINERS = "\u200c\u200d"
"""Parts of words in Persian and Indic scripts, and of emoji; nothing that misleads."""
_MARKUP = re.compile(
    r"[\\`*\[\]{}|~<>&!]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it means nothing
    r"|^[#=]|^[+-](?![\w.])|^\d+(?=[.)](?:\s|$))|(?<=\w):(?=//)|(?<=www)\."
)
_NO_NAMES = ("Cc", "Cs", "Zl", "Zp")
"""Control characters, halves of a pair, and what ends a line; all else may be in a name: the
narrow blank of a screenshot on macOS, the joiners of an emoji, emoji newer than this Python."""
_MOST_SHOWN = 80
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_MOST_BYTES = 180
"""Of the 255 that file systems grant a name, for there are a prefix and an ending, too."""


def no_name(text: str) -> str | None:
    """Return the first character that keeps a text from naming a file or a class; None: none."""
    if text.isprintable():
        return None
    return next((c for c in text if unicodedata.category(c) in _NO_NAMES), None)


def in_line(text: str) -> str:
    """Escape what a terminal or a log would not show as it is, line breaks included."""
    return text if text.isprintable() else "".join(map(_visible, text))


def shown(text: str) -> str:
    """Escape as `in_line`, and shorten, a name for a message."""
    return in_line(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def in_lines(text: str) -> str:
    """Escape as `in_line`, line by line: for a message that has more than one."""
    return "\n".join(map(in_line, text.split("\n")))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return ascii(character)[1:-1]


def in_html(text: str) -> str:
    """Escape for HTML, SVG and XML: between tags, and in an attribute in quotes."""
    return html.escape(in_line(text))


def in_markdown(text: str) -> str:
    """Escape for GitHub's Markdown, tables included; all of it is one line."""
    line = in_line(" ".join(text.split()))
    return _MARKUP.sub(_escape_markup, line)


def _escape_markup(match: re.Match[str]) -> str:
    found = match[0]
    if found in "<>&":
        return html.escape(found)
    return f"{found}\\" if found.isdigit() else f"\\{found}"


def in_csv(text: str) -> str:
    """Escape as `in_line`, and put an apostrophe before what a spreadsheet takes for a formula.

    Commas and quotes are left to `csv.writer`.
    """
    line = in_line(text)
    formula = line.startswith(_FORMULA) and not _NUMBER.fullmatch(line)
    return f"'{line}" if formula else line


def in_file_name(name: str) -> str:
    """Turn a name into a part of a file name; different names stay different.

    Letters, digits and `_-. ` stay as they are, except where a file system or a command would take
    them for something else; other characters become the %XX of their UTF-8 bytes. A name that is
    too long ends in a digest.
    """
    characters = list(name)
    text = "".join(
        character if _stays(character, index, len(characters)) else _percent(character)
        for index, character in enumerate(characters)
    )
    data = text.encode()
    if len(data) <= _MOST_BYTES:
        return text or "%"
    digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{data[: _MOST_BYTES - 20].decode(errors='ignore')}%~{digest}"


def _stays(character: str, index: int, length: int) -> bool:
    if character in ". ":  # hidden, or one that Windows drops
        return 0 < index < length - 1
    if character == "-":
        return index > 0
    # One way of writing an accented letter, for macOS knows no other.
    return character == "_" or (character.isalnum() and unicodedata.is_normalized("NFC", character))


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))
