"""FocusedDropout: the mask, the function and the layer.

Paper: Xie et al., "FocusedDropout for Convolutional Neural Network", arXiv 2103.15425, section 4
and Algorithm 1. Two readings are ours: gamma is drawn once per image (Algorithm 1 can be read as
once per unit: `gamma_per`) from the range that the text gives three times, (0.3, 0.6), not from
Algorithm 1's (0.6, 0.9); and an image whose focused area is empty passes unchanged instead of being
zeroed.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypedDict

import torch
from torch import Tensor, nn

from .arguments import check_choice, check_flag, check_number, gamma_range
from .draws import derived, uniform

Gamma = float | Tensor
GammaPer = Literal["image", "unit", "batch"]

_IDLE_STEPS = 1000
"""After so many training steps a layer that was never active warns."""
_SEEN_ACTIVE = -1


class FocusStatistics(TypedDict):
    """What the layer did since the last reset, over the steps in which it was active."""

    images: int
    unmasked_images: int
    keep_ratio: float | None
    zeros_ratio: float | None


def focus_mask(x: Tensor, gamma: Gamma, opposite: bool = False) -> Tensor:
    """Find the units that FocusedDropout keeps.

    The reference channel of an image is the one with the largest spatial mean (eq. 1-2; of equal
    ones the first). Its focused area holds the places whose value is greater than gamma times the
    channel's maximum (eq. 3-4, Algorithm 1 line 8). Statistics and comparison are float32 whatever
    the input; no gradient flows.

    An empty focused area (a reference maximum <= 0, NaN or Inf) would zero the whole image; such an
    image is kept whole.

    Args:
        x: Feature maps, floating point, shape (N, C, H, W).
        gamma: Share of the reference maximum, in [0, 1): one number, one per image, shape (N,), or
            one per place, shape (N, H, W).
        opposite: Keep the places outside the focused area instead (section 5.2.4, Table 4).

    Returns:
        Boolean mask, shape (N, 1, H, W): one mask for all channels of an image (eq. 5).

    Raises:
        TypeError: If `x` is no floating point tensor, or `gamma` neither a number nor a tensor.
        ValueError: If `x` is not 4-D or has no channel or no place, if `gamma` has another shape,
            or if a number `gamma` lies outside [0, 1).
    """
    return _mask_and_flags(x, gamma, opposite)[0]


def focused_dropout(x: Tensor, gamma: Gamma, opposite: bool = False) -> Tensor:
    """Zero every unit outside the focused area, in all channels (Algorithm 1).

    Kept units are not rescaled (Algorithm 1 line 12), the mask is a constant to the gradient, and
    NaN and Inf stay visible: the mask is multiplied, not written.

    Args:
        x: Feature maps, floating point, shape (N, C, H, W).
        gamma: Share of the reference maximum, as for `focus_mask`.
        opposite: Zero the focused area instead.

    Returns:
        The masked maps in the shape, dtype and memory format of `x`.

    Raises:
        TypeError: As `focus_mask`.
        ValueError: As `focus_mask`.
    """
    return x * focus_mask(x, gamma, opposite)


def _mask_and_flags(
    x: Tensor, gamma: Gamma, opposite: bool, channel: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `focus_mask`, whether an image's focused area was empty, and whether it is signed.

    The reference is the strongest channel unless `channel`, shape (N,), names others. The flags are
    of shape (N,). Signed is an image whose reference channel goes as far below zero as the
    threshold lies above it. Smooth activations (SiLU, GELU, Hardswish) end near -0.3, far from it.
    """
    _check_input(x)
    _check_gamma(gamma, x)
    with torch.no_grad():
        if channel is None:
            # A bfloat16 mean rounds to ties: another channel for about a tenth of the images.
            channel = x.mean(dim=(2, 3), dtype=torch.float32).argmax(dim=1)
        reference = x[torch.arange(x.shape[0], device=x.device), channel].float()
        lowest, peak = reference.flatten(1).aminmax(dim=1)
        ratio = gamma.float() if isinstance(gamma, Tensor) else gamma
        if isinstance(ratio, Tensor) and ratio.ndim == 1:
            ratio = ratio[:, None, None]
        threshold = ratio * peak[:, None, None]
        focused = (reference > threshold)[:, None]
        # Tested on the mask, not on the peak's sign: this covers NaN, Inf and underflow as well.
        empty = ~focused.flatten(1).any(dim=1)
        mask = ~focused if opposite else focused | empty[:, None, None, None]
        return mask, empty, lowest < -threshold[:, 0, 0]  # of several any will do


