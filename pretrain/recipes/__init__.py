"""What can be trained: a function returns a recipe, every choice in it.

The first line of a docstring is what `python -m pretrain list` shows. The method's own choices,
with their evidence, are in common/method/README.md.
"""

from collections.abc import Callable

from pretrain.recipes import backbones, toy
from pretrain.recipes.recipe import Block, Dataset, Dropout, Images, NetworkName, Recipe
from pretrain.recipes.tables import arms_of, cells, mean_decay, small_images

__all__ = [
    "RECIPES",
    "Block",
    "Dataset",
    "Dropout",
    "Images",
    "NetworkName",
    "Recipe",
    "arms_of",
    "mean_decay",
    "small_images",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        toy.toy_resnet18,
        toy.toy_resnet18_fd,
        *cells(),
        backbones.tiny_imagenet_resnet18,
        backbones.tiny_imagenet_resnet18_fd,
        backbones.tiny_imagenet_resnet50,
        backbones.tiny_imagenet_resnet50_fd,
        backbones.imagenet_resnet50,
        backbones.imagenet_resnet50_fd,
        backbones.imagenet_resnet50_90,
        backbones.imagenet_resnet50_90_fd,
        backbones.folders_resnet50,
        backbones.folders_resnet50_fd,
    )
}
