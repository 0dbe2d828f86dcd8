"""Feeding a GPU: images through worker processes to the device, and JPEGs decoded on it.

The way of a training: files, workers, augmented bytes on the device, nothing trained. On a GPU the
workers decode and crop, or it does (--images.decode gpu). Photos are those of --photos, or drawn:
noise of several scales in the usual sizes.
"""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import decode_jpeg

from benchmarks.loader import find_photos
from benchmarks.measure import Comparison, Settings
from benchmarks.timing import StepTimes, take_turns
from common.images.loading import Reading
from common.images.sampling import MicroBatch
from common.processes import launcher
from pretrain.data.splits import open_split
from pretrain.recipes import RECIPES

Decoder = Literal["cpu", "gpu"]
SIZES = ((375, 500), (500, 375), (333, 500), (400, 600))
SCALES = (4, 16, 64, 256)
REGIONS = 3
STEPS = 4
"""Batches of a worker in a region: where they differ in length, workers even out."""


def draw_photos(folder: Path, count: int) -> None:
    """Write JPEG files of noise, strong at large scales as in photos."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        height, width = SIZES[number % len(SIZES)]
        pixels = np.full((height, width, 3), 128, np.float32)
        for scale in SCALES:
            noise = rng.normal(0, 80 / scale**0.4, (scale, scale, 3)).astype(np.float32)
            pixels += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        file = str(folder / f"{number:04}.jpg")
        cv2.imwrite(file, pixels.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])


def make_set(root: Path, settings: Settings) -> list[Path]:
    """Lay the photos out in a class folder; return them."""
    folder = root / "train" / "photos"
    if settings.photos is None:
        draw_photos(folder, 16 if settings.tiny else 512)
    else:
        folder.mkdir(parents=True)
        for number, photo in enumerate(find_photos(settings.photos)):
            (folder / f"{number:06}.jpg").symlink_to(photo)
    return sorted(folder.iterdir())


def worker_counts(cores: int) -> list[int]:
    """Choose all cores, then fewer, down to one."""
    return sorted({cores, -(-3 * cores // 4), -(-cores // 2), 1}, reverse=True)


def feed(
    root: Path, workers: int, batch: int, decoder: Decoder, device: torch.device
) -> list[float]:
    """Read batches to the device; return the seconds of an image, region by region."""
    recipe = RECIPES["imagenet-resnet50"]()
    recipe = replace(recipe, images=replace(recipe.images, decode=decoder))
    reading = Reading(workers=workers, device=device)
    split = open_split(recipe.images, root, "train", reading, training=True, seed=0)
    # Each worker holds two batches ready at the start, which took no time.
    times = StepTimes(device, STEPS * workers, REGIONS, warm_up=2 * workers + 1)
    indices = np.arange(times.batches * batch).reshape(-1, batch) % split.num_images
    for _ in times.watch(split.load(MicroBatch(0, chosen, 1.0) for chosen in indices)):
        pass
    return [took.seconds / batch for took in times.took()]


def decode(blobs: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decode a batch on the device, by nvJPEG if that is a GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision is about to hand decoders to another package
        decoded: list[Tensor] = decode_jpeg(blobs, device=device)
    return decoded


def run(settings: Settings) -> Iterator[Comparison]:
    """Time an image by numbers of workers, then decoding alone."""
    batch = 4 if settings.tiny else 64
    with tempfile.TemporaryDirectory() as name:
        paths = make_set(Path(name), settings)
        mean = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        photos = f"{len(paths)} photos of {mean:.0f} kB"
        counts = [2, 1] if settings.tiny else worker_counts(min(16, launcher.usable_cores()))
        decoders: dict[Decoder, str] = {"cpu": ""}
        if settings.device.type == "cuda":
            decoders["gpu"] = ", nvJPEG"
        fed = {
            f"{workers} worker{'s' * (workers > 1)}{who}": feed(
                Path(name), workers, batch, decoder, settings.device
            )
            for decoder, who in decoders.items()
            for workers in counts
        }
        case = f"{photos} to 224 px on the device, an image"
        yield Comparison(case=case, seconds=fed, images=1)
        blobs = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in paths]
    endless = itertools.cycle(blobs)

    def call() -> None:
        decode(list(itertools.islice(endless, batch)), settings.device)

    side = f"decode_jpeg on the {settings.device.type.upper()}"
    turns = take_turns({side: call}, 5, settings.device, per={side: batch})
    yield Comparison(case=f"{photos} decoded, an image", **vars(turns), images=1)
