"""The drawings of the report: precision-recall curves as SVG, boxes on images as JPEG."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detect.voc_score import ClassScore

# ---- curves -------------------------------------------------------------------------------------

_RUN_COLOURS = 6  # --run-1 to --run-6 of the page's style
_DASHES = ((), (5.0, 2.0), (1.5, 1.5), (7.0, 2.0, 1.5, 2.0))
_CORNERS = 400  # more corners than a panel has pixels
_INK, _RULE = "#010101", "#020202"  # stand for the page's colours, which matplotlib cannot name
_SVG_OPTIONS = {"svg.fonttype": "none", "lines.scale_dashes": False, "font.size": 8.0}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def interpolated(score: ClassScore) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the curve whose area is `ap_area`: at a recall the highest precision there or above.

    Returns:
        Recall and precision (corners,), for steps that hold a precision up to its recall; empty
        without a true positive.
    """
    if not score.objects:
        return np.empty(0), np.empty(0)
    highest = np.maximum.accumulate(score.precision[::-1])[::-1]
    hits = np.flatnonzero(np.diff(score.recall, prepend=0.0) > 0)
    if not len(hits):
        return np.empty(0), np.empty(0)
    recall, precision = score.recall[hits], highest[hits]
    last_of_step = np.append(precision[:-1] != precision[1:], True)
    recall, precision = recall[last_of_step], precision[last_of_step]
    if len(recall) > _CORNERS:
        rows = np.linspace(0, len(recall) - 1, _CORNERS).round().astype(np.int64)
        recall, precision = recall[rows], precision[rows]
    corners = np.concatenate([[0.0], recall, recall[-1:]])
    return corners, np.concatenate([precision[:1], precision, [0.0]])


def curve_panel(scores: Sequence[ClassScore], salt: str) -> str:
    """Draws the curves of one class, a line a run, in the colours of the page.

    Args:
        scores: The class in each run.
        salt: Differs between the panels of a page, so that their element ids do.

    Returns:
        An <svg> without text from the data.
    """
    with matplotlib.rc_context({**_SVG_OPTIONS, "svg.hashsalt": salt}):
        figure = Figure(figsize=(2.9, 2.3), layout="constrained")
        axes = figure.add_subplot()
        for index, score in enumerate(scores):
            recall, precision = interpolated(score)
            dashes = (0, _DASHES[index % len(_DASHES)]) if index % len(_DASHES) else "solid"
            style = {"color": _stand_in(index), "linewidth": 1.6, "linestyle": dashes}
            axes.step(recall, precision, where="pre", clip_on=False, **style)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
        axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
        axes.tick_params(length=0, labelcolor=_INK)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        axes.grid(color=_RULE, linewidth=0.6)
        axes.spines[:].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    return _for_page(file.getvalue())


def line_sample(index: int) -> str:
    """Draws the line of a run for the legend, as `curve_panel` draws it."""
    dashes = " ".join(f"{length:g}" for length in _DASHES[index % len(_DASHES)])
    return (
        '<svg viewBox="0 0 36 12" aria-hidden="true"><line x1="0" y1="6" x2="36" y2="6" '
        f'stroke-width="2.2" stroke-dasharray="{dashes or "none"}" '
        f'style="stroke: var(--run-{index % _RUN_COLOURS + 1})"/></svg>'
    )


def _stand_in(index: int) -> str:
    return f"#03030{index % _RUN_COLOURS + 1}"


def _for_page(svg: str) -> str:
    """Cuts the file down to its <svg> element and gives it the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = svg.replace("<svg ", '<svg aria-hidden="true" ', 1)  # the caption tells the numbers
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # HTML knows
    svg = re.sub(r' id="[a-z0-9.]+_[0-9]+"', "", svg)  # counted anew in each panel, never used
    svg = re.sub(r"#03030(\d)", r"var(--run-\1)", svg)
    return svg.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")


# ---- boxes --------------------------------------------------------------------------------------

LONG_SIDE = 480
_LARGEST_FACTOR = 4  # of small pictures
_JPEG_QUALITY = 85
_FONT, _FONT_SCALE, _MARGIN = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 3
_BLACK = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Outline:
    """How a box is drawn: a colour, RGB, and pixels per dash, 0 for a solid line."""

    colour: tuple[int, int, int]
    dash: int = 0


# Colours that the colour-blind tell apart too (Okabe and Ito), all light enough for black letters.
OBJECT = Outline((86, 180, 233))
HIT = Outline((0, 186, 136))
FALSE = Outline((240, 130, 30), dash=7)
IGNORED = Outline((190, 190, 190), dash=3)


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """A box [x1, y1, x2, y2] in pixels of the image as stored, its label and its outline."""

    box: tuple[float, float, float, float]
    label: str
    outline: Outline


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
    taken: list[tuple[int, int, int, int]] = []
    for labelled, corner in zip(boxes, corners, strict=True):
        taken.append(_draw_label(canvas, corner, labelled, taken))
    bgr = cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return encoded.tobytes(), width, height


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
    canvas: NDArray[np.uint8],
    corner: NDArray[np.int64],
    labelled: LabelledBox,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Writes a label above its box, or where else it covers no other; returns its rectangle."""
    (text_width, text_height), _ = cv2.getTextSize(labelled.label, _FONT, _FONT_SCALE, 1)
    width, height = text_width + 2 * _MARGIN, text_height + 2 * _MARGIN
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
        if x >= 0 and y >= 0 and x + width <= canvas.shape[1] and y + height <= canvas.shape[0]
    ]
    free = [place for place in places if not any(_meet((*place, width, height), t) for t in taken)]
    x, y = (free or places or [(max(0, min(x1, canvas.shape[1] - width)), y1)])[0]
    cv2.rectangle(canvas, (x, y), (x + width, y + height), labelled.outline.colour, cv2.FILLED)
    origin = (x + _MARGIN, y + _MARGIN + text_height)
    cv2.putText(canvas, labelled.label, origin, _FONT, _FONT_SCALE, _BLACK, 1, cv2.LINE_AA)
    return x, y, width, height


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two rectangles (x, y, width, height) overlap."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
