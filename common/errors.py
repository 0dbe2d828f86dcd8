"""The exceptions that a user meets, and what each means for a command: a line, an exit code."""

import errno


class InputError(ValueError):
    """Wrong arguments or data.

    The message is one sentence a user can act on: which file or flag, what is wrong with it, what
    to do. Commands print it and exit with code 2, without a traceback.
    """


def printable(text: str) -> str:
    """Escape line breaks, terminal codes and bytes that are no text: names hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class SourceError(InputError):
    """Data cannot be had at all: no fault of one image, so no other is tried in its place."""


class ReaderKilled(Exception):  # noqa: N818 - named for what happened
    """A process that reads images was killed; the run can go on from its checkpoint."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "a process that reads images was killed, perhaps for its memory: give the same command "
            "again to go on; fewer --workers need less"
        )


class PeerFailed(Exception):  # noqa: N818 - named for what happened
    """Another rank has ended, so this one cannot go on.

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
        return 2, f"error: {error}"
    if isinstance(error, BrokenPipeError):
        return 0, None
    if isinstance(error, OSError) and (
        error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        where = f"{error.filename}: " if error.filename else ""
        return 2, f"error: {where}{error.strerror}"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, SystemExit):
        code = error.code
        return (code, None) if isinstance(code, int) else (int(code is not None), None)
    # torch raises this wherever the main process happens to be.
    if isinstance(error, Exception) and "DataLoader worker" in str(error):
        error = ReaderKilled()
    code = getattr(error, "exit_code", None)
    return (1, None) if code is None else (int(code), f"{type(error).__name__}: {error}")
