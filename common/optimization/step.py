"""What an optimizer step consists of: forward and backward, clipping, the update."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from common.method.dropout import FocusedDropout
from common.optimization.optimizer import in_memory_order
from common.optimization.precision import LossScaling, autocast
from common.recipe import Optimization


class StepParts:
    """The parts of a step, for a loop to put together.

    Args:
        network: On its device; with several ranks a DistributedDataParallel.
        loss: Means over a batch, as `Task.loss`.
        optimizer: Over the network's parameters, in one group.
        optimization: Precision and clipping.
        device: Of the network.
        scaling: Of the loss, for fp16.
        draw_from: Takes the keys of the images before each forward pass of `whole`, if it is given.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module, Any], dict[str, Tensor]],
        optimizer: Optimizer,
        optimization: Optimization,
        device: torch.device,
        scaling: LossScaling | None = None,
        draw_from: Callable[[Tensor], None] | None = None,
    ) -> None:
        self._network = network
        self._no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext
        if isinstance(network, DistributedDataParallel):
            self._no_sync = network.no_sync
        self._loss, self._optimizer = loss, optimizer
        self._optimization, self._device = optimization, device
        self._scaling, self._draw_from = scaling, draw_from

    def backward(self, batch: Any, weight: float, *, last: bool) -> dict[str, Tensor]:
        """Add the gradient of `weight` times the mean loss; return the means, detached.

        Args:
            batch: A micro-batch.
            weight: Its weight in the step.
            last: Whether it is the step's last: only then do ranks average their gradients.
        """
        with nullcontext() if last else self._no_sync():
            with autocast(self._optimization, self._device):
                means = self._loss(self._network, batch)
            loss = means["loss"] * weight
            (self._scaling.scale(loss) if self._scaling else loss).backward()
        return {name: value.detach() for name, value in means.items()}

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient where the recipe says so; return its norm before, if so.

        Under loss scaling the norm of a step that will be skipped counts as 0.
        """
        if self._optimization.clip_norm is None:
            return {}
        if self._scaling:
            self._scaling.unscale(self._optimizer)
        parameters = self._optimizer.param_groups[0]["params"]
        norm = nn.utils.clip_grad_norm_(parameters, self._optimization.clip_norm)
        return {"gradient_norm": torch.nan_to_num(norm, 0.0, 0.0) if self._scaling else norm}

    def update(self) -> None:
        """Change the weights, unless loss scaling skips the step; leave no gradients."""
        if self._scaling:
            self._scaling.step(self._optimizer)
        else:
            with in_memory_order(self._optimizer):
                self._optimizer.step()
        self._optimizer.zero_grad()

    def changed(self) -> list[Tensor]:
        """Return what a step changes in the network: weights, statistics, counts."""
        modules = self._network.modules()
        totals = [module.totals for module in modules if isinstance(module, FocusedDropout)]
        return [*self._network.parameters(), *self._network.buffers(), *totals]

    def step_for_graph(self, batch: Any) -> dict[str, Tensor]:
        """Run a step of one micro-batch without a look at any value, for a CUDA graph.

        Args:
            batch: The micro-batch; a tuple that begins with the images' keys where they are used.
        """
        if self._draw_from:
            keys, *rest = batch
            self._draw_from(keys)
            batch = tuple(rest)
        means = self.backward(batch, 1.0, last=True) | self.clip()
        self.update()
        return means
