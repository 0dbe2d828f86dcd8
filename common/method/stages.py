"""Where the stages of a network end, seen by running it once on tensors without values.

Names and the order of registration say little of what a forward pass does: stages stand in lists,
a pooling is used four times, decoders and pyramids stand beside. So the network's own code is run,
on a ghost of it whose tensors hold nothing (device meta): the order of the calls and the sizes of
the maps are the real ones, and no weight, statistic or hook is touched.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_SIDE = 224
"""Pixels of the square image; the size that most networks with a fixed one have."""
_LOWERS = 1.5
"""Two sizes whose ratio is larger are of two stages; smaller: convolutions without padding."""
_TWICE = 3.0
"""A ratio beyond this takes two halvings; odd sizes make one up to 2.5."""
_FEWEST = 48
"""Where the image has so many times the side of the maps, these are a detector's extra levels."""
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


@dataclass(slots=True)
class _Call:
    """One call of a module."""

    name: str
    module: nn.Module
    inputs: set[int] = field(default_factory=set)
    """Sides of the square maps among its arguments, in pixels."""
    outputs: set[int] = field(default_factory=set)
    tokens: bool = False
    """Whether there is a sequence (N, L, C) among its arguments."""
    single: bool = False
    """Whether the output is one tensor (N, C, H, W)."""
    calls: list["_Call"] = field(default_factory=list)

    @property
    def into(self) -> int:
        """The side of its input."""
        return max(self.inputs)

    @property
    def out(self) -> int:
        """The side of its output; 1 where it returns no maps, as a whole classifier does."""
        return min(self.outputs, default=1)

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Yield those that ran in it on more than one place."""
        if isinstance(self.module, nn.Conv2d) and self.outputs != {1}:
            yield self.module
        for call in self.calls:
            yield from call.convolutions()


def last_stage_but_one(model: nn.Module) -> str | None:
    """Find what stands before the last halving of the resolution; None where that is unclear.

    Args:
        model: Any network; its forward is tried with one image batch.

    Returns:
        Dotted name of a submodule that is called once and returns one tensor (N, C, H, W).
    """
    prefix = ""
    while isinstance(model, DataParallel | DistributedDataParallel) or "_orig_mod" in vars(
        model
    ).get("_modules", {}):
        inner = "_orig_mod" if "_orig_mod" in model._modules else "module"
        prefix, model = f"{prefix}{inner}.", model.get_submodule(inner)
    if getattr(model, "output_fmt", "NCHW") != "NCHW":  # timm's mark
        return None
    convolutions = (part for part in model.modules() if isinstance(part, nn.Conv2d))
    first = next(convolutions, None)
    if first is None:
        return None
    # What is registered first need not be called first.
    channels = dict.fromkeys((first.in_channels, 3, 1))
    root = next(
        filter(None, (_run(model, number, first.weight.dtype) for number in channels)), None
    )
    place = _search(root) if root else None
    if root is None or place is None:
        return None
    calls = list(_walk(root))
    once = sum(call.module is place.module for call in calls) == 1
    largest = max(max(call.inputs, default=0) for call in calls)
    return prefix + place.name if once and place.out * _FEWEST > largest else None


def _run(model: nn.Module, channels: int, dtype: torch.dtype) -> _Call | None:
    """Run a network's ghost; None where that fails before the last of its convolutions."""
    stack: list[_Call] = [_Call("", model)]
    root = stack[0]

    def enter(module: nn.Module, arguments: Any, keywords: Any) -> None:
        given = (arguments, keywords)
        tokens = any(tensor.ndim == 3 for tensor in _tensors(given))
        call = _Call(names[module], module, _sides(given), tokens=tokens)
        stack[-1].calls.append(call)
        stack.append(call)

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        call = stack.pop()
        call.outputs = _sides(output)
        call.single = isinstance(output, Tensor) and bool(call.outputs)

    finished = False
    # The code is anybody's: whatever it raises, nothing is known of it then.
    try:
        ghost = _ghost(model, {})
        names = {module: name for name, module in ghost.named_modules()}
        for module in names:
            module.register_forward_pre_hook(enter, with_kwargs=True)
            module.register_forward_hook(leave)
        with torch.no_grad(), torch.device("meta"):
            ghost(torch.empty(2, channels, _SIDE, _SIDE, dtype=dtype))
        finished = True
    except Exception:
        if not root.calls:
            return None
    called = {call.module for call in _walk(root)}
    convolutions = {module for module in names if isinstance(module, nn.Conv2d)}
    # A classifier for another size of image fails behind the maps, which are seen by then.
    whole = finished or convolutions <= called
    return root.calls[0] if whole and root.calls else None


