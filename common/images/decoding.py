"""Reading an image file the one way both stages and both modes read it."""

import stat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.headers import (
    JPEG_END,
    JPEG_SCAN,
    JPEG_START,
    Header,
    read_header,
    unread_format,
)

# Mean and standard deviation of ImageNet's training pixels, RGB, for values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_FILE_BYTES = 2**28
MAX_PIXELS = 2**28 // 3  # 256 MiB decoded; a file of a few hundred kB can state any size

# Annotations and published ImageNet accuracies refer to the pixels as stored, so an EXIF
# orientation is not applied unless asked for.
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_UPRIGHT = cv2.IMREAD_COLOR


def _is_cut_off_jpeg(data: bytes) -> bool:
    """Tell whether a JPEG lacks its end: depending on its version OpenCV fills in grey, unasked.

    Bytes may follow the end: cameras and download tools pad files. Inside a scan the end marker
    cannot occur by chance, so one after the start of the last scan is the end of the image.
    """
    if not data.startswith(JPEG_START) or data.endswith(JPEG_END):
        return False
    end, scan = data.rfind(JPEG_END), data.rfind(JPEG_SCAN)
    return end < scan or scan == -1  # not even begun


def _is_cut_off_png(data: bytes) -> bool:
    """Tell whether a chunk of a PNG states more bytes than follow: OpenCV makes room for them."""
    position = 8
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IEND":
            return size > len(data) - position  # OpenCV would make room for all of it
        position += 12 + size
    return position > len(data)


def read_content(path: Path) -> bytes:
    """Read an image file without decoding it.

    Raises:
        ValueError: It is missing, unreadable, too large, or a pipe or a device, which would never
            end; the message continues "the image is".
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file: remove it")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"too large: {status.st_size} bytes, the most is {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"unreadable: {error.strerror}") from error


def decode_image(data: bytes, *, upright: bool = False) -> NDArray[np.uint8]:
    """Decode the content of an image file.

    Args:
        data: A JPEG, PNG, BMP, GIF (its first picture) or WebP. Grey, CMYK, palettes and 16 bits
            become RGB; alpha is left out.
        upright: Turn the image as its EXIF orientation says; else it stays as stored.

    Returns:
        Pixels (H, W, 3), RGB.

    Raises:
        ValueError: It is empty, cut off, no image, or states more than `MAX_PIXELS`; the message
            continues "the image is".
    """
    if not data:
        raise ValueError("empty (0 bytes): fetch it again or remove it")
    header = read_header(data)
    if header is None:
        other = unread_format(data)
        if other:
            raise ValueError(f"of a format that is not read, {other}: convert it to PNG")
        raise ValueError("damaged or not an image: no JPEG, PNG, BMP, GIF or WebP")
    if header.width * header.height > MAX_PIXELS:
        size = f"{header.width} x {header.height} pixels in {len(data)} bytes"
        raise ValueError(f"too large: {size}, the most is {MAX_PIXELS} pixels")
    if _is_cut_off_jpeg(data) or _is_cut_off_png(data):
        raise ValueError(f"cut off ({len(data)} bytes): fetch it again")
    # What is wrong is told by an exception; OpenCV's own lines would stand among the output.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _UPRIGHT if upright else _AS_STORED)
    except cv2.error as error:  # such as too many pixels in one row
        raise ValueError(f"refused by OpenCV: {error.err or error}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise ValueError("damaged or not an image: OpenCV cannot decode it")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def plain_jpeg(data: bytes) -> Header | None:
    """Return the header of a JPEG that decoders agree on: RGB or grey, whole, not too large.

    None is no verdict: `decode_image` may take the image all the same.
    """
    header = read_header(data)
    if header is None or header.format != "JPEG" or header.mode not in ("RGB", "grey"):
        return None
    too_large = header.width * header.height > MAX_PIXELS
    return None if too_large or _is_cut_off_jpeg(data) else header


def read_image(path: Path, *, upright: bool = False) -> NDArray[np.uint8]:
    """Read and decode an image file; the rest as `decode_image`.

    Raises:
        InputError: The file cannot be read or decoded; the message names it.
    """
    try:
        return decode_image(read_content(path), upright=upright)
    except ValueError as error:
        raise InputError(f"the image {path} is {error}") from error
