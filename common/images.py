"""Reading an image file the one way both stages and both modes read it."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

# Mean and standard deviation of ImageNet's training pixels, RGB, for values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Annotations and published ImageNet accuracies refer to the pixels as stored, so an EXIF
# orientation is not applied.
_DECODE = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def _is_cut_off_jpeg(data: bytes) -> bool:
    """Tell whether a JPEG lacks its end: depending on its version OpenCV fills in grey, unasked.

    Bytes may follow the end: cameras and download tools pad files. Inside a scan the end marker
    cannot occur by chance, so one after the start of the last scan is the end of the image.
    """
    if not data.startswith(_JPEG_START) or data.endswith(_JPEG_END):
        return False
    return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file.

    Args:
        path: A JPEG, PNG or other file that OpenCV decodes; grey and CMYK become RGB.

    Returns:
        Pixels (H, W, 3), RGB, as stored: an EXIF orientation is ignored.

    Raises:
        InputError: The file is missing, unreadable, cut off or not an image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the image {path}: {error.strerror}") from error
    if not data:
        raise InputError(f"the image {path} is empty (0 bytes): fetch it again or remove it")
    if _is_cut_off_jpeg(data):
        raise InputError(f"the image {path} is cut off ({len(data)} bytes): fetch it again")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _DECODE)
    except cv2.error as error:  # too many pixels
        raise InputError(f"OpenCV refuses the image {path}: {error.err or error}") from error
    if pixels is None:
        raise InputError(f"{path} is damaged or not an image: OpenCV cannot decode it")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
