"""Frozen BatchNorm that costs little: folded into the convolution before it.

torchvision's FrozenBatchNorm2d goes twice over every feature map, and its float32 buffers turn
bfloat16 maps into float32 ones. State dict keys stay as they are.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class _FoldedNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision is not typed
    """Statistics and affine of a frozen BatchNorm, which the convolution before it applies."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the scale and the shift (C,) that it stands for."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def _settings(convolution: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments that a convolution was built with, except its bias."""
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    return {name: getattr(convolution, name) for name in names.split()}


class _NormedConv2d(nn.Conv2d):
    """A convolution that applies the frozen BatchNorm after it."""

    def __init__(self, convolution: nn.Conv2d, norm: _FoldedNorm) -> None:
        super().__init__(**_settings(convolution), bias=False, device="meta")  # draws no weights
        self.weight = convolution.weight
        self._norm = (norm,)  # in a tuple, so that it stays a submodule of the network alone

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self._norm
        down, right = self.stride
        places = len(x) * (x.shape[-2] // down) * (x.shape[-1] // right)
        if places < self.weight[0].numel():  # then the maps are smaller than the weights
            return F.batch_norm(
                self._conv_forward(x, self.weight, None),
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                eps=norm.eps,
            )
        scale, shift = norm.scale_and_shift()
        y: Tensor = self._conv_forward(x, self.weight * scale[:, None, None, None], shift)
        return y


def freeze_norms(network: nn.Module) -> None:
    """Freeze each BatchNorm2d whose weight takes no gradient; its numbers stay as they are.

    A frozen one has no mode: `train()` neither reaches its statistics nor uses those of a batch.

    Args:
        network: Holds each BatchNorm2d right after a convolution without bias, as ResNets do.

    Raises:
        TypeError: If one to be frozen stands elsewhere.
    """
    for parent in list(network.modules()):
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not child.weight.requires_grad:
                if before is None:
                    raise TypeError(f"{name} does not follow a convolution without bias")
                norm = _FoldedNorm(child.num_features, child.eps).to(child.weight)
                norm.load_state_dict(child.state_dict())
                setattr(parent, before[0], _NormedConv2d(before[1], norm))
                setattr(parent, name, norm)
            before = None
            if isinstance(child, nn.Conv2d) and child.bias is None:
                before = name, child


def without_frozen_norms(network: nn.Module) -> nn.Module:
    """Turn every convolution into a plain one, in place, with frozen BatchNorm folded into it.

    For exported graphs, whose operations cannot depend on sizes as ours do. What comes out is not
    to be trained.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _FoldedNorm):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Conv2d) and type(child) is not nn.Conv2d:
                setattr(parent, name, _plain(child))
    return network


def _plain(convolution: nn.Conv2d) -> nn.Conv2d:
    weight, bias = convolution.weight, convolution.bias
    if isinstance(convolution, _NormedConv2d):
        (norm,) = convolution._norm
        scale, shift = norm.scale_and_shift()
        weight = nn.Parameter(weight * scale[:, None, None, None])
        bias = nn.Parameter(shift)
    plain = nn.Conv2d(**_settings(convolution), bias=bias is not None, device="meta")
    plain.weight, plain.bias = weight, bias
    return plain
