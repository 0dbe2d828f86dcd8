"""The exceptions that a user meets, and what each means for a command: a line, an exit code."""

import errno
import os
import shutil
from collections.abc import Sequence

from common.text import in_line, in_lines

_LATER = "the disk or its server does not answer: give the same command again once it does"
_REMEDIES = {
    errno.ENOSPC: "free space, or choose another folder",
    errno.EDQUOT: "free space, or choose another folder",
    errno.EFBIG: "free space, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change its permissions, or choose another",
    errno.EPERM: "change its permissions, or choose another",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give a file",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOLCK: "this file system has no locks: choose a folder on another",
    errno.EIO: _LATER,
    errno.ESTALE: _LATER,
    errno.ENOTCONN: _LATER,
    errno.EMFILE: "raise the limit of open files (ulimit -n 65536), or give --workers 0",
    errno.ENFILE: "raise the limit of open files (ulimit -n 65536), or give --workers 0",
    errno.ENOMEM: "free memory, or give fewer --workers or a smaller batch",
}
_BROKEN = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""No fault of the arguments: exit code 1."""


class InputError(ValueError):
    """Wrong arguments or data.

    The message is one sentence a user can act on: which file or flag, what is wrong with it, what
    to do. Commands print it and exit with code 2, without a traceback.

    Attributes:
        others: What else is wrong with the same file, for a command that tells all.
        sound: What of the file could be read all the same, if anything.
    """

    others: Sequence["InputError"] = ()
    sound: object = None


class SourceError(InputError):
    """Data cannot be had at all: no fault of one image, so no other is tried in its place."""


class ReaderKilled(Exception):  # noqa: N818 - named for what happened
    """A process that reads images was killed; the run can resume from its checkpoint."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "a process that reads images was killed, perhaps for its memory: give the same command "
            "again, which resumes a training; fewer --workers need less"
        )


class SharedMemoryFull(Exception):  # noqa: N818 - named for what happened
    """Batches pass from the processes that read them through /dev/shm, and it has no room.

    Docker grants 64 MB of it.
    """

    exit_code = 1

    def __init__(self) -> None:
        there = "none that can be written"
        if os.access("/dev/shm", os.W_OK):
            there = f"{shutil.disk_usage('/dev/shm').total / 2**20:,.3g} MB"
        super().__init__(
            f"too little shared memory (/dev/shm: {there}) for the images that --workers send: "
            "enlarge it (docker run --shm-size=8g), or give --workers 0"
        )


class PeerFailed(Exception):  # noqa: N818 - named for what happened
    """Another rank has ended, so this one cannot continue.

    Args:
        message: Which one, as far as is known.
        exit_code: That of the other rank, so that a launcher sees the same from all.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def outcome(error: BaseException) -> tuple[int, str | None]:
    """Return the exit code of a command that ends with `error`, and the line that it prints.

    The line is None where it takes a traceback to say what happened, or where nothing is to be said
    (SystemExit, and a reader such as `head` that has seen enough).
    """
    if isinstance(error, InputError):
        return 2, f"error: {in_lines(str(error))}"
    if isinstance(error, Exception):
        error = named(error)
    if isinstance(error, BrokenPipeError):
        return 0, None
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _REMEDIES):
        where = f"{in_line(str(error.filename))}: " if error.filename else ""
        return (
            1 if error.errno in _BROKEN else 2,
            f"error: {where}{error.strerror}: {remedy(error)}",
        )
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, SystemExit):
        code = error.code
        return (code, None) if isinstance(code, int) else (int(code is not None), None)
    code = getattr(error, "exit_code", None)
    return (1, None) if code is None else (int(code), f"{type(error).__name__}: {error}")


def os_reason(error: OSError) -> str:
    """Say what the system refused, and what can be done about it."""
    return f"{error.strerror}: {remedy(error)}"


def remedy(error: OSError) -> str:
    """Say what can be done about an error of the system."""
    return _REMEDIES.get(error.errno or 0, "check the path")


def summary(error: BaseException) -> str:
    """Return what another library says in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


class OutOfMemory(Exception):  # noqa: N818 - named for what happened
    """Memory, of the machine or of a GPU, does not suffice."""

    exit_code = 1


NO_FILE_LEFT = 71
"""Exit code of a process that reads images and may open no more files: EX_OSERR of sysexits.h."""
_KILLED = "DataLoader worker (pid"
_ENDED_WITHOUT_FILES = f"exited unexpectedly with exit code {NO_FILE_LEFT}."
_BUS_ERROR = "Bus error"
_NO_MEMORY = ("can't allocate memory", "Caught MemoryError in DataLoader worker")


def named(error: Exception) -> Exception:
    """Name what torch raises wherever the main process happens to be; return others as they are."""
    text = str(error)
    if _KILLED in text and _ENDED_WITHOUT_FILES in text:
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if _KILLED in text:
        return SharedMemoryFull() if _BUS_ERROR in text else ReaderKilled()
    # By its name: this module is free of torch.
    on_gpu = type(error).__name__ == "OutOfMemoryError"
    if on_gpu or isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        what = "the GPU's memory" if on_gpu else "memory"
        said = in_line(" ".join(text.split()))[:120]
        return OutOfMemory(
            f"{what} does not suffice{f' ({said})' * bool(said)}: take a smaller batch, smaller "
            "images or fewer --workers"
        )
    return error
