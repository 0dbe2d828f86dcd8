"""The classifiers: torchvision's ResNets, and the small-image networks of the paper.

`GROUPS` names, for every network, its stages of constant resolution; the paper places
FocusedDropout after the last but one of them (section 5, "penultimate group").
"""

from collections.abc import Callable
from typing import Literal

import torchvision.models as models
from torch import nn

from common.backbones import ARCHITECTURES
from common.errors import InputError
from pretrain.networks.cifar_resnet import resnet20

Stem = Literal["imagenet", "no-pool", "small"]
"""First layers of a torchvision ResNet: stride 4; stride 2, without the pooling; stride 1."""

_SMALL: dict[str, Callable[[int], nn.Module]] = {"cifar-resnet20": resnet20}
GROUPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ARCHITECTURES, ("layer1", "layer2", "layer3", "layer4")),
    "cifar-resnet20": ("layer1", "layer2", "layer3"),
}


def build_network(name: str, num_classes: int, stem: Stem = "imagenet") -> nn.Module:
    """Build a classifier with fresh weights.

    A torchvision ResNet keeps its keys and shapes whatever the stem, so that its weights fit a
    stock ResNet; images of 64 pixels want the stem "no-pool", which ends at 4x4 places, not 2x2.

    Args:
        name: One of `GROUPS`.
        num_classes: Length of the output.
        stem: First layers of a torchvision ResNet; the small-image networks have their own.

    Raises:
        InputError: If the name is unknown.
    """
    if name in _SMALL:
        return _SMALL[name](num_classes)
    if name not in ARCHITECTURES:
        raise InputError(f"unknown network {name!r}: choose one of {', '.join(GROUPS)}")
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    if stem != "imagenet":
        network.maxpool = nn.Identity()
    if stem == "small":
        network.get_submodule("conv1").stride = (1, 1)  # type: ignore[assignment]
    return network
