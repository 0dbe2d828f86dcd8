"""A trained classifier for anybody's photos, from a run or from a file of weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision.models as models
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError, summary
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from common.images.predicting import predict_each
from common.optimization.precision import autocast
from common.processes.ranks import choose_device
from common.recipe import Optimization
from common.runs.finished import open_run
from common.text import in_line
from common.training.network import move_network
from common.weights import reading
from common.weights.backbone import fingerprint, read_card
from common.weights.detectron2 import read_detectron2
from common.weights.layouts import detectron2_name
from common.weights.resnets import TIMM, TORCHVISION, recognise
from pretrain.data.augment import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    CIFAR100_STD,
    eval_image,
    normalize,
)
from pretrain.data.image_sets import central_square
from pretrain.evaluate import build_classifier
from pretrain.export.inspection import small_network
from pretrain.export.onnx import INPUT
from pretrain.networks import GROUPS, build_network
from pretrain.recipes import Recipe
from pretrain.task import pixel_statistics

BATCH = 32
_STATISTICS = {10: (CIFAR10_MEAN, CIFAR10_STD), 100: (CIFAR100_MEAN, CIFAR100_STD)}
_UNCOUNTED = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The classes of a photo, the likeliest first."""

    names: tuple[str, ...]
    """Names of the k likeliest classes."""
    labels: NDArray[np.int64]
    """(k,) int64, index into the classifier's `classes`."""
    scores: NDArray[np.float32]
    """(k,) float32, softmax; over all classes they add up to 1."""
    path: Path | None = None
    """The photo's file; None if it was given in memory."""
    error: str | None = None
    """Why the photo could not be read; None if it was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """How a photo is prepared for the network."""

    size: int
    """Side of the square that the network sees."""
    crop: Literal["pad", "resized"]
    """As the recipe's: the central square of the photo; or that of 224/256 of its short side."""
    mean: Sequence[float]
    std: Sequence[float]

    def square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and cut a photo as an evaluation does."""
        return (central_square if self.crop == "pad" else eval_image)(pixels, self.size)

    def __post_init__(self) -> None:
        if self.crop not in ("pad", "resized") or len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("a crop is pad or resized; mean and std have three numbers each")

    def __str__(self) -> str:
        numbers = (" ".join(f"{value:.3g}" for value in v) for v in (self.mean, self.std))
        return f"{self.size} pixels, mean {next(numbers)}, std {next(numbers)}"


class Predictor:
    """A trained classifier for photos; `pretrain.load` opens one.

    Attributes:
        classes: Their names; numbers from 0 where these are not known.
        pixels: How a photo is prepared for the network.
        notes: What had to be assumed, in words.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        classes: Sequence[str],
        pixels: Pixels,
        device: torch.device,
        optimization: Optimization | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.classes, self.pixels, self.notes = tuple(classes), pixels, tuple(notes)
        self._device, self._optimization = device, optimization
        self._network = network
        if isinstance(network, nn.Module):
            network.eval().to(device)
            if optimization:
                move_network(network, optimization, device)

    def predict(self, photos: Any, top_k: int = 5, *, keep_going: bool = False) -> list[Prediction]:
        """Classify photos.

        Args:
            photos: A path (of a file, a folder, or a pattern such as "photos/*.jpg"), or a list of
                paths of files; arrays (H, W, 3) uint8; tensors (3, H, W), uint8 or floats in
                [0, 1]; or images of Pillow. All RGB, of any size. An EXIF orientation is applied.
            top_k: How many classes are returned, at most.
            keep_going: Return a photo that cannot be read without classes, and why as its `error`,
                instead of raising, which loses what was found on the others.

        Returns:
            One for each photo, in order; of a folder or pattern, in the order of the names.

        Raises:
            InputError: If a photo cannot be read, or is nothing of that kind.
        """
        nothing = Prediction((), np.empty(0, np.int64), np.empty(0, np.float32))
        classify = partial(self.classify, top_k=top_k)
        return predict_each(photos, self.pixels.square, classify, nothing, keep_going=keep_going)

    def classify(self, squares: Iterable[NDArray[np.uint8]], top_k: int) -> Iterator[Prediction]:
        """Yield the classes of squares that `pixels` cut out, a batch at a time."""
        asked: Any = top_k
        if not isinstance(asked, Integral) or top_k < 1:
            raise InputError(f"top_k {top_k!r}: choose a whole number, 1 or more")
        batch: list[NDArray[np.uint8]] = []
        for square in squares:
            batch.append(square)
            if len(batch) == BATCH:
                yield from self._batch(batch, top_k)
                batch = []
        if batch:
            yield from self._batch(batch, top_k)

    @torch.inference_mode()
    def _batch(self, squares: list[NDArray[np.uint8]], top_k: int) -> list[Prediction]:
        images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).to(self._device)
        settings = self._optimization
        with autocast(settings, self._device) if settings else nullcontext():
            logits = self._network(normalize(images, self.pixels.mean, self.pixels.std)).float()
        if not bool(logits.isfinite().all()):
            raise InputError(
                "the network returns NaN or infinite numbers: its weights are damaged, or the "
                "numbers of its precision overflow; give an earlier checkpoint"
            )
        best = logits.softmax(1).topk(min(int(top_k), logits.shape[1]))
        return [
            Prediction(tuple(self.classes[label] for label in labels), np.array(labels), scores)
            for labels, scores in zip(best.indices.tolist(), best.values.cpu().numpy(), strict=True)
        ]


