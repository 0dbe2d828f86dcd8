"""Indexing tar files of images and classes that are there."""

import hashlib
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError, os_reason, summary
from common.images.headers import SUFFIXES
from common.images.hidden import children
from common.storage import open_regular
from common.text import shown
from pretrain.data.file_paths import encode
from pretrain.data.layout import split_in
from pretrain.data.shards import INDEX, Shard, ShardSet, split_index, write_index
from sharding.joining import Packed, in_processes, join

_BLOCK = tarfile.BLOCKSIZE
_IMAGE = re.compile("|".join(suffix[1:] for suffix in SUFFIXES), re.IGNORECASE)


def index(folder: Path, workers: int) -> list[ShardSet]:
    """Write the index of tar files that are there: one of each split that their names state.

    Raises:
        InputError: If a tar file is damaged or hostile, or lacks an image or a class.
    """
    paths = children(folder, "*.tar")
    if not paths:
        raise InputError(f"{folder} holds no .tar files: name the folder of the shards")
    of_split: dict[str | None, list[Path]] = {}
    for path in paths:
        of_split.setdefault(split_in(path.name), []).append(path)
    if len(of_split) == 1 and (
        None in of_split or folder.resolve().name in ("train", "val", "test")
    ):
        return [_index(folder, paths, INDEX, workers)]
    if None in of_split:
        raise InputError(
            f"{of_split[None][0]} says no split by its name, others here do: put it elsewhere, or "
            "rename it to train-... or val-..."
        )
    return [
        _index(folder, tars, split_index(split), workers)
        for split, tars in of_split.items()
        if split is not None
    ]


def _index(folder: Path, paths: Sequence[Path], name: str, workers: int) -> ShardSet:
    packed = in_processes(scan, paths, workers, "indexing")
    labels = np.array([label for _, samples in packed for _, label, _, _ in samples], np.int64)
    names = encode(name for _, samples in packed for name, _, _, _ in samples)
    if not len(labels):
        raise InputError(f"{folder}: the tar files hold no images: give others")
    present = np.unique(labels)
    absent = np.flatnonzero(present != np.arange(len(present)))
    if len(absent):
        raise InputError(
            f"{folder} holds no image of class {absent[0]}, but some of class {present[-1]}: "
            "number the classes from 0 without a gap"
        )
    digits = len(str(len(present) - 1))
    classes = tuple(f"{number:0{digits}d}" for number in range(len(present)))
    found = join(folder, packed, np.lexsort((names, labels)), classes)
    write_index(found, None, name)
    return found


def scan(path: Path) -> Packed:
    """Find the images and classes of a tar file.

    Raises:
        InputError: If the file is damaged; holds links, names outside a folder or sizes beyond its
            end; or an image lacks its class.
    """
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                images, labels = _scan_members(tar, size)
                file.seek(tar.offset)  # where tarfile saw no more members
                if any(file.read(_BLOCK)):
                    raise ValueError(f"no member begins at byte {tar.offset}")
    except OSError as error:
        raise InputError(f"cannot read the shard {path}: {os_reason(error)}") from error
    # A hostile header can raise nearly anything.
    except Exception as error:
        raise InputError(
            f"{path} is no tar file of images and classes, remove it: {summary(error)}"
        ) from error
    unpaired = sorted(images.keys() ^ labels.keys())
    if unpaired:
        has, lacks = ("an image", ".cls") if unpaired[0] in images else (".cls", "an image")
        raise InputError(
            f"{path} holds {has} but no {lacks} of the key {shown(unpaired[0])}: make it again"
        )
    try:
        shard = Shard(path.name, size, sha256)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return shard, [
        (name, labels[key], offset, length) for key, (name, offset, length) in images.items()
    ]


def _scan_members(
    tar: tarfile.TarFile, size: int
) -> tuple[dict[str, tuple[str, int, int]], dict[str, int]]:
    """Return name, offset and size of each key's image, and each key's class."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    for member in tar:
        name = member.name
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"the member '{shown(name)}' lies outside of any folder")
        if member.isdir():
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise ValueError(f"the member '{shown(name)}' is a link or no plain file")
        if not 0 <= member.size <= size - member.offset_data:
            raise ValueError(f"the member '{shown(name)}' is cut off")
        folder, slash, file = name.rpartition("/")
        stem, _, kind = file.partition(".")
        key = folder + slash + stem
        if _IMAGE.fullmatch(kind):
            if key in images:
                raise ValueError(f"two images have the key '{shown(key)}'")
            images[key] = name, member.offset_data, member.size
        elif kind == "cls":
            reader = tar.extractfile(member)
            text = reader.read(16) if reader else b""
            if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
                raise ValueError(f"the member '{shown(name)}' is no class number")
            labels[key] = int(text)
    return images, labels