def _check_input(x: Tensor) -> None:
    if not isinstance(x, Tensor | torch.fx.Proxy):
        raise TypeError(f"FocusedDropout needs a tensor of feature maps, not a {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"FocusedDropout needs floating point feature maps, not {x.dtype}")
    if x.ndim != 4:
        raise ValueError(
            f"FocusedDropout needs feature maps of shape (N, C, H, W), not {tuple(x.shape)}"
        )
    if 0 in x.shape[1:]:
        raise ValueError(
            f"FocusedDropout needs at least one channel and one place, not {tuple(x.shape)}"
        )


def _check_gamma(gamma: Gamma, x: Tensor) -> None:
    if isinstance(gamma, Tensor):
        images, _, height, width = x.shape
        if gamma.shape not in ((), (images,), (images, height, width)):
            raise ValueError(
                f"gamma must be one number, one per image, shape ({images},), or one per place, "
                f"shape ({images}, {height}, {width}), not {tuple(gamma.shape)}"
            )
        return
    check_number("gamma", gamma)
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must lie in [0, 1), not {gamma}: at 1 no unit would be kept")


def _in_function_transform() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # torch.func has no such name


def _is_exported() -> bool:
    # In Dynamo, which cannot warn, torch 2.11 calls every compilation an export.
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def _is_traced(x: object) -> bool:
    return isinstance(x, torch.fx.Proxy) or bool(torch._C._get_tracing_state())


class FocusedDropout(nn.Module):
    """FocusedDropout as a layer; `FocusedTraining` decides in which steps it takes part.

    The layer is the identity in `eval()` and while `active` is false; an exported model has nothing
    of it. It holds no parameters and no buffers: the state dicts of a network with and without it
    are interchangeable. Gamma comes from the default generator of the input's device, whose state
    belongs in a checkpoint (activation checkpointing would redraw from a private one). Where
    `FocusedTraining.draw_from` has set `keys`, gamma is a function of them alone.

    Shape: (N, C, H, W) to the same, any floating dtype and memory format.

    Args:
        gamma: The range of the uniform draw, one draw per image; one number fixes it. The default
            is the paper's (sections 4 and 5.1.1).
        opposite: Zero the focused area instead of the rest (Table 4, "opposite approach").
        signed: The layer stands on signed maps on purpose, as in the paper's pre-activation
            networks: `warn_if_signed` keeps silent.
        gamma_per: Draw a gamma for each "image"; for each "unit", which is each place of an image,
            as Algorithm 1 read literally does; or one for all images of a "batch".

    Attributes:
        active: Whether the next training steps are masked; `FocusedTraining` sets it.

    Raises:
        TypeError: If `gamma` is neither a number nor a pair of them, or a flag is no bool.
        ValueError: If not 0 <= low <= high < 1, or `gamma_per` is none of the three.
    """

    active: bool
    place: str | None = None
    """Name of the submodule that `insert_after` placed the layer behind."""
    keys: Tensor | None = None
    """Keys of the images, int64, shape (N,), from `common.method.draws.image_keys`; None: torch's
    generator draws."""

    def __init__(
        self,
        gamma: float | tuple[float, float] = (0.3, 0.6),
        opposite: bool = False,
        *,
        signed: bool = False,
        gamma_per: GammaPer = "image",
    ) -> None:
        super().__init__()
        check_flag("opposite", opposite, ": a range is a pair, FocusedDropout((low, high))")
        check_flag("signed", signed)
        check_choice("gamma_per", gamma_per, GammaPer)
        self.gamma = gamma_range(gamma)
        self.opposite = opposite
        self.signed = signed
        self.gamma_per = gamma_per
        self.active = False
        self._warned_of_signs = False
        self._hooked = False  # insert_after says so
        self._idle = 0
        # Kept units, units, unmasked images, images, signed images: sums, so that ranks can add
        # theirs up. Not a buffer: buffers are saved and broadcast.
        self.totals = torch.zeros(5, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        """Mask `x`, shape (N, C, H, W), in an active training step; else return `x` itself."""
        if not self.training:
            return x
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if _is_exported() or _is_traced(x):
                self._warn_of_trace()
            if not self.active:
                if not torch.compiler.is_compiling():  # a count would be compiled in
                    self._note_idle()
                return x
            if not torch.compiler.is_compiling():
                self._idle = _SEEN_ACTIVE
            return self._mask(x)
        raise RuntimeError("a scripted FocusedDropout cannot train: script the network in eval()")

    def _mask(self, x: Tensor) -> Tensor:
        low, high = self.gamma
        gamma: Gamma = low
        if high > low:
            gamma = low + (high - low) * self._draw_gamma(x)
        mask, empty, signed = self._find_mask(x, gamma)
        self._count(mask, empty, signed)
        return x * mask

    def _draw_gamma(self, x: Tensor) -> Tensor:
        if self.gamma_per == "image":
            return self._draw(x, 0)
        if self.gamma_per == "unit":
            return self._draw(x, 0, x.shape[2:])
        if self.keys is None:
            return torch.rand((), dtype=torch.float32, device=x.device)
        return self._draw(x, 0)[0]

    def _draw(self, x: Tensor, purpose: int, shape: Sequence[int] | None = None) -> Tensor:
        """Draw for each image of `x` from [0, 1): one number, or as many as `shape` has places.

        Args:
            x: Maps, shape (N, ...).
            purpose: Draws of one purpose do not depend on those of another.
            shape: Of an image's draws; None: one.

        Raises:
            ValueError: If there are keys, but not one for each image.
        """
        if self.keys is None:
            return torch.rand((len(x), *(shape or ())), dtype=torch.float32, device=x.device)
        if self.keys.shape != x.shape[:1]:
            raise ValueError(
                f"FocusedDropout{self._where()} got keys of shape {tuple(self.keys.shape)} for "
                f"{len(x)} images: give draw_from those of the batch, or None"
            )
        keys = derived(self.keys, purpose)
        if shape is None:
            return uniform(keys)
        return uniform(keys, math.prod(shape)).view(len(x), *shape)

    def _find_mask(
        self, x: Tensor, gamma: Gamma, channel: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find a step's mask and flags; controls change this, see `common.method.controls`."""
        return _mask_and_flags(x, gamma, self.opposite, channel)

    @torch.no_grad()
    def _count(self, mask: Tensor, empty: Tensor, signed: Tensor) -> None:
        if not torch.compiler.is_compiling() and _in_function_transform():
            return  # vmap and grad allow no sums outside of them
        if self.totals.device != mask.device:  # built after the network was moved
            self.totals = self.totals.to(mask.device)
        self.totals[0] += mask.sum()
        self.totals[1] += mask.numel()
        self.totals[2] += empty.sum()
        self.totals[3] += mask.shape[0]
        self.totals[4] += signed.sum()

    def statistics(self) -> FocusStatistics:
        """Read the counts since the last reset; waits for the device, so call it once an epoch.

        Returns:
            `keep_ratio`, the share of ones in the masks, and `zeros_ratio`, the share of zeros,
            which is what the paper plots as "keeping_ratio" (section 5.2.2); None before the first
            active step. `unmasked_images` counts images that passed whole for lack of a focused
            area.
        """
        kept, units, unmasked, images, _ = self.totals.tolist()
        keep_ratio = kept / units if units else None
        return {
            "images": images,
            "unmasked_images": unmasked,
            "keep_ratio": keep_ratio,
            "zeros_ratio": None if keep_ratio is None else 1 - keep_ratio,
        }

    def reset_statistics(self) -> None:
        """Reset the counts."""
        self.totals.zero_()

    def warn_if_signed(self, stacklevel: int = 1) -> None:
        """Warn, once, if a map seen since the last reset is not the output of an activation.

        Waits for the device. `FocusedTraining` calls this after its first participating step.

        Args:
            stacklevel: Frames between the caller and the line to blame.

        Warns:
            UserWarning: If a reference channel went below minus the threshold.
        """
        if self.signed or self._warned_of_signs:
            return
        images, signed = self.totals[3:].tolist()
        if signed:
            self._warned_of_signs = True
            warnings.warn(
                f"FocusedDropout{self._where()} meets signed maps ({signed} of {images} images): "
                "it drops negative units however large; place it behind the activation, or, if it "
                "is meant so, build it with signed=True",
                stacklevel=stacklevel + 1,
            )

    def _note_idle(self) -> None:
        """Warn, once, of a layer that nobody switches on; `FocusedTraining.step` sets the count."""
        if self._idle == _SEEN_ACTIVE:
            return
        self._idle += 1
        if self._idle == _IDLE_STEPS:
            warnings.warn(
                f"FocusedDropout{self._where()} was never active in {_IDLE_STEPS:,} training "
                "steps: run them in `with focus.step(step)` of a FocusedTraining of this very "
                "network (a copy has other layers), or call remove_focused_dropout",
                stacklevel=2,
            )

    def _warn_of_trace(self) -> None:
        state = "on" if self.active else "off"
        warnings.warn(
            f"a trace of a training network keeps FocusedDropout{self._where()} {state} for good: "
            "trace in eval(), or trace first and then insert_after",
            stacklevel=2,
        )

    def _where(self) -> str:
        return "" if self.place is None else f" after {self.place!r}"

    def __prepare_scriptable__(self) -> Self:
        """Refuse what `torch.jit.script` cannot compile; it calls this on every module."""
        if self._hooked:
            raise RuntimeError(
                f"torch.jit.script cannot compile the hook of FocusedDropout{self._where()}: "
                "call remove_focused_dropout(network) first, or use torch.jit.trace in eval()"
            )
        return self

    def extra_repr(self) -> str:
        """Name what distinguishes this layer from others in `print(model)`."""
        low, high = self.gamma
        signed = ", signed=True" if self.signed else ""
        per = "" if self.gamma_per == "image" else f", gamma_per={self.gamma_per!r}"
        return f"gamma=({low}, {high}), opposite={self.opposite}{signed}{per}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the counts where `to()` and its kin move the network."""
        self.totals = fn(self.totals)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> Tensor:
        """Hook the forward pass. A bound method: a deep copy of the network hooks its own layer."""
        if not isinstance(output, Tensor):  # raised in the first step, not in the first active one
            raise TypeError(
                f"FocusedDropout needs one tensor, not {type(output).__name__}: it cannot follow "
                f"a {type(module).__name__}"
            )
        masked: Tensor = self(output)
        return masked
