"""Keys and shapes of ResNets against the networks that torchvision and timm build."""

import pytest
import timm
import torch
from torchvision.models import get_model, list_models

from common.weights.resnets import TIMM, TORCHVISION, ResNet, body_shapes, is_body, recognise


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_and_timm_build_what_is_described(name: str) -> None:
    with torch.device("meta"):
        for network in (get_model(name, weights=None), timm.create_model(name)):
            shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if is_body(k)}
            assert body_shapes(TORCHVISION[name]) == shapes
            assert recognise(network.state_dict()) == name


@pytest.mark.parametrize("name", TIMM)
def test_timm_builds_what_is_described(name: str) -> None:
    with torch.device("meta"):
        assert recognise(timm.create_model(name).state_dict()) == name


def test_every_resnet_of_torchvision_is_known() -> None:
    starts = ("resnet", "resnext", "wide_resnet")
    assert {name for name in list_models() if name.startswith(starts)} == set(TORCHVISION)


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 18), ("resnet152", 152)])
def test_depth(name: str, depth: int) -> None:
    assert TORCHVISION[name].depth == depth


def test_a_resnet_by_hand() -> None:
    shapes = body_shapes(ResNet((1, 1, 1, 1), groups=2, width=32))
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.conv2.weight"] == (64, 32, 3, 3)
    assert shapes["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert len(shapes) == 5 + 4 * 4 * 5  # a convolution and four values of its norm


def test_near_misses_have_no_name() -> None:
    with torch.device("meta"):
        weights = get_model("resnet18", weights=None).state_dict()
        assert recognise(weights) == "resnet18"
        assert recognise(weights | {"conv1.weight": torch.empty(64, 3, 3, 3)}) is None
        assert recognise(weights | {"more": torch.empty(1)}) is None
        assert recognise({k: v for k, v in weights.items() if k != "bn1.bias"}) is None
        assert recognise({k: v for k, v in weights.items() if is_body(k)}) == "resnet18"
    assert recognise({}) is None
