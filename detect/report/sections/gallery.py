"""The images to browse: every one that there is room for, with all that was found on it.

The page holds them as JSON: pictures in base64, boxes as whole numbers. The script draws what is
asked for; without it, a few images in the text stand for the others.
"""

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.text import counted
from detect.report.comparison import Comparison, Run
from detect.report.drawing.photos import MOST_LABELS, read_pictures
from detect.report.sections.finds import Finds
from detect.report.sections.photographs import drawings, legend
from detect.report.writers.blocks import Block, Drawings, Html, Note, Section
from detect.report.writers.page import script_json
from detect.scoring.error_kinds import ERROR_KINDS

SCALE = 10_000
"""Scores are kept as whole numbers from 0 to this, places in thousandths of the image."""
_FEW = 6  # images in the text
_LARGE_BYTES = 24_000  # of a picture, where there is room
_LARGE_SHARE = 0.35  # of the room, for the images that differ most, where there is not
_SMALLEST = 400  # bytes of a thumbnail
_AT_ONCE = 400
_BOXES_SHARE = 0.25  # of the room, at most
_BOX_BYTES = 27  # of a detection, in JSON
_MOST_BOXES, _FEWEST_BOXES = 60, 4  # a run and image
DETECTION_KINDS = ("hit", "ignored", *ERROR_KINDS[:5], "false")
"""What a detection is; "false" where the overlap of the metric is not that of the error kinds."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures in base64 by image, and how many images have none for lack of room, or at all."""

    content: dict[int, str]
    no_room: int
    no_file: int


@dataclass(frozen=True, slots=True)
class Kept:
    """How many detections of an image and run are kept, those with the highest scores."""

    shown: int
    """Of those from the threshold of the run on."""
    any_score: int
    """Of all; no more than `shown`."""

    @property
    def more(self) -> str:
        """What is kept beyond `any_score`, in words."""
        if self.shown == self.any_score:
            return ""
        return f", and up to {self.shown} from that score on"


def gallery(finds: Finds, megabytes: float) -> Section:
    """Build the section of the images.

    Args:
        finds: What was found on them.
        megabytes: The most that their pictures and boxes may take in the page.
    """
    comparison = finds.comparison
    room = int(megabytes * 1e6)
    kept = most_boxes(comparison, room)
    entries = _entries(finds, kept)
    taken = sum(len(json.dumps(entry, separators=(",", ":"))) for entry in entries.values())
    pictures = _pictures(finds, room - taken)
    blocks: list[Block] = [Note(_note(comparison, pictures, kept))]
    if not pictures.content:
        return Section("images", "Images", tuple(blocks))
    shown = [image for image in finds.order if image in pictures.content]
    data = {
        "classes": comparison.truth.classes,
        "runs": [_run_record(run, *_range(comparison)) for run in comparison.runs],
        "range": _range(comparison),
        "kinds": DETECTION_KINDS,
        "labels": MOST_LABELS,
        "images": [{**entries[image], "picture": pictures.content[image]} for image in shown],
    }
    few = drawings(finds, [("", image) for image in shown[:_FEW]])
    blocks += [
        legend(comparison, of_a_run=True),
        Html('<div id="gallery" hidden></div>'),
        Drawings("pictures", "Images that differ most", tuple(few)),
        Html(f'<script type="application/json" id="images-data">{script_json(data)}</script>'),
    ]
    return Section("images", "Images", tuple(blocks))


def _note(comparison: Comparison, pictures: Pictures, kept: Kept) -> str:
    total, shown = len(comparison.pictures), len(pictures.content)
    if not shown and not pictures.no_room:
        return "The images are not where the data is, so no picture is shown."
    by = "the runs differ most" if len(comparison.runs) > 1 else "most is wrong"
    text = f"{counted(shown, 'image')} of {total:,}, first those on which {by}. "
    if pictures.no_room:
        text += f"{pictures.no_room:,} more do not fit into the size set by --gallery-mb. "
    if pictures.no_file:
        text += f"{pictures.no_file:,} could not be read. "
    return text + (
        "Each run starts at the score of its best F1. For each image and run, the "
        f"{kept.any_score} detections with the highest scores are kept{kept.more}; at most "
        f"{MOST_LABELS} have labels. Gained are objects that a run finds and the first does not, "
        "lost the other way round."
    )


# ---- pictures -----------------------------------------------------------------------------------


def _pictures(finds: Finds, room: int) -> Pictures:
    """Read the pictures, the images that differ most first and larger."""
    files, order = finds.comparison.pictures, finds.order
    sizes = finds.comparison.truth.sizes
    content: dict[int, str] = {}
    left, no_file, done = max(0, room), 0, 0
    while done < len(order):
        # What earlier pictures left over is shared out among the later ones.
        bytes_left = left * 3 // 4  # base64 takes four bytes for three
        allotted = allot(len(order) - done, bytes_left, first=not done)[:_AT_ONCE]
        part = order[done : done + len(allotted)]
        if not part:
            break
        paths = [files[image] for image in part]
        shown = [(int(sizes[image][0]), int(sizes[image][1])) for image in part]
        for image, picture in zip(part, read_pictures(paths, shown, allotted), strict=True):
            if picture is None or not picture.content:
                no_file += picture is None
                continue
            content[image] = base64.b64encode(picture.content).decode("ascii")
            left -= len(content[image])
        done += len(part)
    return Pictures(content, len(order) - len(content) - no_file, no_file)


