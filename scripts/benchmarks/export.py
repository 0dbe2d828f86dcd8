"""Exported detectors beside the network in PyTorch: the same boxes on real photos, and the time.

A photo goes in as bytes of its own size and comes out as boxes in its pixels. PyTorch's side is the
network of the pipeline, with its own padding, selection and way back to the photo, not the graph
that the other two are written from. Photos are of as many sizes as there are, 50 at most; of some
sizes several go in as a batch. A side whose boxes lie more than 1e-3 pixels from PyTorch's, or
whose scores lie more than 1e-4 away, has failed.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.loader import find_photos
from benchmarks.measure import Comparison, Settings
from benchmarks.timing import CPU, in_turn
from common.errors import InputError
from common.images.photos import read_photo
from common.runs.finished import open_run
from common.text import counted
from detect.data.batches import ImageBatch, padded_shape, resized_shape, to_original
from detect.evaluate import build_detector
from detect.export.detector_file import export_run
from detect.network.retinanet import BatchedRetinaNet
from detect.recipes import Detector, Recipe

PHOTOS, BATCH, BATCHES = 50, 4, 5
PIXELS, SCORES = 1e-3, 1e-4
PYTORCH, ONNX, PROGRAM = "PyTorch", "onnxruntime", "torch.export"
Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Boxes (n, 4), scores (n,), labels (n,), and the image of each (n,)."""
Side = Callable[[Tensor], Found]
"""Takes photos of one size, (N, 3, H, W)."""


@dataclass
class Distance:
    """How far a side's detections lie from PyTorch's, over all photos so far.

    The last place of an image that is full goes to the higher of two scores; where these are equal
    but for rounding (`SCORES`), the sides may give it to different detections. Such are counted
    apart.
    """

    limit: int
    """Detections an image at most."""
    boxes: int = 0
    pixels: float = 0.0
    scores: float = 0.0
    last_place: int = 0
    unmatched: int = 0

    def add(self, found: Found, expected: Found) -> None:
        """Find each detection's nearest of the same class in the same image, both ways."""
        self.boxes += len(expected[0])
        for mine, theirs in ((found, expected), (expected, found)):
            for box, score, label, image in zip(*mine, strict=True):
                same = (theirs[2] == label) & (theirs[3] == image)
                away = np.abs(theirs[0] - box).max(axis=1, initial=0)
                away = np.where(same, away, np.inf)
                if not same.any() or away.min() > 1:  # pixel: another object
                    others = theirs[1][theirs[3] == image]
                    full = len(others) == self.limit
                    tied = full and abs(float(others.min()) - float(score)) <= SCORES
                    self.last_place += tied
                    self.unmatched += not tied
                    continue
                near = int(away.argmin())
                self.pixels = max(self.pixels, float(away[near]))
                self.scores = max(self.scores, abs(float(theirs[1][near]) - float(score)))

    def __str__(self) -> str:
        told = f"{self.boxes:,} boxes within {self.pixels:.2e} px, scores within {self.scores:.2e}"
        if self.last_place:
            told += f", {self.last_place} in a last place over which two scores tie"
        return told + (f", {self.unmatched} without a partner" if self.unmatched else "")

    @property
    def small(self) -> bool:
        """Whether it keeps to the limits."""
        return not self.unmatched and self.pixels <= PIXELS and self.scores <= SCORES


def choose(paths: Sequence[Path]) -> tuple[list[Tensor], list[Tensor]]:
    """Read one photo of each size, further ones where these are few, and batches of one size.

    Returns:
        (1, 3, H, W) each, and (2 to 4, 3, H, W) each.
    """
    by_size: dict[tuple[int, ...], list[Tensor]] = {}
    for path in paths:
        pixels = torch.from_numpy(read_photo(path)).permute(2, 0, 1)
        alike = by_size.setdefault(tuple(pixels.shape), [])
        if len(alike) < BATCH:
            alike.append(pixels)
    rounds = [
        alike[number]
        for number in range(BATCH)
        for alike in by_size.values()
        if len(alike) > number
    ]
    batches = [torch.stack(alike) for alike in by_size.values() if len(alike) > 1]
    return [photo[None] for photo in rounds[:PHOTOS]], batches[:BATCHES]


