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


class _NormedConv2d(nn.Conv2d):
    """A convolution that applies the frozen BatchNorm behind it."""

    def __init__(self, convolution: nn.Conv2d, norm: _FoldedNorm) -> None:
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
        same: dict[str, Any] = {name: getattr(convolution, name) for name in names.split()}
        super().__init__(**same, bias=False, device="meta")  # draws no random weights
        self.weight = convolution.weight
        self._norm = (norm,)  # in a tuple: it is a submodule of the network behind this one

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
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        y: Tensor = self._conv_forward(x, self.weight * scale[:, None, None, None], shift)
        return y


def freeze_norms(network: nn.Module) -> None:
    """Freeze each BatchNorm2d whose weight takes no gradient; its numbers stay as they are.

    A frozen one has no mode: `train()` neither reaches its statistics nor uses those of a batch.

    Args:
        network: Holds each BatchNorm2d next behind a convolution without bias, as ResNets do.

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
    """Turn every convolution into a plain one, in place, frozen BatchNorm taken into its numbers.

    For graphs, whose operations do not depend on sizes. The network cannot be trained as before.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _FoldedNorm):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Conv2d) and type(child) is not nn.Conv2d:
                setattr(parent, name, _plain(child))
    return network


def _plain(convolution: nn.Conv2d) -> nn.Conv2d:
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    same: dict[str, Any] = {name: getattr(convolution, name) for name in names.split()}
    weight, bias = convolution.weight, convolution.bias
    if isinstance(convolution, _NormedConv2d):
        (norm,) = convolution._norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = nn.Parameter(weight * scale[:, None, None, None])
        bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    plain = nn.Conv2d(**same, bias=bias is not None, device="meta")
    plain.weight, plain.bias = weight, bias
    return plain
