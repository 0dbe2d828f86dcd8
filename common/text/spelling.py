"""The same name, spelt in two ways."""

import unicodedata
from collections.abc import Iterable


def respelt(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is this one but for capitals, blanks, or how accents are coded."""
    plain = folded(name)
    return next((other for other in known if other != name and folded(other) == plain), None)


def alike(classes: Iterable[str]) -> list[str]:
    """Warn of classes whose names differ in capitals, blanks or the coding of accents alone.

    Returns:
        A line, or none.
    """
    known: dict[str, list[str]] = {}
    for name in classes:
        known.setdefault(folded(name), []).append(name)
    found = [names for names in known.values() if len(names) > 1]
    if not found:
        return []
    first, second, *_ = found[0]
    return [
        f"warning: classes spelt alike: {len(found)}, such as {first!a} and {second!a}: if they "
        "are one, rename one"
    ]


def folded(name: str) -> str:
    """Return what names that differ in capitals, blanks or the coding of accents share."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
