"""Reading CIFAR-10 and CIFAR-100 as they were published, unpacked or not.

Both come as a binary and as a Python version (https://www.cs.toronto.edu/~kriz/cifar.html). A
binary record is one byte of label (CIFAR-100: two, of which the second is the fine one) and 3072
of pixels: 1024 red, 1024 green, 1024 blue, each row by row. A Python batch is a pickle, which may
run any code when it is read as such: here its digest is checked first, and what reads it can build
plain values and arrays, nothing else. An archive is read where it is, after its digests
were checked; nothing in it is written anywhere.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, os_reason, summary
from common.storage import open_regular
from common.weights.pickles import load_arrays

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_MAX_MEMBER = 200_000_000  # bytes; the largest published file has 155 million


@dataclass(frozen=True, slots=True)
class Batch:
    """A part of a split, one file."""

    name: str
    """Its file, without a suffix."""
    images: int
    """How many it holds."""
    md5: str
    """Digest of its file in the Python version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A form in which a data set was published."""

    kind: Literal["binary", "python"]
    """Records or pickles."""
    archive: str
    """Name of the archive."""
    md5: str
    """Digest of the archive."""
    sha256: str
    """Digest of the archive."""
    folder: str
    """The folder in the archive."""

    def files(self, batches: Iterable[Batch]) -> list[str]:
        """Return the file names of batches."""
        suffix = ".bin" if self.kind == "binary" else ""
        return [f"{batch.name}{suffix}" for batch in batches]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What was published of a data set."""

    name: str
    """Its name."""
    versions: tuple[Version, Version]
    """The binary one, which needs no pickles, and the Python one."""
    train: tuple[Batch, ...]
    """Batches of the training split."""
    test: tuple[Batch, ...]
    """Batches of the test split."""
    label_bytes: int
    """Bytes of label in a binary record; the last is the label."""
    label_key: str
    """Key of the labels in a Python batch."""
    classes: tuple[str, ...]
    """Names, in the order of the labels."""


