"""What an image file states about itself, read without decoding it."""

import re
import struct
from dataclasses import dataclass

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_MAX_JPEG_SEGMENTS = 10_000
_JPEG_MODES = {1: "grey", 3: "RGB", 4: "CMYK"}
_PNG_MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WebP",
}
"""How files are named, in lower case, of every format that is read."""

UNREAD = (
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".svg", ".ppm", ".pgm"),
)
"""The same of other formats of images."""
_UNREAD_STARTS = {
    "TIFF": rb"II\*\0|MM\0\*",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "netpbm": rb"P[1-7]\s",
    "SVG": rb"\s*<svg\b",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file states about itself."""

    format: str
    """One of "JPEG", "PNG", "BMP", "GIF" or "WebP"."""
    mode: str
    """How its pixels are stored: "RGB", "grey", "CMYK", "palette", with or without alpha."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


def read_header(data: bytes) -> Header | None:
    """Read size and mode of an image without decoding it; None if it is of no known format.

    A format whose size cannot be read beforehand is unknown: OpenCV would decode some more.
    """
    try:
        if data.startswith(JPEG_START):
            return _jpeg_header(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
            mode = _PNG_MODES.get(colour, "unknown")
            return Header("PNG", f"16-bit {mode}" if depth == 16 else mode, width, height)
        if data.startswith(b"BM"):
            return _bmp_header(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return Header("GIF", "palette", *struct.unpack_from("<HH", data, 6))
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_header(data)
    except struct.error:  # it ends too early
        return None
    return None


def unread_format(data: bytes) -> str | None:
    """Name the format of an image that is of none of those that are read; None: not known."""
    starts = _UNREAD_STARTS.items()
    return next((n for n, start in starts if re.match(start, data[:64], re.DOTALL)), None)


def _jpeg_header(data: bytes) -> Header | None:
    """Find the frame's segment as libjpeg does: bytes between segments are skipped."""
    position = len(JPEG_START)
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None or found[0] in (JPEG_SCAN, JPEG_END):
            return None
        marker, position = found[0][1], found.end()
        if marker in _JPEG_FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, position + 3)
            return Header("JPEG", _JPEG_MODES.get(components, "unknown"), width, height)
        if marker not in _JPEG_ALONE:
            position += max(2, *struct.unpack_from(">H", data, position))
    return None


def _bmp_header(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14) == (12,):  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    # A negative height means rows from the top.
    return Header("BMP", "palette" if bits <= 8 else "RGB", abs(width), abs(height))


def _webp_header(data: bytes) -> Header | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        if len(data) < 30:
            return None
        width, height = (int.from_bytes(data[a : a + 3], "little") + 1 for a in (24, 27))
        return Header("WebP", _webp_mode(bool(data[20] & 0x10)), width, height)
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        alpha = bool(bits >> 28 & 1)
        return Header("WebP", _webp_mode(alpha), (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", "RGB", width & 0x3FFF, height & 0x3FFF)
    return None


def _webp_mode(alpha: bool) -> str:
    return "RGB with alpha" if alpha else "RGB"
