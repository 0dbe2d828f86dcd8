"""How times grow: with ranks, and with the data.

Ranks have one thread each. Growth with the data is the time of one image or detection: at 16 times
the data it should be that of the smallest set. A tenth more is taken for noise.
"""

import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks import measure
from benchmarks.loops import random_images, recipe_for, train_ours
from benchmarks.measure import Comparison, Run, Settings
from benchmarks.score import synthetic
from benchmarks.timing import CPU, StepTimes, in_turn
from common.images.loading import stream
from common.images.sampling import MicroBatch, Sampling
from common.processes.ranks import gather, start
from detect.scoring.bootstrap import bootstrap_map
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.error_kinds import analyse_errors
from detect.scoring.voc import score_voc
from pretrain.data.augment import ResidentImages, train_image
from pretrain.data.datasets import class_folders
from pretrain.data.splits import Batch
from pretrain.networks import build_network

LOOPS = ("rank",)
WARM_UP = 3
TIMES = (16, 4, 1)
LINEAR = 0.9
"""Least ratio of the time of an item in the small set to that in the large one."""


def sizes(settings: Settings) -> tuple[int, int, int]:
    """Return images of a rank's step, timed steps, processes of each side."""
    return (4, 2, 1) if settings.tiny else (64, 6, 2)


def one(settings: Settings) -> Run:
    """Train ResNet-20 as one of the ranks that torchrun started; the times are of an image."""
    batch, steps, _ = sizes(settings)
    with start("cpu") as world:
        total = batch * world.size
        times = StepTimes(world.device, steps, 1, WARM_UP)
        data = random_images(times.batches * total)
        recipe = recipe_for("cifar-resnet20", total, "fp32")
        resident = ResidentImages(data, recipe.images.padding, seed=0, device=CPU)

        def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
            for micro_batch in micro_batches:
                yield resident.train_batch(micro_batch.epoch, micro_batch.indices)

        network = build_network("cifar-resnet20", len(data.classes))
        train_ours(recipe, network, load, world, times)
        slowest = max(gather(times.took()[0].seconds))
    return Run([slowest / total])


def ranks(settings: Settings) -> Comparison:
    """Time an image in one process and in two, each with a thread."""
    batch, _, rounds = sizes(settings)
    arguments = ["scale", *replace(settings, threads=1).flags(), "--loop", "rank"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return measure.of_runs(
        measure.in_processes(
            {"2 gloo ranks": arguments, "1 process": arguments},
            rounds,
            launcher={"2 gloo ranks": [*torchrun, "--nproc-per-node", "2"]},
        ),
        case=f"ResNet-20, {batch} images per rank, per image",
        faster={"1 process": 2 * LINEAR},
    )


def write_images(root: Path, count: int, side: int) -> None:
    """Write noise as JPEG files in two class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:06}.jpg"), pixels)


def read_epoch(root: Path, side: int) -> int:
    """List a set, shuffle it, and read and augment each image once; return how many."""
    data = class_folders(root, "train")

    def read(epoch: int, index: int) -> np.ndarray:
        return train_image(data.image(index), side, 0, epoch, index)

    sampling = Sampling(num_images=len(data.labels), batch_size=25, seed=0)
    plan = sampling.micro_batches(0, sampling.steps_per_epoch)
    return sum(len(batch) for batch in stream(read, plan, np.stack, workers=0, device=CPU))


def loader(settings: Settings) -> Comparison:
    """Time an image of an epoch at three sizes of the set."""
    smallest, rounds = (25, 1) if settings.tiny else (250, 3)
    with tempfile.TemporaryDirectory() as folder:
        calls, per = {}, {}
        for times in TIMES:
            name, root = f"{times * smallest:,} images", Path(folder) / str(times)
            write_images(root, times * smallest, 48)
            calls[name], per[name] = partial(read_epoch, root, 32), times * smallest
        seconds = in_turn(calls, rounds, warm_up=1, per=per)
    return Comparison(
        case="listing, shuffling, reading and augmenting, an image",
        seconds=seconds,
        faster={f"{smallest:,} images": LINEAR},
    )


def scorers(settings: Settings) -> list[Comparison]:
    """Time a detection of three sizes of the set: scored, its errors, resampled."""
    images, detections = (4, 50) if settings.tiny else (3125, 125_000)
    sets = {
        f"{times * detections:,} detections": synthetic(times * images, times * detections)
        for times in TIMES
    }
    per = {name: len(found.score) for name, (_, found) in sets.items()}
    work: dict[str, Callable[[GroundTruth, Detections], object]] = {
        "score_voc": score_voc,
        "analyse_errors": analyse_errors,
        "bootstrap_map, 20 resamples": partial(bootstrap_map, resamples=20),
    }
    return [
        Comparison(
            case=f"{name}, a detection; memory {', '.join(peaks(call, sets.values()))} MB",
            seconds=in_turn(
                {size: partial(call, *data) for size, data in sets.items()},
                2 if settings.tiny else 3,
                warm_up=1,
                per=per,
            ),
            faster={f"{detections:,} detections": LINEAR},
        )
        for name, call in work.items()
    ]


def peaks(
    call: Callable[[GroundTruth, Detections], object],
    sets: Iterable[tuple[GroundTruth, Detections]],
) -> list[str]:
    """Measure the most memory that a call takes for itself, for each set."""
    written = []
    for data in sets:
        tracemalloc.start()  # numpy tells it of its arrays
        call(*data)
        written.append(f"{tracemalloc.get_traced_memory()[1] / 1e6:.0f}")
        tracemalloc.stop()
    return written


def run(settings: Settings) -> list[Comparison]:
    """Time ranks, reading and scoring."""
    return [ranks(settings), loader(settings), *scorers(settings)]
