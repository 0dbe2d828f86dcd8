"""What changed in the data of a run is named."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from common.runs.data_parts import FILES, IMAGES, changes, digest, file_sizes


def test_a_digest_tells_order_and_bounds_apart() -> None:
    texts = [("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc",), ("ab", "c", ""), ()]
    assert len({digest(text) for text in texts}) == len(texts)
    assert digest(["é", "\udcff"]) == digest(["é".encode(), b"\xed\xb3\xbf"])


def test_a_digest_is_of_pieces_behind_their_lengths() -> None:
    """Checkpoints keep it: written out, little-endian, in eight bytes each."""
    content = b"\x03" + bytes(7) + b"abc" + b"\x00\x01" + bytes(6) + b"x" * 256
    assert digest(["abc", b"x" * 256]) == blake2b(content, digest_size=16).hexdigest()
    assert digest([]) == blake2b(digest_size=16).hexdigest()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("0" * 15, True), ("0" * 16, False), ("f" * 33, False), ("g" * 16, True), ("F" * 16, True)],
)
def test_what_looks_like_a_digest_is_not_shown(text: str, shown: bool) -> None:
    words = f"the a: {text} then, y now" if shown else "the a"
    assert changes({"a": text}, {"a": "y"}) == [words]


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
    long = {length: changes({"a": "x" * length}, {"a": "y"}) for length in (100, 101, 5000)}
    assert long[100] == [f"the a: {'x' * 100} then, y now"]
    assert long[101] == long[5000] == [f"the a: {'x' * 100}... then, y now"]


def test_what_follows_from_another_part_is_not_named() -> None:
    before = {IMAGES: digest("a"), f"names of the {IMAGES}": digest("b"), FILES: digest("c")}
    now = {IMAGES: digest("d"), f"names of the {IMAGES}": digest("e"), FILES: digest("f")}
    assert changes(before, now) == [f"the {IMAGES}"]
    assert changes(before, {**now, IMAGES: before[IMAGES]}) == [
        f"the names of the {IMAGES}",
        f"the {FILES}",
    ]


def test_a_checkpoint_of_an_older_version_knows_the_images_alone() -> None:
    now = {IMAGES: "0123456789abcdef", "class list": "cat"}
    assert changes("0123456789abcdef", now) == []
    assert changes("fedcba9876543210", now) == [f"the {IMAGES}"]


def test_other_pictures_under_the_same_names(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number + 1))
    before = file_sizes(paths)
    assert changes(before, file_sizes(paths)) == []
    paths[0].write_bytes(b"xx")
    paths[1].write_bytes(b"x")  # the two are swapped
    assert changes(before, file_sizes(paths)) == [f"the {FILES}"]
    paths[2].unlink()
    assert changes(before, file_sizes(paths)) == [f"the {FILES}"]
    # A version that did not look, or images in shards.
    assert changes({"a": "1"}, {"a": "1", **before}) == changes({"a": "1", **before}, {"a": "1"})
    assert changes({"a": "1", **before}, {"a": "1"}) == []


@pytest.mark.parametrize(
    ("files", "count", "last"),
    [(1, 1, 0), (2000, 2000, 1999), (2001, 1001, 2000), (5001, 1667, 4998)],
)
def test_of_many_files_two_thousand_are_asked(
    tmp_path: Path, files: int, count: int, last: int
) -> None:
    (tmp_path / "a").touch()
    asked = []

    class Counted(list[Path]):
        def __getitem__(self, number: Any) -> Any:
            asked.append(number)
            return super().__getitem__(number)

    file_sizes(Counted([tmp_path / "a"] * files))
    assert (len(asked), asked[0], asked[-1]) == (count, 0, last)


def test_what_checkpoints_keep_of_files_stays_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xyz")
    found = file_sizes([tmp_path / "a", tmp_path / "missing"])
    assert found == {FILES: digest(["3", "-1"])}


def test_a_digest_is_never_shown() -> None:
    assert changes({"classes": digest("a")}, {"classes": "cat"}) == ["the classes"]
    assert changes({"classes": "cat"}, {"classes": digest("a")}) == ["the classes"]
