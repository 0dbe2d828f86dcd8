"""Batches on their way to a GPU, beside the work on the batches before."""

from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


def transferred(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on a device; to a GPU they are copied on a stream of their own.

    In the stream of the steps a copy would wait for all steps that are queued, and the next step
    for the copy. On a CPU they stay as they are.

    Args:
        batches: In pinned memory where they go to a GPU; from elsewhere a copy waits.
        device: Where they go.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(stream)
        for tensor in moved:
            tensor.record_stream(steps)  # or the next copy could overwrite what a step still reads
        yield cast(Batch, moved)
