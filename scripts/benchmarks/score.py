"""The VOC metric against a loop over detections as the development kit has it, and pycocotools."""

from functools import partial

import numpy as np

from benchmarks.measure import Comparison, Settings
from benchmarks.timing import Sides, in_turn
from detect.data.voc import VOC_CLASSES
from detect.scoring.bootstrap import bootstrap_map
from detect.scoring.coco import score_coco
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import by_class
from detect.scoring.voc import score_voc

IMAGES, DETECTIONS = 4952, 200_000  # images of VOC2007 test
IOU = 0.5
LOOP, SORTING = "loop over detections", "sorting by class and score"


def synthetic(num_images: int, num_detections: int) -> tuple[GroundTruth, Detections]:
    """Make three objects an image, and detections: half near an object, half anywhere.

    Detections come image by image, as from a detector.
    """
    rng = np.random.default_rng(0)
    num_objects = 3 * num_images
    image = np.repeat(np.arange(num_images), 3)
    label = rng.integers(0, len(VOC_CLASSES), num_objects)
    corner = rng.integers(0, 250, (num_objects, 2))
    box = np.hstack([corner, corner + rng.integers(20, 200, (num_objects, 2))]).astype(np.float64)
    truth = GroundTruth(
        classes=VOC_CLASSES,
        image_ids=tuple(f"{number:06}" for number in range(num_images)),
        sizes=np.full((num_images, 2), 500),
        image=image,
        label=label,
        box=box,
        difficult=rng.random(num_objects) < 0.2,
    )
    source = np.sort(rng.integers(0, num_objects, num_detections))
    near = rng.random(num_detections) < 0.5
    shift = rng.normal(0, np.where(near, 8, 120)[:, None], (num_detections, 2))
    detections = Detections(
        image=image[source],
        label=np.where(near, label[source], rng.integers(0, len(VOC_CLASSES), num_detections)),
        score=rng.random(num_detections),
        box=box[source] + np.hstack([shift, shift]),
    )
    return truth, detections


def loop_score(truth: GroundTruth, detections: Detections) -> float:
    """Score by a loop over the detections of each class, numpy within an image; 11-point mAP."""
    precisions = []
    for label in range(len(truth.classes)):
        boxes: dict[int, tuple[list[int], np.ndarray]] = {}
        members = np.flatnonzero(truth.label == label)
        for image in np.unique(truth.image[members]):
            rows = members[truth.image[members] == image]
            boxes[int(image)] = rows.tolist(), truth.box[rows]
        taken: set[int] = set()
        found = np.flatnonzero(detections.label == label)
        found = found[np.argsort(-detections.score[found], kind="stable")]
        hits, misses = np.zeros(len(found)), np.zeros(len(found))
        for place, row in enumerate(found):
            best, overlap = -1, 0.0
            image = int(detections.image[row])
            if image in boxes:
                rows, there = boxes[image]
                ious = _ious(detections.box[row], there)
                overlap = float(ious.max())
                best = rows[int(ious.argmax())]
            if overlap < IOU:
                misses[place] = 1
            elif not truth.difficult[best]:
                (misses if best in taken else hits)[place] = 1
                taken.add(best)
        objects = np.count_nonzero(~truth.difficult[members])
        precisions.append(_eleven_points(np.cumsum(hits), np.cumsum(misses), int(objects)))
    return float(np.mean(precisions))


def _ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(shared / (areas - shared))


def _eleven_points(hits: np.ndarray, misses: np.ndarray, objects: int) -> float:
    total = 0.0
    precision = hits / np.maximum(hits + misses, 1)
    for tenths in range(11):
        reached = precision[10 * hits >= tenths * objects]
        total += (reached.max() if len(reached) else 0.0) / 11
    return total


def run(settings: Settings) -> list[Comparison]:
    """Time the metric, and 1,000 resamples."""
    images, count, rounds = (20, 400, 1) if settings.tiny else (IMAGES, DETECTIONS, 5)
    resamples = 20 if settings.tiny else 1000
    truth, detections = synthetic(images, count)
    case = f"{images:,} images, {count:,} detections"
    ours = partial(score_voc, truth, detections)
    quick: Sides = {
        "score_voc": ours,
        SORTING: partial(by_class, detections.label, detections.score, len(truth.classes)),
    }
    sorted_or_scored = in_turn(quick, rounds)
    slow: Sides = {"score_voc": ours, LOOP: partial(loop_score, truth, detections)}
    resample = {"bootstrap_map": partial(bootstrap_map, truth, detections, resamples=resamples)}
    comparisons = [
        Comparison(
            case=case,
            seconds={"score_voc": sorted_or_scored["score_voc"]},
            limit=1.0,
            floor=(float(np.median(sorted_or_scored[SORTING])), SORTING),
        ),
        Comparison(
            case="the same", seconds=in_turn(slow, min(rounds, 2), warm_up=0), faster={LOOP: 20.0}
        ),
        Comparison(
            case=f"the same, {resamples:,} resamples",
            seconds=in_turn(resample, 1, warm_up=0),
            limit=20.0,
        ),
    ]
    if settings.coco:
        coco = partial(score_coco, truth, detections)
        both: Sides = {"score_voc": ours, "pycocotools, all its thresholds": coco}
        comparisons.append(Comparison(case="the same", seconds=in_turn(both, 1, warm_up=0)))
    return comparisons
