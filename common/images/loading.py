"""Reading images in worker processes, one stream for the whole training."""

import atexit
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from common.errors import InputError, SourceError
from common.images import handing_over
from common.images.sampling import MicroBatch
from common.processes.launcher import cores_of_a_rank
from common.text import in_line, say

Key = tuple[int, int]
"""Epoch and position of an image: all that its augmentation may depend on, beside the seed."""
Bad = tuple[int, str]
"""Position of an unreadable image, and what is wrong with it."""
_NOWHERE = -1
"""In place of the position where no image is at fault."""
_RECORDED = re.compile(r"[0-9]+ ")
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipBad:
    """Permission to continue past unreadable images.

    The place of one is taken by the next image of the data set that can be read, as it looks in
    that epoch: a function of the files alone, so a resumed run sees the same images.
    """

    limit: int
    """How many images may be unreadable, at least 1; one more stops the training."""
    num_images: int
    """Images in the data set."""
    record: Path
    """Text file of those found, position and message. All ranks and all resumed parts of a run add
    to it, so it is the whole run that is limited."""

    def found(self) -> set[int]:
        """Return the positions in the record."""
        try:
            lines = self.record.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return set()
        return {int(line.split(" ")[0]) for line in lines if _RECORDED.match(line)}

    def add(self, bad: Iterable[Bad]) -> None:
        """Record and print the images that are new.

        Raises:
            InputError: The limit is passed; as the reading of that image raised it.
        """
        for position, message in bad:
            known = self.found()
            if position in known:
                continue
            if len(known) >= self.limit:
                raise InputError(
                    f"{message}; --skip-bad {self.limit} is used up: {self.record} lists the others"
                )
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with self.record.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{position} {' '.join(message.split())}\n")  # one write: ranks append
            say(f"skipped, {len(known) + 1} of at most {self.limit}: {in_line(message)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How images are read from files."""

    workers: int
    """Processes; 0: none but this one."""
    device: torch.device
    """Where batches go."""
    skip_bad: int = 0
    """Train past up to this many unreadable images."""
    record: Path | None = None
    """Text file of those found."""

    def skip(self, num_images: int) -> SkipBad | None:
        """Return the permission to skip images of a data set, if there is any."""
        if not self.skip_bad or self.record is None:
            return None
        return SkipBad(limit=self.skip_bad, num_images=num_images, record=self.record)


class Keyed(Dataset[tuple[Item | None, list[Bad]]]):
    """A data set whose items are a pure function of (epoch, position) and of what is readable."""

    def __init__(self, read: Callable[[int, int], Item], skip: SkipBad | None = None) -> None:
        self._read, self._skip = read, skip
        self._lost: Bad | None = None

    def __getitem__(self, key: Key) -> tuple[Item | None, list[Bad]]:
        """Return an item, None if there is none, and the unreadable images before it."""
        if self._lost:  # to ask again takes a minute, and a batch would for each image
            return None, [self._lost]
        epoch, position = key
        bad: list[Bad] = []
        tries = 1 + (min(self._skip.limit, self._skip.num_images - 1) if self._skip else 0)
        for _ in range(tries):
            try:
                return self._read(epoch, position), bad
            except SourceError as error:
                self._lost = _NOWHERE, str(error)
                return None, [self._lost]
            except InputError as error:  # raised in a worker it would come back as a traceback
                bad.append((position, str(error)))
            if self._skip:
                position = (position + 1) % self._skip.num_images
        return None, bad


def stream(
    read: Callable[[int, int], Any],
    micro_batches: Iterable[MicroBatch],
    collate: Callable[[list[Any]], Any],
    *,
    workers: int,
    device: torch.device,
    skip: SkipBad | None = None,
) -> Iterator[Any]:
    """Yield one collated batch for each micro-batch, read ahead by worker processes.

    The workers live as long as the iterator, across epochs; they are started once.

    Args:
        read: Called with (epoch, position) in a worker; must draw its randomness from these alone.
        micro_batches: What to read, in order.
        collate: Makes a batch of a list of items.
        workers: Number of processes; 0 reads in this one.
        device: Batches are pinned in memory for a GPU.
        skip: Permission to replace unreadable images; None raises at the first, as evaluation must.

    Raises:
        InputError: As `read` raised it, in the order of the micro-batches.
        SourceError: As `read` raised it, even with permission to skip.
        ReaderKilled: A worker was killed.
        SharedMemoryFull: Batches cannot be handed over.
        Terminated: The training was asked to end, and waits for images.
    """
    keys = ([(m.epoch, int(i)) for i in m.indices] for m in micro_batches)
    loader = DataLoader(
        Keyed(read, skip),
        batch_sampler=keys,  # any iterable serves; it is read once
        num_workers=workers,
        collate_fn=partial(_collate_readable, collate, shared=workers > 0),
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        # Its own: from the default one every start, a resumed one too, would draw a number.
        generator=torch.Generator(),
        timeout=handing_over.POLL if workers else 0,
    )
    atexit.unregister(handing_over.kill_workers)
    atexit.register(handing_over.kill_workers)  # now: what is registered last is called first
    for batch, bad in handing_over.received(loader):
        for position, reason in bad:
            if position == _NOWHERE:
                raise SourceError(reason)
        if skip:
            skip.add(bad)
        if batch is None:
            raise InputError(bad[0][1])
        yield batch


def _collate_readable(
    collate: Callable[[list[Any]], Any], read: list[tuple[Any, list[Bad]]], *, shared: bool
) -> handing_over.Handed:
    """Return a batch, None if it lacks an item, and the unreadable images; in shared memory."""
    items = [item for item, _ in read]
    lacks = any(item is None for item in items)
    result = None if lacks else collate(items), [bad for _, found in read for bad in found]
    return handing_over.share(result) if shared else result


def _start_worker(_: int) -> None:
    """Leave the cores to the other workers, and the end to the main process.

    OpenCV would start a thread per core in each. A signal that ends a job goes to all processes of
    it: the main one writes a checkpoint, and needs its workers until it has stopped.
    """
    import cv2

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    handing_over.end_where_batches_are_lost()


def default_workers() -> int:
    """Choose the number of workers of a rank: its share of the cores, at most 16."""
    return min(cores_of_a_rank(), 16)
