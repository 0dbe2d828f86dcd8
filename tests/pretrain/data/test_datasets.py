"""The readers against files that the tests write, and what they say about broken ones."""

import os
import pickle
import re
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import InputError
from pretrain.data import cifar
from pretrain.data.datasets import cifar10, cifar100, class_folders, load
from pretrain.data.file_paths import Paths
from pretrain.data.image_sets import (
    FileSet,
    PixelSet,
    central_square,
    decode,
    hold_out,
    select_classes,
)


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1])


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names_of(data: FileSet, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in data.paths]


# ---- class folders ----


def test_listings_are_small(tmp_path: Path) -> None:
    """As ImageNet's: 1,300 images in a folder, names of 21 letters; a tuple of Paths takes 300."""
    for folder in ("n01440764", "n01443537"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        for number in range(1300):
            (tmp_path / "train" / folder / f"{folder}_{number:06d}.JPEG").touch()
    class_folders(tmp_path, "train")  # what is imported or cached on the way
    measured = []
    for _ in range(3):  # what other threads allocate meanwhile is counted, too
        tracemalloc.start()
        try:
            data = class_folders(tmp_path, "train")
            measured.append(tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
        assert len(data.paths) == 2600
    held, peak = map(min, zip(*measured, strict=True))
    assert held / 2600 < 21 + 4 + 8 + 5  # name, folder, label, and the rest
    assert peak / 1300 < 1000  # of one folder at a time there is more


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
paths = st.lists(
    st.builds(lambda folder, name: Path("x", folder, name), st.sampled_from("abc"), names).filter(
        lambda path: path.name not in ("", "..")
    )
)


@given(paths=paths, chosen=st.lists(st.integers(0, 10**6)), cut=st.slices(20))
def test_paths_are_a_tuple_of_paths(paths: list[Path], chosen: list[int], cut: slice) -> None:
    packed, plain = Paths.of(paths), tuple(paths)
    assert packed == plain
    assert tuple(packed) == plain
    assert len(packed) == len(plain)
    assert packed[cut] == plain[cut]
    chosen = [i % len(plain) for i in chosen] if plain else []
    assert packed.take(np.array(chosen, np.int64)) == tuple(plain[i] for i in chosen)
    assert pickle.loads(pickle.dumps(packed)) == plain
    assert packed != (*plain, Path("y"))
    assert packed != 7
    assert not plain or packed != (*plain[:-1], Path("y"))
    assert Paths.of(packed) is packed


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    name = os.fsdecode(b"caf\xe9.jpg")
    (folder / name).touch()
    assert class_folders(tmp_path, "train").paths == (folder / name,)


def test_class_folders_are_numbered_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/2.JPEG", "train/b/1.jpg", "train/a/x.png", "train/a/notes.txt")
    touch(tmp_path, "train/a/._x.png", "train/.cache/y.jpg", "train/list.txt")
    data = class_folders(tmp_path, "train")
    assert data.classes == ("a", "b")
    assert names_of(data, tmp_path) == ["train/a/x.png", "train/b/1.jpg", "train/b/2.JPEG"]
    assert data.labels.tolist() == [0, 1, 1]
    assert data.labels.dtype == np.int64


def test_val_may_be_called_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "test/a/2.jpg")
    assert names_of(class_folders(tmp_path, "val"), tmp_path) == ["test/a/2.jpg"]
    touch(tmp_path, "val/a/3.jpg")
    assert names_of(class_folders(tmp_path, "val"), tmp_path) == ["val/a/3.jpg"]
    assert names_of(class_folders(tmp_path, "test"), tmp_path) == ["test/a/2.jpg"]


@pytest.mark.parametrize(("has", "lacks"), [("train", "val"), ("val", "train")])
def test_splits_with_different_classes(tmp_path: Path, has: str, lacks: str) -> None:
    touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", f"{has}/b/3.jpg")
    message = f"class b is in {tmp_path / has} but not in {tmp_path / lacks}"
    with pytest.raises(InputError, match=re.escape(message)):
        class_folders(tmp_path, "val")
    assert len(class_folders(tmp_path, "train").classes) == (2 if has == "train" else 1)


def test_empty_class_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/readme.txt")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "train/b"))):
        class_folders(tmp_path, "train")


def test_missing_split_shows_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "val/a/1.jpg", "list.txt")
    with pytest.raises(
        InputError, match=r"(?s)no train images.*\n.*<class>/.*val/ \(a/\), list"
    ) as e:
        class_folders(tmp_path, "train")
    assert str(e.value).count("\n") == 1
    with pytest.raises(InputError, match="no such folder"):
        class_folders(tmp_path / "absent", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="train holds nothing: fill it, or remove it"):
        class_folders(tmp_path, "train")


def test_unknown_split(tmp_path: Path) -> None:
    readers: list[Callable[[Path, str], object]] = [class_folders, cifar10, cifar100]
    for read in readers:
        with pytest.raises(InputError, match="'training'"):
            read(tmp_path, "training")


# ---- Tiny ImageNet ----


