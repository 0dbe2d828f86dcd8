"""The readers against files that the tests write, and what they say about broken ones."""

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray

from common.errors import InputError
from pretrain import cifar
from pretrain.datasets import (
    FileSet,
    PixelSet,
    central_square,
    cifar10,
    class_folders,
    decode,
    load,
    select_classes,
    tiny_imagenet,
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


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("has", "lacks"), [("train", "val"), ("val", "train")])
def test_splits_with_different_classes(tmp_path: Path, split: str, has: str, lacks: str) -> None:
    touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", f"{has}/b/3.jpg")
    message = f"class b is in {tmp_path / has} but not in {tmp_path / lacks}"
    with pytest.raises(InputError, match=re.escape(message)):
        class_folders(tmp_path, split)


def test_empty_class_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/readme.txt")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "train/b"))):
        class_folders(tmp_path, "train")


def test_missing_split_shows_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "images/a/1.jpg")
    with pytest.raises(InputError, match=r"(?s)no train images.*<class>/.*images/"):
        class_folders(tmp_path, "train")
    with pytest.raises(InputError, match="no such folder"):
        class_folders(tmp_path / "absent", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="holds no class folders"):
        class_folders(tmp_path, "train")


def test_unknown_split(tmp_path: Path) -> None:
    readers: list[Callable[[Path, str], object]] = [class_folders, tiny_imagenet, cifar10]
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
    train, val = tiny_imagenet(tmp_path, "train"), tiny_imagenet(tmp_path, "val")
    assert train.classes == val.classes == ("n01", "n02")
    assert [path.name for path in train.paths] == ["n01_0.JPEG", "n02_0.JPEG", "n02_1.JPEG"]
    assert train.labels.tolist() == [0, 1, 1]
    assert names_of(val, root) == ["val/images/val_0.JPEG", "val/images/val_1.JPEG"]
    assert val.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("val_0.JPEG\tn02\nval_7.JPEG\tn01\n", "line 2, names 'val_7.JPEG'"),
        ("../train/n01/images/n01_0.JPEG\tn01\n", "line 1, names '../train"),
        ("val_0.JPEG\tn02\nval_0.JPEG\tn01\n", "line 2, names 'val_0.JPEG'"),
        ("val_0.JPEG\tn02\nval_1.JPEG\tn03\n", "line 2, gives val_1.JPEG the class 'n03'"),
        ("val_0.JPEG\tn02\nval_1.JPEG\n", "line 2, gives val_1.JPEG the class ''"),
        ("val_0.JPEG\tn02\n", "does not name val_1.JPEG"),
        ("val_0.JPEG\tn02\nval_1.JPEG\tn02\n", "no image of class n01"),
        ("", "does not name val_0.JPEG"),
    ],
)
def test_tiny_imagenet_annotations(tmp_path: Path, annotations: str, message: str) -> None:
    write_tiny(tmp_path, annotations)
    with pytest.raises(InputError, match=re.escape(message)):
        tiny_imagenet(tmp_path, "val")


def test_incomplete_tiny_imagenet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)does not hold.*val_annotations"):
        tiny_imagenet(tmp_path, "train")
    write_tiny(tmp_path)
    touch(tmp_path, "train/n03/n03.txt")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "train/n03/images"))):
        tiny_imagenet(tmp_path, "train")
    (tmp_path / "val/val_annotations.txt").unlink()
    with pytest.raises(InputError, match="does not hold Tiny ImageNet's val"):
        tiny_imagenet(tmp_path, "val")


# ---- CIFAR-10 ----

Batches = dict[str, tuple[NDArray[np.uint8], list[int]]]


@pytest.fixture
def batches() -> Batches:
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (3, 32, 32, 3), np.uint8), rng.integers(0, 10, 3).tolist())
        for name in (*cifar.TRAIN_BATCHES, *cifar.TEST_BATCHES)
    }


def planes(image: NDArray[np.uint8]) -> bytes:
    """All red values row by row, then all green, then all blue."""
    return b"".join(
        bytes([int(image[y, x, channel])])
        for channel in range(3)
        for y in range(32)
        for x in range(32)
    )


