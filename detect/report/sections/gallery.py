"""Which images the report shows, and how: objects, and what each run made of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.images.decoding import read_image
from detect.report.comparison import Comparison, Run
from detect.report.drawing import boxes
from detect.report.writers.blocks import Block, Drawing, Drawings, Heading, Text, count
from detect.report.writers.page import jpeg
from detect.scoring.detections import GroundTruth

_PICTURES = 96  # in all galleries; with `boxes.MOST_BYTES` it bounds the size of the page
_MOST_IMAGES = 8  # a gallery


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """What a run did on each image, at its threshold.

    Attributes:
        found: (images,) counted objects with a true detection.
        false: (images,) false detections.
        missed: (images,) counted objects without a true detection.
    """

    found: NDArray[np.int64]
    false: NDArray[np.int64]
    missed: NDArray[np.int64]

    @property
    def errors(self) -> NDArray[np.int64]:
        """False detections and missed objects together."""
        return self.false + self.missed


def count_by_image(truth: GroundTruth, run: Run) -> ImageCounts:
    """Counts what the run found, missed and saw wrongly on each image."""
    images = len(truth.image_ids)
    shown = run.detections.score >= run.analysis.threshold
    false = shown & ~run.voc.true_positive & ~run.voc.ignored
    found = np.bincount(run.detections.image[shown & run.voc.true_positive], minlength=images)
    objects = np.bincount(truth.image[~truth.difficult], minlength=images)
    return ImageCounts(
        found, np.bincount(run.detections.image[false], minlength=images), objects - found
    )


def choose_worst(counts: ImageCounts, number: int) -> list[int]:
    """Chooses the images with the most errors, the earlier of equals."""
    order = np.argsort(-counts.errors, kind="stable")
    return _first(order[counts.errors[order] > 0], number)


def choose_best(counts: ImageCounts, number: int) -> list[int]:
    """Chooses the images with the most objects found among those with the fewest errors."""
    order = np.lexsort((-counts.found, counts.errors))
    return _first(order[counts.found[order] > 0], number)


def choose_gained(first: ImageCounts, last: ImageCounts, number: int) -> list[int]:
    """Chooses the images on which the errors fell most from first to last."""
    gain = first.errors - last.errors
    order = np.argsort(-gain, kind="stable")
    return _first(order[gain[order] > 0], number)


def choose_even(truth: GroundTruth, number: int) -> list[int]:
    """Chooses images evenly over the split, among those with objects where there are any."""
    candidates = np.unique(truth.image) if len(truth.image) else np.arange(len(truth.image_ids))
    number = min(number, len(candidates))
    middles = (np.arange(number) + 0.5) * len(candidates) / max(1, number)
    return _first(candidates[middles.astype(np.int64)], number)


def _first(images: NDArray[np.int64], number: int) -> list[int]:
    return [int(image) for image in images[:number]]


def images_a_gallery(runs: int) -> int:
    """How many images a gallery shows, so that the pictures of all of them are not too many."""
    kinds = 5 if runs > 1 else 3
    return min(_MOST_IMAGES, max(1, _PICTURES // (kinds * (runs + 1))))


def galleries(comparison: Comparison) -> list[Block]:
    """Draws the galleries of the report."""
    truth, runs = comparison.truth, comparison.runs
    several = len(runs) > 1
    number = images_a_gallery(len(runs))
    before, after = (count_by_image(truth, run) for run in (runs[0], runs[-1]))
    first, last = runs[0].title, runs[-1].title
    of_last = f" of {last}" if several else ""
    errors = "errors (false detections and missed objects)"
    blocks: list[Block] = [Heading(2, "Example images"), *_introduction(runs)]
    if several:
        fell = choose_gained(before, after, number)
        rose = choose_gained(after, before, number)
        rule = f"Those on which the {errors} of {last} {{}} most against those of {first}."
        blocks += _gallery("Gained", rule.format("fell"), fell, comparison)
        blocks += _gallery("Lost", rule.format("rose"), rose, comparison)
    worst, best = choose_worst(after, number), choose_best(after, number)
    blocks += _gallery("Worst", f"Those with the most {errors}{of_last}.", worst, comparison)
    blocks += _gallery(
        "Best", f"Those with the fewest {errors}{of_last}, and of them the most objects found.",
        best, comparison,
    )  # fmt: skip
    even = choose_even(truth, number)
    return [
        *blocks,
        *_gallery("Even sample", "Taken evenly over the split.", even, comparison),
    ]


def _introduction(runs: Sequence[Run]) -> list[Block]:
    outlines = {
        "object": boxes.OBJECT,
        "true detection": boxes.HIT,
        "false detection": boxes.FALSE,
        "missed object": boxes.MISSED,
        "marked difficult, or found there: not counted": boxes.IGNORED,
    }
    legend = [Drawing(boxes.outline_sample(line), name) for name, line in outlines.items()]
    thresholds = ", ".join(f"{run.counted} for {run.title}" for run in runs)
    return [
        Text(
            "Detections are drawn and counted from the score at which the run's F1 over all "
            f"classes is best, all of them where none is a hit: {thresholds}."
        ),
        Drawings("legend", "Outlines", tuple(legend)),
    ]


def _gallery(title: str, rule: str, chosen: Sequence[int], comparison: Comparison) -> list[Block]:
    rule += "" if chosen else " There is none."
    return [Heading(3, title), Text(rule), *(_strip(comparison, index) for index in chosen)]


def _strip(comparison: Comparison, index: int) -> Drawings:
    """The image with its objects, and with what each run found."""
    truth = comparison.truth
    pixels = read_image(comparison.images[index].path)
    drawings = [_draw_objects(pixels, truth, index)]
    drawings += [_draw_run(pixels, truth, run, index) for run in comparison.runs]
    return Drawings("strip", f"Image {truth.image_ids[index]}", tuple(drawings))


def _draw_objects(pixels: NDArray[np.uint8], truth: GroundTruth, image: int) -> Drawing:
    rows = np.flatnonzero(truth.image == image)
    names = [truth.classes[label] for label in truth.label[rows]]
    difficult = truth.difficult[rows]
    outlined = [
        boxes.LabelledBox(tuple(box), name, boxes.IGNORED if hard else boxes.OBJECT)
        for box, name, hard in zip(truth.box[rows].tolist(), names, difficult, strict=True)
    ]
    note = count(int((~difficult).sum()), "object")
    note += f", {int(difficult.sum())} more marked difficult" if difficult.any() else ""
    title = f"Image {truth.image_ids[image]}, ground truth"
    return _picture(pixels, outlined, title, note, names)


def _draw_run(pixels: NDArray[np.uint8], truth: GroundTruth, run: Run, image: int) -> Drawing:
    found = run.detections
    rows = np.flatnonzero((found.image == image) & (found.score >= run.analysis.threshold))
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    hits, ignored = run.voc.true_positive[rows], run.voc.ignored[rows]
    names = [truth.classes[label] for label in found.label[rows]]
    outlined = [
        boxes.LabelledBox(tuple(box), f"{name} {score:.2f}", _outline(hit, out))
        for box, name, score, hit, out in zip(
            found.box[rows].tolist(), names, found.score[rows].tolist(), hits, ignored, strict=True
        )
    ]
    counted = np.flatnonzero((truth.image == image) & ~truth.difficult)
    missed = np.setdiff1d(counted, run.voc.match[rows[hits]])
    outlined += [
        boxes.LabelledBox(tuple(truth.box[row].tolist()), truth.classes[label], boxes.MISSED)
        for row, label in zip(missed, truth.label[missed], strict=True)
    ]
    false = int((~hits & ~ignored).sum())
    note = f"{hits.sum()} of {count(len(counted), 'object')} found, {false} false"
    note += f", {ignored.sum()} not counted" if ignored.any() else ""
    return _picture(pixels, outlined, run.title, note, names, f"Image {truth.image_ids[image]}, ")


def _outline(hit: bool, ignored: bool) -> boxes.Outline:
    if hit:
        return boxes.HIT
    return boxes.IGNORED if ignored else boxes.FALSE


def _picture(
    pixels: NDArray[np.uint8],
    outlined: Sequence[boxes.LabelledBox],
    name: str,
    note: str,
    labels: Sequence[str],
    before: str = "",
) -> Drawing:
    content, width, height = boxes.draw_boxes(pixels, outlined)
    shown = ", ".join(f"{number} {label}" for label, number in Counter(labels).items())
    alt = f"{before}{name}: {shown or 'no boxes'}; {note}"
    return Drawing(jpeg(content, alt, width, height), name, note)
