"""Decoded images kept in one file, for the runs that follow and those side by side.

The file is mapped into memory, not read: processes share its pages, and a set that each of them
only copies to its device costs no memory of its own.
"""

import contextlib
import os
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, os_reason, summary
from common.storage import write_atomically
from common.text import say
from pretrain.data.image_sets import FileSet, PixelSet, decode


def cached_decode(files: FileSet, size: int, folder: Path | None) -> PixelSet:
    """Decode images as `decode` does, or take what an earlier call kept.

    Args:
        files: The images.
        size: Side of the squares.
        folder: Of the run, where pixels are kept, as `pixels-<16 hex>.npy`, and go with it; runs
            beside it share them as one file of several names. None keeps none.

    Returns:
        The images. Their pixels may be mapped from the file: writing to them changes this process
        only.

    Raises:
        InputError: If an image is missing or damaged; a cache that cannot be read or written is
            only told.
    """
    if folder is None:
        return decode(files, size)
    path = folder / f"pixels-{fingerprint(files, size)}.npy"
    shape = (len(files.paths), size, size, 3)
    if not path.exists():
        _share(path, shape)
    pixels = _map(path, shape)
    if pixels is not None:
        return PixelSet(pixels, files.labels, files.classes)
    decoded = decode(files, size)
    _write(path, decoded.pixels)
    return decoded


def fingerprint(files: FileSet, size: int) -> str:
    """Hash what the pixels depend on: size, decoder, and each image's name, length and date.

    Names count below the folder common to all, so a set that was moved with its dates is the same.

    Returns:
        16 hexadecimal digits.

    Raises:
        InputError: If an image is missing.
    """
    digest = blake2b(f"{size} {cv2.__version__}".encode(), digest_size=8, person=b"pixels")
    common = os.path.commonpath({path.parent for path in files.paths})
    for path in files.paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"cannot read the image {path}: {os_reason(error)}") from error
        digest.update(os.fsencode(path.relative_to(common)))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _map(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Map a cache into memory; None if there is no usable one."""
    try:
        # "c", not "r": torch warns of arrays that cannot be written to. The file stays as it is.
        pixels = np.lib.format.open_memmap(path, mode="c")
        if pixels.shape != shape or pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
            raise ValueError(f"it holds {pixels.dtype} of shape {pixels.shape}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged file can raise nearly anything
        say(f"decoding again: the cache {path} cannot be used ({summary(error)})")
        return None
    return np.asarray(pixels)


def _share(path: Path, shape: tuple[int, ...]) -> None:
    """Give the cache of a run beside this one a name here, too: one file, one copy in memory."""
    for other in [*path.parent.parent.glob(f"*/{path.name}"), path.parent.parent / path.name]:
        with contextlib.suppress(OSError):  # gone by now, or a file system without links
            if other != path and _header(other) == shape:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(other, path)
                return


def _header(path: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(ValueError), path.open("rb") as file:
        np.lib.format.read_magic(file)
        return tuple(np.lib.format.read_array_header_1_0(file)[0])
    return None


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    def write(file: BinaryIO) -> None:
        # np.save would hide why a write failed.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
        file.write(pixels.data)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except (OSError, InputError) as error:
        reason = error.__cause__ or error
        say(f"continuing without a cache: {path} could not be written ({reason})")
