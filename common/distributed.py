"""One process or many: start, sums, gathers. Every function is a no-op for a single process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from common.errors import InputError

T = TypeVar("T")
_PROBLEM = "focused-dropout: input error"


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
def start(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun (or any launcher that sets its variables) started.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        InputError: If the device is unknown or absent; and on every rank what one of them raises
            inside, since the others then fail in what they do together.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")), distributed=size > 1)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(place)
        return
    store, _, _ = next(rendezvous("env://"))
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield World(place, rank, size)
    except InputError as error:
        store.set(_PROBLEM, str(error))
        raise
    except RuntimeError as error:
        if not store.check([_PROBLEM]):
            raise
        raise InputError(store.get(_PROBLEM).decode()) from error
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int, *, distributed: bool) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from None
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


def share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0, such as BatchNorm statistics, before an evaluation."""
    if _running():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