def write_tiny(root: Path, annotations: str | None = None) -> None:
    touch(root, "train/n02/images/n02_0.JPEG", "train/n02/images/n02_1.JPEG", "train/n02/n02.txt")
    touch(root, "train/n01/images/n01_0.JPEG", "val/images/val_0.JPEG", "val/images/val_1.JPEG")
    lines = "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    (root / "val/val_annotations.txt").write_text(lines if annotations is None else annotations)


@pytest.mark.parametrize("below", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path: Path, below: str) -> None:
    root = tmp_path / below
    write_tiny(root)
    train, val = class_folders(tmp_path, "train"), class_folders(tmp_path, "val")
    assert train.classes == val.classes == ("n01", "n02")
    assert [path.name for path in train.paths] == ["n01_0.JPEG", "n02_0.JPEG", "n02_1.JPEG"]
    assert train.labels.tolist() == [0, 1, 1]
    assert names_of(val, root) == ["val/images/val_0.JPEG", "val/images/val_1.JPEG"]
    assert val.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("val_0.JPEG\tn02\nval_7.JPEG\tn01\n", "line 2: the image 'val_7.JPEG' is not in"),
        ("val_7.JPEG\tn01\nval_0.JPEG\tn02\nval_1.JPEG\tn01\n", "line 1: the image 'val_7.JPEG'"),
        ("../train/n01/images/n01_0.JPEG\tn01\n", "val_annotations.txt names none of the images"),
        ("val_0.JPEG\tn02\nval_0.JPEG\tn01\n", "line 2: the image 'val_0.JPEG' came before"),
        ("val_0.JPEG\tn02\nval_1.JPEG\tn03\n", "line 2: val_1.JPEG has the class 'n03', which"),
        ("val_0.JPEG\tn02\nval_1.JPEG\n", "line 2: val_1.JPEG has the class '', which"),
        ("val_0.JPEG\tn02\n", "val_1.JPEG: "),
        ("val_0.JPEG\tn02\nval_1.JPEG\tn02\n", "no image of the class n01"),
        ("", "val_annotations.txt is empty: correct it"),
    ],
)
def test_tiny_imagenet_annotations(tmp_path: Path, annotations: str, message: str) -> None:
    write_tiny(tmp_path, annotations)
    with pytest.raises(InputError, match=re.escape(message)):
        class_folders(tmp_path, "val")


def test_incomplete_tiny_imagenet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no train images"):
        class_folders(tmp_path, "train")
    write_tiny(tmp_path)
    touch(tmp_path, "train/n03/n03.txt")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "train/n03"))):
        class_folders(tmp_path, "train")
    (tmp_path / "val/val_annotations.txt").unlink()
    with pytest.raises(InputError, match="val/images holds 2 images in no class folder"):
        class_folders(tmp_path, "val")


# ---- CIFAR, the rest of which is in test_cifar.py ----


@pytest.mark.parametrize("published", [cifar.CIFAR10, cifar.CIFAR100], ids=["10", "100"])
def test_cifar_in_class_folders(tmp_path: Path, published: cifar.Published) -> None:
    read = cifar10 if published is cifar.CIFAR10 else cifar100
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (len(published.classes), 32, 32, 3), np.uint8)
    for split in ("train", "test"):
        for name, image in zip(published.classes, images, strict=True):
            write_image(tmp_path / split / name / "0.png", image)
    for split in ("train", "val", "test"):
        files = read(tmp_path, split)
        assert isinstance(files, FileSet)
        assert files.classes == published.classes
        data = decode(files, 32)
        np.testing.assert_array_equal(data.pixels, images)
        assert data.labels.tolist() == list(range(len(published.classes)))


# ---- after reading ----


def test_first_classes() -> None:
    labels = np.array([2, 0, 1, 0, 2])
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    classes = ("a", "b", "c")
    files = FileSet(tuple(Path(str(i)) for i in range(5)), labels, classes)
    assert select_classes(files, None) is files
    chosen = select_classes(files, 2)
    assert chosen.paths == (Path("1"), Path("2"), Path("3"))
    assert chosen.labels.tolist() == [0, 1, 0]
    assert chosen.classes == ("a", "b")
    resident = select_classes(PixelSet(pixels, labels, classes), 1)
    assert resident.pixels[:, 0, 0, 0].tolist() == [1, 3]
    assert resident.labels.tolist() == [0, 0]
    for too_many in (0, 4, -1):
        with pytest.raises(InputError, match=f"{too_many}: choose 1 to 3 of the data"):
            select_classes(files, too_many)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    count=st.integers(1, 59),
    seed=st.integers(0, 2**32),
)
def test_hold_out(labels: list[int], count: int, seed: int) -> None:
    """Against exact fractions: whole shares first, then one more for the largest remainders."""
    total = len(labels)
    count = min(count, total - 1)
    classes = ("a", "b", "c", "d", "e")
    pixels = np.arange(total, dtype=np.uint8)[:, None, None, None]
    data = PixelSet(pixels, np.array(labels), classes)
    shares = {c: Fraction(count * labels.count(c), total) for c in range(5)}
    expected = {c: int(share) for c, share in shares.items()}
    by_remainder = sorted(shares, key=lambda c: (int(shares[c]) - shares[c], c))
    for c in by_remainder[: count - sum(expected.values())]:
        expected[c] += 1
    emptied = [classes[c] for c in range(5) if 0 < labels.count(c) == expected[c]]
    if emptied:
        with pytest.raises(InputError, match=f"leaves class {emptied[0]} without"):
            hold_out(data, count, seed)
        return
    kept, held_out = hold_out(data, count, seed)
    assert {c: held_out.labels.tolist().count(c) for c in range(5)} == expected
    positions = [part.pixels[:, 0, 0, 0].tolist() for part in (kept, held_out)]
    assert positions == [sorted(part) for part in positions]  # the old order
    assert sorted(positions[0] + positions[1]) == list(range(total))
    for part, places in zip((kept, held_out), positions, strict=True):
        assert part.labels.tolist() == [labels[place] for place in places]
        assert part.classes == classes
    # Of files the same are chosen, and whatever they hold.
    files = FileSet(tuple(Path(str(place)) for place in range(total)), np.array(labels), classes)
    for chosen, places in zip(hold_out(files, count, seed), positions, strict=True):
        assert [int(str(path)) for path in chosen.paths] == places
        assert chosen.labels.tolist() == [labels[place] for place in places]


