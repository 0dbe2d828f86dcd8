"""The dropouts that the paper compares with: Dropout, SpatialDropout and DropBlock.

Paper: arXiv 2103.15425, section 5. It puts DropBlock after the first two groups of a network, the
others after the last group but one, and states no rate: the recipes' are ours.

DropBlock is not torchvision's: under `torch.compile` that one is recompiled for every rate,
which the linear schedule changes in every step, and in float16 its count of units overflows.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from common.method.controls import InParticipatingSteps
from common.method.placement import insert_layer_after

if TYPE_CHECKING:
    from pretrain.recipes import Dropout


def drop_block(x: Tensor, rate: float, block_size: int) -> Tensor:
    """Zero square blocks, each channel of each image by its own draw, and rescale the rest.

    Ghiasi et al., arXiv 1810.12890, Algorithm 1 and equation 1. Blocks lie wholly inside the map,
    are never larger than it, and may overlap, so somewhat less than `rate` is dropped. What is
    kept is scaled up to the number of units in the batch.

    Args:
        x: Feature maps, floating point, shape (N, C, H, W).
        rate: Share of the units to drop, in [0, 1].
        block_size: Side of a block, units.

    Returns:
        The maps in the shape and dtype of `x`.
    """
    height, width = x.shape[2:]
    size = min(block_size, height, width)
    rows, columns = height - size + 1, width - size + 1  # places of a block's upper left corner
    gamma = rate / size**2 * (height * width) / (rows * columns)
    corners = torch.rand(*x.shape[:2], rows, columns, device=x.device) < gamma
    dropped = F.max_pool2d(F.pad(corners.float(), [size - 1] * 4), size, stride=1)
    kept = 1 - dropped
    return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)


class DropBlock(nn.Module):
    """`drop_block` as a layer; the identity in `eval()`.

    Args:
        p: Share of the units to drop, in [0, 1]; may be changed between steps.
        block_size: Side of a block, units.
    """

    def __init__(self, p: float, block_size: int) -> None:
        super().__init__()
        self.p = p
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        """Drop blocks of `x`, shape (N, C, H, W), in training."""
        if x.ndim != 4:
            raise ValueError(f"DropBlock needs maps of shape (N, C, H, W), not {tuple(x.shape)}")
        if not self.training or self.p == 0:
            return x
        return drop_block(x, self.p, self.block_size)

    def extra_repr(self) -> str:
        """Name the settings in `print(model)`."""
        return f"p={self.p}, block_size={self.block_size}"


def place_dropouts(network: nn.Module, settings: "Dropout") -> list[nn.Module]:
    """Place the recipe's dropout after the submodules it names; state dict keys stay as they are.

    Args:
        network: A network of `pretrain.networks`.
        settings: Which dropout, after which submodules, in which steps.

    Returns:
        The layers, for `set_progress`; none for the kind "none".

    Raises:
        InputError: If the network has no such submodule, or one is named twice.
    """
    layers = []
    for name in settings.after:
        layer = _layer(settings)
        placed = InParticipatingSteps(layer) if settings.steps == "participating" else layer
        try:
            insert_layer_after(network, name, placed, "dropout")
        except ValueError as error:
            raise InputError(f"--dropout.after {name}: {error}") from error
        layers.append(layer)
    set_progress(layers, settings, done=0)
    return layers


def _layer(settings: "Dropout") -> nn.Module:
    if settings.kind == "dropout":
        return nn.Dropout(settings.rate)
    if settings.kind == "spatial-dropout":
        return nn.Dropout2d(settings.rate)
    return DropBlock(settings.rate, settings.block_size)


def set_progress(layers: Iterable[nn.Module], settings: "Dropout", done: float) -> None:
    """Set DropBlock's rate to its linear schedule: 0 at first, the full rate at the end.

    Args:
        layers: What `place_dropouts` returned.
        settings: The same settings.
        done: Share of the training's steps that are done, in [0, 1].
    """
    if settings.linear:
        for layer in layers:
            if isinstance(layer, DropBlock):
                layer.p = settings.rate * done
