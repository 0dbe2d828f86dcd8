"""Wide ResNet for small images (Zagoruyko and Komodakis, arXiv 1605.07146, Table 1).

Blocks with BatchNorm and ReLU before each convolution, so a group's output is a raw sum of both
signs. There is no dropout inside the blocks: a baseline has none. Where a block changes its shape,
BatchNorm and ReLU stand before the shortcut as well, and initial weights are He's normal
distribution with a zero bias in the linear layer: both as in the authors' code
(szagoruyko/wide-residual-networks, models/wide-resnet.lua).
"""

from torch import Tensor, nn

from pretrain.networks.initial_weights import he_normal


class WideResNet(nn.Module):
    """Three groups of blocks, 16, 32 and 64 channels times the width.

    Args:
        blocks: Blocks per group.
        width: Factor on the channels, k.
        num_classes: Length of the output.
    """

    def __init__(self, blocks: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.group1 = _group(16, 16 * width, blocks, stride=1)
        self.group2 = _group(16 * width, 32 * width, blocks, stride=2)
        self.group3 = _group(32 * width, 64 * width, blocks, stride=2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, num_classes)
        he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.group3(self.group2(self.group1(self.conv1(images))))
        x = self.relu(self.bn(x))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normalized = self.relu(self.bn1(x))
        residual: Tensor = self.conv2(self.relu(self.bn2(self.conv1(normalized))))
        return residual + (x if self.shortcut is None else self.shortcut(normalized))


def _group(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(in_channels, channels, stride)
    return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(blocks - 1)))


def wrn_28_10(num_classes: int) -> WideResNet:
    """Build WRN-28-10; its depth is 4 + 3 * 2 * 4."""
    return WideResNet(4, 10, num_classes)
