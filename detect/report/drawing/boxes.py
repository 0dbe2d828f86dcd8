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
_LETTERS_A_SIDE = 64
"""Of a large picture: letters are as high as this part of its long side."""
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_BLACK = (0, 0, 0)


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
OF_CLASSES = tuple(
    map(
        Outline,
        (
            (86, 180, 233),
            (240, 150, 50),
            (0, 186, 136),
            (240, 228, 66),
            (229, 140, 190),
            (170, 220, 90),
            (190, 165, 250),
            (110, 215, 215),
        ),
    )
)
"""Of a class the one at its number, and from the first again: the label says which it is."""


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box [x1, y1, x2, y2] in pixels of the image as stored, its label and its outline."""

    box: tuple[float, float, float, float]
    label: str
    outline: Outline


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT_FILE), size)


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(_FONT_FILE)).get_charmap())


def drawable(text: str) -> str:
    """Replace the characters that the font lacks by a mark that shows that they were there."""
    return "".join(letter if ord(letter) in _letters() else _UNKNOWN for letter in text)


def draw_boxes(pixels: NDArray[np.uint8], boxes: Sequence[LabelledBox]) -> tuple[bytes, int, int]:
    """Draw labelled boxes on an image.

    Large images shrink to a long side of 480 pixels; small ones grow by a whole factor.

    Args:
        pixels: (H, W, 3), RGB.
        boxes: The earlier ones are drawn over the later.

    Returns:
        A JPEG, and its width and height in pixels.
    """
    picture = paint_boxes(pixels, boxes, LONG_SIDE)
    height, width = picture.shape[:2]
    return _encode(picture), width, height


def paint_boxes(
    pixels: NDArray[np.uint8], boxes: Sequence[LabelledBox], long_side: int
) -> NDArray[np.uint8]:
    """Return an image with labelled boxes on it; a label hides a box only where room is scarce.

    Args:
        pixels: (H, W, 3), RGB.
        boxes: The earlier ones are drawn over the later; one with an empty label has none.
        long_side: Of the picture, pixels: larger images shrink to it, small ones grow by a whole
            factor. Letters and lines grow with it.

    Returns:
        Pixels (h, w, 3), RGB.
    """
    scale = long_side / max(pixels.shape[:2])
    if scale > 1:
        scale = min(int(scale), _LARGEST_FACTOR)
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    canvas = np.ascontiguousarray(cv2.resize(pixels, (width, height), interpolation=method))
    letters = max(_FONT_SIZE, round(max(width, height) / _LETTERS_A_SIDE))
    limit = np.array([width, height, width, height]) - 1
    corners = np.array([labelled.box for labelled in boxes], np.float64).reshape(-1, 4) * scale
    corners = np.clip(np.round(corners), 0, limit).astype(np.int64)
    for labelled, corner in zip(reversed(boxes), reversed(corners), strict=True):
        _draw_outline(canvas, corner, labelled.outline, round(letters / 6))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    taken = np.empty((0, 4), np.int64)
    for labelled, corner in zip(boxes, corners, strict=True):
        if not labelled.label:
            continue
        place = _draw_label(draw, _font(letters), corner, labelled, corners, taken)
        taken = np.vstack([taken, place])
    return np.asarray(picture)


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    content = b""
    for quality in _QUALITIES:
        content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(content) <= MOST_BYTES:
            break
    return content


def _draw_outline(
    canvas: NDArray[np.uint8], corner: NDArray[np.int64], outline: Outline, thickness: int
) -> None:
    x1, y1, x2, y2 = corner.tolist()
    if not outline.dash:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), outline.colour, thickness)
        return
    for x in range(x1, x2, 2 * outline.dash):
        for y in (y1, y2):
            end = min(x + outline.dash, x2), y
            cv2.line(canvas, (x, y), end, outline.colour, thickness)
    for y in range(y1, y2, 2 * outline.dash):
        for x in (x1, x2):
            end = x, min(y + outline.dash, y2)
            cv2.line(canvas, (x, y), end, outline.colour, thickness)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    corner: NDArray[np.int64],
    labelled: LabelledBox,
    corners: NDArray[np.int64],
    taken: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Write a label beside its box, where it hides least; return its edges."""
    label = drawable(labelled.label)
    ascent, descent = font.getmetrics()
    width = int(np.ceil(font.getlength(label))) + 2 * _MARGIN
    height = ascent + descent + 2
    place = _place(corner, (width, height), draw.im.size, corners, taken)
    x, y, right, bottom = place.tolist()
    draw.rectangle((x, y, right - 1, bottom - 1), fill=labelled.outline.colour)
    draw.text((x + _MARGIN, y + 1), label, fill=_BLACK, font=font)
    return place


def _place(
    corner: NDArray[np.int64],
    size: tuple[int, int],
    picture: tuple[int, int],
    corners: NDArray[np.int64],
    taken: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Choose the edges of a label at a box: above it, or where it hides less.

    To hide a part of another label is ten times as bad as the same part of a box.
    """
    (width, height), (right, bottom) = size, picture
    x1, y1, x2, y2 = corner.tolist()
    columns = {"left": x1, "right": x2 + 1 - width, "before": x1 - width, "behind": x2 + 1}
    rows = {"above": y1 - height, "below": y2 + 1, "top": y1, "bottom": y2 + 1 - height}
    wanted = "left above, right above, left below, right below, behind top, before top"
    wanted += ", behind bottom, before bottom, left top, left bottom, right top, right bottom"
    starts = [(columns[x], rows[y]) for x, y in map(str.split, wanted.split(", "))]
    places = np.array([(x, y, x + width, y + height) for x, y in starts], np.int64)
    inside = (places[:, :2] >= 0).all(axis=1) & (places[:, 2:] <= [right, bottom]).all(axis=1)
    if not inside.any():
        x, y = max(0, min(x1, right - width)), max(0, min(y1, bottom - height))
        return np.array([x, y, x + width, y + height], np.int64)
    places = places[inside]
    edges = corners + np.array([0, 0, 1, 1])
    hidden = _hidden(places, edges) + 10 * _hidden(places, taken)
    chosen: NDArray[np.int64] = places[hidden.argmin()]
    return chosen


def _hidden(places: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Add up which parts of the areas of some rectangles each of some places would hide."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    area = (others[:, 2:] - others[:, :2]).prod(axis=1)
    parts = (high - low).clip(0).prod(axis=2) / area.clip(1)
    return np.asarray(parts.sum(axis=1), np.float64)
