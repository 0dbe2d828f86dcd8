"""Checking all files of a data set before a training stumbles over one of them."""

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import BinaryIO

import cv2
from tqdm import tqdm

from common.errors import InputError
from common.images.decoding import decode_image, read_content
from common.images.headers import SUFFIXES, read_header
from common.images.orientation import exif_orientation
from common.processes.launcher import usable_cores
from common.text import counted, in_line, say

_CHUNK = 16
# libjpeg continues with grey or shifted pixels. Extraneous bytes alone harm none.
_DAMAGE = re.compile(
    rb"Corrupt JPEG data: (?!\d+ extraneous)[^\r\n]*|Premature end of JPEG[^\r\n]*"
)


@dataclass(slots=True)
class Result:
    """What a check found in one image, and in what belongs to it."""

    faults: list[tuple[Path, str]] = field(default_factory=list)
    """Path and what is wrong there."""
    notes: list[str] = field(default_factory=list)
    """What is unusual but read correctly, such as "grey"."""
    size: tuple[int, int] | None = None
    """Width and height as stored, if the image could be read; with it the rest."""
    format: str = ""
    """Such as "JPEG"."""
    orientation: int = 1
    """Of EXIF, 1 to 8; 1: stored upright."""
    digest: bytes = b""
    """Of the file's content."""


Check = Callable[[int], Result]
"""Checks the image at a position; a `partial` of a module's function: it is sent to processes."""


def check_path(paths: Sequence[Path], index: int) -> Result:
    """Check one of some image files."""
    return check_image(paths[index], partial(read_content, paths[index]))


def check_image(path: Path, read: Callable[[], bytes]) -> Result:
    """Decode an image as a training does, and heed the warnings of its decoder.

    Args:
        path: Its name.
        read: Returns its file's content; may raise ValueError.
    """
    with _standard_error() as said:
        try:
            data = read()
            pixels = decode_image(data)
        except ValueError as error:
            return Result(faults=[(path, str(error))])
        said.seek(0)
        damage = _DAMAGE.search(said.read())
    if damage:
        reason = damage[0].decode("ascii", "replace")
        return Result(faults=[(path, f"damaged within ({reason}): fetch it again")])
    header = read_header(data)
    assert header is not None
    result = Result(
        size=(pixels.shape[1], pixels.shape[0]),
        format=header.format,
        orientation=exif_orientation(data),
        digest=blake2b(data, digest_size=16).digest(),
    )
    if header.mode != "RGB":
        result.notes.append(header.mode)
    if SUFFIXES.get(path.suffix.lower()) != header.format:
        result.notes.append(f"{header.format} named {path.suffix}")
    return result


@contextmanager
def _standard_error() -> Iterator[BinaryIO]:
    """Catch what C libraries write to standard error."""
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class Report:
    """Prints every fault as it is found, one per line, and counts."""

    def __init__(self) -> None:
        self.images = 0
        self.faults = 0
        self._notes: Counter[str] = Counter()
        self._examples: dict[str, Path] = {}
        self._start = time.monotonic()

    def fault(self, path: Path, reason: str) -> None:
        """Print a fault."""
        self.faults += 1
        tqdm.write(f"{in_line(str(path))}: {in_line(reason)}", file=sys.stdout)

    def check(
        self,
        check: Check,
        paths: Sequence[Path],
        workers: int | None,
        label: str,
        unit: str = "images",
        seen: Callable[[int, Result], None] | None = None,
    ) -> None:
        """Check images in processes, with a bar.

        Args:
            check: What to do with the image at a position.
            paths: Names of the images.
            workers: Number of processes; 0 checks in this one; None: as many as cores.
            label: Name of the bar.
            unit: What they are; anything but images is not counted as such.
            seen: Called with the position and the result of each.
        """
        workers = usable_cores() if workers is None else workers
        images = range(len(paths))
        results = map(check, images) if workers == 0 else _in_processes(check, paths, workers)
        # disable=None: no bar where nobody watches.
        bar = tqdm(results, label, len(paths), unit=f" {unit}", leave=False, disable=None)
        for image, result in zip(images, bar, strict=True):
            self.images += unit == "images"
            for place, reason in result.faults:
                self.fault(place, reason)
            if seen:
                seen(image, result)
            self._notes.update(result.notes)
            for note in result.notes:
                self._examples.setdefault(note, paths[image])

    def end(self, *remarks: str) -> None:
        """Print the summary.

        Args:
            remarks: More for it.

        Raises:
            InputError: There were faults; the summary is its message.
        """
        notes = [
            f"{count} {note} (such as {in_line(str(self._examples[note]))})"
            for note, count in self._notes.most_common()
        ]
        noted = f"; read as RGB: {', '.join(notes)}" if notes else ""
        seconds = time.monotonic() - self._start
        text = f"{counted(self.images, 'image')} checked in {seconds:.1f} s"
        rest = "".join(f"; {remark}" for remark in remarks)
        if self.faults:
            raise InputError(f"{counted(self.faults, 'fault')}, listed above; {text}{noted}{rest}")
        say(f"no faults; {text}{noted}{rest}")


# ---- processes ----------------------------------------------------------------------------------


def _in_processes(check: Check, paths: Sequence[Path], workers: int) -> Iterator[Result]:
    """Yield the results in order, also if a decoder crashes on a file."""
    images = range(len(paths))
    while images:
        try:
            for results in _in_pool(check, images, workers):
                yield from results
                images = images[len(results) :]
        except BrokenProcessPool:  # in the next chunk or one soon after
            yield from (_alone(check, image, paths[image]) for image in images[:_CHUNK])
            images = images[_CHUNK:]


def _in_pool(check: Check, images: range, workers: int) -> Iterator[list[Result]]:
    pool = _pool(check, workers)
    pending: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, len(images), _CHUNK):
            pending.append(pool.submit(_check_chunk, images[start : start + _CHUNK]))
            if len(pending) > 4 * workers:  # not all at once: there may be millions
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(check: Check, image: int, path: Path) -> Result:
    with _pool(check, 1) as pool:
        try:
            return pool.submit(_check_chunk, range(image, image + 1)).result()[0]
        except BrokenProcessPool:
            return Result(faults=[(path, "the process that read it crashed: fetch it again")])


def _pool(check: Check, workers: int) -> ProcessPoolExecutor:
    # Fresh processes: a fork would copy threads' locks in whatever state they are.
    return ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (check,))


_check: Check
"""In a worker: what it was started for. Sent once, since it may hold millions of names."""


def _check_chunk(images: range) -> list[Result]:
    return [_check(image) for image in images]


def _start_worker(check: Check) -> None:
    global _check
    _check = check
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process reports it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(0)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed: nobody waits for results
