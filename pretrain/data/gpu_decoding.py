"""JPEG files decoded, cropped and resized on a GPU, where there are too few cores to feed it.

Workers read files and draw crops; the main process hands a batch of files to nvJPEG. Its pixels are
not those of libjpeg, so results name it. Images that it does not take (PNG, CMYK, damaged ones) are
decoded by the workers as usual.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError, summary
from common.images.decoding import decode_image, plain_jpeg
from pretrain.data.augment import Crop, draw_crop
from pretrain.data.image_sets import FileSet
from pretrain.data.shards import ShardSet


class Item(NamedTuple):
    """An image as a worker reads it."""

    content: Tensor
    """The bytes (n,) of a JPEG file, or pixels (H, W, 3)."""
    crop: Crop
    label: int


class Encoded(NamedTuple):
    """A batch of them, in few tensors: each that a worker sends keeps a file open."""

    contents: Tensor
    """All contents, flat, one after the other."""
    shapes: list[tuple[int, ...]]
    crops: list[Crop]
    labels: Tensor


def check_gpu_decoding(device: torch.device) -> None:
    """See that JPEG files can be decoded on a device.

    Raises:
        InputError: If they cannot.
    """
    if device.type != "cuda":
        raise InputError(
            f"--images.decode gpu needs an NVIDIA GPU, and this runs on {device.type}: "
            "use --images.decode cpu"
        )
    _, tiny = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))
    try:
        _decode_jpegs([torch.from_numpy(tiny.ravel())], device)
    except (ImportError, RuntimeError) as error:  # of a torchvision without nvJPEG
        raise InputError(
            f"torchvision cannot decode on {device} ({summary(error)}): use --images.decode cpu"
        ) from error


def read_item(
    data: FileSet | ShardSet, seed: int, min_scale: float, epoch: int, index: int
) -> Item:
    """Read an image, and draw the crop that it would have if it were decoded here.

    Raises:
        InputError: If it cannot be read, or neither GPU nor CPU could decode it.
    """
    file = data.read(index)
    header = plain_jpeg(file)
    if header:
        content = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        height, width = header.height, header.width
    else:
        content = torch.from_numpy(data.image(index))
        height, width, _ = content.shape
    crop = draw_crop(height, width, seed, epoch, index, min_scale)
    return Item(content, crop, int(data.labels[index]))


def collate_files(items: Sequence[Item]) -> Encoded:
    """Make a batch of items."""
    contents, crops, labels = zip(*items, strict=True)
    flat = torch.cat([content.flatten() for content in contents])
    shapes = [tuple(content.shape) for content in contents]
    return Encoded(flat, shapes, list(crops), torch.tensor(labels))


def decode_batch(batch: Encoded, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Decode, crop, resize and flip a batch on the device.

    Returns:
        Images (B, 3, size, size), uint8, channels last in memory, and labels (B,).

    Raises:
        InputError: If a JPEG file is damaged after its header.
    """
    pieces = batch.contents.split([math.prod(shape) for shape in batch.shapes])
    contents = [piece.view(shape) for piece, shape in zip(pieces, batch.shapes, strict=True)]
    files = [content for content in contents if content.dim() == 1]
    decoded = iter(_decode_all(files, device))
    squares = []
    for content, crop in zip(contents, batch.crops, strict=True):
        image = next(decoded) if content.dim() == 1 else content.to(device).permute(2, 0, 1)
        part = image[:, crop.top : crop.bottom, crop.left : crop.right]
        # As floats: only the CPU has this for bytes.
        squares.append(
            F.interpolate(part[None].float(), (size, size), mode="bilinear", antialias=True)
        )
    images = torch.cat(squares).round_().to(torch.uint8, memory_format=torch.channels_last)
    flip = torch.tensor([crop.flip for crop in batch.crops]).to(device, non_blocking=True)
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    return images, batch.labels.to(device, non_blocking=True)


def _decode_all(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decode JPEG files on the device; those that it refuses, on the CPU."""
    try:
        return _decode_jpegs(files, device) if files else []
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of the whole batch, and it does not say which file
        if len(files) > 1:
            return [image for file in files for image in _decode_all([file], device)]
    try:
        pixels = decode_image(files[0].numpy().tobytes())
    except ValueError as error:
        raise InputError(
            f"an image is {error}; give --images.decode cpu, which names it"
        ) from error
    return [torch.from_numpy(pixels).to(device).permute(2, 0, 1)]


def _decode_jpegs(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decode JPEG files (n,) to images (3, H, W); by nvJPEG on a GPU."""
    # Deprecated since torchvision 0.29, and to be replaced by torchcodec: this is the one place.
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        images: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device=device)
    return images
