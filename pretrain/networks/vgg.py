"""VGG-19 with BatchNorm for small images (Simonyan and Zisserman, arXiv 1409.1556, column E).

Deviation, as usual for 32-pixel images (bearpaw/pytorch-classification): one linear layer follows
the convolutions, not three, so there is no dropout of the head's own. Initial weights are those of
torchvision's VGG: He's normal distribution, N(0, 0.01^2) for the linear layer, all biases zero.
"""

from torch import Tensor, nn

from pretrain.networks.initial_weights import he_normal


class Vgg19(nn.Module):
    """Five groups of convolutions, each followed by a 2x2 max-pooling outside it.

    Args:
        num_classes: Length of the output.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.group1 = _group(3, 64, layers=2)
        self.pool1 = nn.MaxPool2d(2)
        self.group2 = _group(64, 128, layers=2)
        self.pool2 = nn.MaxPool2d(2)
        self.group3 = _group(128, 256, layers=4)
        self.pool3 = nn.MaxPool2d(2)
        self.group4 = _group(256, 512, layers=4)
        self.pool4 = nn.MaxPool2d(2)
        self.group5 = _group(512, 512, layers=4)
        self.pool5 = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)
        he_normal(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), sides from 32 pixels, to logits (N, num_classes)."""
        x = self.pool1(self.group1(images))
        x = self.pool2(self.group2(x))
        x = self.pool3(self.group3(x))
        x = self.pool4(self.group4(x))
        x = self.pool5(self.group5(x))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _group(in_channels: int, channels: int, layers: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in range(layers):
        modules += [
            nn.Conv2d(in_channels if layer == 0 else channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*modules)
