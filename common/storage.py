"""Files that are whole or absent, and JSON; free of torch.

A file is written beside its target, flushed to the disk and renamed over it, so a crash at any
moment leaves the old file or the new one.
"""

import codecs
import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from common.errors import InputError, os_reason, remedy


def write_atomically(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    size: int | None = None,
    keep_previous: bool = False,
) -> None:
    """Write a file through `write` so that a reader sees the old content or all of the new.

    Args:
        path: Target file.
        write: Called with the open temporary file.
        size: Bytes to come, where known: without room for them nothing is begun.
        keep_previous: Leave the file that stood there as `<stem>.previous<suffix>`.

    Raises:
        InputError: If the disk is full or the folder cannot be written; the old file stays.
    """
    # Not the process number: containers that share a folder may have the same.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        if size is not None and size > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            path.replace(previous(path))
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror}): {remedy(error)}"
            f"{_room(path.parent, size)}; what was there before stays"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename, or never made
            temporary.unlink()


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make a folder for results and keep other processes from writing theirs there meanwhile.

    Raises:
        InputError: If another one is at it, or the folder cannot be made.
    """
    fcntl = file_locks()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)  # the folder itself: no file is left in it
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {os_reason(error)}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(
            f"another command is writing to {folder}: wait for it, or choose another --out"
        ) from None
    except OSError:  # a file system without such locks
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)  # of the processes that were forked meanwhile, too
        os.close(lock)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        InputError: As `write_atomically`.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: object) -> None:
    """Write a file of readable JSON, whole or not at all.

    Args:
        path: Target file.
        value: Plain values; dataclasses are written as their fields.

    Raises:
        InputError: As `write_atomically`.
    """
    write_text(path, to_json(value))


def to_json(value: object) -> str:
    """Write a plain value as readable JSON, dataclasses and what holds them included."""
    return json.dumps(value, indent=2, default=_fields) + "\n"


def _fields(value: Any) -> dict[str, Any]:
    return asdict(value)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: If the file is missing or holds anything else.
    """
    try:
        with open_regular(path) as file:
            value = parse_json(file.read())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder of a run") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {os_reason(error)}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON, write it again: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: write it again")
    return value


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that anyone wrote.

    Raises:
        ValueError: If it is none, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _room(folder: Path, size: int | None) -> str:
    """Tell the bytes needed and free, where known."""
    if size is None:
        return ""
    try:
        return f" ({size:,} bytes needed, {shutil.disk_usage(folder).free:,} free)"
    except OSError:
        return f" ({size:,} bytes needed)"


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's names; some file systems know no such thing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def previous(path: Path) -> Path:
    """Name the file that `write_atomically` keeps when it replaces `path`."""
    return path.with_suffix(f".previous{path.suffix}")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read that anyone may have put there.

    Raises:
        OSError: If it cannot be opened, or is a pipe or a device, which may wait or never end.
    """
    mode = path.stat().st_mode  # before it is opened: to open a pipe waits
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "No regular file", str(path))
    return path.open("rb")


def read_text(path: Path) -> str:
    """Read a text that people or other programs wrote: UTF-8 or UTF-16, with or without its mark.

    Line ends are as in the file: `str.splitlines`, which takes those of every system.

    Raises:
        InputError: If it cannot be read, or is no such text.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {os_reason(error)}") from error
    return decode_text(content, path)


_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_utf16(content: bytes) -> bool:
    """Tell text in UTF-16, with or without its mark; no text in UTF-8 begins with a zero byte."""
    return content.startswith(_UTF16_MARKS) or (len(content) > 1 and 0 in content[:2])


def decode_text(content: bytes, path: Path) -> str:
    """Decode what `path` holds, as `read_text` does."""
    encoding = "utf-8-sig"
    if content.startswith(_UTF16_MARKS):
        encoding = "utf-16"
    elif is_utf16(content):
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8 or UTF-16 (byte {error.start}): save it as UTF-8"
        ) from error


def file_locks() -> ModuleType:
    """Return the module of the system's file locks, `fcntl`.

    Raises:
        InputError: On Windows, which has none such.
    """
    try:
        import fcntl
    except ImportError:
        raise InputError(
            "this runs on Linux and macOS: on Windows run it in WSL (`wsl --install`, then the "
            "same commands there); the layer alone, `import focused_dropout`, needs no WSL"
        ) from None
    return fcntl
