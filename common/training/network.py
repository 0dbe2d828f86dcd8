"""A network made ready: with its layer, on its device, compiled, over several ranks."""

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from common.method.controls import ControlDropout, InParticipatingSteps
from common.method.dropout import FocusedDropout
from common.method.placement import insert_after
from common.optimization.parts import in_order
from common.processes.ranks import World, share
from common.recipe import Focus, Optimization


def insert_layer(network: nn.Module, focus: Focus) -> str | None:
    """Insert the recipe's layer, if it has one.

    Returns:
        Name of the submodule that it stands behind, "penultimate" resolved.

    Raises:
        InputError: If the network has no such submodule.
    """
    if focus.after is None:
        return None
    try:
        layer = _layer(focus)
        insert_after(network, focus.after, layer)
        return layer.place
    except ValueError as error:
        raise InputError(f"--focus.after {focus.after}: {error}") from error


def _layer(focus: Focus) -> FocusedDropout:
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


def try_layers(network: nn.Module, size: int, flags: str) -> None:
    """Send two images through a copy with its layers on: a bad place shows now, not at step 13.

    Args:
        network: On the CPU.
        size: Side of the images, pixels.
        flags: What the user gave to place the layers; "": nothing.

    Raises:
        InputError: If a layer cannot stand where it does.
    """
    copy = deepcopy(network)
    for module in copy.modules():
        if isinstance(module, FocusedDropout | InParticipatingSteps):
            module.active = True
    try:
        with torch.no_grad():
            copy(torch.zeros(2, 3, size, size))
    except (TypeError, ValueError) as error:
        if flags:
            raise InputError(f"{flags}: {error}") from error
        raise


def takes_single_images(network: nn.Module, size: int) -> bool:
    """Tell whether a network can be trained on one image at a time.

    BatchNorm cannot where the maps have shrunk to one pixel: it has no variance over one value.

    Args:
        network: On the CPU.
        size: Side of the images, pixels.
    """
    try:
        with torch.no_grad():
            deepcopy(network).train()(torch.zeros(1, 3, size, size))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True


def move_network(network: nn.Module, optimization: Optimization, device: torch.device) -> None:
    """Put a network on its device, in its memory format."""
    network.to(device)
    if optimization.channels_last:
        network.to(memory_format=torch.channels_last)


def prepare(network: nn.Module, optimization: Optimization, device: torch.device) -> None:
    """Put a network where it is trained, compiled if the recipe says so."""
    move_network(network, optimization, device)
    if optimization.compile:
        compile_network(network)


def compile_network(network: nn.Module) -> None:
    """Compile a network in place.

    One that knows which of its parts are worth it has a method `compile_parts`. Of any other, whose
    images have one size, there is one graph for each kind of step and size of batch: left to
    itself, torch.compile makes the graph of a second size of batch one for all sizes, and from then
    on uses it, though it is slower, for the first size as well.
    """
    compile_parts = getattr(network, "compile_parts", None)
    if compile_parts is None:
        network.compile(dynamic=False)
    else:
        compile_parts()


def eager_if(short: bool) -> AbstractContextManager[Any]:
    """Run compiled code as it is written, for a batch too rare to be worth a graph of its own."""
    return torch.compiler.set_stance("force_eager") if short else nullcontext()


def over_ranks(network: nn.Module, world: World) -> nn.Module:
    """Return the network with gradients that are averaged over the ranks.

    Itself for one rank, and where `OrderedGradients` sums over the ranks.
    """
    if world.size == 1:
        return network
    if in_order(world):
        share(parameter.detach() for parameter in network.parameters())
        share(network.buffers())
        return network
    wrapped = DistributedDataParallel(
        network,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )
    # Else rank 0's BatchNorm overwrites the others', which `PartStatistics` takes in.
    # Not by the argument: versions of torch call it differently.
    wrapped.broadcast_buffers = False
    return wrapped
