"""CIFAR-10 and CIFAR-100 from files and archives that the tests write."""

import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray

from common.errors import InputError
from pretrain.data import cifar
from pretrain.data.cifar import CIFAR10, CIFAR100, Published, Version
from pretrain.data.datasets import cifar10, cifar100, load
from pretrain.data.image_sets import FileSet, PixelSet

READERS: dict[str, Callable[..., PixelSet | FileSet]] = {"CIFAR-10": cifar10, "CIFAR-100": cifar100}
DATA_SETS = pytest.mark.parametrize("published", [CIFAR10, CIFAR100], ids=lambda data: data.name)
KINDS = pytest.mark.parametrize("kind", ["binary", "python"])
IMAGES = 3  # of each batch that the tests write

Batches = dict[str, tuple[NDArray[np.uint8], list[int]]]


def draw_batches(published: Published) -> Batches:
    rng = np.random.default_rng(0)
    return {
        batch.name: (
            rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8),
            rng.integers(0, len(published.classes), IMAGES).tolist(),
        )
        for batch in (*published.train, *published.test)
    }


def planes(image: NDArray[np.uint8]) -> bytes:
    """All red values row by row, then all green, then all blue."""
    rows = image.tolist()
    return bytes(rows[y][x][channel] for channel in range(3) for y in range(32) for x in range(32))


def coarse(label: int) -> int:
    """A coarse label of a CIFAR-100 record: any, but never the fine one."""
    return (label + 1) % 20


def write_binary(folder: Path, published: Published, batches: Batches) -> None:
    folder.mkdir()
    for name, (images, labels) in batches.items():
        content = b""
        for image, label in zip(images, labels, strict=True):
            both = [label] if published is CIFAR10 else [coarse(label), label]
            content += bytes(both) + planes(image)
        (folder / f"{name}.bin").write_bytes(content)


def save_as_python_2(pickler: Any, value: str | bytes) -> None:
    data = value.encode() if isinstance(value, str) else value
    if len(data) < 256:
        pickler.write(b"U" + bytes([len(data)]) + data)  # SHORT_BINSTRING
    else:
        pickler.write(b"T" + struct.pack("<i", len(data)) + data)  # BINSTRING
    pickler.memoize(value)


