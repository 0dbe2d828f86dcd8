"""The same name, spelt in two ways."""

import unicodedata
from collections.abc import Iterable


def respelt(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is this one but for capitals, blanks, or how accents are coded."""
    plain = folded(name)
    return next((other for other in known if other != name and folded(other) == plain), None)


def folded(name: str) -> str:
    """Return what names that differ in capitals, blanks or the coding of accents share."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
