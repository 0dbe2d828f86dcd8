"""Photos for the page: small WebP pictures, and boxes over them as SVG that scales with them."""

import base64
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.decoding import decode_image, plain_jpeg, read_content
from common.text import in_html

LONG_SIDE = 480
MOST_LABELS = 8
"""On a picture; more would hide it."""
_SMALLER = (
    (480, 70, 0.16),
    (480, 50, 0.12),
    (400, 45, 0.12),
    (320, 45, 0.13),
    (240, 45, 0.14),
    (200, 40, 0.14),
    (160, 40, 0.15),
    (128, 35, 0.15),
    (112, 30, 0.15),
    (96, 30, 0.15),
    (80, 25, 0.14),
    (64, 20, 0.14),
)
"""Long side in pixels and quality, from the best to the smallest; and bytes a pixel, which three of
four photos need at most: what is likely to be too large is not tried."""
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """A WebP, and the size of the image that it shows, in pixels."""

    content: bytes
    width: int
    height: int

    @property
    def text(self) -> str:
        """The content in base64."""
        return base64.b64encode(self.content).decode("ascii")


@dataclass(frozen=True, slots=True)
class Outlined:
    """A box [x1, y1, x2, y2] in shares of width and height, its label and its kind of outline."""

    box: tuple[float, float, float, float]
    label: str
    kind: str


def read_picture(path: Path | None, most_bytes: int, size: tuple[int, int]) -> Picture | None:
    """Shrink an image to at most this many bytes.

    Args:
        path: The image; None for one that is not there.
        most_bytes: Of the WebP.
        size: Width and height that its boxes refer to.

    Returns:
        None where the image is missing or damaged; without content where it would not become so
        small.
    """
    if path is None:
        return None
    try:
        data = read_content(path)
        pixels = _decode(data, size, most_bytes)
    except (ValueError, InputError):
        return None
    return Picture(shrink(pixels, most_bytes) or b"", *size)


def _decode(data: bytes, size: tuple[int, int], most_bytes: int) -> NDArray[np.uint8]:
    """Decode an image; a JPEG for a small thumbnail at a part of its size, which is faster."""
    header = plain_jpeg(data) if most_bytes < 3_000 else None
    if header and max(size) >= 256 and (header.width, header.height) == size:
        part = cv2.IMREAD_REDUCED_COLOR_2 if max(size) < 448 else cv2.IMREAD_REDUCED_COLOR_4
        flags = part | cv2.IMREAD_IGNORE_ORIENTATION
        reduced = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if reduced is None:
            raise ValueError("damaged")
        return np.asarray(reduced[:, :, ::-1], np.uint8)
    pixels = decode_image(data)
    turned = pixels.shape[1::-1] != size and pixels.shape[:2] == size
    return decode_image(data, upright=True) if turned else pixels


def shrink(pixels: NDArray[np.uint8], most_bytes: int) -> bytes | None:
    """Encode pixels (H, W, 3) RGB as the best WebP of at most this many bytes; else None.

    It has at most 480 pixels on its long side; small images keep their size.
    """
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    height, width = bgr.shape[:2]
    for side, quality, bytes_a_pixel in _SMALLER:
        factor = min(1.0, side / max(height, width))
        likely = width * height * factor**2 * bytes_a_pixel
        if likely > most_bytes and side > _SMALLER[-1][0]:
            continue
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA) if factor < 1 else bgr
        content = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        if len(content) <= most_bytes:
            return content
    return None


def read_pictures(
    paths: Sequence[Path | None], sizes: Sequence[tuple[int, int]], most_bytes: Sequence[int]
) -> Iterator[Picture | None]:
    """Read many pictures as `read_picture` does, several at a time, in their order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(read_picture, paths, most_bytes, sizes)


# ---- in HTML ------------------------------------------------------------------------------------


def photo(picture: Picture, boxes: Sequence[Outlined], alt: str) -> str:
    """Draw a picture and its boxes over it.

    Args:
        picture: The picture.
        boxes: The earlier ones are drawn over the later, and have labels first.
        alt: What is to be seen, in words.
    """
    size = f'width="{picture.width}" height="{picture.height}"'
    return (
        f'<div class="photo"><img src="data:image/webp;base64,{picture.text}" '
        f'alt="{in_html(alt)}" {size}>{overlay(picture.width, picture.height, boxes)}</div>'
    )


def overlay(width: int, height: int, boxes: Sequence[Outlined]) -> str:
    """Draw boxes as an <svg> as large as the image, at most `MOST_LABELS` of them with a label."""
    unit = max(width, height) / 30  # height of a letter, in pixels of the image
    shapes, labels = [], []
    for box in reversed(boxes):
        x1, y1, x2, y2 = box.box
        place = (
            f'x="{x1 * width:.1f}" y="{y1 * height:.1f}" '
            f'width="{(x2 - x1) * width:.1f}" height="{(y2 - y1) * height:.1f}"'
        )
        shapes.append(f'<rect class="under" {place}/><rect class="{box.kind}" {place}/>')
    taken: list[tuple[float, float, float, float]] = []
    for box in boxes[:MOST_LABELS]:
        long = letters(box.label) * 0.56 * unit + 0.5 * unit
        spot = place_label(
            (box.box[0] * width, box.box[1] * height, box.box[2] * width, box.box[3] * height),
            (long, 1.25 * unit), (width, height), taken,
        )  # fmt: skip
        if spot is None:
            continue
        x, y = spot
        taken.append((x, y, x + long, y + 1.25 * unit))
        labels.append(
            f'<rect class="ground {box.kind}" x="{x:.1f}" y="{y:.1f}" width="{long:.1f}" '
            f'height="{1.25 * unit:.1f}"/><text x="{x + 0.25 * unit:.1f}" y="{y + unit:.1f}" '
            f'font-size="{unit:.1f}" textLength="{max(0.1, long - 0.5 * unit):.1f}" '
            f'lengthAdjust="spacingAndGlyphs">{in_html(box.label)}</text>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(shapes)}{''.join(labels)}</svg>"
    )


def letters(text: str) -> float:
    """Return how wide a text is, in letters; those of Chinese and the like are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def place_label(
    box: tuple[float, float, float, float],
    label: tuple[float, float],
    image: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float] | None:
    """Find where the label of a box covers no other: above it, below it or inside it.

    Args:
        box: [x1, y1, x2, y2].
        label: Width and height.
        image: Width and height.
        taken: The places of other labels, [x1, y1, x2, y2].

    Returns:
        Its upper left corner; None if there is no place.
    """
    x1, y1, x2, y2 = box
    width, height = label
    for x in (x1, x2 - width):
        x = min(max(0.0, x), max(0.0, image[0] - width))
        for y in (y1 - height, y2, y1, y2 - height):
            if y < 0 or y + height > image[1]:
                continue
            covered = (
                x < right and x + width > left and y < bottom and y + height > top
                for left, top, right, bottom in taken
            )
            if not any(covered):
                return x, y
    return None


def sample(kind: str) -> str:
    """Draw the line of an outline for a legend."""
    return (
        '<svg viewBox="0 0 36 12" aria-hidden="true"><rect class="under" x="2" y="2" width="32" '
        f'height="8"/><rect class="{kind}" x="2" y="2" width="32" height="8"/></svg>'
    )
