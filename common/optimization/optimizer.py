"""From the settings of a recipe to torch objects."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from common.errors import InputError
from common.method.controls import ControlDropout
from common.method.dropout import FocusedDropout
from common.method.placement import insert_after
from common.recipe import Focus, Optimization


def build_optimizer(model: nn.Module, settings: Optimization) -> Optimizer:
    """Build the optimizer over all trainable parameters, in one group, with fused kernels."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Fused SGD leaves its momentum undefined when loss scaling skips the first step.
    fused = settings.precision != "fp16"
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
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


def autocast(settings: Optimization, device: torch.device) -> AbstractContextManager[Any]:
    """Return the precision context of a recipe on a device."""
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if precision == "fp32":
        return nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    # A captured step casts its weights anew; a cast kept from outside would be an old weight.
    return torch.autocast(device.type, dtype, cache_enabled=not settings.cuda_graphs)


def compile_network(network: nn.Module) -> None:
    """Compile a network for images of one size: one graph for each kind of step and size of batch.

    Left to itself, torch.compile makes the graph of a second size of batch one for all sizes, and
    from then on uses it, though it is slower, for the first size as well.
    """
    network.compile(dynamic=False)


def eager_if(short: bool) -> AbstractContextManager[Any]:
    """Run compiled code as it is written, for a batch too rare to be worth a graph of its own."""
    return torch.compiler.set_stance("force_eager") if short else nullcontext()


def place_focused_dropout(model: nn.Module, focus: Focus) -> None:
    """Insert the recipe's layer, if it has one.

    Raises:
        InputError: If the network has no such submodule.
    """
    if focus.after is None:
        return
    try:
        insert_after(model, focus.after, _focused_dropout(focus))
    except ValueError as error:
        raise InputError(f"--focus.after {focus.after}: {error}") from error


def _focused_dropout(focus: Focus) -> FocusedDropout:
    # The paper's DenseNet and WRN have signed maps there; a run reports its unmasked images.
    if (focus.reference, focus.places) == ("strongest", "focused"):
        return FocusedDropout(focus.gamma, focus.opposite, signed=True, gamma_per=focus.gamma_per)
    return ControlDropout(
        focus.gamma,
        focus.opposite,
        signed=True,
        gamma_per=focus.gamma_per,
        reference=focus.reference,
        places=focus.places,
    )