def write_binary(folder: Path, batches: Batches) -> None:
    folder.mkdir()
    for name, (images, labels) in batches.items():
        records = [bytes([label]) + planes(i) for i, label in zip(images, labels, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))


def save_as_python_2(pickler: Any, value: str | bytes) -> None:
    data = value.encode() if isinstance(value, str) else value
    pickler.write(b"T" + struct.pack("<i", len(data)) + data)  # BINSTRING
    pickler.memoize(value)


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as the Python 2 that wrote the published files did."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)
    dispatch[str] = dispatch[bytes] = save_as_python_2


def write_python(folder: Path, batches: Batches) -> None:
    folder.mkdir()
    for name, (images, labels) in batches.items():
        rows = np.stack([np.frombuffer(planes(image), np.uint8) for image in images])
        batch = {"batch_label": "some text", "labels": labels, "data": rows, "filenames": ["a.png"]}
        with (folder / name).open("wb") as file:
            Python2Pickler(file, protocol=2).dump(batch)
        stream = (folder / name).read_bytes().replace(b"numpy._core.multi", b"numpy.core.multi")
        assert b"numpy.core.multiarray\n_reconstruct" in stream
        (folder / name).write_bytes(stream)


def write_class_folders(folder: Path, batches: Batches) -> None:
    for name, (images, labels) in batches.items():
        split = "test" if name == "test_batch" else "train"
        for wnid in cifar.CLASSES:
            (folder / split / wnid).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            write_image(folder / split / cifar.CLASSES[label] / f"{name}{number}.png", image)


@pytest.mark.parametrize(
    ("write", "folder"),
    [(write_binary, "cifar-10-batches-bin"), (write_python, "cifar-10-batches-py")],
)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_cifar10_batches(
    tmp_path: Path,
    batches: Batches,
    write: Callable[[Path, Batches], None],
    folder: str,
    split: str,
) -> None:
    write(tmp_path / folder, batches)
    names = cifar.TRAIN_BATCHES if split == "train" else cifar.TEST_BATCHES
    for root in (tmp_path, tmp_path / folder):
        data = cifar10(root, split, official=False)
        assert isinstance(data, PixelSet)
        np.testing.assert_array_equal(data.pixels, np.concatenate([batches[n][0] for n in names]))
        assert data.labels.tolist() == [label for n in names for label in batches[n][1]]
        assert data.classes == cifar.CLASSES
        assert data.labels.dtype == np.int64


def test_cifar10_class_folders(tmp_path: Path, batches: Batches) -> None:
    rng = np.random.default_rng(1)
    every_class = rng.integers(0, 256, (10, 32, 32, 3), np.uint8), list(range(10))
    write_class_folders(tmp_path, {"data_batch_1": every_class, "test_batch": every_class})
    for split in ("train", "val", "test"):
        files = cifar10(tmp_path, split)
        assert isinstance(files, FileSet)
        assert files.classes == cifar.CLASSES
        data = decode(files, 32)
        np.testing.assert_array_equal(data.pixels, every_class[0])
        assert data.labels.tolist() == every_class[1]


def test_published_digests() -> None:
    published = torchvision.datasets.CIFAR10
    assert dict(published.train_list + published.test_list) == cifar._MD5


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickle_bomb_is_refused(tmp_path: Path, batches: Batches) -> None:
    folder, trace = tmp_path / "cifar-10-batches-py", tmp_path / "trace"
    write_python(folder, batches)
    rows = np.zeros((1, 3072), np.uint8)
    bomb = pickle.dumps({b"data": rows, b"labels": [0], b"extra": Bomb(trace)}, protocol=4)
    (folder / "test_batch").write_bytes(bomb)
    with pytest.raises(InputError, match=r"test_batch.*it asks for pathlib"):
        cifar10(tmp_path, "val", official=False)
    assert not trace.exists()
    pickle.loads(bomb)  # the bomb is a live one
    assert trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": np.array([None]), b"labels": [0]}, protocol=4),  # array of objects
        pickle.dumps({b"data": np.zeros((1, 3072), np.int8), b"labels": [0]}, protocol=4),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}, protocol=4),
        pickle.dumps({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, protocol=4),
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({b"data": 0}, protocol=2)[:-3],
        b"",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04garbage",
    ],
)
def test_damaged_python_batch(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "test_batch"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(file))):
        cifar10(tmp_path, "val", official=False)


