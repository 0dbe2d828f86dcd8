"""Detection as the training loop sees it: data, loss and detections of a recipe."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.images.loading import Reading, stream
from common.images.sampling import MicroBatch
from common.images.transfer import transferred
from common.optimization.precision import autocast
from common.processes.ranks import World, broadcast, gather_rows, sum_over_ranks
from common.processes.signals import Terminated, stop_asked
from common.runs.epoch_lines import Column
from common.training.task import Metrics
from detect.data.augment import augment, make_augmentation
from detect.data.batches import (
    Collated,
    ImageBatch,
    Item,
    Shape,
    Targets,
    batches_of_one_shape,
    collate,
    draw_factor,
    draw_size,
    padded_shape,
    resize,
    resized_shape,
    to_device,
    to_original,
)
from detect.data.dataset import LabelledImage
from detect.data.pixels import read_pixels
from detect.network.retinanet import BatchedRetinaNet
from detect.recipes import Detector, Recipe
from detect.scoring.detections import Detections, GroundTruth, ground_truth
from detect.scoring.metrics import score

Batch = tuple[ImageBatch, Targets]
COLUMNS = (
    Column("train_loss", "loss", group="train"),
    Column("train_classification", "class", group="train"),
    Column("train_box", "box", group="train"),
    Column("val_map_11point", "11-pt", "percent", group="val mAP"),
    Column("val_map_area", "area", "percent", group="val mAP"),
    Column("val_coco_ap", "COCO", "percent", group="val mAP"),
)
"""Of the lines that a training prints."""


def training_batches(
    images: Sequence[LabelledImage], recipe: Recipe, reading: Reading, *, seed: int
) -> Callable[[Iterable[MicroBatch]], Iterator[Batch]]:
    """Return what reads, augments, resizes and delivers the training images of a recipe."""
    read = partial(_read_train, _Reader(images, recipe), seed)
    join = collate
    if recipe.augmentation.scale:  # one shape, of objects too: what a captured step needs
        most = max(len(image.annotation.labels) for image in images)
        join = partial(collate, side=recipe.detector.max_size, rows=most)

    def batches(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        loaded = stream(
            read,
            micro_batches,
            join,
            workers=reading.workers,
            device=reading.device,
            skip=reading.skip(len(images)),
        )
        return (to_device(batch, reading.device) for batch in transferred(loaded, reading.device))

    return batches


def aspect_groups(images: Sequence[LabelledImage]) -> list[int]:
    """Tell landscape (1) from portrait (0): images to form batches of, with little padding."""
    return [int(image.annotation.width >= image.annotation.height) for image in images]


class _Reader:
    """Images with the objects to train on, their augmentation and sizes."""

    def __init__(self, images: Sequence[LabelledImage], recipe: Recipe) -> None:
        self.images = images
        self.difficult = recipe.difficult
        self.detector = recipe.detector
        augmentation = recipe.augmentation
        self.scale = augmentation.scale
        window = recipe.detector.max_size if augmentation.scale else None
        self.change = make_augmentation(
            augmentation.crop,
            augmentation.flip,
            augmentation.colour,
            window=window,
            library=augmentation.library,
        )


def _read_train(reader: _Reader, seed: int, epoch: int, index: int) -> Item:
    image, detector = reader.images[index], reader.detector
    boxes, labels = image.annotation.usable(reader.difficult)
    item = read_pixels(image), boxes, labels
    short_side = draw_size(detector.train_sizes, seed, epoch, index)

    def resized(item: Item, factor: float = 1.0) -> Item:
        shape = resized_shape(item[0].shape[:2], factor * short_side, factor * detector.max_size)
        return resize(item, shape)

    if reader.scale:  # first, so that the window is cut out of the image at its drawn size
        item = resized(item, draw_factor(reader.scale, seed, epoch, index))
        return augment(reader.change, *item, seed, epoch, index)
    return resized(augment(reader.change, *item, seed, epoch, index))


def _read_test(images: Sequence[LabelledImage], detector: Detector, epoch: int, index: int) -> Item:
    image = images[index]
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    return resize((read_pixels(image), *nothing), _test_shape(image, detector))


def _test_shape(image: LabelledImage, detector: Detector) -> Shape:
    shape = image.annotation.height, image.annotation.width
    return resized_shape(shape, detector.test_size, detector.max_size)


def detection_loss(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the loop's loss: focal loss and box loss as the recipe divides them, and their sum."""
    losses = network(*batch)
    return {
        "loss": losses["classification"] + losses["bbox_regression"],
        "classification": losses["classification"],
        "box": losses["bbox_regression"],
    }


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Images to detect on, and what is in them."""

    images: Sequence[LabelledImage]
    truth: GroundTruth

    @staticmethod
    def of(
        images: Sequence[LabelledImage],
        classes: Sequence[str],
        category_ids: Sequence[int | str] = (),
        names: Sequence[str] = (),
    ) -> "EvaluationSet":
        """Gather the objects of the images; the other arguments as for `ground_truth`."""
        annotations = [image.annotation for image in images]
        truth = ground_truth(annotations, classes, category_ids, names)
        return EvaluationSet(images=images, truth=truth)

    def stream(
        self,
        batches: Iterable[NDArray[np.int64]],
        detector: Detector,
        device: torch.device,
        workers: int,
    ) -> Iterator[Collated]:
        """Yield the images at these positions, resized for evaluation, batch by batch."""
        read = partial(_read_test, self.images, detector)
        micro_batches = (MicroBatch(0, batch, 1.0) for batch in batches)
        return stream(read, micro_batches, collate, workers=workers, device=device)


def detect(
    network: BatchedRetinaNet, test: EvaluationSet, recipe: Recipe, world: World, workers: int
) -> Detections:
    """Run the detector over a test set, each image once, however many ranks there are.

    A batch holds images of one padded shape: what is found in an image does not depend on the size
    of the others. The ranks share out whole batches, so these are the same for any number of ranks.

    Args:
        network: In eval mode.
        test: The images.
        recipe: For sizes and precision.
        world: This process; it takes every `world.size`-th batch.
        workers: Processes that read images.

    Returns:
        All detections, in the order of the images, on every rank.

    Raises:
        Terminated: If the training around it was asked to end.
    """
    detector = recipe.detector
    shapes = [padded_shape(_test_shape(image, detector)) for image in test.images]
    batches = batches_of_one_shape(shapes, detector.test_batch_size)[world.rank :: world.size]
    loaded = transferred(test.stream(batches, detector, world.device, workers), world.device)
    rows, done = [torch.empty(0, 7, dtype=torch.float64, device=world.device)], 0
    for batch, collated in zip(batches, loaded, strict=True):
        if stop_asked():
            break
        rows.append(detect_batch(network, batch, collated, recipe, world.device))
        done += len(batch)
    table = gather_rows(torch.cat(rows)).cpu().numpy()
    if sum_over_ranks(torch.tensor(done, device=world.device)).item() < len(test.images):
        raise Terminated("ended on request while it detected")
    return _to_detections(table, test, detector)


@torch.inference_mode()
def detect_batch(
    network: BatchedRetinaNet,
    batch: NDArray[np.int64],
    collated: Collated,
    recipe: Recipe,
    device: torch.device,
) -> Tensor:
    """Detect in a batch of images.

    Returns:
        (d, 7) float64 on the device, a row a detection, best first within an image: position of the
        image in the data set, label, score, and box in pixels of the resized image.
    """
    images, _ = to_device(collated, device)
    with autocast(recipe.optimization, device):
        results = network(images, None)
    counts = torch.tensor([len(result["scores"]) for result in results])
    image = torch.from_numpy(batch).repeat_interleave(counts).to(device, non_blocking=True)
    labels, scores, boxes = (
        torch.cat([result[name] for result in results]) for name in ("labels", "scores", "boxes")
    )
    columns = image[:, None], labels[:, None], scores[:, None], boxes
    return torch.cat([column.double() for column in columns], dim=1)


def _to_detections(
    table: NDArray[np.float64], test: EvaluationSet, detector: Detector
) -> Detections:
    """Sort rows of `detect_batch` by image, and take their boxes back to the original pixels."""
    table = table[np.argsort(table[:, 0], kind="stable")]
    image = table[:, 0].astype(np.int64)
    shapes = [_test_shape(each, detector) for each in test.images]
    resized = np.array(shapes, np.int64).reshape(-1, 2)[:, ::-1]
    # As float32, as they came from the network: both file formats keep all digits of that.
    box, kept = to_original(table[:, 3:], resized[image], test.truth.sizes[image])
    return Detections(
        image=image[kept],
        label=table[kept, 1].astype(np.int64),
        score=table[kept, 2],
        box=box[kept],
    )


def evaluate(
    network: nn.Module, test: EvaluationSet, recipe: Recipe, world: World, workers: int
) -> Metrics:
    """Score a detector during training: VOC mAP and COCO AP, fractions, None where undefined.

    Without images there is no metric.
    """
    if not test.images:
        return {}
    if not isinstance(network, BatchedRetinaNet):
        raise TypeError(f"expected a BatchedRetinaNet, not {type(network).__name__}")
    detections = detect(network, test, recipe, world, workers)
    metrics = broadcast(score(test.truth, detections) if world.is_main else {})
    return {
        "val_map_11point": metrics["voc"]["map_11point"],
        "val_map_area": metrics["voc"]["map_area"],
        "val_coco_ap": metrics["coco"]["ap"],
    }