def load_predictor(source: Path, checkpoint: str, device: str) -> Predictor:
    """Open a classifier; as `pretrain.load`."""
    place = choose_device(device)
    if source.is_dir():
        return _of_run(source, checkpoint, place)
    if (source.parent / "recipe.json").is_file() and source.name in ("best.pt", "last.pt"):
        return _of_run(source.parent, source.stem, place)
    if not source.exists():
        raise InputError(f"{source} is not there: give the folder of a run or a file of weights")
    card = read_card(source, fingerprint(source))
    if source.suffix == ".onnx":
        return _of_graph(source, card, place)
    detector = False
    if source.suffix == ".pkl":
        arrays = read_detectron2(source).items()
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays}
    else:
        content = reading.read_content(source)
        if reading.is_checkpoint(content):
            tensors = dict(content.get("average", content["model"]))
        else:
            weights = reading.weights_of(content, source)
            detector = weights.prefix.endswith("backbone.body.")  # its body is not a classifier
            tensors = weights.tensors
    if detector or reading.is_detector(tensors):
        raise InputError(f"{source} holds a detector: use python -m detect predict --run RUN")
    return _of_weights(source, tensors, card, place)


def _of_run(folder: Path, checkpoint: str, device: torch.device) -> Predictor:
    run = open_run(folder, "pretrain", Recipe, checkpoint)
    images = run.recipe.images
    mean, std = pixel_statistics(run.recipe)
    pixels = Pixels(size=images.size, crop=images.crop, mean=mean, std=std)
    classes = run.fact("classes")
    return Predictor(build_classifier(run), classes, pixels, device, run.recipe.optimization)


