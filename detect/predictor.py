"""A trained detector for anybody's photos."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import InputError
from common.images.predicting import predict_each
from common.processes.ranks import choose_device
from common.runs.finished import open_run
from common.training.network import move_network
from detect.data.batches import (
    Item,
    Shape,
    batches_of_one_shape,
    collate,
    padded_shape,
    resize,
    resized_shape,
    to_original,
)
from detect.evaluate import build_detector
from detect.network.retinanet import BatchedRetinaNet
from detect.operating_point import best_threshold
from detect.recipes import Detector, Recipe
from detect.task import detect_batch

_BATCHES_AHEAD = 4
"""At most this many full batches of photos are in memory, to find those of one shape."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found on a photo, best first."""

    boxes: NDArray[np.float32]
    """(n, 4) float32 [x1, y1, x2, y2], edges in pixels of the upright photo."""
    scores: NDArray[np.float32]
    """(n,) float32, in [0, 1]."""
    labels: NDArray[np.int64]
    """(n,) int64, index into the detector's `classes`."""
    names: tuple[str, ...]
    """The classes of the boxes."""
    size: tuple[int, int]
    """Width and height of the upright photo, pixels; (0, 0) where it could not be read."""
    path: Path | None = None
    """The file; None where the photo was given in memory."""
    error: str | None = None
    """Why it could not be read; None: it was."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as the network gets it, and as it is drawn on."""

    resized: NDArray[np.uint8]
    shape: Shape
    canvas: NDArray[np.uint8] | None = None


class Predictor:
    """A trained detector for photos; `detect.load` opens one.

    Attributes:
        classes: Their names.
        threshold: Score from which on boxes are returned unless another is given: that of the best
            F1, where the run was evaluated, else 0.5.
        threshold_origin: Where that is from.
        settings: Of the recipe: sizes, for `prepare`.
    """

    def __init__(
        self,
        network: BatchedRetinaNet,
        recipe: Recipe,
        classes: Sequence[str],
        threshold: float,
        threshold_origin: str,
    ) -> None:
        self.classes = tuple(classes)
        self.threshold, self.threshold_origin = threshold, threshold_origin
        self.settings = recipe.detector
        self._network, self._recipe = network.eval(), recipe

    @staticmethod
    def load(run: Path, checkpoint: str, device: str) -> "Predictor":
        """Open the detector of a run; as `detect.load`."""
        place = choose_device(device)
        finished = open_run(run, "detect", Recipe, checkpoint)
        network, recipe = build_detector(finished), finished.recipe
        move_network(network, recipe.optimization, place)
        return Predictor(network, recipe, finished.fact("classes"), *best_threshold(finished))

    def predict(
        self, photos: Any, score_threshold: float | None = None, *, keep_going: bool = False
    ) -> list[Prediction]:
        """Find objects on photos.

        Args:
            photos: A path (of a file, a folder, or a pattern such as "photos/*.jpg"), or a list of
                paths of files; arrays (H, W, 3) uint8; tensors (3, H, W), uint8 or floats in
                [0, 1]; or images of Pillow. All RGB, of any size. An EXIF orientation is applied.
            score_threshold: From which score on boxes are returned; None: `threshold`.
            keep_going: Return a photo that cannot be read without boxes, and why as its `error`,
                instead of raising, which loses what was found on the others.

        Returns:
            One for each photo, in order; of a folder or pattern, in the order of the names.

        Raises:
            InputError: If a photo cannot be read, or is nothing of that kind.
        """
        return predict_each(
            photos,
            partial(prepare, detector=self.settings),
            lambda ready: (found for _, found in self.detect(ready, score_threshold)),
            _nothing(),
            keep_going=keep_going,
        )

    def detect(
        self, photos: Iterable[Photo], score_threshold: float | None = None
    ) -> Iterator[tuple[Photo, Prediction]]:
        """Yield prepared photos and what was found on each, in order, a few batches at a time."""
        threshold = self.threshold if score_threshold is None else score_threshold
        asked: Any = threshold
        if not isinstance(asked, Real) or not 0 <= threshold <= 1:
            raise InputError(f"score_threshold {threshold!r}: choose a number in [0, 1]")
        size = self.settings.test_batch_size
        for chunk in _chunks(photos, _BATCHES_AHEAD * size):
            rows = torch.cat([*self._rows(chunk, size, threshold)]).cpu().numpy()
            for index, photo in enumerate(chunk):
                yield photo, self._prediction(photo, rows[rows[:, 0] == index], threshold)

    def _rows(self, chunk: list[Photo], size: int, threshold: float) -> Iterator[torch.Tensor]:
        network, recipe = self._network, self._recipe
        # A network keeps what lies above, as in torchvision; here equal scores count, too.
        below = float(np.nextafter(np.float32(threshold), np.float32(-1)))
        shapes = [padded_shape(_shape(photo.resized)) for photo in chunk]
        of_network = network.score_thresh
        network.score_thresh = min(below, self.settings.score_threshold)
        try:
            for batch in batches_of_one_shape(shapes, size):
                items = [_without_objects(chunk[index].resized) for index in batch]
                device = network.pixel_mean.device
                yield detect_batch(network, batch, collate(items), recipe, device)
        finally:  # of a training, the next evaluation goes by it
            network.score_thresh = of_network

    def _prediction(self, photo: Photo, rows: NDArray[np.float64], threshold: float) -> Prediction:
        width, height = photo.shape[::-1]
        resized = np.array(photo.resized.shape[1::-1])
        box, kept = to_original(rows[:, 3:], resized, np.array([width, height]))
        kept &= rows[:, 2] >= threshold
        labels = rows[kept, 1].astype(np.int64)
        return Prediction(
            boxes=box[kept].astype(np.float32),
            scores=rows[kept, 2].astype(np.float32),
            labels=labels,
            names=tuple(self.classes[label] for label in labels),
            size=(width, height),
        )


def prepare(
    pixels: NDArray[np.uint8], detector: Detector, picture_side: int | None = None
) -> Photo:
    """Resize a photo as an evaluation does, and, for a picture, to its longest side at most."""
    shape = _shape(pixels)
    target = resized_shape(shape, detector.test_size, detector.max_size)
    resized = resize(_without_objects(pixels), target)[0]
    canvas = None
    if picture_side:
        shrink = min(1.0, picture_side / max(shape))
        size = max(1, round(shape[1] * shrink)), max(1, round(shape[0] * shrink))
        canvas = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Photo(resized, shape, canvas)


def _shape(pixels: NDArray[np.uint8]) -> Shape:
    return pixels.shape[0], pixels.shape[1]


def _without_objects(pixels: NDArray[np.uint8]) -> Item:
    return pixels, np.empty((0, 4), np.float32), np.empty(0, np.int64)


def _nothing() -> Prediction:
    floats = np.empty((0, 4), np.float32)
    return Prediction(floats, floats[:, 0], np.empty(0, np.int64), (), (0, 0))


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
