"""The optimizer of a recipe, and its state from a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
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


_MEMORY_ORDER, _BACK = (0, 2, 3, 1), (0, 3, 1, 2)


@contextmanager
def in_memory_order(optimizer: Optimizer) -> Iterator[None]:
    """Show an optimizer's channels_last tensors on a CPU as plain ones, for the length of a step.

    The CPU's fused kernels walk all tensors as they lie in memory, but first make a contiguous copy
    of each gradient that is not, which they do not use (torch 2.11 to 2.15): half of their time.
    """
    weights = [
        weight
        for group in optimizer.param_groups
        if group.get("fused")
        for weight in group["params"]
        if _has_plain_order(weight)
    ]
    _permute(weights, optimizer, _MEMORY_ORDER)
    try:
        yield
    finally:
        _permute(weights, optimizer, _BACK)


def _has_plain_order(weight: Tensor) -> bool:
    gradient = weight.grad
    return (
        gradient is not None
        and weight.device.type == "cpu"
        and weight.ndim == len(_MEMORY_ORDER)
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
        and gradient.stride() == weight.stride()
    )


def _permute(weights: list[Tensor], optimizer: Optimizer, order: tuple[int, ...]) -> None:
    """Permute weights, gradients and what the optimizer keeps of the same shape, as views."""
    for weight in weights:
        gradient, state = weight.grad, optimizer.state.get(weight, {})
        alike = [name for name, kept in state.items() if _shape(kept) == weight.shape]
        weight.grad = None  # must have the weight's shape at all times
        weight.data = weight.data.permute(order)
        weight.grad = None if gradient is None else gradient.permute(order)
        for name in alike:
            state[name] = state[name].permute(order)


def _shape(value: object) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None
