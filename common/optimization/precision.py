"""In which precision a network computes: autocast, and loss scaling for fp16."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from common.recipe import Optimization

MOST_SKIPS_IN_A_ROW = 20
"""From its start at 2^16 the scale has then come down to 1/16: it is not to blame any more."""


def autocast(optimization: Optimization, device: torch.device) -> AbstractContextManager[Any]:
    """Return the precision context of a recipe on a device."""
    precision = optimization.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if precision == "fp32":
        return nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    # A captured step casts its weights anew; a cast kept from outside would be an old weight.
    return torch.autocast(device.type, dtype, cache_enabled=not optimization.cuda_graphs)


class LossScaling:
    """torch's GradScaler, with a count of the steps that it skips; for fp16.

    The smallest numbers of fp16 are too large for many gradients, so the loss is multiplied first.
    Ranks skip the same steps: an infinity in the gradient of one is one in the mean of all.
    """

    def __init__(self, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type)
        self._skips = self._streak = 0

    @property
    def failed(self) -> bool:
        """Whether more steps in a row were skipped than a search for the scale explains."""
        return self._streak > MOST_SKIPS_IN_A_ROW

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to go backward from."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, before something looks at them."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Change the weights, or skip the step where a gradient is NaN or infinite."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        skipped = self._scaler.get_scale() < before
        self._skips += skipped
        self._streak = self._streak + 1 if skipped else 0

    def end_epoch(self) -> int:
        """Return the number of skipped steps since the last call."""
        skips, self._skips = self._skips, 0
        return skips

    def state(self) -> dict[str, Any]:
        """Return scale and counts, plain values for a checkpoint."""
        counts = {"skips": self._skips, "streak": self._streak}
        return counts | {"scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self._skips, self._streak = state["skips"], state["streak"]
        self._scaler.load_state_dict(state["scaler"])
