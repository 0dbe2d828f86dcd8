"""Where a FocusedDropout stands in a network: placing it by name or by stage, and removing it.

Paper: arXiv 2103.15425, section 5: the layer follows the "output of penultimate group". A group is
a stage of constant resolution.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from .arguments import check_module
from .dropout import FocusedDropout
from .stages import last_stage_but_one

PENULTIMATE = "penultimate"
_SHOWN = 40
"""At most this many names are listed in a message."""


def insert_after(model: nn.Module, name: str, layer: FocusedDropout) -> None:
    """Let `layer` act on the output of the submodule `name`; state dict keys stay as they are.

    Afterwards `model.modules()` finds the layer, and deep copies, pickles, `train()`, `to()` and
    wrappers carry it along. In a `Sequential` it becomes the last member, elsewhere it is called by
    a forward hook.

    Args:
        model: Any network.
        name: Dotted name of a submodule with one tensor (N, C, H, W) as output, such as "layer3";
            or "penultimate", for the one that `penultimate_stage` finds.
        layer: The layer to place; each place needs a layer of its own.

    Raises:
        TypeError: If `model` is no module, `name` no text, or `layer` no FocusedDropout.
        ValueError: If there is no submodule `name` (the message lists the names), if it is followed
            by a FocusedDropout already, if `layer` stands in the model already, if `name` and all
            modules around it are containers that call whatever they hold, or as
            `penultimate_stage`.
    """
    check_module("model", model)
    if not isinstance(name, str):
        raise TypeError(
            'name must be the dotted name of a submodule, such as "layer3", not a '
            f"{type(name).__name__}"
        )
    given: object = layer
    if not isinstance(given, FocusedDropout):
        what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        raise TypeError(f"insert_after places a layer such as FocusedDropout(), not {what}")
    if name == PENULTIMATE and name not in dict(model.named_modules()):
        name = penultimate_stage(model)
    owner, label = _find_place(model, name, "focused_dropout")
    if any(module is layer for module in model.modules()):
        raise ValueError("this FocusedDropout is in the model already; build one for each place")
    if label in owner._modules:
        raise ValueError(f"a FocusedDropout follows {name!r} already")
    owner.add_module(label, layer)
    layer.place = name
    if not _calls_members_in_turn(owner):
        model.get_submodule(name).register_forward_hook(layer._after)
        layer._hooked = True


def insert_layer_after(model: nn.Module, name: str, layer: nn.Module, label: str) -> None:
    """Let any layer act on the output of a submodule, as `insert_after` does FocusedDropout.

    Args:
        model: Any network.
        name: Dotted name of a submodule with one tensor as output.
        layer: Maps that tensor to another. Without parameters, state dict keys stay as they are.
        label: What the layer is called in the module that holds it.

    Raises:
        ValueError: If there is no submodule `name` (the message lists the names), if a layer of
            that label follows it already, or if nothing can hold the layer.
    """
    owner, label = _find_place(model, name, label)
    if label in owner._modules:
        raise ValueError(f"a layer follows {name!r} already: name each place once")
    owner.add_module(label, layer)
    if not _calls_members_in_turn(owner):
        # Not a closure: a deep copy of the network must call its own copy of the layer.
        model.get_submodule(name).register_forward_hook(partial(_call_on_output, layer))


def _call_on_output(layer: nn.Module, module: nn.Module, inputs: Any, output: Any) -> Tensor:
    out: Tensor = layer(output)
    return out


def _find_place(model: nn.Module, name: str, label: str) -> tuple[nn.Module, str]:
    """Find the module to hold a layer behind `name`, and what to call the layer there."""
    modules = dict(model.named_modules())
    target = modules.get(name)
    if target is None or not name:
        raise ValueError(f"the model has no submodule {name!r}; it has {_names(model)}")
    owner = _owner(modules, name)
    return owner, label if owner is target else f"{label}_{name.replace('.', '_')}"


def remove_focused_dropout(model: nn.Module) -> None:
    """Take out every layer that `insert_after` placed, with its hook; a second call does nothing.

    The network is then what it was: the same modules, state dict and outputs. A layer that the
    network's own code holds stays, since that code calls it. Remove before `torch.compile`.

    Raises:
        TypeError: If `model` is no module.
    """
    check_module("model", model)
    for module in list(model.modules()):
        for label, layer in list(module._modules.items()):
            if isinstance(layer, FocusedDropout) and layer.place is not None:
                del module._modules[label]
                layer.place, layer._hooked = None, False
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(getattr(hook, "__self__", None), FocusedDropout):
                del module._forward_hooks[key]


def penultimate_stage(model: nn.Module) -> str:
    """Find the last stage but one of a convolutional network: what stands before its last halving.

    The rule: among the calls of the network's trunk, take the last one that lowers the resolution
    and has a convolution in it or behind it; the stage ends with the call before that one. So it is
    layer3 of a ResNet, denseblock3 of a DenseNet (before the transition, whose pooling begins the
    last stage), and the ReLU before the fourth pooling of a VGG (the fifth has no convolution
    behind it). Of an encoder with a decoder or a pyramid behind it the encoder's stages count.

    The network's forward is run once on an image without values, see `common.method.stages`;
    weights, statistics and hooks stay as they are.

    Args:
        model: A network that takes one batch of images.

    Returns:
        The dotted name of the submodule.

    Raises:
        TypeError: If `model` is no module.
        ValueError: If that is unclear: there is no such call, the maps are not (N, C, H, W), or
            come in branches, or the last stage is dilated, or the forward does not run.
    """
    check_module("model", model)
    name = last_stage_but_one(model)
    if name is None:
        raise ValueError(
            f"cannot tell the penultimate stage of a {type(model).__name__}: give the name of a "
            f"submodule with an output (N, C, H, W); it has {_names(model)}"
        )
    return name


def _calls_members_in_turn(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _owner(modules: dict[str, nn.Module], name: str) -> nn.Module:
    """Find the module to hold the layer: one that does not call its members by itself."""
    target = modules[name]
    if _calls_members_in_turn(target):
        return target
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):
        module = modules[".".join(parts[:depth])]
        if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return module
    raise ValueError(f"cannot follow {name!r}: give the name of a Sequential or of a plain module")


def _names(model: nn.Module) -> str:
    """List the submodules a user may mean: level by level, as far as the list stays readable."""
    modules = dict(model.named_modules())
    names = [name for name in modules if name and _may_be_meant(modules, name)]
    depth = 1
    while depth < 6 and sum(name.count(".") <= depth for name in names) <= _SHOWN:
        depth += 1
    near = [name for name in names if name.count(".") < max(depth, 2)]
    shown = ", ".join(near[:_SHOWN])
    more = len(names) - len(near[:_SHOWN])
    return shown + (f", ... ({more} more)" if more else "")


def _may_be_meant(modules: dict[str, nn.Module], name: str) -> bool:
    """Return whether a module holds a convolution, or stands in a sequence, perhaps behind one."""
    convolves = any(isinstance(part, nn.Conv2d) for part in modules[name].modules())
    return convolves or _calls_members_in_turn(modules[name.rpartition(".")[0]])
