"""Adding up the parts of a step, which are its micro-batches on all ranks.

Gradients add up and BatchNorm's running statistics are averaged, so that one process that
accumulates and several that do not reach the same weights. Rank r has the parts r, r + ranks and so
on: the parts that all ranks do at one time are consecutive, so sums can be taken in the order of
the parts, whatever the number of ranks. Then they are equal to the bit.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.processes.ranks import World, gather_by_rank, sum_over_ranks

_BUCKET = 2**23
"""Numbers that travel at once: 32 MB in float32, from each rank."""


def in_order(world: World) -> bool:
    """Tell whether sums over ranks are taken in the order of the parts, as `--deterministic` asks.

    All-reduce adds up in an order of its own, which depends on the number of ranks.
    """
    return world.size > 1 and torch.are_deterministic_algorithms_enabled()


class OrderedGradients:
    """The gradients of a step, summed in the order of its parts.

    Args:
        parameters: Of the network, which no DistributedDataParallel wraps; all ranks use the same
            ones in every step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sums: list[Tensor] = []

    def add(self) -> None:
        """Take in the gradients of the part that each rank has just finished, and clear them."""
        for number, bucket in enumerate(_buckets(self._used())):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            for part in gather_by_rank(flat):
                if number == len(self._sums):
                    self._sums.append(part.clone())
                else:
                    self._sums[number] += part
        for gradient in self._used():
            gradient.zero_()

    def finish(self) -> None:
        """Put the sums in the gradients' place."""
        for total, bucket in zip(self._sums, _buckets(self._used()), strict=True):
            parts = total.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))
        self._sums = []

    def _used(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a list of tensors into runs of about `_BUCKET` numbers and of one type."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(one.numel() for one in bucket) + tensor.numel()
        if bucket and (size > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


class PartStatistics:
    """BatchNorm's running statistics over a step: one update by the mean of its parts.

    Each part is normalised by the mean and variance of itself alone, and would take them into
    running statistics. These estimate the statistics of a part, so the mean over the parts, of the
    variances too, estimates the same from more images, as timm's `distribute_bn` does. The variance
    between the parts' means is left out: a step of one part has no such term, and the running means
    scatter by the choice of images more than the population differs.

    After each step, not before a save alone: taking the mean commutes with the running averages
    only up to rounding, and when a run saves must not change a bit of it.

    Args:
        model: The network, before the first part.
        world: This process among its peers.
        accumulate: Parts of each rank.
    """

    def __init__(self, model: nn.Module, world: World, accumulate: int) -> None:
        self._parts = world.size * accumulate
        self._ordered = in_order(world)
        self._total: Tensor | None = None
        self._running: list[Tensor] = []
        if self._parts == 1:
            return
        norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        ]
        for norm in norms:
            self._running += [norm.get_buffer("running_mean"), norm.get_buffer("running_var")]
        self._kept = [*self._running, *(n.get_buffer("num_batches_tracked") for n in norms)]
        self._before = [tensor.clone() for tensor in self._kept] if accumulate > 1 else []

    def begin_part(self) -> None:
        """Let the next part find the statistics of before the step."""
        if self._total is not None:
            torch._foreach_copy_(self._kept, self._before)

    def end_part(self) -> None:
        """Add the statistics as this part has left them."""
        if not self._running:
            return
        mine = torch.cat(self._running)
        for part in gather_by_rank(mine) if self._ordered else (mine,):
            self._total = part.clone() if self._total is None else self._total + part

    def finish(self) -> None:
        """Set the statistics to the mean over the parts."""
        if self._total is None:
            return
        total = self._total if self._ordered else sum_over_ranks(self._total)
        sizes = [len(values) for values in self._running]
        torch._foreach_copy_(self._running, (total / self._parts).split(sizes))
