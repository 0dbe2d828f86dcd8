"""What `list` says that a training costs, counted in the network itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.networks import build_network
from pretrain.recipes import RECIPES
from pretrain.recipes.cost import GIGAFLOPS, describe, floating_point_operations


@pytest.mark.parametrize("name", ["cifar10-resnet20", "tiny-imagenet-resnet18", "cifar10-vgg19"])
def test_operations_are_those_of_the_network(name: str) -> None:
    recipe = RECIPES[name]()
    with torch.device("meta"):
        network = build_network(recipe.network, 10, recipe.stem, recipe.block).eval()
        image = torch.empty(1, 3, recipe.images.size, recipe.images.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    key = recipe.network, recipe.block, recipe.stem, recipe.images.size
    assert counter.get_total_flops() / 1e9 == pytest.approx(GIGAFLOPS[key], rel=0.01)


def test_every_recipe_has_a_cost() -> None:
    for name, recipe in RECIPES.items():
        known = floating_point_operations(recipe()) is not None
        assert known != name.startswith(("toy", "folders")), name


def test_the_words() -> None:
    assert describe(RECIPES["cifar10-resnet20"]()) == (
        "CIFAR-10, cifar-resnet20: 300 epochs, 3.7 PFLOP"
    )
    assert describe(RECIPES["imagenet-resnet50"]()) == "ImageNet, resnet50: 300 epochs, 9.4 EFLOP"
    assert describe(RECIPES["toy-resnet18"]()) == "class folders, resnet18: 3 epochs"
