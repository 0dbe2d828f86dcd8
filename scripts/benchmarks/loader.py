"""From a JPEG to an augmented, normalised tensor: ours against torchvision's reference preset.

The preset is the one of torchvision's classification references on its PIL backend:
RandomResizedCrop (bilinear, antialiased as PIL always is) and flip, then a normalised float tensor.
Ours ends in the same: bytes from the reader, normalised as a batch. For a GPU that is done there,
and a worker is ready with the bytes. One thread: rates are per core.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from sharding.packing import JPEG_QUALITY, read_shrunk
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from benchmarks.measure import Comparison, Settings
from benchmarks.timing import in_turn
from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD, read_image
from pretrain.data.augment import normalize, train_image

SIDE = 224
SHORT_SIDE = 256
ROUNDS = 11
SUFFIXES = (".jpg", ".jpeg")


def find_photos(folder: Path | None) -> list[Path]:
    """List the JPEG files below a folder.

    Raises:
        InputError: If there is no folder or no photo.
    """
    if folder is None:
        raise InputError("the benchmark loader needs real photos: give --photos DIR")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{folder} holds no .jpg or .jpeg files: give another --photos DIR")
    return found


def preset(side: int) -> transforms.Compose:
    """Return torchvision's training preset."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                side, interpolation=InterpolationMode.BILINEAR, antialias=True
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


@contextmanager
def shrunk(paths: list[Path], short_side: int) -> Iterator[list[Path]]:
    """Lend copies of the photos as `scripts/make_shards.py --resize` packs them."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / f"{number}.jpg" for number in range(len(paths))]
        for path, copy in zip(paths, copies, strict=True):
            copy.write_bytes(read_shrunk(path, short_side)[0])
        yield copies


def ours_bytes(paths: list[Path], side: int) -> Tensor:
    """Read, augment and stack, (B, 3, side, side): what a worker does."""
    pixels = [train_image(read_image(path), side, 0, 0, n) for n, path in enumerate(paths)]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def ours(paths: list[Path], side: int) -> Tensor:
    """Read, augment, stack and normalise, (B, 3, side, side)."""
    return normalize(ours_bytes(paths, side), IMAGENET_MEAN, IMAGENET_STD)


def torchvision(paths: list[Path], transform: transforms.Compose) -> Tensor:
    """Do the same with PIL and torchvision."""
    images = []
    for path in paths:
        with path.open("rb") as file:
            images.append(transform(Image.open(file).convert("RGB")))
    return torch.stack(images)


def run(settings: Settings) -> list[Comparison]:
    """Time passes over the photos as they are, and as small shards hold them."""
    paths = find_photos(settings.photos)
    side, short_side = (32, 48) if settings.tiny else (SIDE, SHORT_SIDE)
    torch.set_num_threads(1)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    torch.manual_seed(0)
    found = [_compare(f"{len(paths)} photos to {side} px, an image", paths, side, settings)]
    with shrunk(paths, short_side) as copies:
        packed = f"shards of {short_side} px, JPEG {JPEG_QUALITY}"
        found.append(_compare(f"the same from {packed}", copies, side, settings))
    cv2.setNumThreads(threads)
    torch.set_num_threads(settings.threads)
    return found


def _compare(case: str, paths: list[Path], side: int, settings: Settings) -> Comparison:
    """Time passes over files, in batches of 32."""
    batches = [paths[start : start + 32] for start in range(0, len(paths), 32)]
    transform = preset(side)
    calls = {
        "ours": lambda: [ours(batch, side) for batch in batches],
        "ours, up to the bytes for a GPU": lambda: [ours_bytes(batch, side) for batch in batches],
        "torchvision's preset on PIL": lambda: [torchvision(batch, transform) for batch in batches],
        "decoding alone, ours": lambda: [read_image(path) for path in paths],
        "decoding alone, PIL": lambda: [_decode(path) for path in paths],
    }
    rounds = 2 if settings.tiny else ROUNDS
    seconds = in_turn(calls, rounds, per=dict.fromkeys(calls, len(paths)))
    return Comparison(
        case=case,
        seconds=seconds,
        faster={"torchvision's preset on PIL": 1.6},
        floor=(statistics.median(seconds["decoding alone, ours"]), "decoding by OpenCV"),
    )


def _decode(path: Path) -> Image.Image:
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")
