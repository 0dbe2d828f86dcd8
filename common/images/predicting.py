"""What predicting on photos is in both stages: a result for each, and files written one by one."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.headers import UNREAD
from common.images.photos import Photos, Unreadable, read_each
from common.processes import launcher
from common.processes.signals import ending_at_once
from common.storage import sole_writer, write_atomically
from common.text import counted, in_line, say

Prepared = TypeVar("Prepared")
Predicted = TypeVar("Predicted")
Write = Callable[[Sequence[BinaryIO]], Iterator[None]]
"""Writes what comes before the photos, yields, and then all of a photo before each other yield."""


def predict_each(
    photos: Any,
    prepare: Callable[[NDArray[np.uint8]], Prepared],
    predict: Callable[[Iterator[Prepared]], Iterable[Predicted]],
    nothing: Predicted,
    *,
    keep_going: bool,
) -> list[Predicted]:
    """Predict on what a program was given to look at, and name the photo of each result.

    Args:
        photos: As for `read_each`.
        prepare: What is made of pixels.
        predict: Gives a dataclass with `path` and `error` for each of these, in order.
        nothing: The same for a photo that cannot be read.
        keep_going: As for `read_each`.

    Returns:
        One for each photo.

    Raises:
        InputError: As `read_each`.
    """
    read: list[tuple[Path | None, str | None]] = []

    def ready() -> Iterator[Prepared]:
        for path, pixels in read_each(photos, keep_going=keep_going):
            if isinstance(pixels, Unreadable):
                read.append((path, pixels.reason))
            else:
                read.append((path, None))
                yield prepare(pixels)

    found: Iterator[Any] = iter([*predict(ready())])
    empty: Any = nothing
    return [
        replace(empty if error else next(found), path=path, error=error) for path, error in read
    ]


def refuse_ranks() -> None:
    """Refuse to predict under torchrun.

    Raises:
        InputError: There are several processes.
    """
    if launcher.size() > 1:
        raise InputError("predict is the work of one process: start it without torchrun")


def say_passed_over(photos: Photos) -> None:
    """Say which files beside the photos are none."""
    pictures = [path for path in photos.passed_over if path.suffix.lower() in UNREAD]
    others = [path for path in photos.passed_over if path.suffix.lower() not in UNREAD]
    if pictures:
        example = in_line(str(pictures[0]))
        say(
            f"{counted(len(pictures), 'picture')} skipped, of no format that is read, such as "
            f"{example}: convert to .png"
        )
    if others:
        say(f"{counted(len(others), 'other file')} skipped, such as {in_line(str(others[0]))}")


def refuse_unreadable(number: int, photos: Photos) -> None:
    """Say at the end how many photos could not be read.

    Raises:
        InputError: There are some.
    """
    if number:
        total = len(photos.paths)
        raise InputError(
            f"{number} of {counted(total, 'photo')} could not be read: mend or remove those named "
            f"above{'; the others are done' if number < total else ''}"
        )


def write_predictions(out: Path, suffixes: Sequence[str], photos: Photos, write: Write) -> None:
    """Write `predictions` files, each whole or not at all.

    Asked to end by a signal or Ctrl-C, or broken off, keep the photos that are done in files called
    `predictions.partial`, as whole as those, and leave earlier `predictions` as they are.

    Args:
        out: Target folder.
        suffixes: Of the files; that of a JSON list, whose entries `append` writes, is closed here.
        photos: How many there are.
        write: Writes into the files, in their order.

    Raises:
        BaseException: What broke it off, such as KeyboardInterrupt and SystemExit; a line has said
            what is there.
    """

    def fill(files: Sequence[BinaryIO]) -> None:
        done, sizes = 0, [0 for _ in files]
        try:
            for number, _ in enumerate(write(files)):
                done, sizes = number, [file.tell() for file in files]
        except (InputError, OSError):  # a full disk or a folder that is gone takes nothing else
            raise
        except BaseException:
            if done:
                for file, size in zip(files, sizes, strict=True):
                    file.seek(size)  # without a part of the next photo
                    file.truncate()
                end(files)
                keep(files, done)
            raise
        end(files)

    def end(files: Sequence[BinaryIO]) -> None:
        for file, suffix in zip(files, suffixes, strict=True):
            if suffix == ".json":
                file.write(b"\n]\n" if file.tell() else b"[]\n")

    def keep(files: Sequence[BinaryIO], done: int) -> None:
        partial = [out / f"predictions.partial{suffix}" for suffix in suffixes]
        for file, path in zip(files, partial, strict=True):
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        total, names = counted(len(photos.paths), "photo"), " and ".join(map(str, partial))
        say(f"ended early: {done} of {total} in {names}; the same command does them all")

    def opened(suffixes: Sequence[str], files: Sequence[BinaryIO]) -> None:
        if not suffixes:
            fill(files)
            return
        path = out / f"predictions{suffixes[0]}"
        write_atomically(path, lambda file: opened(suffixes[1:], [*files, file]))

    with sole_writer(out), ending_at_once("what is done is kept"):
        opened(suffixes, ())
        for suffix in suffixes:  # of an earlier call: what is whole is beside it now
            (out / f"predictions.partial{suffix}").unlink(missing_ok=True)


def append(file: BinaryIO, entry: bytes) -> None:
    """Add an entry to a file that is a JSON list."""
    file.write((b",\n" if file.tell() else b"[\n") + entry)
