"""The pixels that an annotation is of: as stored, or turned upright."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.decoding import decode_image, read_content
from common.images.headers import read_header
from common.images.orientation import NAMES, exif_orientation, is_turned
from detect.data.dataset import LabelledImage


def read_pixels(image: LabelledImage) -> NDArray[np.uint8]:
    """Read an image as its annotation has it.

    Where the file states an EXIF orientation and the annotation's size is that of the upright
    photo, it is turned: so the tools show it. At half a turn, or where a photo is square, the size
    is that of both, and the photo is turned.

    Returns:
        (H, W, 3) RGB.

    Raises:
        InputError: The file cannot be read, or is of another size than its annotation.
    """
    try:
        data = read_content(image.path)
        turn = stands_upright(image, data)
        return decode_image(data, upright=turn)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the image {image.path} is {error}") from error


def stands_upright(image: LabelledImage, data: bytes) -> bool:
    """Tell whether an image is to be turned as its EXIF orientation says.

    Args:
        image: Its annotation states a size.
        data: The content of its file.

    Raises:
        InputError: The annotation's size is neither that of the stored nor of the upright photo.
        ValueError: It is no image; the message continues "the image is".
    """
    header = read_header(data)
    if header is None:
        decode_image(data)  # says what is wrong
        return False
    annotation = image.annotation
    stored, stated = (header.width, header.height), (annotation.width, annotation.height)
    orientation = exif_orientation(data)
    upright = stored[::-1] if is_turned(orientation) else stored
    if upright == stated:
        return orientation != 1
    if stored == stated:
        return False
    raise InputError(misfit(image.path, stored, orientation, stated))


def misfit(path: Path, stored: tuple[int, int], orientation: int, stated: tuple[int, int]) -> str:
    """Say that an annotation is of another size than its image."""
    width, height = stored
    turned = ""
    if orientation != 1:
        turned = f" (EXIF orientation {orientation}: {NAMES[orientation]})"
    return (
        f"{path} has {width}x{height} pixels{turned}, but its annotation says "
        f"{stated[0]}x{stated[1]}: its boxes would not fit; correct the annotation, or fetch both "
        "again"
    )
