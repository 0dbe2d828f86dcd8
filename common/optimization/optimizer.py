"""The optimizer of a recipe, and its state from a checkpoint."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from common.recipe import Optimization


def build_optimizer(model: nn.Module, optimization: Optimization) -> Optimizer:
    """Build the optimizer over all trainable parameters, in one group, with fused kernels."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Fused SGD leaves its momentum undefined when loss scaling skips the first step.
    fused = optimization.precision != "fp16"
    if optimization.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=optimization.lr, weight_decay=optimization.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters,
        lr=optimization.lr,
        momentum=optimization.momentum,
        nesterov=optimization.nesterov,
        weight_decay=optimization.weight_decay,
        fused=fused,
    )


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, such as momentum, and the rate of its last step.

    The rest stays as this one was built: `load_state_dict` alone would bring back the other's
    weight decay and momentum factor, and its memory format, too.
    """
    loaded = ("params", "lr")
    built = [{k: v for k, v in g.items() if k not in loaded} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, built, strict=True):
        group.update(settings)
    # Fused kernels walk weight and state in the order of memory: they must be laid out alike.
    for parameter, tensors in optimizer.state.items():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.shape == parameter.shape:
                tensors[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