def in_pytorch(network: BatchedRetinaNet, detector: Detector, *, inside: bool) -> Side:
    """Return the pipeline's network, from photos or from resized ones to boxes in their pixels."""

    @torch.inference_mode()
    def detect(photos: Tensor) -> Found:
        height, width = photos.shape[-2:]
        rows, columns = height, width
        if inside:
            rows, columns = resized_shape((height, width), detector.test_size, detector.max_size)
            photos = F.interpolate(photos.float(), (rows, columns), mode="bilinear")
        padded = torch.zeros(len(photos), 3, *padded_shape((rows, columns)))
        padded[..., :rows, :columns] = photos
        results = network(ImageBatch(padded, torch.tensor([[rows, columns]] * len(photos))))
        found: list[Found] = []
        for number, one in enumerate(results):
            boxes, kept = to_original(
                one["boxes"].double().numpy(), np.array([columns, rows]), np.array([width, height])
            )
            scores, labels = one["scores"].numpy()[kept], one["labels"].numpy()[kept]
            found.append((boxes[kept], scores, labels, np.full(len(labels), number)))
        boxes, scores, labels, images = map(np.concatenate, zip(*found, strict=True))
        return boxes, scores, labels, images

    return detect


def in_onnxruntime(run: Path, folder: Path, threads: int, *, inside: bool) -> Side:
    """Export a run as an ONNX graph and open it."""
    import onnxruntime

    file = folder / "detector.onnx"
    export_run(run, "onnx", file, preprocessing=inside)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def detect(photos: Tensor) -> Found:
        boxes, scores, labels, images = session.run(None, {"images": photos.numpy()})
        return boxes, scores, labels, images

    return detect


def as_program(run: Path, folder: Path, *, inside: bool) -> Side:
    """Export a run as a torch.export program and open it."""
    file = folder / "program.pt2"
    export_run(run, "torch-export", file, preprocessing=inside)
    program = torch.export.load(file).module(check_guards=False)

    @torch.inference_mode()
    def detect(photos: Tensor) -> Found:
        boxes, scores, labels, images = (value.numpy() for value in program(photos))
        return boxes, scores, labels, images

    return detect


def compare(
    run: Path, settings: Settings, photos: list[Tensor], batches: list[Tensor], *, inside: bool
) -> Comparison:
    """Compare and time the sides of one run.

    Raises:
        InputError: If the run cannot be read.
    """
    finished = open_run(run, "detect", Recipe, "last")
    network, recipe = build_detector(finished).eval(), finished.recipe
    detector = recipe.detector

    def inputs(images: Tensor) -> dict[str, Tensor]:
        if inside:
            return dict.fromkeys(sides, images)
        shape = resized_shape(
            (images.shape[2], images.shape[3]), detector.test_size, detector.max_size
        )
        resized = F.interpolate(images.float(), shape, mode="bilinear")
        normalised = (resized - network.pixel_mean) / network.pixel_std
        return dict.fromkeys(sides, normalised) | {PYTORCH: resized}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides: dict[str, Side] = {
            PYTORCH: in_pytorch(network, detector, inside=inside),
            ONNX: in_onnxruntime(run, folder, settings.threads, inside=inside),
            PROGRAM: as_program(run, folder, inside=inside),
        }
    distances = {name: Distance(detector.detections_per_image) for name in (ONNX, PROGRAM)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for images in (*photos, *batches):  # before the times, which are so of a warm network
        given = inputs(images)
        expected = sides[PYTORCH](given[PYTORCH])
        for name, distance in distances.items():
            distance.add(sides[name](given[name]), expected)
    for photo in photos:
        given = inputs(photo)
        calls = {name: partial(side, given[name]) for name, side in sides.items()}
        for name, took in in_turn(calls, 1, warm_up=0).items():
            seconds[name] += took
    told = {name: str(distance) for name, distance in distances.items()}
    print("\n".join(f"{name}: {one}" for name, one in told.items()), flush=True)
    sizes = counted(len({image.shape for image in photos}), "size")
    return Comparison(
        case=f"{recipe.body}, {detector.fpn_channels} channels, a photo of {len(photos)} of "
        + f"{sizes}, "
        + ("as it is" if inside else "resized and normalised before"),
        seconds=seconds,
        notes=told,
        failed={name: f"differs: {told[name]}" for name, one in distances.items() if not one.small},
    )


def run(settings: Settings) -> Iterator[Comparison]:
    """Compare the runs that are given, on the photos that are given.

    Raises:
        InputError: If none is given.
    """
    if not settings.runs:
        raise InputError("the benchmark export needs trained detectors: give --runs RUN ...")
    if settings.device != CPU:
        raise InputError("the benchmark export compares on the CPU: use --device cpu")
    photos, batches = choose(find_photos(settings.photos))
    for folder in settings.runs:
        for inside in (True,) if settings.tiny else (True, False):
            yield compare(folder, settings, photos, batches, inside=inside)
