"""The classifiers: torchvision's ResNets, and the small-image networks of the paper.

Every network has its groups (`GROUPS`) as attributes, then `avgpool`, which sees the final feature
maps, and `fc`, its only linear layer. A group is an `nn.Sequential`, a stage of one resolution.
The small-image networks take images of 32 pixels and more: their first layers keep the resolution,
and the pooling is global.
"""

from collections.abc import Callable

import torchvision.models as models
from torch import nn

from common.errors import InputError
from pretrain.networks.cifar_resnet import cifar_resnet
from pretrain.networks.densenet import densenet100_bc
from pretrain.networks.vgg import Vgg19
from pretrain.networks.wide_resnet import wrn_28_10
from pretrain.recipes.recipe import GROUPS, Block, Stem

__all__ = ["GROUPS", "Stem", "build_network", "penultimate"]

_CIFAR_RESNETS = {"cifar-resnet20": 20, "cifar-resnet56": 56, "cifar-resnet110": 110}
_OTHERS: dict[str, Callable[[int], nn.Module]] = {
    "vgg19-bn": Vgg19,
    "densenet100-bc": densenet100_bc,
    "wrn-28-10": wrn_28_10,
}


def penultimate(name: str) -> str:
    """Name the last group but one, after which the paper places FocusedDropout (section 5)."""
    return GROUPS[name][-2]


def build_network(
    name: str, num_classes: int, stem: Stem = "imagenet", block: Block | None = None
) -> nn.Module:
    """Build a classifier with fresh weights.

    A torchvision ResNet keeps its keys and shapes whatever the stem, so that its weights fit a
    stock ResNet; images of 64 pixels want the stem "no-pool", which ends at 4x4 places, not 2x2.

    Args:
        name: One of `GROUPS`.
        num_classes: Length of the output.
        stem: First layers of a torchvision ResNet; the small-image networks have their own.
        block: Blocks of a cifar-resnet; None: basic for 20, bottleneck (depth 9n+2) for 56 and 110.

    Raises:
        InputError: If the name or the block is unknown, or the network has no choice of blocks.
    """
    if name not in GROUPS:
        raise InputError(f"unknown network {name!r}: choose one of {', '.join(GROUPS)}")
    if name in _CIFAR_RESNETS:
        return cifar_resnet(_CIFAR_RESNETS[name], num_classes, block)
    if block is not None:
        raise InputError(
            f"{name} has no choice of blocks: leave {block!r} out, or take "
            f"{', '.join(_CIFAR_RESNETS)}"
        )
    if name in _OTHERS:
        return _OTHERS[name](num_classes)
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    if stem != "imagenet":
        network.maxpool = nn.Identity()
    if stem == "small":
        network.get_submodule("conv1").stride = (1, 1)  # type: ignore[assignment]
    return network
