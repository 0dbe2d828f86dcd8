"""Making one set of shards that several processes wrote or scanned."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from pretrain.data.file_paths import encode
from pretrain.data.shards import Shard, ShardSet

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Sample = tuple[str, int, int, int]
"""Name, class, offset and size of an image."""
Packed = tuple[Shard, Sequence[Sample]]
"""A shard, and what lies where in it."""


def join(
    folder: Path, packed: Sequence[Packed], order: NDArray[np.int64], classes: tuple[str, ...]
) -> ShardSet:
    """Put the images of all shards in one order."""
    rows = [
        (label, number, offset, size)
        for number, (_, samples) in enumerate(packed)
        for _, label, offset, size in samples
    ]
    names = encode(name for _, samples in packed for name, _, _, _ in samples)
    labels, places = np.split(np.array(rows)[order], [1], axis=1)
    shards = tuple(shard for shard, _ in packed)
    return ShardSet(folder, None, shards, names[order], places, labels[:, 0], classes)


def in_processes(
    work: Callable[[Argument], Result], jobs: Sequence[Argument], workers: int, what: str
) -> list[Result]:
    """Do the work of each job in some processes, with a bar of the shards that are done.

    Raises:
        InputError: If a process is killed.
    """
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        return list(tqdm(pool.map(work, jobs), what, len(jobs), unit=" shards", disable=None))
    except BrokenProcessPool:
        raise InputError("a process was killed, perhaps for its memory: lower --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the work
    cv2.setNumThreads(0)
