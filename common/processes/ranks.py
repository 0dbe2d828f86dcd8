"""One process or many: start, sums, gathers. Every function is a no-op for a single process."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from common.errors import InputError, PeerFailed, outcome, summary
from common.processes import launcher
from common.processes.signals import default_signal_handling, ignore_requests

T = TypeVar("T")
TIMEOUT_MINUTES = 10.0
"""Longer than rank 0 alone takes to save or to score; shorter than a person waits for a job."""
_FIRST = "focused-dropout: the first to end"
_STORE_TIMEOUT = timedelta(seconds=10)
_LAST_ANSWERS = 0.5
"""Seconds for which a store answers when its host is to end."""
_GLOO = ("gloo/transport", "Application timeout caused pair closure")
"""Words in the RuntimeErrors of gloo whose connection is lost; other backends raise DistError."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


@contextmanager
def start(device: str = "auto", timeout_minutes: float = TIMEOUT_MINUTES) -> Iterator[World]:
    """Join the processes that torchrun (or any launcher that sets its variables) started.

    The group is taken apart after success only. After an error it stays as it is, for the process
    to leave with: the others may be in the midst of a collective that this rank will never join,
    and taking it apart waits for them (with NCCL; with gloo and torch 2.11 where DDP, kept alive by
    the traceback, is its last owner: it waits, holding the GIL, for a thread that needs the GIL).
    `common.command.cli.dispatch` leaves so.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        timeout_minutes: How long a rank waits for the others, here and in each collective.

    Raises:
        InputError: If the device is unknown or absent, or the others cannot be joined.
        PeerFailed: In place of what a collective raises, if another rank has ended.
        SystemExit: In place of an error that another rank, ending alike, has told already.
    """
    size, rank = launcher.size(), launcher.rank()
    place = choose_device(device, launcher.local_rank(), distributed=size > 1)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(place)
        return
    with default_signal_handling():
        store = _join(place, rank, size, timedelta(minutes=timeout_minutes))
    try:
        yield World(place, rank, size)
    except BaseException as error:
        verdict = _verdict(error, store, rank, timeout_minutes)
        # Without torchrun this rank holds the store, and the others may be about to ask it.
        if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(_LAST_ANSWERS)
        if verdict is error:
            raise
        raise verdict from error
    dist.destroy_process_group()


def _join(place: torch.device, rank: int, size: int, timeout: timedelta) -> Store:
    """Make the process group; return the store that its ranks share.

    Raises:
        InputError: If the launcher's variables are incomplete, or the others do not come.
    """
    cuda = place.type == "cuda"
    try:
        store: Store = next(rendezvous("env://", timeout=timeout))[0]
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=place if cuda else None,
        )
    except (ValueError, dist.DistError) as error:
        raise InputError(
            f"rank {rank} cannot join the other {size - 1} ({summary(error)}): start all of them "
            "with torchrun, or together with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set"
        ) from error
    return store


def _verdict(
    error: BaseException, store: Store, rank: int, timeout_minutes: float
) -> BaseException:
    """Return what a rank should end with, and tell the others if it is the first to end."""
    ignore_requests()
    text = str(error)
    lost = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _GLOO)
    )
    code, line = outcome(error)
    first: dict[str, Any] | None = None
    # Without torchrun the store ends with its host, rank 0. Asked then, it prints a stack, so leave
    # a process that is about to be gone the time to go.
    if lost:
        time.sleep(0.5)
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with suppress(RuntimeError, OSError), socket.create_connection(address, timeout=5):
        store.set_timeout(_STORE_TIMEOUT)
        if not lost:
            # It answers, so the word has arrived before this process closes its connections.
            mine = json.dumps({"rank": rank, "code": code, "line": line})
            first = json.loads(store.compare_set(_FIRST, "", mine))
        elif store.check([_FIRST]):
            first = json.loads(store.get(_FIRST))
    if lost and first:
        return PeerFailed(
            f"rank {first['rank']} has ended with exit code {first['code']}, and this one cannot "
            "continue without it: follow its own line",
            first["code"],
        )
    if lost and "Timed out" in text:
        return PeerFailed(
            f"waited {timeout_minutes:g} minutes for another rank: it hangs, is cut off, or needs "
            "longer; give the same command again to resume, perhaps with more --timeout-minutes"
        )
    if lost:
        return PeerFailed(
            "another rank was killed, or the connection to it broke: give the same command again "
            f"to resume ({' '.join(text.split())[:120]})"
        )
    if first and line is not None and first["rank"] != rank and first["line"] == line:
        return SystemExit(code)
    return error


def choose_device(name: str, local_rank: int = 0, *, distributed: bool = False) -> torch.device:
    """Return the device of a name, where it is there.

    Args:
        name: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        local_rank: Number of this process among those of its machine.
        distributed: Whether the ranks share out the GPUs.

    Raises:
        InputError: If the device is unknown or absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "mps":
        raise InputError(
            "Apple's GPUs (mps) are not supported, they lack float64: use --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    index = local_rank if distributed or device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(
            f"device cuda:{index} is not there: torch sees {torch.cuda.device_count()} GPUs; "
            "start fewer processes, or use --device cpu"
        )
    return torch.device("cuda", index)


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over the ranks, in place."""
    if _running():
        dist.all_reduce(values)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """Take the element-wise maximum of a tensor over the ranks, in place."""
    if _running():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Tell every rank whether any of them raised the flag."""
    if not _running():
        return flag
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)).item())


def gather(value: T) -> list[T]:
    """Collect one picklable value of every rank, in rank order, on every rank."""
    if not _running():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """Collect the rows (first dimension) of every rank, in rank order, on every rank."""
    if not _running():
        return rows
    rank, size = dist.get_rank(), dist.get_world_size()
    counts = torch.zeros(size, dtype=torch.int64, device=rows.device)
    counts[rank] = len(rows)
    numbers: list[int] = sum_over_ranks(counts).tolist()
    padded = rows.new_zeros((max(numbers), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size)]
    if max(numbers) > 0:
        dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, numbers, strict=True)])


def broadcast(value: T) -> T:
    """Give every rank the picklable value of rank 0."""
    if not _running():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def from_main(call: Callable[[], T]) -> T:
    """Give every rank what rank 0 alone computes; an InputError of it, every rank raises."""
    if not _running():
        return call()
    values, problem = list[T](), None
    if dist.get_rank() == 0:
        try:
            values = [call()]
        except InputError as error:
            problem = str(error)
    values, problem = broadcast((values, problem))
    if problem is not None:
        raise InputError(problem)
    return values[0]


def gather_by_rank(mine: Tensor) -> list[Tensor]:
    """Collect a tensor of one shape from every rank, in rank order, on every rank."""
    if not _running():
        return [mine]
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return parts


def share(tensors: Iterable[Tensor]) -> None:
    """Give every rank the values of rank 0, in place."""
    if _running():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