def allot(images: int, room: int, first: bool = True) -> list[int]:
    """Share out bytes among images in order: all large, or the first large and the rest small.

    Args:
        images: How many.
        room: Bytes.
        first: Whether the first of them may be large while the rest is small.

    Returns:
        The most bytes of each picture; shorter than `images` where not all find room.
    """
    if images * _LARGE_BYTES <= room:
        return [_LARGE_BYTES] * images
    large = int(_LARGE_SHARE * room / _LARGE_BYTES) if first else 0
    rest = room - large * _LARGE_BYTES
    small = min(images - large, rest // _SMALLEST)
    return [_LARGE_BYTES] * large + [rest // max(1, small)] * small


# ---- boxes --------------------------------------------------------------------------------------


def most_boxes(comparison: Comparison, room: int) -> Kept:
    """Share out the room for boxes: first to those that are shown at the runs' own thresholds."""
    images = len(comparison.pictures)
    found = [run.detections.image for run in comparison.runs]
    above = [
        run.detections.image[run.detections.score >= run.analysis.threshold]
        for run in comparison.runs
    ]
    of_all, of_above = (
        np.concatenate([np.bincount(part, minlength=images) for part in parts])
        for parts in (found, above)
    )
    most = _BOXES_SHARE * room / _BOX_BYTES
    shown = any_score = _FEWEST_BOXES
    while shown < _MOST_BOXES and np.minimum(of_above, shown + 1).sum() <= most:
        shown += 1
    certain = np.minimum(of_above, shown)
    while any_score < shown and np.minimum(
        of_all, np.maximum(certain, any_score + 1)
    ).sum() <= most:  # fmt: skip
        any_score += 1
    return Kept(shown, any_score)


def _range(comparison: Comparison) -> tuple[float, float]:
    """Return the ends of the scores: 0 and 1, unless a detector has others."""
    scores = np.concatenate([run.detections.score for run in comparison.runs])
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-9))


def whole_scores(
    scores: NDArray[np.float64], threshold: float, low: float, high: float
) -> NDArray[np.int64]:
    """Turn scores into whole numbers that are on the same side of the threshold; -inf into -1."""
    known = np.isfinite(scores)
    part = (np.where(known, scores, low) - low) / (high - low)
    whole = np.floor(np.clip(part, 0, 1) * SCALE).astype(np.int64)
    limit = _whole_threshold(threshold, low, high)
    whole = np.where((scores < threshold) & (whole >= limit), limit - 1, whole)
    return np.where(known, np.maximum(whole, 0), -1)


def _whole_threshold(threshold: float, low: float, high: float) -> int:
    if not math.isfinite(threshold):
        return 0
    return math.floor(min(1.0, max(0.0, (threshold - low) / (high - low))) * SCALE)


def _run_record(run: Run, low: float, high: float) -> dict[str, Any]:
    return {
        "label": run.label,
        "threshold": _whole_threshold(run.analysis.threshold, low, high),
    }


def _entries(finds: Finds, kept: Kept) -> dict[int, dict[str, Any]]:
    """Return all that the script needs of each image, except its picture."""
    comparison = finds.comparison
    truth, (low, high) = comparison.truth, _range(comparison)
    found = np.stack(
        [
            whole_scores(scores, run.analysis.threshold, low, high)
            for scores, run in zip(finds.scores, comparison.runs, strict=True)
        ]
    )
    sizes = np.tile(truth.sizes, 2)
    objects = np.column_stack(
        [
            truth.label,
            truth.difficult,
            thousandths(truth.box / sizes[truth.image]),
            found.T,
        ]
    )
    of_objects = _by_image(truth.image, objects, len(truth.image_ids))
    of_runs = [_detections(run, sizes, kept, (low, high)) for run in comparison.runs]
    return {
        image: {
            "id": truth.image_ids[image],
            "size": truth.sizes[image].tolist(),
            "objects": of_objects[image],
            "found": [rows[image] for rows, _ in of_runs],
            "left": [int(left[image]) for _, left in of_runs],
            "false": finds.false_on[:, image].tolist(),
        }
        for image in range(len(truth.image_ids))
    }


def thousandths(box: NDArray[np.float64]) -> NDArray[np.int64]:
    """Express places in the image as whole numbers."""
    return np.clip(np.rint(1000 * box), -1000, 2000).astype(np.int64)


def _detections(
    run: Run, sizes: NDArray[np.int64], most: Kept, ends: tuple[float, float]
) -> tuple[list[list[int]], NDArray[np.int64]]:
    """Return the highest detections of each image in one flat list, and how many are left out."""
    found, kind = run.detections, kinds_of(run)
    order = np.lexsort((-found.score, found.image))
    image = found.image[order]
    starts = np.searchsorted(image, np.arange(len(sizes) + 1))
    place = np.arange(len(order)) - starts[image]
    certain = (found.score[order] >= run.analysis.threshold) & (place < most.shown)
    kept = order[certain | (place < most.any_score)]
    columns = np.column_stack(
        [
            found.label[kept],
            kind[kept],
            whole_scores(found.score[kept], run.analysis.threshold, *ends),
            thousandths(found.box[kept] / sizes[found.image[kept]]),
        ]
    )
    left = np.diff(starts) - np.bincount(found.image[kept], minlength=len(sizes))
    return _by_image(found.image[kept], columns, len(sizes)), left


def kinds_of(run: Run) -> NDArray[np.int64]:
    """Return the index (detections,) into `DETECTION_KINDS`."""
    error = run.analysis.errors.kind
    false = np.where(error >= 0, error + 2, len(DETECTION_KINDS) - 1)
    return np.select([run.voc.true_positive, run.voc.ignored], [0, 1], default=false)


def _by_image(image: NDArray[np.int64], rows: NDArray[np.int64], images: int) -> list[list[int]]:
    """Group the rows by image, as flat lists in order."""
    order = np.argsort(image, kind="stable")
    ends = np.searchsorted(image[order], np.arange(1, images))
    return [part.ravel().tolist() for part in np.split(rows[order], ends)]
