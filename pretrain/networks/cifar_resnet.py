"""ResNets for small images (He et al., arXiv 1512.03385, section 4.2).

The bottleneck networks of depth 9n+2 are those of a code base that the paper's first author builds
on (clovaai/CutMix-PyTorch, resnet.py). "bottleneck-6n" is an older form with as many bottlenecks as
a network of that name has basic blocks (bearpaw/pytorch-classification until January 2018). Initial
weights are those of both: He's normal distribution, and torch's own for the linear layer.

Two deviations from arXiv 1512.03385, both as in these two: shortcuts that change shape are
1x1 convolutions with BatchNorm (its option B), and a bottleneck has its stride in the 3x3
convolution (torchvision's Bottleneck), not in the first 1x1.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from common.errors import InputError
from pretrain.networks.initial_weights import he_normal

if TYPE_CHECKING:
    from pretrain.recipes import Block

_BLOCKS = {
    "basic": (BasicBlock, 6),
    "bottleneck": (Bottleneck, 9),
    "bottleneck-6n": (Bottleneck, 6),
}
"""The block, and what one more of it in each of the three groups adds to the depth in the name."""


class CifarResNet(nn.Module):
    """Three groups of residual blocks, 16, 32 and 64 channels times the block's expansion.

    Args:
        block: torchvision's BasicBlock or Bottleneck.
        blocks: Blocks per group, n.
        num_classes: Length of the output.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], blocks: int, num_classes: int
    ) -> None:
        super().__init__()
        expansion = block.expansion
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _group(block, 16, 16, blocks, stride=1)
        self.layer2 = _group(block, 16 * expansion, 32, blocks, stride=2)
        self.layer3 = _group(block, 32 * expansion, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * expansion, num_classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _group(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
) -> nn.Sequential:
    out_channels = channels * block.expansion
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    first = block(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(block(out_channels, channels) for _ in range(blocks - 1)))


def cifar_resnet(depth: int, num_classes: int, block: "Block | None" = None) -> CifarResNet:
    """Build a ResNet by its depth.

    Args:
        depth: 20, 56 or 110.
        num_classes: Length of the output.
        block: None: basic for depth 20, else bottleneck (the paper's Figure 2 speaks of 256
            channels in the last layer of ResNet-56, which basic blocks do not have).

    Raises:
        InputError: If there is no such block.
    """
    if block is None:
        block = "basic" if depth == 20 else "bottleneck"
    if block not in _BLOCKS:
        raise InputError(f"unknown block {block!r}: choose one of {', '.join(_BLOCKS)}")
    kind, layers = _BLOCKS[block]
    return CifarResNet(kind, (depth - 2) // layers, num_classes)
