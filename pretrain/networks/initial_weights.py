"""Initial weights that the small-image networks share."""

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 2 / fan_out) and zero their biases.

    He et al., arXiv 1502.01852, equation 14, as in the code of all the networks here. BatchNorm
    keeps torch's own initial values, 1 and 0, which are theirs as well.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