def _ghost(module: nn.Module, ghosts: dict[int, Any]) -> nn.Module:
    """Copy a tree of modules in eval mode, without hooks and with tensors on the meta device."""
    if id(module) in ghosts:
        known: nn.Module = ghosts[id(module)]
        return known
    ghost: nn.Module = object.__new__(type(module))
    ghosts[id(module)] = ghost

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in ghosts:
                ghosts[id(value)] = torch.empty_like(value, device="meta")
            return ghosts[id(value)]
        if isinstance(value, nn.Module):
            return _ghost(value, ghosts)
        if type(value) in (list, tuple):  # a network may hide modules there
            return type(value)(map(copy, value))
        if type(value) is dict:
            return {key: copy(inner) for key, inner in value.items()}
        return value

    state = {name: copy(value) for name, value in vars(module).items() if name not in _HOOKS}
    state |= {name: type(vars(module)[name])() for name in _HOOKS}
    ghost.__dict__.update(state, training=False)
    return ghost


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _sides(value: Any) -> set[int]:
    """Return the sides of the square maps (N, C, H, W) in nested containers."""
    return {
        tensor.shape[2]
        for tensor in _tensors(value)
        if tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3]
    }


def _walk(call: _Call) -> Iterator[_Call]:
    yield call
    for inner in call.calls:
        yield from _walk(inner)


def _search(trunk: _Call) -> _Call | None:
    """Find the call that ends the last stage but one, in a call or in those within."""
    calls = [call for call in trunk.calls if call.inputs and (call.outputs or _convolves(call))]
    if any(call.tokens and not call.inputs for call in trunk.calls):
        return None  # a transformer on what a convolutional stem found
    # What returns several resolutions is the encoder; what follows it is no stage.
    for position, call in enumerate(calls):
        if len(call.inputs) > 1:
            return None
        if len(call.outputs) > 1:
            before_lowers = any(c.into > _LOWERS * c.out for c in calls[:position])
            return None if before_lowers and call.into < _LOWERS * call.out else _search(call)
    last = _last_lowering(calls)
    if last is None:
        return None
    before, call = calls[:last], calls[last]
    between = bool(before) and before[-1].out > _LOWERS * call.into
    if between or (call.into <= _TWICE * call.out and any(map(_convolves, before))):
        place = before[-1] if before else None
        behind = [module for c in calls[last:] for module in c.convolutions()]
        ahead = [module for c in before for module in c.convolutions()]
        # A stage that dilates where it would halve is one all the same.
        dilated = any(map(_dilates, behind)) and not any(map(_dilates, ahead))
        known = place and place.single and any(map(_convolves, before)) and not dilated
        return place if known else None
    return _search(call)


def _last_lowering(calls: list[_Call]) -> int | None:
    """Find the last call that lowers the resolution, or stands behind a lowering, and convolves.

    None too where the maps grow before it: then they come in branches.
    """
    heads = (i for i, call in enumerate(calls) if call.out == 1 and _search(call) is None)
    calls = calls[: next(heads, len(calls))]
    lowering = [
        i
        for i, call in enumerate(calls)
        if call.into > _LOWERS * call.out or (i and calls[i - 1].out > _LOWERS * call.into)
    ]
    last = next((i for i in reversed(lowering) if any(map(_convolves, calls[i:]))), None)
    if last is None:
        return None
    grows = any(
        b.into > _LOWERS * a.out or a.out > _LOWERS * a.into for a, b in pairwise(calls[: last + 1])
    )
    return None if grows else last


def _convolves(call: _Call) -> bool:
    return next(call.convolutions(), None) is not None


def _dilates(convolution: nn.Conv2d) -> bool:
    return max(convolution.dilation) > 1 and max(convolution.kernel_size) > 1