class Python2Pickler(pickle._Pickler):
    """Writes as the Python 2 that wrote the published files did."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)
    dispatch[str] = dispatch[bytes] = save_as_python_2

    def memoize(self: Any, value: object) -> None:
        number = len(self.memo) + 1
        self.write(self.put(number))
        self.memo[id(value)] = number, value


def pickle_as_python_2(value: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.multi", b"numpy.core.multi")


def write_python(folder: Path, published: Published, batches: Batches) -> None:
    folder.mkdir()
    for name, (images, labels) in batches.items():
        rows = np.stack([np.frombuffer(planes(image), np.uint8) for image in images])
        batch = {"batch_label": "some text", "data": rows, "filenames": ["a.png", "b.png"]}
        if published is CIFAR10:
            batch["labels"] = labels
        else:
            batch |= {"fine_labels": labels, "coarse_labels": [coarse(label) for label in labels]}
        content = pickle_as_python_2(batch)
        assert b"numpy.core.multiarray\n_reconstruct" in content
        (folder / name).write_bytes(content)


def version_of(published: Published, kind: str) -> Version:
    return next(version for version in published.versions if version.kind == kind)


def write_version(root: Path, published: Published, kind: str, batches: Batches) -> Path:
    """Write the folder of a version."""
    folder = root / version_of(published, kind).folder
    (write_binary if kind == "binary" else write_python)(folder, published, batches)
    return folder


def write_archive(root: Path, published: Published, kind: str, folder: Path) -> Path:
    """Pack a folder as the publishers did."""
    version = version_of(published, kind)
    root.mkdir(exist_ok=True)
    with tarfile.open(root / version.archive, "w:gz") as tar:
        tar.add(folder, arcname=version.folder)
    return root / version.archive


def as_if_published(published: Published, archive: Path, folder: Path, **wrong: str) -> Published:
    """Put in the digests and numbers of what the tests wrote, and wrong ones where asked."""
    content = archive.read_bytes()

    def batch(old: cifar.Batch) -> cifar.Batch:
        python = folder / old.name
        digest = hashlib.md5(python.read_bytes()).hexdigest() if python.is_file() else "none"
        return cifar.Batch(old.name, IMAGES, wrong.get("batch", digest))

    def version(old: Version) -> Version:
        if old.archive != archive.name:
            return old
        md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
        return replace(old, md5=wrong.get("md5", md5), sha256=wrong.get("sha256", sha256))

    binary, python = map(version, published.versions)
    train, test = tuple(map(batch, published.train)), tuple(map(batch, published.test))
    return replace(published, versions=(binary, python), train=train, test=test)


def assert_same(
    data: PixelSet | FileSet, published: Published, split: str, batches: Batches
) -> None:
    names = [batch.name for batch in (published.train if split == "train" else published.test)]
    assert isinstance(data, PixelSet)
    np.testing.assert_array_equal(data.pixels, np.concatenate([batches[n][0] for n in names]))
    assert data.labels.tolist() == [label for n in names for label in batches[n][1]]
    assert data.classes == published.classes
    assert data.pixels.dtype == np.uint8 and data.labels.dtype == np.int64
    assert data.pixels.flags.c_contiguous


# ---- what was published ----


@pytest.mark.parametrize(
    ("published", "theirs"),
    [(CIFAR10, torchvision.datasets.CIFAR10), (CIFAR100, torchvision.datasets.CIFAR100)],
)
def test_digests_are_torchvisions(published: Published, theirs: Any) -> None:
    version = version_of(published, "python")
    assert (version.archive, version.md5) == (theirs.filename, theirs.tgz_md5)
    assert version.folder == theirs.base_folder
    assert [[batch.name, batch.md5] for batch in published.train] == theirs.train_list
    assert [[batch.name, batch.md5] for batch in published.test] == theirs.test_list


@DATA_SETS
def test_numbers_of_images(published: Published) -> None:
    assert sum(batch.images for batch in published.train) == 50_000
    assert sum(batch.images for batch in published.test) == 10_000
    assert sorted({*published.classes}) == list(published.classes)


def test_class_names_are_those_of_the_published_meta_files() -> None:
    """Rebuilt from our names, the small pickles that name the classes have the known digests."""
    meta10 = {
        "num_cases_per_batch": 10_000,
        "label_names": list(CIFAR10.classes),
        "num_vis": 3072,
    }
    superclasses = """
        aquatic_mammals fish flowers food_containers fruit_and_vegetables
        household_electrical_devices household_furniture insects large_carnivores
        large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
        medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
        vehicles_2
    """.split()
    meta100 = {"fine_label_names": list(CIFAR100.classes), "coarse_label_names": superclasses}
    for meta, theirs in (
        (meta10, torchvision.datasets.CIFAR10),
        (meta100, torchvision.datasets.CIFAR100),
    ):
        assert hashlib.md5(pickle_as_python_2(meta)).hexdigest() == theirs.meta["md5"]


# ---- reading ----


@DATA_SETS
@KINDS
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_unpacked(tmp_path: Path, published: Published, kind: str, split: str) -> None:
    batches = draw_batches(published)
    folder = write_version(tmp_path, published, kind, batches)
    for root in (tmp_path, folder):
        data = READERS[published.name](root, split, official=False)
        assert_same(data, published, split, batches)


@DATA_SETS
@KINDS
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_archive(tmp_path: Path, published: Published, kind: str, split: str) -> None:
    batches = draw_batches(published)
    folder = write_version(tmp_path, published, kind, batches)
    archive = write_archive(tmp_path / "root", published, kind, folder)
    for place in (archive.parent, archive):
        data = READERS[published.name](place, split, official=False)
        assert_same(data, published, split, batches)
    assert list(archive.parent.iterdir()) == [archive]  # nothing was unpacked


@DATA_SETS
@KINDS
def test_archive_with_the_published_digests(
    tmp_path: Path, published: Published, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = draw_batches(published)
    folder = write_version(tmp_path, published, kind, batches)
    archive = write_archive(tmp_path / "root", published, kind, folder)
    constant = published.name.replace("-", "")
    monkeypatch.setattr(cifar, constant, as_if_published(published, archive, folder))
    for split in ("train", "val"):
        data = load(constant.lower(), archive.parent, split)  # type: ignore[arg-type]
        assert_same(data, published, split, batches)


@DATA_SETS
def test_what_is_read_first(tmp_path: Path, published: Published) -> None:
    """The unpacked binary version, the unpacked Python one, class folders, then the archives."""
    read = READERS[published.name]
    archives = [tmp_path / version.archive for version in published.versions]
    for archive in archives:
        archive.write_bytes(b"broken")
    with pytest.raises(InputError, match=rf"cannot read .*{archives[0].name}"):
        read(tmp_path, "test", official=False)
    archives[0].unlink()
    with pytest.raises(InputError, match=rf"cannot read .*{archives[1].name}"):
        read(tmp_path, "test", official=False)
    image = np.zeros((32, 32, 3), np.uint8)
    (tmp_path / "test" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "test" / "a" / "1.png"), image)
    assert isinstance(read(tmp_path, "test"), FileSet)
    for label, kind in enumerate(("python", "binary")):
        batches = draw_batches(published)
        name = published.test[0].name
        batches[name] = (batches[name][0], [label] * IMAGES)
        write_version(tmp_path, published, kind, batches)
        assert read(tmp_path, "test", official=False).labels.tolist() == [label] * IMAGES


# ---- digests ----


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def never(*_: object, **__: object) -> None:
    raise AssertionError("reached before the digests were checked")


@DATA_SETS
@KINDS
@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_a_wrong_digest_stops_before_anything_is_read(
    tmp_path: Path,
    published: Published,
    kind: str,
    digest: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_version(tmp_path, published, kind, draw_batches(published))
    archive = write_archive(tmp_path, published, kind, folder)
    wrong = as_if_published(published, archive, folder, **{digest: "0" * 32})
    for untouched in (tarfile, gzip):
        monkeypatch.setattr(untouched, "open", never)
    monkeypatch.setattr(gzip, "GzipFile", never)
    monkeypatch.setattr(cifar, "load_arrays", never)
    name = {"md5": "MD5", "sha256": "SHA-256"}[digest]
    message = rf"{archive.name} differs from the published file \({name}\)"
    for place in (archive, archive.parent):
        with pytest.raises(InputError, match=message):
            cifar.read_archive(wrong, place, wrong.test)
    with pytest.raises(InputError, match="reached before the digests"):
        cifar.read_archive(as_if_published(published, archive, folder), archive, wrong.test)


def test_the_published_digests_are_demanded_by_default(tmp_path: Path) -> None:
    folder = write_version(tmp_path, CIFAR100, "python", draw_batches(CIFAR100))
    archive = write_archive(tmp_path, CIFAR100, "python", folder)
    for read in (cifar100, lambda root, split: load("cifar100", root, split)):
        with pytest.raises(InputError, match="cifar-100-python.tar.gz differs"):
            read(archive, "test")
        with pytest.raises(InputError, match="test differs from the published file"):
            read(tmp_path, "test")


@DATA_SETS
def test_python_batch_must_be_the_published_one(
    tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_version(tmp_path, published, "python", draw_batches(published))
    archive = write_archive(tmp_path, published, "python", folder)
    wrong = as_if_published(published, archive, folder, batch="0" * 32)
    monkeypatch.setattr(cifar, "load_arrays", never)  # it is not even reached
    name = published.train[0].name
    with pytest.raises(InputError, match=rf"{name} differs from the published file"):
        READERS[published.name](tmp_path, "train")
    with pytest.raises(InputError, match=rf"{name} in .*tar.gz differs from the published"):
        cifar.read_archive(wrong, archive, wrong.train)


def test_binary_batch_must_be_whole(tmp_path: Path) -> None:
    for read, name, size in ((cifar10, "test_batch.bin", 3073), (cifar100, "test.bin", 3074)):
        file = tmp_path / name
        whole = bytes([7]) * (10_000 * size)
        file.write_bytes(whole)
        data = read(tmp_path, "test")
        assert isinstance(data, PixelSet)
        assert data.pixels.shape == (10_000, 32, 32, 3)
        assert set(data.labels) == {7}
        for length in (9_999 * size, 10_001 * size, 10_000 * size - 1, 0):
            file.write_bytes((whole + whole[:size])[:length])
            with pytest.raises(InputError, match=rf"{name} has {length} bytes"):
                read(tmp_path, "test")
        file.write_bytes(whole[:4000])
        with pytest.raises(InputError, match="has 4000 bytes"):
            read(tmp_path, "test", official=False)


# ---- damaged batches ----


def bomb_batch(trace: Path) -> bytes:
    rows = np.zeros((1, 3072), np.uint8)
    return pickle.dumps({"data": rows, "labels": [0], "extra": Bomb(trace)}, protocol=4)


@pytest.mark.parametrize("packed", [False, True])
def test_pickle_bomb_is_refused(tmp_path: Path, packed: bool) -> None:
    trace = tmp_path / "trace"
    root = write_version(tmp_path, CIFAR10, "python", draw_batches(CIFAR10))
    (root / "test_batch").write_bytes(bomb_batch(trace))
    if packed:
        root = write_archive(tmp_path, CIFAR10, "python", root)
    with pytest.raises(InputError, match=r"test_batch.*it names pathlib"):
        cifar10(root, "val", official=False)
    assert not trace.exists()
    pickle.loads(bomb_batch(trace))  # the bomb is a live one
    assert trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": np.array([None]), "labels": [0]}, protocol=4),  # array of objects
        pickle.dumps({"data": np.zeros((1, 3072), np.int8), "labels": [0]}, protocol=4),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}, protocol=4),
        pickle.dumps({"data": np.zeros((1, 3071), np.uint8), "labels": [0]}, protocol=4),
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({"data": 0}, protocol=2)[:-3],
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


@DATA_SETS
@KINDS
def test_impossible_label(tmp_path: Path, published: Published, kind: str) -> None:
    batches, name = draw_batches(published), published.test[0].name
    count = len(published.classes)
    batches[name] = (batches[name][0], [0, count, count - 1])
    root = write_version(tmp_path, published, kind, batches)
    message = rf"{name}.* has label {count} in record 1, not 0 to {count - 1}"
    with pytest.raises(InputError, match=message):
        READERS[published.name](root, "val", official=False)


@DATA_SETS
def test_labels_and_images_must_match(tmp_path: Path, published: Published) -> None:
    batches, name = draw_batches(published), published.test[0].name
    batches[name] = (batches[name][0], [0, 1])
    root = write_version(tmp_path, published, "python", batches)
    with pytest.raises(InputError, match=f"{name} holds 3 images but 2 labels"):
        READERS[published.name](root, "val", official=False)


def test_missing_batch(tmp_path: Path) -> None:
    folder = write_version(tmp_path, CIFAR10, "binary", draw_batches(CIFAR10))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"cannot read .*data_batch_3.bin: No such file"):
        cifar10(tmp_path, "train", official=False)
