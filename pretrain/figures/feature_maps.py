"""What feature maps of a network show: strongest channels, class activation maps, focused areas.

Feature maps are those that the network pools at its end (the input of `avgpool`), and for the
focused area those where the method stands.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.images.sampling import MicroBatch
from common.method.dropout import focus_mask
from common.optimization.precision import autocast
from common.processes.ranks import World, sum_over_ranks
from pretrain.data.augment import normalize
from pretrain.data.splits import Split
from pretrain.figures.channels_and_cams import Views
from pretrain.recipes import Recipe
from pretrain.task import pixel_statistics

MIDDLE_GAMMA = 0.45
"""The middle of the paper's range (0.3, 0.6), at which the focused area is drawn."""
_BATCH = 250
_FLAT = 1e-5
"""Below this share of its largest magnitude the range of a float32 map is rounding."""


def strongest_channels(
    network: nn.Module, split: Split, recipe: Recipe, world: World
) -> NDArray[np.int64]:
    """Count which channel of the last feature maps has the largest spatial mean (Figure 2).

    Only images that are classified correctly count, as in section 2 of the paper; of equal channels
    the first does. Precision is that of `evaluate`, so the sum is its accuracy times the images.

    Args:
        network: In eval mode, on the world's device.
        split: Opened with `training=False`.
        recipe: For normalisation and precision.
        world: This process; it takes every `world.size`-th image, the counts are of all.

    Returns:
        Numbers of images (num_classes, channels).
    """
    mean, std = pixel_statistics(recipe)
    shape = network.get_parameter("fc.weight").shape
    counts = torch.zeros(shape.numel(), dtype=torch.int64, device=world.device)
    mine = np.arange(world.rank, split.num_images, world.size)
    starts = range(0, len(mine), _BATCH)
    micro_batches = (MicroBatch(0, mine[start : start + _BATCH], 1.0) for start in starts)
    with torch.inference_mode(), _last_maps(network) as maps:
        for images, labels in split.load(micro_batches):
            with autocast(recipe.optimization, world.device):
                logits = network(normalize(images, mean, std)).float()
            strongest = maps.pop().mean(dim=(2, 3), dtype=torch.float32).argmax(1)
            correct = logits.argmax(1) == labels
            cells = labels[correct] * shape[1] + strongest[correct]
            counts += torch.bincount(cells, minlength=shape.numel())
    return np.asarray(sum_over_ranks(counts).view(shape).cpu())


def class_activation_maps(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Weight the last feature maps by what each says for a class (Zhou et al. 2016, Figure 4).

    The map of class k is the sum over c of fc.weight[k, c] * maps[c], upsampled bilinearly to the
    image. From each map its smallest value is subtracted, then it is divided by its largest; a map
    whose values are all equal, up to rounding, becomes zeros.

    Args:
        network: In eval mode.
        images: (N, 3, H, W), normalised.
        labels: (N,) the class to map, usually the true one.

    Returns:
        (N, H, W) in [0, 1], float32.
    """
    with torch.inference_mode(), _last_maps(network) as maps:
        network(images)
        return _normalized_cams(network, maps.pop(), labels, images.shape[2:])


def views(network: nn.Module, images: Tensor, labels: Tensor, place: str) -> Views:
    """Look at images through a network: maps of the true class, focused area, prediction.

    Args:
        network: In eval mode.
        images: (N, 3, H, W), normalised.
        labels: (N,) true classes.
        place: Submodule whose output FocusedDropout masks; the area is that of `MIDDLE_GAMMA`.
    """
    masks: list[Tensor] = []
    hook = network.get_submodule(place).register_forward_hook(
        lambda _, inputs, output: masks.append(focus_mask(output, MIDDLE_GAMMA)[:, 0])
    )
    try:
        with torch.inference_mode(), _last_maps(network) as maps:
            probability, predicted = network(images).softmax(1).max(1)
            cams = _normalized_cams(network, maps.pop(), labels, images.shape[2:])
    finally:
        hook.remove()
    return Views(*(np.asarray(x.cpu()) for x in (cams, masks[0], predicted, probability)))


@contextmanager
def _last_maps(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what `avgpool` gets, a tensor (N, C, h, w) a forward pass."""
    maps: list[Tensor] = []
    hook = network.get_submodule("avgpool").register_forward_pre_hook(
        lambda _, inputs: maps.append(inputs[0])
    )
    try:
        yield maps
    finally:
        hook.remove()


def _normalized_cams(
    network: nn.Module, maps: Tensor, labels: Tensor, size: Sequence[int]
) -> Tensor:
    weight = network.get_parameter("fc.weight")[labels]
    cams = torch.einsum("nc,nchw->nhw", weight, maps)
    magnitude = cams.abs().amax(dim=(1, 2), keepdim=True)
    cams = F.interpolate(cams[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
    lowest = cams.amin(dim=(1, 2), keepdim=True)
    span = cams.amax(dim=(1, 2), keepdim=True) - lowest
    return torch.where(span > _FLAT * magnitude, (cams - lowest) / span, 0.0)
