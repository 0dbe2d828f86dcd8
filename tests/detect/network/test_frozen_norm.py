"""Folded BatchNorm against torchvision's frozen one."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detect.network.frozen_norm import freeze_norms


class Small(nn.Sequential):
    """A stem and one block of a ResNet."""

    def __init__(self, block: str, norm: type[nn.Module]) -> None:
        narrow = norm(16 * BLOCKS[block].expansion)
        expand = nn.Conv2d(8, 16 * BLOCKS[block].expansion, 1, 2, bias=False)
        super().__init__(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False),
            norm(8),
            BLOCKS[block](8, 16, 2, nn.Sequential(expand, narrow), norm_layer=norm),
        )


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def pair(block: str = "bottleneck") -> tuple[Small, Small]:
    """Build a network to freeze, and torchvision's frozen one of the same numbers, in float64."""
    network = Small(block, nn.BatchNorm2d)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.3, 1.2)
            norm.requires_grad_(False)
    frozen = Small(block, FrozenBatchNorm2d)
    frozen.load_state_dict(network.state_dict())
    return network.double(), frozen.double()


SIZES = {"weights smaller than maps": (64, 48), "maps smaller than weights": (8, 8)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_outputs_gradients_and_keys_are_those_of_torchvisions_frozen_norm(
    block: str, size: str
) -> None:
    ours, theirs = pair(block)
    freeze_norms(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    images = torch.randn(2, 3, *SIZES[size], dtype=torch.float64)
    outputs = [network(images) for network in (ours, theirs)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output - 1).square().sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, msg=name)


@pytest.mark.parametrize("side", [3, 9])
@pytest.mark.parametrize(
    ("settings", "eps"),
    [
        ({}, 0.1),
        ({"dilation": 2}, 1e-5),
        ({"padding_mode": "reflect"}, 1e-5),
        ({"groups": 2}, 1e-5),
    ],
)
def test_settings_of_convolution_and_norm_are_kept(
    settings: dict[str, Any], eps: float, side: int
) -> None:
    convolution = nn.Conv2d(4, 6, 3, padding=1, bias=False, **settings)
    network = nn.Sequential(convolution, nn.BatchNorm2d(6, eps)).requires_grad_(False).eval()
    network[1].running_var.uniform_(0.3, 1.2)
    images = torch.randn(1, 4, side, side)
    expected = network(images)
    freeze_norms(network)
    assert not isinstance(network[1], nn.BatchNorm2d)
    torch.testing.assert_close(network(images), expected)


def test_no_mode_and_no_batch_reaches_the_statistics() -> None:
    ours, _ = pair()
    freeze_norms(ours)
    before = copy.deepcopy(ours.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(ours.train()(images), ours.eval()(images))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_norms_that_are_trained_stay_as_they_are() -> None:
    ours, _ = pair()
    ours[2].requires_grad_()
    trained = [module for module in ours[2].modules() if isinstance(module, nn.BatchNorm2d)]
    freeze_norms(ours)
    assert trained
    left = [module for module in ours.modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == trained


def test_a_copy_is_whole_and_apart() -> None:
    ours, theirs = pair()
    freeze_norms(ours)
    other = copy.deepcopy(ours)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = theirs(images)
    for buffer in ours.buffers():
        buffer.fill_(7.0)
    torch.testing.assert_close(other(images), expected)
    ours.load_state_dict(other.state_dict())
    torch.testing.assert_close(ours(images), expected)


@pytest.mark.parametrize("size", SIZES)
def test_maps_stay_bfloat16_under_autocast(size: str) -> None:
    ours, theirs = (network.float() for network in pair())
    freeze_norms(ours)
    images = torch.randn(1, 3, *SIZES[size])
    with torch.autocast("cpu", torch.bfloat16):
        assert ours[1](ours[0](images)).dtype == torch.bfloat16
        assert theirs[1](theirs[0](images)).dtype == torch.float32  # the reason for all this


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.BatchNorm2d(3)],
    ],
)
def test_a_norm_without_its_convolution_is_refused(layers: list[nn.Module]) -> None:
    network = nn.Sequential(*layers).requires_grad_(False)
    with pytest.raises(TypeError, match="does not follow a convolution without bias"):
        freeze_norms(network)
