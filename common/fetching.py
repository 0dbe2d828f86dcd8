"""Fetching published archives from servers that break off, move or lie.

A download is written to NAME.part, goes on where it was cut off, and is called NAME only after its
digests were found right.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from common.errors import InputError

_TIMEOUT_S = 30
_BLOCK = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A published file.

    Attributes:
        name: Its file name.
        urls: Where it lies, the best place first.
        size: Bytes.
        md5: Digest.
        sha256: Digest.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    md5: str
    sha256: str


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
        _fill(archive, file)
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
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path} is in use: another download is at work on it") from None


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


class _NotServedError(Exception):
    """A server does not give what it should; the message follows its URL."""


def _fill(archive: Archive, file: BinaryIO) -> None:
    """Append what is missing, from the first server that gives it."""
    reasons = []
    for url in archive.urls:
        try:
            while (start := file.seek(0, os.SEEK_END)) != archive.size:
                if start > archive.size:  # no part of this file
                    file.truncate(start := 0)
                _append(url, archive, file, start)
        except _NotServedError as error:
            reasons.append(f"{url} {error}")
        else:
            return
    came = file.seek(0, os.SEEK_END)
    kept = f"; the {came:,} bytes that came are kept, so call again" if came else ""
    raise InputError(f"{archive.name} could not be fetched: {'; '.join(reasons)}{kept}")


def _append(url: str, archive: Archive, file: BinaryIO, start: int) -> None:
    """Append until the end or until the connection is cut, as long as that gets further."""
    with _open(url, start) as response:
        done = _first_byte(response, archive.size, start)
        if done < start:
            file.truncate(done)
        # disable=None: no bar where nobody watches.
        with tqdm(
            desc=archive.name,
            total=archive.size,
            initial=done,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        ) as bar:
            for block in _blocks(response):
                done += len(block)
                if done > archive.size:
                    raise _NotServedError(f"sends more than {archive.size:,} bytes")
                file.write(block)
                bar.update(len(block))
    if done <= start:
        raise _NotServedError(f"ends after {done:,} of {archive.size:,} bytes")


def _open(url: str, start: int) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "focused-dropout"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response: HTTPResponse = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        raise _NotServedError(f"answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise _NotServedError(f"does not answer ({reason})") from error
    return response


def _first_byte(response: HTTPResponse, size: int, start: int) -> int:
    """Return where the answer begins: at `start`, or at 0 from a server that ignores ranges."""
    if response.status == 206:
        place = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if place is None or int(place[1]) != start or int(place[2]) != size:
            raise _NotServedError(f"sends another part than the bytes from {start:,} of {size:,}")
        return start
    length = response.headers.get("Content-Length", str(size))
    if length != str(size):  # such as a page that says that the server has moved
        raise _NotServedError(f"has {length} bytes instead of {size}")
    return 0


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield what comes; a broken connection ends it like the end of the file."""
    while True:
        try:
            block = response.read1(_BLOCK)
        except (OSError, HTTPException):
            return
        if not block:
            return
        yield block