def _of_weights(
    source: Path, tensors: dict[str, Tensor], card: Mapping[str, Any], device: torch.device
) -> Predictor:
    if "stem.fc.weight" in tensors:  # detectron2's names
        tensors = _under_torchvisions_names(tensors)
    head = tensors.get("fc.weight")
    if head is None or head.ndim != 2:
        raise InputError(f"{source} has no classifier that is known (fc.weight): give one that has")
    reading.check_finite(tensors, source)
    name, small = recognise(tensors), small_network(tensors)
    stem = card.get("stem", "imagenet")
    if small:
        network = build_network(small[0], len(head), block=small[1])
    elif name in GROUPS:
        network = build_network(name, len(head), stem)
    elif name in TORCHVISION:
        network = models.get_model(name, weights=None, num_classes=len(head))
    elif name in TIMM:
        network = _of_timm(name, len(head), source)
    else:
        raise InputError(
            f"{source} holds a network that is not known: see `python -m pretrain inspect`"
        )
    wanted = network.state_dict()
    wrong = [
        key
        for key in dict.fromkeys((*wanted, *tensors))
        if _UNCOUNTED not in key
        and not (key in wanted and key in tensors and wanted[key].shape == tensors[key].shape)
    ]
    if wrong:
        raise InputError(
            f"{source}: {wrong[0]} is missing, not known or of another shape: save a whole "
            f"{name or small}"
        )
    network.load_state_dict(tensors, strict=False)
    mean, std = _STATISTICS.get(len(head), (IMAGENET_MEAN, IMAGENET_STD))
    pixels = Pixels(size=32, crop="pad", mean=mean, std=std)
    if not small:
        pixels = Pixels(size=224, crop="resized", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    classes, pixels, notes = _described(source, card, len(head), pixels)
    return Predictor(network, classes, pixels, device, notes=notes)


def _under_torchvisions_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name in TORCHVISION:
        with torch.device("meta"):
            wanted = models.get_model(name, num_classes=len(tensors["stem.fc.weight"]))
        keys = {key: detectron2_name(key) for key in wanted.state_dict() if _UNCOUNTED not in key}
        if set(keys.values()) <= set(tensors):
            renamed = {key: tensors[theirs] for key, theirs in keys.items()}
            if recognise(renamed) == name:
                return renamed
    return dict(tensors)


def _of_timm(name: str, classes: int, source: Path) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise InputError(f"{source} holds a {name}, which timm builds: pip install timm") from None
    network: nn.Module = timm.create_model(name, num_classes=classes)
    return network


def _of_graph(source: Path, card: Mapping[str, Any], device: torch.device) -> Predictor:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"{source}: running ONNX graphs needs onnxruntime: pip install 'focused-dropout[onnx]'"
        ) from None
    try:
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(
            f"{source} is not a graph that onnxruntime runs, export again: {summary(error)}"
        ) from error
    size = _side(session.get_inputs(), session.get_outputs())
    if size is None:
        raise InputError(
            f"{source} is no graph from {INPUT} (N, 3, S, S), float32 with N free, to logits "
            "(N, classes): export one"
        )
    image, logits = session.get_inputs()[0], session.get_outputs()[0]

    def network(images: Tensor) -> Tensor:
        (found,) = session.run([logits.name], {image.name: images.cpu().numpy()})
        return torch.from_numpy(found).to(images.device)

    pixels = Pixels(size=size, crop="resized", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    count = logits.shape[1]
    if not isinstance(count, int):
        raise InputError(f"{source} does not say its number of classes: export again")
    classes, pixels, notes = _described(source, card, count, pixels)
    return Predictor(network, classes, pixels, device, notes=notes)


def _side(inputs: Sequence[Any], outputs: Sequence[Any]) -> int | None:
    """Return the side of the images that a graph classifies; None if it does something else."""
    if len(inputs) != 1 or not outputs or inputs[0].type != "tensor(float)":
        return None
    if len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
        return None
    batch, channels, height, width = inputs[0].shape
    square = isinstance(width, int) and (channels, height) == (3, width)
    return width if square and not isinstance(batch, int) else None


def _described(
    source: Path, card: Mapping[str, Any], count: int, pixels: Pixels
) -> tuple[list[str], Pixels, list[str]]:
    """Return classes and pixels by the card of a file, and notes of what had to be assumed."""
    notes = []
    classes, stated = card.get("classes"), card.get("preprocessing")
    if not isinstance(classes, list) or len(classes) != count:
        classes = list(map(str, range(count)))
        notes.append(
            f"{in_line(str(source))} has no card with class names: classes are numbered from 0"
        )
    try:
        assert isinstance(stated, Mapping)
        crop = card["recipe"]["images"]["crop"]
        size, mean, std = (stated[name] for name in ("image_size", "mean", "std"))
        pixels = Pixels(size=int(size), crop=crop, mean=[*map(float, mean)], std=[*map(float, std)])
    except (AssertionError, KeyError, TypeError, ValueError):
        notes.append(f"no card says how photos are prepared: {pixels}")
    return list(map(str, classes)), pixels, notes
