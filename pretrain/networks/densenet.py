"""DenseNet-BC for small images (Huang et al., arXiv 1608.06993, section 4.1).

Bottlenecks of four times the growth rate, transitions that halve the channels, no dropout inside
(that paper uses 0.2 where images are not augmented; a baseline here has none). Initial weights are
those of its authors' code (liuzhuang13/DenseNet, models/densenet.lua): He's normal distribution,
a zero bias in the linear layer.
"""

import torch
from torch import Tensor, nn

from pretrain.networks.initial_weights import he_normal


class DenseNet(nn.Module):
    """Three dense blocks with two transitions between.

    Args:
        layers: Layers per block; two convolutions each.
        growth: Channels that a layer adds, k.
        num_classes: Length of the output.
    """

    def __init__(self, layers: int, growth: int, num_classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.block1 = _block(channels, layers, growth)
        channels += layers * growth
        self.transition1 = _Transition(channels)
        channels //= 2
        self.block2 = _block(channels, layers, growth)
        channels += layers * growth
        self.transition2 = _Transition(channels)
        channels //= 2
        self.block3 = _block(channels, layers, growth)
        channels += layers * growth
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.transition1(self.block1(self.conv1(images)))
        x = self.transition2(self.block2(x))
        x = self.relu(self.bn(self.block3(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class _Layer(nn.Module):
    """Appends `growth` channels to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu(self.bn1(x)))
        new = self.conv2(self.relu(self.bn2(new)))
        return torch.cat([x, new], dim=1)


def _block(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(_Layer(in_channels + i * growth, growth) for i in range(layers)))


class _Transition(nn.Module):
    """Halves the channels and the resolution. Not a Sequential: those are the groups."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.conv(self.relu(self.bn(x))))
        return pooled


def densenet100_bc(num_classes: int) -> DenseNet:
    """Build DenseNet-BC-100 with growth rate 12; its depth is 4 + 3 * 2 * 16."""
    return DenseNet(16, 12, num_classes)
