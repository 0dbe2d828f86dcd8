"""Reading images in worker processes, one stream for the whole training."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from common.errors import InputError
from common.sampling import MicroBatch

Key = tuple[int, int]
"""Epoch and position of an image: all that its augmentation may depend on, beside the seed."""
Item = TypeVar("Item")


class Keyed(Dataset[Item | InputError]):
    """A data set whose items are a pure function of (epoch, position)."""

    def __init__(self, read: Callable[[int, int], Item]) -> None:
        self._read = read

    def __getitem__(self, key: Key) -> Item | InputError:
        epoch, position = key
        try:
            return self._read(epoch, position)
        except InputError as error:  # raised in a worker it would come back as a traceback
            return error


def stream(
    read: Callable[[int, int], Any],
    micro_batches: Iterable[MicroBatch],
    collate: Callable[[list[Any]], Any],
    *,
    workers: int,
    device: torch.device,
) -> Iterator[Any]:
    """Yield one collated batch for each micro-batch, read ahead by worker processes.

    The workers live as long as the iterator, across epochs; they are started once.

    Args:
        read: Called with (epoch, position) in a worker; must draw its randomness from these alone.
        micro_batches: What to read, in order.
        collate: Makes a batch of a list of items.
        workers: Number of processes; 0 reads in this one.
        device: Batches are pinned in memory for a GPU.

    Raises:
        InputError: As `read` raised it, in the order of the micro-batches.
    """
    keys = ([(m.epoch, int(i)) for i in m.indices] for m in micro_batches)
    loader = DataLoader(
        Keyed(read),
        batch_sampler=keys,  # any iterable serves; it is read once
        num_workers=workers,
        collate_fn=partial(_collate_or_error, collate),
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        # Its own: from the default one every start, a resumed one too, would draw a number.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _collate_or_error(collate: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    errors = [item for item in items if isinstance(item, InputError)]
    return errors[0] if errors else collate(items)


def _start_worker(_: int) -> None:
    """Leave the cores to the other workers, and the end to the main process.

    OpenCV would start a thread per core in each. A signal that ends a job goes to all processes of
    it: the main one writes a checkpoint, and needs its workers until it has stopped.
    """
    import cv2

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def default_workers() -> int:
    """Choose the number of workers of a rank: its share of the cores, at most 16."""
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min((cores or 1) // local_ranks, 16))
