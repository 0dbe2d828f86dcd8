"""Controls, which the paper lacks: which part of the method makes the difference?

`ControlDropout` leaves one part of the mask to chance; if the result is as good, that part was not
what helped. `InParticipatingSteps` gives another dropout what FocusedDropout has besides its mask:
the few steps, and their magnified decay. A ControlDropout draws from where its gamma comes from;
the other dropouts draw from the default generator.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .arguments import check_choice, check_module
from .dropout import FocusedDropout, Gamma, GammaPer

Reference = Literal["strongest", "random"]
Places = Literal["focused", "shuffled"]


class ControlDropout(FocusedDropout):
    """FocusedDropout with its reference channel, its places or both drawn at random.

    Args:
        gamma: As FocusedDropout.
        opposite: As FocusedDropout.
        signed: As FocusedDropout.
        gamma_per: As FocusedDropout.
        reference: "random": each image's reference is drawn from its channels that have a positive
            value, since any other would let the image pass whole.
        places: "shuffled": each image keeps as many places as its mask has, drawn at random.

    Raises:
        ValueError: As FocusedDropout, or if `reference` or `places` is no such word.
    """

    def __init__(
        self,
        gamma: float | tuple[float, float] = (0.3, 0.6),
        opposite: bool = False,
        *,
        signed: bool = False,
        gamma_per: GammaPer = "image",
        reference: Reference = "strongest",
        places: Places = "focused",
    ) -> None:
        super().__init__(gamma, opposite, signed=signed, gamma_per=gamma_per)
        check_choice("reference", reference, Reference)
        check_choice("places", places, Places)
        self.reference = reference
        self.places = places

    @torch.no_grad()
    def _find_mask(
        self, x: Tensor, gamma: Gamma, channel: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.reference == "random":
            draw = self._draw(x, 1, x.shape[1:2])
            channel = torch.where(x.amax(dim=(2, 3)) > 0, draw, -math.inf).argmax(dim=1)
        mask, empty, signed = super()._find_mask(x, gamma, channel)
        if self.places == "shuffled":
            flat = mask.flatten(1)
            order = self._draw(x, 2, flat.shape[1:]).argsort(dim=1, stable=True)
            mask = flat.gather(1, order).view_as(mask)
        return mask, empty, signed

    def extra_repr(self) -> str:
        """Name what distinguishes this layer from others in `print(model)`."""
        return f"{super().extra_repr()}, reference={self.reference!r}, places={self.places!r}"


class InParticipatingSteps(nn.Module):
    """Any layer, on in the steps that take part and the identity in all others.

    `FocusedTraining` switches it as it does FocusedDropout, and also where the decay alone is
    magnified: this layer is then what is compared.

    Args:
        layer: Maps a tensor to one of its shape.

    Raises:
        TypeError: If `layer` is no module.
    """

    active: bool

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        check_module("layer", layer)
        self.layer = layer
        self.active = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x` in a participating step; else return `x` itself."""
        if not self.active:
            return x
        out: Tensor = self.layer(x)
        return out
