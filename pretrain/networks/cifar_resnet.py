"""ResNets for 32-pixel images (He et al., arXiv 1512.03385, section 4.2).

Deviation: shortcuts that change shape are 1x1 convolutions with BatchNorm (option B of that paper),
as in the public code bases of this field; 0.272 million parameters for ResNet-20.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class CifarResNet(nn.Module):
    """Three groups of basic blocks at 16, 32 and 64 channels; depth 6 n + 2.

    Args:
        blocks: Blocks per group, n.
        num_classes: Length of the output.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _group(16, 16, blocks, stride=1)
        self.layer2 = _group(16, 32, blocks, stride=2)
        self.layer3 = _group(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _group(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


def resnet20(num_classes: int) -> CifarResNet:
    """Build ResNet-20."""
    return CifarResNet(3, num_classes)
