"""Classification as the training loop sees it: loss and metrics of a recipe."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from common.images.sampling import MicroBatch
from common.optimization.precision import autocast
from common.processes.ranks import World, sum_over_ranks
from common.processes.signals import stop_asked
from common.runs.epoch_lines import Column
from common.training.network import eager_if
from pretrain.data.augment import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    CIFAR100_STD,
    normalize,
)
from pretrain.data.splits import Finish, Split, as_it_is
from pretrain.recipes import Recipe

METRIC = "val_accuracy"
"""Its largest value is the best."""
COLUMNS = (
    Column("train_loss", "loss", group="train"),
    Column("train_accuracy", "accuracy", "percent", group="train"),
    Column("val_loss", "loss", group="val"),
    Column("val_accuracy", "accuracy", "percent", group="val"),
    Column("val_top5", "top-5", "percent", group="val"),
)
"""Of the lines that a training prints."""
_EVAL_BATCH = 250
_STATISTICS = {
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "cifar100": (CIFAR100_MEAN, CIFAR100_STD),
}


def pixel_statistics(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per RGB channel, for values in [0, 1]."""
    return _STATISTICS.get(recipe.images.dataset, (IMAGENET_MEAN, IMAGENET_STD))


def balancing_weights(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Return the weight of each class, images / (classes * images of it), so that 1 is the mean.

    Args:
        labels: Of all training images.
        num_classes: Classes without an image have the weight 0, and count as none.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    weights = np.divide(len(labels), present * counts, where=counts > 0, out=np.zeros(num_classes))
    return torch.from_numpy(weights).float()


def classification_loss(
    recipe: Recipe, finish: Finish = as_it_is, class_weights: Tensor | None = None
) -> Callable[[nn.Module, Any], dict[str, Tensor]]:
    """Return the loop's loss: cross-entropy, and the accuracy on the training images.

    Args:
        recipe: For normalisation and smoothing.
        finish: Of the split that the batches come from.
        class_weights: (classes,) on the device, factors of the loss of an image by its class. Its
            mean is over the images, not over their weights: parts of a batch then add up.
    """
    mean, std = pixel_statistics(recipe)

    def loss(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        images, labels = finish(batch)
        logits = network(normalize(images, mean, std)).float()
        smoothing = recipe.label_smoothing
        if class_weights is None:
            value = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        else:
            each = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
            value = (class_weights[labels] * each).mean()
        return {
            "loss": value,
            "accuracy": (logits.detach().argmax(1) == labels).float().mean(),
        }

    return loss


def evaluate(
    network: nn.Module, split: Split, recipe: Recipe, world: World, limit: int | None = None
) -> dict[str, float]:
    """Score a network on a split; every image counts once, however many ranks there are.

    Args:
        network: In eval mode.
        split: Opened with `training=False`.
        recipe: For normalisation and precision.
        world: This process; it takes every `world.size`-th image.
        limit: Only so many images (a dry run).

    Returns:
        `val_loss` (cross-entropy, without smoothing), `val_accuracy` and `val_top5`, fractions.
    """
    mean, std = pixel_statistics(recipe)
    count = min(split.num_images, limit or split.num_images)
    mine = np.arange(world.rank, count, world.size)
    size = _EVAL_BATCH * split.batch_factor
    micro_batches = (
        MicroBatch(0, mine[start : start + size], 1.0) for start in range(0, len(mine), size)
    )
    compiled = recipe.optimization.compile
    sums = torch.zeros(3, dtype=torch.float64, device=world.device)
    with torch.inference_mode():
        for images, labels in map(split.finish, split.load(micro_batches)):
            if stop_asked():
                break
            short = compiled and len(labels) < min(size, len(mine))
            with eager_if(short), autocast(recipe.optimization, world.device):
                logits = network(normalize(images, mean, std)).float()
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            sums += torch.stack(
                [F.cross_entropy(logits, labels, reduction="sum"), best[:, 0].sum(), best.sum()]
            )
    loss, top1, top5 = (sum_over_ranks(sums) / max(1, count)).tolist()
    return {"val_loss": loss, "val_accuracy": top1, "val_top5": top5}
