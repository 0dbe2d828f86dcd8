"""Unpacking archives that nobody needs to trust: plain files within a folder, nothing else.

An archive is unpacked beside its target and then moved there: what was interrupted is done again,
and what is there already stays.
"""

import filecmp
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from tqdm import tqdm

from common.errors import InputError, os_reason, summary
from downloads.fetching import lock, require_room

_BLOCK = 1 << 18
_DISK_BLOCK = 4096  # what a small file takes on most disks


@dataclass(frozen=True, slots=True)
class _Member:
    """A plain file in an archive; of anything else, nothing is ever written."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(path: Path, folder: Path, most: int) -> None:
    """Unpack a tar or zip file in a folder: the files of the archive appear whole.

    Files that are there already must equal those of the archive. Modes, owners and times of the
    archive are not taken over.

    Args:
        path: The archive.
        folder: Where to; it exists.
        most: Bytes that the files may have in all.

    Raises:
        InputError: If the archive is damaged; holds links, devices, names outside the folder or
            more bytes; the disk is full; a file that is there differs; or another process is at
            work on it.
    """
    staging = staging_of(path, folder)
    try:
        with path.open("rb") as file:
            lock(file, path)
            if staging.exists():  # of a call that was interrupted
                shutil.rmtree(staging)
            _unpack_beside(path, staging, folder, most)
            _move(staging, folder)
    except OSError as error:
        raise InputError(
            f"{path} could not be unpacked in {folder}: {os_reason(error)} {error.filename or ''}"
        ) from error


def staging_of(path: Path, folder: Path) -> Path:
    """Name the folder that is there while an archive is unpacked."""
    return folder / f".{path.name}.unpacking"


def _unpack_beside(path: Path, staging: Path, folder: Path, most: int) -> None:
    """Unpack in a fresh folder, which is gone again if that fails or does not fit the target."""
    staging.mkdir()
    try:
        with _opened(path) as members:
            total = sum(member.size for member in members)
            if total > most:
                raise ValueError(f"it unpacks to {total:,} bytes, over {most:,}")
            blocks = sum(-(-member.size // _DISK_BLOCK) for member in members)
            require_room(staging, blocks * _DISK_BLOCK, f"what {path.name} unpacks to")
            for member in tqdm(members, path.name, unit=" files", leave=False, disable=None):
                _write(member, staging)
        _check_equal(staging, folder)
    except BaseException as error:
        shutil.rmtree(staging)
        if isinstance(error, InputError | OSError) or not isinstance(error, Exception):
            raise
        # A hostile archive can raise nearly anything.
        raise InputError(
            f"{path} is no sound archive ({summary(error)}): delete it, call again"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[list[_Member]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            yield _list_zip(archive)
    else:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = _list_tar(tar)
            file.seek(tar.offset)  # where tarfile saw no more members
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"no member begins at byte {tar.offset}")
            yield members


def _list_tar(tar: tarfile.TarFile) -> list[_Member]:
    members = []
    for info in tar:
        _check_name(info.name)
        if info.isdir():
            continue
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
            raise ValueError(f"{info.name!r} is a link or no plain file")
        members.append(_Member(info.name, info.size, partial(_open_in_tar, tar, info)))
    return members


def _open_in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None  # it is a plain file
    return file


def _list_zip(archive: zipfile.ZipFile) -> list[_Member]:
    members = []
    for info in archive.infolist():
        _check_name(info.filename)
        if info.is_dir():
            continue
        # The upper half is the mode where the archive comes from Unix, else 0.
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{info.filename!r} is a link or no plain file")
        members.append(_Member(info.filename, info.file_size, partial(archive.open, info)))
    return members


def _check_name(name: str) -> None:
    if not name or name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ValueError(f"{name!r} lies outside of its folder")


def _write(member: _Member, folder: Path) -> None:
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
        if file.tell() != member.size:
            raise ValueError(f"{member.name!r} is cut off")


def _check_equal(source: Path, target: Path) -> None:
    """Refuse to replace files by others."""
    for file in source.rglob("*"):
        there = target / file.relative_to(source)
        if file.is_dir() or not os.path.lexists(there):
            continue
        if not there.is_file() or not filecmp.cmp(file, there, shallow=False):
            raise InputError(
                f"{there} is there already and differs from what was published: move it away, or "
                "choose another folder"
            )


def _move(source: Path, target: Path) -> None:
    """Move a folder's content over an equal part of it; the source is gone at the very end."""
    for path in source.iterdir():
        there = target / path.name
        if not there.exists():
            path.rename(there)
        elif path.is_dir():
            _move(path, there)
        else:
            path.unlink()
    source.rmdir()
