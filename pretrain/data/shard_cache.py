"""Shards of a URL on this machine: each is fetched whole, once, and compared with its index.

They lie in a folder below $SHARD_CACHE. The index is fetched again at every start, so shards that
were rebuilt are noticed.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.errors import InputError, SourceError
from common.images.downloading import NotServedError, download, shown
from common.storage import file_locks, write_atomically
from common.text import say

CACHE = "SHARD_CACHE"
"""Environment variable: the folder for fetched shards."""
FRESH_SECONDS = 60.0
"""An index that was fetched so recently was fetched by another process of the same start."""
_MAX_INDEX_BYTES = 2**30
_failed: dict[Path, tuple[float, str]] = {}
"""When and why a shard could not be fetched, for threads that waited for it meanwhile."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on this machine; the system lets go of it when the process ends."""
    fcntl = file_locks()
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_shard(url: str, path: Path, size: int, sha256: str) -> None:
    """Fetch a shard, unless another process of this machine has.

    Args:
        url: As for `download`.
        path: Target.
        size: Bytes.
        sha256: Digest.

    Raises:
        SourceError: If it cannot be fetched or written, or is not what it should be.
    """

    def write(file: BinaryIO) -> None:
        try:
            download([url], file, size)
        except NotServedError as error:
            raise SourceError(
                f"the shard {path.name} cannot be fetched: {error}; if the shards were rebuilt, "
                "start again"
            ) from error
        file.flush()
        with Path(file.name).open("rb") as whole:
            found = hashlib.file_digest(whole, "sha256").hexdigest()
        if found != sha256:
            raise SourceError(
                f"{shown(url)} gives another shard {path.name} than the index says (its SHA-256 "
                "differs): if the shards were rebuilt, start again"
            )

    asked = time.monotonic()
    with _writing(path):
        if path.exists():
            return
        when, reason = _failed.get(path, (0.0, ""))
        if when > asked:  # while this thread waited, another one asked
            raise SourceError(reason)
        for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
            stale.unlink()
        try:
            write_atomically(path, write, size=size)
        except SourceError as error:
            _failed[path] = time.monotonic(), str(error)
            raise


def fetch_index(url: str, path: Path, known_by: Callable[[bytes], Mapping[str, str]]) -> bool:
    """Fetch an index, unless another process of this machine just has.

    Where it differs from the last one, the shards that it no longer has are removed. Where it
    cannot be fetched, the one of the last time serves, and one line says so.

    Args:
        url: As for `download`.
        path: Target; the shards lie beside it.
        known_by: Returns name and SHA-256 of the shards of an index; raises InputError if it is
            none, with a message that follows its name.

    Returns:
        Whether it is another than the last time.

    Raises:
        SourceError: If it cannot be fetched or written, or is none.
    """
    with _writing(path):
        if path.exists() and 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS:
            return False
        received = io.BytesIO()
        try:
            download([url], received, most=_MAX_INDEX_BYTES)
        except NotServedError as error:
            if not path.exists():
                raise SourceError(f"the index of shards cannot be fetched: {error}") from error
            say(
                f"the index of shards cannot be fetched ({error}): continuing with what was "
                f"fetched before, in {path.parent}"
            )
            os.utime(path)
            return False
        content = received.getvalue()
        before = path.read_bytes() if path.exists() else None
        if content == before:
            os.utime(path)
            return False
        try:
            now = known_by(content)
        except InputError as error:
            raise SourceError(f"the index of shards at {shown(url)} {error}") from error
        if before is not None:
            _remove_stale(path, before, now, known_by)
        write_atomically(path, lambda file: file.write(content))
        return before is not None


def _remove_stale(
    path: Path,
    before: bytes,
    now: Mapping[str, str],
    known_by: Callable[[bytes], Mapping[str, str]],
) -> None:
    """Remove the shards beside an index that another one will not have."""
    try:
        old = known_by(before)
    except InputError:
        old = {}
    shards = [p for p in path.parent.iterdir() if not p.name.startswith(".") and p != path]
    stale = [p for p in shards if p.name not in now or now[p.name] != old.get(p.name)]
    for shard in stale:
        shard.unlink()
    say(
        f"the shards were rebuilt: {len(stale)} of the {len(shards)} fetched before are not "
        f"among them and were removed from {path.parent}"
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Lock a file of the cache, and say what can be done where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock")):
            yield
    except SourceError:
        raise
    except (OSError, InputError) as error:
        raise SourceError(
            f"{path} could not be written ({error.__cause__ or error}): free space, or set "
            f"{CACHE} to another folder"
        ) from error
