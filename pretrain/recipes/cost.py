"""What a recipe trains on which data, and at what cost: the groups of `python -m pretrain list`."""

from pretrain import paper
from pretrain.recipes.recipe import Recipe

GIGAFLOPS = {
    ("cifar-resnet20", "basic", "imagenet", 32): 0.0816,
    ("cifar-resnet56", "bottleneck", "imagenet", 32): 0.174,
    ("cifar-resnet110", "bottleneck", "imagenet", 32): 0.335,
    ("cifar-resnet110", "bottleneck", "imagenet", 64): 1.34,
    ("vgg19-bn", None, "imagenet", 32): 0.796,
    ("densenet100-bc", None, "imagenet", 32): 0.576,
    ("wrn-28-10", None, "imagenet", 32): 10.5,
    ("resnet18", None, "no-pool", 64): 1.13,
    ("resnet50", None, "no-pool", 64): 2.61,
    ("resnet50", None, "imagenet", 224): 8.18,
}
"""Of one image's forward pass, a multiply-add as two: by network, block, stem and image size."""
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny-imagenet": 100_000, "imagenet": 1_281_167}
_FORWARDS_A_STEP = 3
"""A backward pass computes twice as much as a forward pass."""


def describe(recipe: Recipe) -> str:
    """Say what is trained on what: "CIFAR-10, cifar-resnet20: 300 epochs, 3.7 PFLOP"."""
    images = recipe.images
    data = {"imagenet": "ImageNet", "folders": "class folders", **paper.DATASETS}[images.dataset]
    text = f"{data}, {recipe.network}: {recipe.optimization.epochs} epochs"
    operations = floating_point_operations(recipe)
    return f"{text}, {_short(operations)}" if operations else text


def floating_point_operations(recipe: Recipe) -> float | None:
    """Count the operations of a whole training; None where the number of images is not known."""
    images = recipe.images
    of_image = GIGAFLOPS.get((recipe.network, recipe.block, recipe.stem, images.size))
    if images.dataset not in IMAGES or of_image is None:
        return None
    passes = recipe.optimization.epochs * IMAGES[images.dataset]
    return _FORWARDS_A_STEP * of_image * 1e9 * passes


def _short(operations: float) -> str:
    value, unit = (
        (operations / 1e18, "EFLOP") if operations >= 1e18 else (operations / 1e15, "PFLOP")
    )
    return f"{value:.2g} {unit}" if value < 99.5 else f"{value:.0f} {unit}"
