"""Fetching published archives from servers that break off, move or lie.

A download is written to NAME.part, resumes where it was cut off, and is called NAME only after its
digests were found right.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from common.errors import InputError
from common.images.downloading import NotServedError, download
from common.storage import file_locks


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A published file."""

    name: str
    """Its file name."""
    urls: tuple[str, ...]
    """Where it lies, the best place first."""
    size: int
    """Bytes."""
    md5: str
    """Digest."""
    sha256: str
    """Digest."""


def fetch(archive: Archive, folder: Path) -> Path:
    """Fetch an archive, or the rest of it, or find it fetched.

    Args:
        archive: What to fetch.
        folder: Where to; it exists.

    Returns:
        Its path; the digests are right.

    Raises:
        InputError: If no server has it, the disk is full, another process fetches it, or what came
            or lay there is not the published file.
    """
    target = folder / archive.name
    if target.exists():
        if wrong := _wrong_digest(archive, target):
            raise InputError(f"{target} is not the published file ({wrong}): delete it, call again")
        return target
    part = part_of(target)
    with part.open("ab") as file:
        lock(file, part)
        try:
            download(archive.urls, file, archive.size, label=archive.name)
        except NotServedError as error:
            came = file.seek(0, os.SEEK_END)
            kept = (
                f"; the {came:,} bytes that came are kept, so call again"
                if came
                else "; call again later"
            )
            raise InputError(f"{archive.name} could not be fetched: {error}{kept}") from error
        file.flush()
        os.fsync(file.fileno())
        if wrong := _wrong_digest(archive, part):
            part.unlink()
            raise InputError(
                f"{archive.name} came with another content than was published ({wrong}), and was "
                "deleted: call again, or give another place by --mirror URL"
            )
        part.replace(target)
    return target


def part_of(target: Path) -> Path:
    """Name the file that holds what came of a download so far."""
    return target.with_name(f"{target.name}.part")


def lock(file: BinaryIO, path: Path) -> None:
    """Lock an open file on this machine, until it is closed.

    Raises:
        InputError: If another process has locked it.
    """
    fcntl = file_locks()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path} is in use: wait for the other download of it") from None


def require_room(folder: Path, needed: int, what: str) -> None:
    """Refuse what a disk has no room for.

    Raises:
        InputError: If fewer bytes than needed are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder} has no room for {what}: {needed:,} bytes needed, {free:,} free; free space "
            "or choose another folder"
        )


def _wrong_digest(archive: Archive, path: Path) -> str | None:
    """Return what is wrong, if anything is."""
    size = path.stat().st_size
    if size != archive.size:
        return f"{size:,} bytes instead of {archive.size:,}"
    md5 = partial(hashlib.md5, usedforsecurity=False)
    with path.open("rb") as file:
        for kind, new, published in (
            ("MD5", md5, archive.md5),
            ("SHA-256", hashlib.sha256, archive.sha256),
        ):
            file.seek(0)
            found = hashlib.file_digest(file, new).hexdigest()
            if found != published:
                return f"{kind} {found}"
    return None
