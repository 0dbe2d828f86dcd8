"""What `list` says that a training costs, counted in the network itself."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.networks import build_network
from pretrain.recipes import RECIPES, Recipe
from pretrain.recipes.cost import GIGAFLOPS, IMAGES, describe, floating_point_operations

OF_EACH = {
    (recipe.network, recipe.block, recipe.stem, recipe.images.size): name
    for name, recipe in sorted((name, build()) for name, build in RECIPES.items())
    if not name.startswith(("toy", "folders"))
}


@pytest.mark.parametrize("name", OF_EACH.values())
def test_operations_are_those_of_the_network(name: str) -> None:
    recipe = RECIPES[name]()
    with torch.device("meta"):
        network = build_network(recipe.network, 10, recipe.stem, recipe.block).eval()
        image = torch.empty(1, 3, recipe.images.size, recipe.images.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    key = recipe.network, recipe.block, recipe.stem, recipe.images.size
    assert counter.get_total_flops() / 1e9 == pytest.approx(GIGAFLOPS[key], rel=0.01)


def test_the_networks_counted_are_those_of_recipes() -> None:
    assert set(GIGAFLOPS) == set(OF_EACH)


def test_images_are_those_of_the_published_sets() -> None:
    assert IMAGES == {
        "cifar10": 5 * 10_000,  # batches of 10,000 (Krizhevsky 2009)
        "cifar100": 100 * 500,
        "tiny-imagenet": 200 * 500,
        "imagenet": 1_281_167,  # ILSVRC 2012 (Russakovsky et al., arXiv 1409.0575, table 2)
    }


def test_a_training_is_three_forward_passes_of_every_image_an_epoch() -> None:
    recipe = RECIPES["cifar10-resnet20"]()
    once = replace(recipe, optimization=replace(recipe.optimization, epochs=1, milestones=()))
    assert floating_point_operations(once) == pytest.approx(3 * 50_000 * 0.0816e9, rel=1e-12)
    assert floating_point_operations(recipe) == pytest.approx(300 * 3 * 50_000 * 0.0816e9)


def test_every_recipe_has_a_cost() -> None:
    for name, recipe in RECIPES.items():
        known = floating_point_operations(recipe()) is not None
        assert known != name.startswith(("toy", "folders")), name
    small = replace(RECIPES["cifar10-resnet20"]().images, size=24)
    assert floating_point_operations(replace(RECIPES["cifar10-resnet20"](), images=small)) is None


def of_cifar(epochs: int) -> Recipe:
    recipe = RECIPES["cifar10-resnet20"]()
    return replace(recipe, optimization=replace(recipe.optimization, epochs=epochs))


@pytest.mark.parametrize(
    ("epochs", "cost"),  # one epoch of these images takes 0.01224 PFLOP
    [
        (1, "0.012 PFLOP"),
        (100, "1.2 PFLOP"),
        (8129, "99 PFLOP"),
        (8130, "100 PFLOP"),  # 99.51
        (8170, "100 PFLOP"),
        (8210, "100 PFLOP"),  # 100.49
        (80_000, "979 PFLOP"),
        (81_699, "1000 PFLOP"),
        (81_700, "1 EFLOP"),
        (8_170_000, "100 EFLOP"),
    ],
)
def test_two_digits_of_the_cost_or_all_of_a_whole_number(epochs: int, cost: str) -> None:
    assert describe(of_cifar(epochs)) == f"CIFAR-10, cifar-resnet20: {epochs} epochs, {cost}"


def test_the_words() -> None:
    assert describe(RECIPES["cifar10-resnet20"]()) == (
        "CIFAR-10, cifar-resnet20: 300 epochs, 3.7 PFLOP"
    )
    assert describe(RECIPES["imagenet-resnet50"]()) == "ImageNet, resnet50: 300 epochs, 9.4 EFLOP"
    assert describe(RECIPES["toy-resnet18"]()) == "class folders, resnet18: 3 epochs"
