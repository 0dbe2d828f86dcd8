"""The same name, spelt in two ways."""

import unicodedata
from collections.abc import Iterable


def respelt(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is this one but for capitals, blanks, or how accents are coded."""
    plain = _plain(name)
    return next((other for other in known if other != name and _plain(other) == plain), None)


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