def test_hold_out_chooses_at_random() -> None:
    files = FileSet(tuple(map(Path, map(str, range(2000)))), np.arange(2000) % 2, ("a", "b"))
    chosen = [
        {int(str(path)) for path in hold_out(files, count, seed)[1].paths}
        for count, seed in ((1000, 0), (1000, 1), (998, 0))
    ]
    for i, first in enumerate(chosen):
        halves = [sum(place < 1000 for place in first), sum(place >= 1000 for place in first)]
        assert min(halves) > 430  # even over the set: 500 +- 16
        for second in chosen[:i]:
            assert 430 < len(first & second) < 570  # unrelated: 500 +- 16


@pytest.mark.parametrize("count", [-1, 0, 4, 5])
def test_hold_out_of_an_impossible_count(count: int) -> None:
    data = FileSet(tuple(map(Path, "wxyz")), np.array([0, 0, 1, 1]), ("a", "b"))
    with pytest.raises(InputError, match=rf"hold out {count} of 4 images: choose 1 to 3"):
        hold_out(data, count, 0)


def test_load_dispatches(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny-imagenet-200")
    touch(tmp_path, "train/b/1.jpg", "train/a/1.jpg")
    assert load("tiny-imagenet", tmp_path, "val", 1).classes == ("n01",)
    assert load("imagenet", tmp_path, "train").classes == ("a", "b")
    assert load("cifar10", tmp_path, "train", 1).classes == ("a",)
    assert load("cifar100", tmp_path, "train", 1).classes == ("a",)
    for kind, name in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        with pytest.raises(InputError, match=f"does not hold {name}: "):
            load(kind, tmp_path / "absent", "train")  # type: ignore[arg-type]


def test_decode(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    square = rng.integers(0, 256, (8, 8, 3), np.uint8)
    wide = rng.integers(0, 256, (8, 13, 3), np.uint8)  # columns 2 to 9 remain
    double = rng.integers(0, 256, (16, 16, 3), np.uint8)  # becomes means of 2 x 2 pixels
    paths = tuple(tmp_path / f"{number}.png" for number in range(3))
    for path, image in zip(paths, (square, wide, double), strict=True):
        write_image(path, image)
    data = decode(FileSet(paths, np.array([1, 0, 1]), ("a", "b")), 8)
    np.testing.assert_array_equal(data.pixels[0], square)
    np.testing.assert_array_equal(data.pixels[1], wide[:, 2:10])
    means = double.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(data.pixels[2] - means).max() <= 0.5
    assert data.labels.tolist() == [1, 0, 1]
    assert data.classes == ("a", "b")


def test_decode_names_the_damaged_image(tmp_path: Path) -> None:
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    write_image(files[0], np.zeros((8, 8, 3), np.uint8))
    files[1].write_bytes(files[0].read_bytes()[:30])
    with pytest.raises(InputError, match=re.escape(str(files[1]))):
        decode(FileSet(tuple(files), np.zeros(2, np.int64), ("a",)), 8)


def test_shrinking_is_antialiased() -> None:
    checkerboard = (np.indices((90, 120)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = central_square(np.repeat(checkerboard[..., None], 3, axis=2), 30)
    assert small.shape == (30, 30, 3)
    assert np.abs(small.astype(float) - 127.5).max() < 20  # aliasing would leave 0 or 255


def test_enlarging_is_smooth() -> None:
    steps = np.repeat(np.array([0, 100, 200], np.uint8)[None, :, None], 3, axis=0).repeat(3, axis=2)
    large = central_square(steps, 12)
    rise = np.diff(large[0, :, 0].astype(int))
    assert rise.min() >= 0
    assert rise.max() <= 26  # a quarter of a step
