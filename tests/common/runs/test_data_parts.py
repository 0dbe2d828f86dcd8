"""What changed in the data of a run is named."""

from common.runs.data_parts import IMAGES, changes, digest


def test_a_digest_tells_order_and_bounds_apart() -> None:
    texts = [("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc",), ("ab", "c", ""), ()]
    assert len({digest(text) for text in texts}) == len(texts)
    assert digest(["é", "\udcff"]) == digest(["é".encode(), b"\xed\xb3\xbf"])


def test_the_parts_that_changed_are_named_and_words_are_shown() -> None:
    before = {"class list": "cat, dog", "objects": digest("a"), "images": digest("i"), "old": "x"}
    now = {"class list": "dog, cat", "objects": digest("b"), "images": digest("i"), "new": "y"}
    assert changes(before, before) == []
    assert changes(before, now) == [
        "the class list: cat, dog then, dog, cat now",
        "the objects",
        "the new, which one of them lacks",
        "the old, which one of them lacks",
    ]
    (line,) = changes({"class list": "x" * 5000}, {"class list": "y" * 5000})
    assert len(line) < 300


def test_a_checkpoint_of_an_older_version_knows_the_images_alone() -> None:
    now = {IMAGES: "0123456789abcdef", "class list": "cat"}
    assert changes("0123456789abcdef", now) == []
    assert changes("fedcba9876543210", now) == [f"the {IMAGES}"]
