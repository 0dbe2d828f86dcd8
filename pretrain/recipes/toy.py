"""Recipes for drawn shapes: the demo and the tests."""

from dataclasses import replace

from common.recipe import Focus, Optimization
from pretrain.recipes.recipe import Images, Recipe


def toy_resnet18() -> Recipe:
    """Baseline on drawn shapes; a minute on a laptop CPU."""
    return Recipe(
        network="resnet18",
        images=Images(dataset="folders", size=64, crop="pad", padding=4),
        optimization=Optimization(
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.05,
            batch_size=32,
            epochs=3,
            schedule="cosine",
            warmup_steps=20,
        ),
    )


def toy_resnet18_fd() -> Recipe:
    """FocusedDropout with MWD on drawn shapes.

    AdamW needs larger decays than SGD; the magnified one is ten times the base, as in the paper.
    """
    return replace(toy_resnet18(), focus=Focus(after="layer3", weight_decay=0.5))
