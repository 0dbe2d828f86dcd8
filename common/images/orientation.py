"""How a photo was held: its EXIF orientation, and its size when it stands upright."""

import struct
from pathlib import Path

from common.errors import InputError, os_reason
from common.images.decoding import MAX_FILE_BYTES
from common.images.headers import JPEG_START, read_header
from common.storage import open_regular

NAMES = {
    1: "upright",
    2: "mirrored",
    3: "upside down",
    4: "mirrored, upside down",
    5: "mirrored, on its side",
    6: "on its side, a quarter turn to the left",
    7: "mirrored, on its side",
    8: "on its side, a quarter turn to the right",
}
"""How the pixels lie in the file, by the number of the EXIF orientation."""
_ORIENTATION = 0x0112
_HEAD = 65_536  # bytes that are read first; nearly every header is within
_MAX_SEGMENTS = 100


def exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation that the beginning of an image file states, 1 where none."""
    try:
        if data.startswith(JPEG_START):
            exif = _jpeg_exif(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            exif = _chunk(data, 8, ">I", b"eXIf", size_first=True)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            exif = _chunk(data, 12, "<I", b"EXIF", size_first=False)
        else:
            return 1
        value = _entry(exif.removeprefix(b"Exif\0\0"))
    except (struct.error, IndexError):  # it ends too early
        return 1
    return value if value in NAMES else 1


def _jpeg_exif(data: bytes) -> bytes:
    position = 2
    for _ in range(_MAX_SEGMENTS):
        marker, size = struct.unpack_from(">HH", data, position)
        if marker == 0xFFE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return data[position + 4 : position + 2 + size]
        if not 0xFFE0 <= marker <= 0xFFEF and marker != 0xFFFE:
            break
        position += 2 + size
    return b""


def _chunk(data: bytes, position: int, order: str, name: bytes, *, size_first: bool) -> bytes:
    """Find a chunk of a PNG (size, name, content, sum) or a RIFF file (name, size, content)."""
    while position + 8 <= len(data):
        size_at, name_at = (0, 4) if size_first else (4, 0)
        (size,) = struct.unpack_from(order, data, position + size_at)
        if data[position + name_at : position + name_at + 4] == name:
            return data[position + 8 : position + 8 + size]
        position += 8 + size + (4 if size_first else size % 2)
    return b""


def _entry(exif: bytes) -> int:
    """Return the orientation of a TIFF header's first directory, 1 where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for number in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", exif, start + 2 + 12 * number)
        if tag == _ORIENTATION and kind == 3:
            return int(struct.unpack_from(f"{order}H", exif, start + 2 + 12 * number + 8)[0])
    return 1


def is_turned(orientation: int) -> bool:
    """Tell whether width and height change places when the photo is turned upright."""
    return orientation >= 5


def upright_size(path: Path) -> tuple[int, int]:
    """Read width and height of an image as it stands upright, from the head of its file.

    Raises:
        InputError: It cannot be read, or is no image.
    """
    try:
        with open_regular(path) as file:
            data = file.read(_HEAD)
            header = read_header(data)
            if header is None:
                data += file.read(MAX_FILE_BYTES - _HEAD)
                header = read_header(data)
    except OSError as error:
        raise InputError(f"the image {path} is unreadable: {os_reason(error)}") from error
    if header is None:
        raise InputError(f"the image {path} is damaged or not an image: fetch it again")
    size = header.width, header.height
    return size[::-1] if is_turned(exif_orientation(data)) else size
