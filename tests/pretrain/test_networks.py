"""The classifiers: sizes, groups, keys and stems."""

import pytest
import torch
import torchvision.models as models
from torch import nn

from common.errors import InputError
from pretrain.networks import GROUPS, build_network


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet20_has_the_papers_size() -> None:
    def blocks(channels: int, count: int) -> int:
        return count * (2 * 9 * channels * channels + 4 * channels)

    def first(below: int, channels: int) -> int:
        return 9 * below * channels + 9 * channels * channels + below * channels + 6 * channels

    expected = (27 * 16 + 32) + blocks(16, 3) + first(16, 32) + blocks(32, 2)
    expected += first(32, 64) + blocks(64, 2) + 65 * 10
    assert parameters(build_network("cifar-resnet20", 10)) == expected == 272_474


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [("cifar-resnet20", 32, [32, 16, 8]), ("resnet18", 64, [16, 8, 4, 2])],
)
def test_every_group_is_a_stage_of_one_resolution(
    name: str, side: int, expected: list[int]
) -> None:
    network = build_network(name, 10).eval()
    seen: list[int] = []
    for group in GROUPS[name]:
        network.get_submodule(group).register_forward_hook(
            lambda module, inputs, output: seen.append(output.shape[-1])
        )
    with torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    assert seen == expected


@pytest.mark.parametrize(("stem", "last"), [("imagenet", 2), ("no-pool", 4), ("small", 8)])
def test_stems_change_the_resolution_but_no_key(stem: str, last: int) -> None:
    network = build_network("resnet18", 10, stem).eval()  # type: ignore[arg-type]
    stock = models.resnet18(weights=None, num_classes=10)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in stock.state_dict().items()
    }
    shapes = []
    network.layer4.register_forward_hook(lambda m, i, output: shapes.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert shapes == [last]


def test_unknown_network() -> None:
    with pytest.raises(InputError, match="resnet9000.*cifar-resnet20"):
        build_network("resnet9000", 10)
