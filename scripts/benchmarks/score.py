"""The VOC metric against a plain loop, COCO's against pycocotools, and the whole command."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Comparison, Settings
from benchmarks.startup import call
from benchmarks.timing import Sides, in_turn
from detect.data.voc import VOC_CLASSES
from detect.scoring.bootstrap import bootstrap_map
from detect.scoring.coco import score_coco
from detect.scoring.coco_by_pycocotools import score_coco as score_by_pycocotools
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.class_texts import write_class_texts
from detect.scoring.matches import match
from detect.scoring.voc import score_voc

IMAGES, DETECTIONS = 4952, 254_590  # images of VOC2007 test, boxes of a YOLO on them
MANY = 50_000, 2_000_000
IOU = 0.5
TORCH = "import torch, torchvision"
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
XML = "<annotation><size><width>500</width><height>500</height></size>{}</annotation>"
LOOP, SORTING = "loop over detections", "sorting by score"


def synthetic(num_images: int, num_detections: int) -> tuple[GroundTruth, Detections]:
    """Make three objects per image, and detections: half near an object, half anywhere.

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


def write_files(folder: Path, truth: GroundTruth, detections: Detections) -> list[str]:
    """Write a devkit without pictures and the detections as VOC text; return the command."""
    year = folder / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    (year / "ImageSets/Main/test.txt").write_text("\n".join(truth.image_ids))
    bounds = np.searchsorted(truth.image, np.arange(len(truth.image_ids) + 1)).tolist()
    corners = (truth.box + np.array([1, 1, 0, 0])).astype(np.int64).tolist()
    for image, name in enumerate(truth.image_ids):
        objects = "".join(
            OBJECT.format(truth.classes[truth.label[row]], int(truth.difficult[row]), *corners[row])
            for row in range(bounds[image], bounds[image + 1])
        )
        (year / "Annotations" / f"{name}.xml").write_text(XML.format(objects))
    rounded = replace(
        detections, box=np.round(detections.box, 3), score=np.round(detections.score, 6)
    )
    write_class_texts(rounded, truth, folder / "comp4")
    given = ("--detections", folder / "comp4", "--data", folder / "VOCdevkit")
    return ["-m", "detect", "score", *map(str, given), "--split", "2007:test", "--out"]


def whole(folder: Path, images: int, count: int, rounds: int, alone: bool) -> Comparison:
    """Time the command: both metrics, errors, calibration, label errors, resamples."""
    command = write_files(folder, *synthetic(images, count))
    ours = partial(call, *command, str(folder / "scored"))
    sides: dict[str, Callable[[], object]] = {"python -m detect score": ours}
    if not alone:
        sides |= {TORCH: partial(call, "-c", TORCH)}
    return Comparison(
        case=f"the whole command, {images:,} images, {count:,} detections",
        seconds=in_turn(sides, rounds, warm_up=int(not alone)),
        limit=30.0 if alone else None,
        faster={} if alone else {TORCH: 1 / 1.5},
    )


def run(settings: Settings) -> list[Comparison]:
    """Time the metrics, 1,000 resamples, and the whole command."""
    images, count, rounds = (20, 400, 1) if settings.tiny else (IMAGES, DETECTIONS, 5)
    resamples = 20 if settings.tiny else 1000
    truth, detections = synthetic(images, count)
    matches = match(truth, detections)
    ours = partial(score_voc, truth, detections)
    quick: Sides = {
        "score_voc": ours,
        SORTING: partial(np.argsort, -detections.score, kind="stable"),
    }
    sorted_or_scored = in_turn(quick, rounds)
    slow: Sides = {"score_voc": ours, LOOP: partial(loop_score, truth, detections)}
    resample = {"bootstrap_map": partial(bootstrap_map, truth, detections, resamples=resamples)}
    matched = partial(score_coco, truth, detections, matches)
    coco: dict[str, Callable[[], object]] = {"score_coco, matched before": matched}
    if settings.coco:
        coco |= {"pycocotools": partial(score_by_pycocotools, truth, detections)}
    comparisons = [
        Comparison(
            case=f"{images:,} images, {count:,} detections",
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
        Comparison(case="the same", seconds=in_turn(coco, 1, warm_up=0), limit=2.0),
    ]
    with tempfile.TemporaryDirectory() as folder:
        comparisons.append(whole(Path(folder, "a"), images, count, min(rounds, 3), alone=False))
        if not settings.tiny:
            comparisons.append(whole(Path(folder, "b"), *MANY, 1, alone=True))
    return comparisons