CIFAR10 = Published(
    name="CIFAR-10",
    versions=(
        Version(
            kind="binary",
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            folder="cifar-10-batches-bin",
        ),
        Version(
            kind="python",
            archive="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            folder="cifar-10-batches-py",
        ),
    ),
    train=(
        Batch("data_batch_1", 10_000, "c99cafc152244af753f735de768cd75f"),
        Batch("data_batch_2", 10_000, "d4bba439e000b95fd0a9bffe97cbabec"),
        Batch("data_batch_3", 10_000, "54ebc095f3ab1f0389bbae665268c751"),
        Batch("data_batch_4", 10_000, "634d18415352ddfa80567beed471001a"),
        Batch("data_batch_5", 10_000, "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(Batch("test_batch", 10_000, "40351d587109b95175f43aff81a1287e"),),
    label_bytes=1,
    label_key="labels",
    classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
)

CIFAR100 = Published(
    name="CIFAR-100",
    versions=(
        Version(
            kind="binary",
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            folder="cifar-100-binary",
        ),
        Version(
            kind="python",
            archive="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            folder="cifar-100-python",
        ),
    ),
    train=(Batch("train", 50_000, "16019d7e3df5f24257cddd939b257f8d"),),
    test=(Batch("test", 10_000, "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    label_bytes=2,
    label_key="fine_labels",
    classes=tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
        keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
        mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
        plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()
    ),
)

PixelsAndLabels = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels (N, 32, 32, 3), RGB, and labels (N,)."""


def read_unpacked(
    published: Published, root: Path, batches: Sequence[Batch], *, official: bool = True
) -> PixelsAndLabels | None:
    """Read batches from the files of an unpacked version.

    Args:
        published: The data set.
        root: The folder of a version, or what holds it.
        batches: Which.
        official: Demand the published number of images (binary) and digests (Python).

    Returns:
        The images in the order of the batches; None if the folder has none of the files.

    Raises:
        InputError: If a file is missing, is not the published one, or holds anything but
            images and labels.
    """
    for version in published.versions:
        for folder in (root / version.folder, root):
            files = [folder / name for name in version.files(batches)]
            if any(file.is_file() for file in files):
                contents = {str(file): _read(file) for file in files}
                return _parse(published, version, batches, contents, official=official)
    return None


def read_archive(
    published: Published, root: Path, batches: Sequence[Batch], *, official: bool = True
) -> PixelsAndLabels | None:
    """Read batches from an archive.

    Args:
        published: The data set.
        root: The archive under its published name, or what holds it.
        batches: Which.
        official: Demand the published digests of the archive, before anything in it is read.

    Returns:
        The images in the order of the batches; None if there is no archive.

    Raises:
        InputError: As `read_unpacked`.
    """
    for version in published.versions:
        archive = root if root.is_file() else root / version.archive
        if archive.name == version.archive and archive.is_file():
            contents = _read_members(archive, version, batches, official=official)
            return _parse(published, version, batches, contents, official=official)
    return None


def _read(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            return opened.read()
    except OSError as error:
        raise InputError(f"cannot read {file}: {os_reason(error)}") from error


def _read_members(
    archive: Path, version: Version, batches: Sequence[Batch], *, official: bool
) -> dict[str, bytes]:
    """Return the files of batches by the name that messages give them."""
    try:
        with archive.open("rb") as file:
            if official:
                _check_digests(file, archive, version)
            with tarfile.open(fileobj=file, mode="r:gz") as tar:
                names = [f"{version.folder}/{name}" for name in version.files(batches)]
                members = _find_members(tar, names)
    except InputError:
        raise
    except Exception as error:  # hostile bytes can raise nearly anything
        raise InputError(f"cannot read {archive} ({summary(error)}): fetch it again") from error
    return {f"{name} in {archive}": members[name] for name in names}


def _check_digests(file: io.BufferedReader, archive: Path, version: Version) -> None:
    """Compare an open archive with the published one; leaves the file at its start."""
    md5 = partial(hashlib.md5, usedforsecurity=False)
    for kind, new, digest in (
        ("MD5", md5, version.md5),
        ("SHA-256", hashlib.sha256, version.sha256),
    ):
        if hashlib.file_digest(file, new).hexdigest() != digest:
            raise InputError(f"{archive} differs from the published file ({kind}): fetch it again")
        file.seek(0)


def _find_members(tar: tarfile.TarFile, names: Sequence[str]) -> dict[str, bytes]:
    """Read members in one pass: to go back in a compressed file is to start again."""
    found: dict[str, bytes] = {}
    for member in tar:
        if member.name in names and member.name not in found:
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise tarfile.TarError(f"{member.name} is no regular file")
            if member.size > _MAX_MEMBER:
                raise tarfile.TarError(f"{member.name} has {member.size} bytes")
            found[member.name] = content.read()
            if len(found) == len(names):
                return found
    raise tarfile.TarError(f"it lacks {next(name for name in names if name not in found)}")


def _parse(
    published: Published,
    version: Version,
    batches: Sequence[Batch],
    contents: dict[str, bytes],
    *,
    official: bool,
) -> PixelsAndLabels:
    """Turn the contents of batches into images; their keys name them in messages."""
    parse = _parse_records if version.kind == "binary" else _parse_pickle
    pixels, labels = [], []
    for batch, (place, content) in zip(batches, contents.items(), strict=True):
        try:
            planes, numbers = parse(published, batch, content, official=official)
            _check_labels(published, planes, numbers)
        except ValueError as error:
            raise InputError(f"{place} {error}: unpack {version.archive} again") from error
        pixels.append(planes.transpose(0, 2, 3, 1))
        labels.append(numbers)
    # concatenate would keep the planes apart in memory.
    return np.ascontiguousarray(np.concatenate(pixels)), np.concatenate(labels)


def _parse_records(
    published: Published, batch: Batch, content: bytes, *, official: bool
) -> PixelsAndLabels:
    """Return colour planes (N, 3, 32, 32) and labels (N,) of a binary batch."""
    size = published.label_bytes + _PIXELS
    if (official and len(content) != batch.images * size) or len(content) % size:
        wanted = f"{batch.images} records of {size}"
        raise ValueError(f"has {len(content)} bytes where {wanted} belong")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = records[:, published.label_bytes - 1].astype(np.int64)
    return records[:, published.label_bytes :].reshape(-1, 3, _SIDE, _SIDE), labels


def _parse_pickle(
    published: Published, batch: Batch, content: bytes, *, official: bool
) -> PixelsAndLabels:
    """Return planes and labels of a Python batch, without running what it may hold."""
    if official and hashlib.md5(content, usedforsecurity=False).hexdigest() != batch.md5:
        raise ValueError("differs from the published file (MD5)")
    try:
        values = load_arrays(content)
        pixels = values["data"].array()
        if pixels is None or pixels.dtype != np.uint8:
            raise ValueError(f"its data are {values['data']}, not of bytes")
        planes = pixels.reshape(-1, 3, _SIDE, _SIDE)
        labels = np.asarray(values[published.label_key], np.int64).reshape(-1)
    except Exception as error:  # hostile bytes can raise nearly anything
        raise ValueError(f"is no batch of {published.name} ({summary(error)})") from error
    return planes, labels


def _check_labels(
    published: Published, planes: NDArray[np.uint8], labels: NDArray[np.int64]
) -> None:
    if len(planes) != len(labels):
        raise ValueError(f"holds {len(planes)} images but {len(labels)} labels")
    wrong = (labels < 0) | (labels >= len(published.classes))
    if wrong.any():
        record, last = int(wrong.argmax()), len(published.classes) - 1
        raise ValueError(f"has label {labels[record]} in record {record}, not 0 to {last}")