def test_python_batch_must_be_the_published_one(
    tmp_path: Path, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_python(tmp_path / "cifar-10-batches-py", batches)
    monkeypatch.setattr(cifar, "_BatchUnpickler", None)  # it is not even reached
    with pytest.raises(InputError, match=r"data_batch_1 differs from the published file"):
        cifar10(tmp_path, "train")


def test_binary_batch_must_be_whole(tmp_path: Path) -> None:
    file = tmp_path / "test_batch.bin"
    whole = bytes([7]) * (10_000 * 3073)
    file.write_bytes(whole)
    data = cifar10(tmp_path, "test")
    assert isinstance(data, PixelSet)
    assert data.pixels.shape == (10_000, 32, 32, 3)
    assert set(data.labels) == {7}
    for length in (9_999 * 3073, 10_001 * 3073, 3073 * 10_000 - 1, 0):
        file.write_bytes((whole + whole[:3073])[:length])
        with pytest.raises(InputError, match=rf"test_batch.bin has {length} bytes"):
            cifar10(tmp_path, "test")
    file.write_bytes(whole[:4000])
    with pytest.raises(InputError, match="has 4000 bytes"):
        cifar10(tmp_path, "test", official=False)


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_impossible_label(
    tmp_path: Path, batches: Batches, write: Callable[[Path, Batches], None]
) -> None:
    images, _ = batches["test_batch"]
    write(tmp_path / "broken", batches | {"test_batch": (images, [0, 10, 9])})
    with pytest.raises(InputError, match=r"test_batch.* has label 10 in record 1"):
        cifar10(tmp_path / "broken", "val", official=False)


def test_labels_and_images_must_match(tmp_path: Path, batches: Batches) -> None:
    images, _ = batches["test_batch"]
    write_python(tmp_path / "broken", batches | {"test_batch": (images, [0, 1])})
    with pytest.raises(InputError, match="3 images but 2 labels"):
        cifar10(tmp_path / "broken", "val", official=False)


def test_incomplete_cifar10(tmp_path: Path, batches: Batches) -> None:
    touch(tmp_path, "cifar-10-python.tar.gz")
    with pytest.raises(InputError, match=r"(?s)unpack the archive.*cifar-10-python.tar.gz"):
        cifar10(tmp_path, "train")
    write_binary(tmp_path / "cifar-10-batches-bin", batches)
    (tmp_path / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"cannot read .*data_batch_3.bin: No such file"):
        cifar10(tmp_path, "train", official=False)


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
        with pytest.raises(InputError, match=f"{too_many} of the data's 3 classes"):
            select_classes(files, too_many)


def test_load_dispatches(tmp_path: Path, batches: Batches) -> None:
    write_tiny(tmp_path / "tiny-imagenet-200")
    touch(tmp_path, "train/b/1.jpg", "train/a/1.jpg")
    assert load("tiny-imagenet", tmp_path, "val", 1).classes == ("n01",)
    assert load("imagenet", tmp_path, "train").classes == ("a", "b")
    assert load("cifar10", tmp_path, "train", 1).classes == ("a",)


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
    small = central_square(np.repeat(checkerboard[..., None], 3, axis=2), 30, 30)
    assert small.shape == (30, 30, 3)
    assert np.abs(small.astype(float) - 127.5).max() < 20  # aliasing would leave 0 or 255


def test_enlarging_is_smooth() -> None:
    steps = np.repeat(np.array([0, 100, 200], np.uint8)[None, :, None], 3, axis=0).repeat(3, axis=2)
    large = central_square(steps, 12, 12)
    rise = np.diff(large[0, :, 0].astype(int))
    assert rise.min() >= 0
    assert rise.max() <= 26  # a quarter of a step
