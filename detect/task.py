"""Detection as the training loop sees it: data, loss and detections of a recipe."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import remove_small_boxes

from common.distributed import World, gather
from common.errors import InputError
from common.images import read_image
from common.loading import SkipBad, stream
from common.optimization import autocast
from common.sampling import MicroBatch
from common.signals import Terminated, stop_asked
from detect.augment import augment, make_augmentation
from detect.detections import Detections, GroundTruth, ground_truth
from detect.recipes import Recipe
from detect.score import score
from detect.voc import VocImage

_SMALLEST_SIDE = 1e-3
"""Pixels; what is left of a box that was cut at the border of the image can have no area."""
Target = dict[str, Tensor]
Batch = tuple[list[Tensor], list[Target]]
"""Images (3, H, W), uint8, and boxes (n, 4) with labels (n,), on the device."""
Item = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]


def training_batches(
    images: Sequence[VocImage],
    recipe: Recipe,
    *,
    seed: int,
    workers: int,
    device: torch.device,
    skip: SkipBad | None = None,
) -> Callable[[Iterable[MicroBatch]], Iterator[Batch]]:
    """Return what reads, augments and delivers the training images of a recipe."""
    read = partial(_read_train, _Reader(images, recipe), seed)

    def batches(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for pixels, targets in stream(
            read, micro_batches, _collate, workers=workers, device=device, skip=skip
        ):
            yield (
                [image.to(device, non_blocking=True) for image in pixels],
                [_to(target, device) for target in targets],
            )

    return batches


class _Reader:
    """Images with the objects to train on, and their augmentation."""

    def __init__(self, images: Sequence[VocImage], recipe: Recipe) -> None:
        self.images = images
        self.difficult = recipe.difficult
        settings = recipe.augmentation
        self.compose = make_augmentation(settings.crop, settings.flip, settings.colour)


def _read_train(reader: _Reader, seed: int, epoch: int, index: int) -> Item:
    image = reader.images[index]
    annotation = image.annotation
    used = np.full(len(annotation.labels), True) if reader.difficult else ~annotation.difficult
    return augment(
        reader.compose,
        _read_pixels(image),
        annotation.boxes[used],
        annotation.labels[used],
        seed,
        epoch,
        index,
    )


def _read_test(images: Sequence[VocImage], epoch: int, index: int) -> Item:
    return _read_pixels(images[index]), np.empty((0, 4), np.float32), np.empty(0, np.int64)


def _read_pixels(image: VocImage) -> NDArray[np.uint8]:
    pixels = read_image(image.path)
    height, width = pixels.shape[:2]
    stated = (image.annotation.width, image.annotation.height)
    if (width, height) != stated:
        raise InputError(
            f"{image.path} has {width}x{height} pixels, but its annotation says "
            f"{stated[0]}x{stated[1]}: its boxes would not fit; fetch both again"
        )
    return pixels


def _collate(items: list[Item]) -> Batch:
    pixels = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image, _, _ in items]
    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
        for _, boxes, labels in items
    ]
    return pixels, targets


def _to(target: Target, device: torch.device) -> Target:
    return {name: value.to(device, non_blocking=True) for name, value in target.items()}


def detection_loss(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the loop's loss: focal loss and L1, each the mean over the images, and their sum."""
    images, targets = batch
    losses = network([image.float() / 255 for image in images], targets)
    return {
        "loss": losses["classification"] + losses["bbox_regression"],
        "classification": losses["classification"],
        "box": losses["bbox_regression"],
    }


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Images to detect on, and what is in them."""

    images: Sequence[VocImage]
    truth: GroundTruth

    @staticmethod
    def of(images: Sequence[VocImage], classes: Sequence[str]) -> "EvaluationSet":
        """Gather the objects of the images."""
        annotations = [image.annotation for image in images]
        return EvaluationSet(images=images, truth=ground_truth(annotations, classes))


def detect(
    network: RetinaNet, test: EvaluationSet, recipe: Recipe, world: World, workers: int
) -> Detections:
    """Run the detector over a test set, each image once, however many ranks there are.

    Images go through one by one: padding to a common size would make the result of one depend on
    the others.

    Args:
        network: In eval mode.
        test: The images.
        recipe: For sizes and precision.
        world: This process; it takes every `world.size`-th image.
        workers: Processes that read images.

    Returns:
        All detections, in the order of the images, on every rank.

    Raises:
        Terminated: If the training around it was asked to end.
    """
    micro_batches = (
        MicroBatch(0, np.array([index]), 1.0)
        for index in range(world.rank, len(test.images), world.size)
    )
    loaded = stream(
        partial(_read_test, test.images),
        micro_batches,
        _collate,
        workers=workers,
        device=world.device,
    )
    found = []
    train_sizes = network.transform.min_size
    network.transform.min_size = (recipe.detector.test_size,)
    try:
        with torch.inference_mode():
            for (image,), _ in loaded:
                if stop_asked():
                    break
                pixels = image.to(world.device, non_blocking=True).float() / 255
                with autocast(recipe.optimization, world.device):
                    (result,) = network([pixels])
                kept = remove_small_boxes(result["boxes"], _SMALLEST_SIDE)
                found.append({name: value[kept].cpu().double() for name, value in result.items()})
    finally:
        network.transform.min_size = train_sizes
    by_rank = gather(found)
    if sum(map(len, by_rank)) < len(test.images):
        raise Terminated("ended on request while it detected")
    results = [by_rank[i % world.size][i // world.size] for i in range(len(test.images))]
    return _columns(results)


def _columns(results: Sequence[dict[str, Tensor]]) -> Detections:
    counts = [len(result["scores"]) for result in results]
    columns = {
        name: torch.cat([result[name] for result in results]).numpy()
        for name in ("labels", "scores", "boxes")
    }
    return Detections(
        image=np.repeat(np.arange(len(results)), counts),
        label=columns["labels"].astype(np.int64),
        score=columns["scores"],
        box=columns["boxes"].reshape(-1, 4),
    )


def evaluate(
    network: nn.Module, test: EvaluationSet, recipe: Recipe, world: World, workers: int
) -> dict[str, float]:
    """Score a detector during training: VOC mAP and COCO AP, fractions, 0 where undefined."""
    if not isinstance(network, RetinaNet):
        raise TypeError(f"expected a RetinaNet, not {type(network).__name__}")
    metrics = score(test.truth, detect(network, test, recipe, world, workers))
    return {
        "val_map_11point": metrics["voc"]["map_11point"] or 0.0,
        "val_map_area": metrics["voc"]["map_area"] or 0.0,
        "val_coco_ap": metrics["coco"]["ap"] or 0.0,
    }
