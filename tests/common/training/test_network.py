"""A network made ready for its training."""

import pytest
import torchvision.models as models
from torch import nn

from common.training.network import takes_single_images


@pytest.mark.parametrize(("size", "takes"), [(32, False), (64, True)])
def test_a_resnet_takes_single_images_if_its_last_maps_are_larger(size: int, takes: bool) -> None:
    """A ResNet halves five times: what is left of 32 pixels is one, which has no variance."""
    network = models.resnet18(num_classes=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert takes_single_images(network.eval(), size) is takes
    assert not network.training
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


def test_a_network_without_batchnorm_takes_single_images() -> None:
    assert takes_single_images(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 2)
