"""Boxes and their labels on images, as JPEG files of bounded size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LONG_SIDE = 480
MOST_BYTES = 36_000
"""Of a picture; one with more detail is compressed more strongly."""
_QUALITIES = (80, 65, 50, 35, 20, 10)
_LARGEST_FACTOR = 4  # of small pictures
_FONT_FILE = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_FONT_SIZE, _MARGIN = 12, 3
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_BLACK = (0, 0, 0)

Rectangle = tuple[int, int, int, int]
"""x, y, width, height."""


@dataclass(frozen=True, slots=True)
class Outline:
    """How a box is drawn: a colour, RGB, and pixels per dash, 0 for a solid line."""

    colour: tuple[int, int, int]
    dash: int = 0


# Colours that the colour-blind tell apart too (Okabe and Ito), all light enough for black letters.
OBJECT = Outline((86, 180, 233))
MISSED = Outline((240, 228, 66), dash=5)
HIT = Outline((0, 186, 136))
FALSE = Outline((240, 130, 30), dash=7)
IGNORED = Outline((190, 190, 190), dash=3)


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box [x1, y1, x2, y2] in pixels of the image as stored, its label and its outline."""

    box: tuple[float, float, float, float]
    label: str
    outline: Outline


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT_FILE), _FONT_SIZE)


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(_FONT_FILE)).get_charmap())


def drawable(text: str) -> str:
    """Replace the characters that the font lacks by a mark that shows that they were there."""
    return "".join(letter if ord(letter) in _letters() else _UNKNOWN for letter in text)


def outline_sample(outline: Outline) -> str:
    """Draws the line of an outline for the legend."""
    return (
        '<svg viewBox="0 0 36 12" aria-hidden="true"><line x1="0" y1="6" x2="36" y2="6" '
        f'stroke-width="4" stroke-dasharray="{outline.dash or "none"}" '
        f'style="stroke: rgb{outline.colour}"/></svg>'
    )


def draw_boxes(pixels: NDArray[np.uint8], boxes: Sequence[LabelledBox]) -> tuple[bytes, int, int]:
    """Draws labelled boxes on an image.

    Large images shrink to a long side of 480 pixels; small ones grow by a whole factor.

    Args:
        pixels: (H, W, 3), RGB.
        boxes: The earlier ones are drawn over the later.

    Returns:
        A JPEG, and its width and height in pixels.
    """
    scale = LONG_SIDE / max(pixels.shape[:2])
    if scale > 1:
        scale = min(int(scale), _LARGEST_FACTOR)
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    canvas = np.ascontiguousarray(cv2.resize(pixels, (width, height), interpolation=method))
    limit = np.array([width, height, width, height]) - 1
    corners = [np.clip(np.round(np.array(b.box) * scale), 0, limit).astype(int) for b in boxes]
    for labelled, corner in zip(reversed(boxes), reversed(corners), strict=True):
        _draw_outline(canvas, corner, labelled.outline)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    taken: list[Rectangle] = []
    for labelled, corner in zip(boxes, corners, strict=True):
        taken.append(_draw_label(draw, (width, height), corner, labelled, taken))
    return _encode(np.asarray(picture)), width, height


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    content = b""
    for quality in _QUALITIES:
        content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(content) <= MOST_BYTES:
            break
    return content


def _draw_outline(canvas: NDArray[np.uint8], corner: NDArray[np.int64], outline: Outline) -> None:
    x1, y1, x2, y2 = corner.tolist()
    if not outline.dash:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), outline.colour, 2)
        return
    for x in range(x1, x2, 2 * outline.dash):
        for y in (y1, y2):
            cv2.line(canvas, (x, y), (min(x + outline.dash, x2), y), outline.colour, 2)
    for y in range(y1, y2, 2 * outline.dash):
        for x in (x1, x2):
            cv2.line(canvas, (x, y), (x, min(y + outline.dash, y2)), outline.colour, 2)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: NDArray[np.int64],
    labelled: LabelledBox,
    taken: Sequence[Rectangle],
) -> Rectangle:
    """Writes a label above its box, or where else it covers no other; returns its rectangle."""
    label = drawable(labelled.label)
    ascent, descent = _font().getmetrics()
    width = int(np.ceil(_font().getlength(label))) + 2 * _MARGIN
    height = ascent + descent + 2
    x1, y1, x2, y2 = corner.tolist()
    places = [
        (x, y)
        for x, y in (
            (x1, y1 - height),
            (x2 - width, y1 - height),
            (x1, y2),
            (x2 - width, y2),
            (x1, y1),
            (x1, y2 - height),
        )
        if x >= 0 and y >= 0 and x + width <= size[0] and y + height <= size[1]
    ]
    free = [place for place in places if not any(_meet((*place, width, height), t) for t in taken)]
    x, y = (free or places or [(max(0, min(x1, size[0] - width)), y1)])[0]
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=labelled.outline.colour)
    draw.text((x + _MARGIN, y + 1), label, fill=_BLACK, font=_font())
    return x, y, width, height


def _meet(a: Rectangle, b: Rectangle) -> bool:
    """Whether two rectangles overlap."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
