"""Numbers with their nouns."""

import pytest

from common.text import counted


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (1234, ("image",), "1,234 images"),
        (1, ("class",), "1 class"),
        (2, ("class",), "2 classes"),
        (3, ("batch",), "3 batches"),
        (2, ("epoch",), "2 epochs"),
        (2, ("box",), "2 boxes"),
        (1, ("image with objects", "images with objects"), "1 image with objects"),
        (2, ("image with objects", "images with objects"), "2 images with objects"),
    ],
)
def test_counted(number: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(number, *nouns) == text
