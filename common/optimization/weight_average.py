"""An exponential moving average (EMA) of the weights, which is evaluated in their place."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of a network's weights over its steps.

    It starts at the weights of the start: average = decay * average + (1 - decay) * weights after
    each step. Over the first steps the decay rises, min(decay, (1 + t) / (10 + t)), as in
    TensorFlow's ExponentialMovingAverage: else the random weights of the start would weigh as much
    as 1 / (1 - decay) steps.

    BatchNorm's statistics are averaged as well, since those of the moment belong to other weights.
    `torch.optim.swa_utils.AveragedModel` does the same, but copies or averages each count of
    batches in a kernel of its own at each step.

    Args:
        model: The network, on its device; its tensors must stay the same ones.
        decay: Above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._average = deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._averages, self._values = _floating(self._average), _floating(model)

    def update(self, step: int) -> None:
        """Take the weights after step `step`, counted from 0, into the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._values, None)

    def network(self) -> nn.Module:
        """Return the network with the averaged weights, in eval mode; not to be trained."""
        for mine, theirs in zip(self._average.buffers(), self._model.buffers(), strict=True):
            if not theirs.is_floating_point():  # counts
                mine.copy_(theirs)
        return self._average

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from the state dict of `network`."""
        self._average.load_state_dict(state)


def _floating(model: nn.Module) -> list[Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    return [tensor.detach() for tensor in tensors if torch.is_floating_point(tensor)]
