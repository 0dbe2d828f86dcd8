"""How many of 100 errors of each kind, put into real annotations, head the list of the finder.

The annotations are those of a set that you have; the errors, and a detector that knows the set as
it was, are made up: it finds large objects more surely than small ones, places boxes loosely, takes
one class for another, and sees things where there is nothing. With `--detections` it is a real one.

    python -m benchmarks.label_errors --data VOCdevkit --split 2012:val      from scripts/
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.reading import read_detections
from detect.scoring.label_errors import KINDS, find_label_errors
from detect.scoring.matches import match, paired_iou
from detect.scoring.scored_folder import read_truth
from detect.scoring.sizes import size_of

EACH = 100
FOUND = np.array([0.5, 0.75, 0.9])
"""Chance of a small, medium and large object to be found surely."""
FAINTLY = 0.8
"""Chance of another to be found with a low score, as detectors do that keep scores above 0.05."""


def simulate(truth: GroundTruth, rng: np.random.Generator) -> Detections:
    """Detect the objects of a set as a middling detector does."""
    size = size_of(truth.box)
    surely = rng.random(len(size)) < FOUND[size]
    rows = np.flatnonzero(surely | (rng.random(len(size)) < FAINTLY))
    sides = truth.box[rows, 2:] - truth.box[rows, :2]
    box = truth.box[rows] + rng.normal(0, 0.06, (len(rows), 4)) * np.hstack([sides, sides])
    label = truth.label[rows].copy()
    confused = rng.random(len(rows)) < 0.05
    label[confused] = rng.integers(0, len(truth.classes), confused.sum())
    score = rng.beta(2 + 2 * size[rows], 2)
    score[confused] *= 0.6
    score[~surely[rows]] = rng.beta(1, 6, np.count_nonzero(~surely[rows]))
    false = 2 * len(truth.image_ids)
    image = rng.integers(0, len(truth.image_ids), false)
    corner = rng.random((false, 2)) * truth.sizes[image] * 0.8
    away = np.hstack([corner, corner + rng.uniform(10, 120, (false, 2))])
    return Detections(
        image=np.append(truth.image[rows], image),
        label=np.append(label, rng.integers(0, len(truth.classes), false)),
        score=np.append(score, rng.beta(1, 5, false)),
        box=np.vstack([box, away]),
    )


def corrupt(
    truth: GroundTruth, rng: np.random.Generator
) -> tuple[GroundTruth, dict[str, set[tuple[object, ...]]]]:
    """Put `EACH` errors of each kind in; return them as keys of image, class and box."""
    counted = np.flatnonzero(~truth.difficult & ((truth.box[:, 2:] - truth.box[:, :2]) > 12).all(1))
    chosen = rng.permutation(counted)[: 4 * EACH].reshape(4, EACH)
    gone, renamed, moved, doubled = chosen
    label, box = truth.label.copy(), truth.box.copy()
    label[renamed] = (label[renamed] + rng.integers(1, len(truth.classes), EACH)) % len(
        truth.classes
    )
    sides = box[moved, 2:] - box[moved, :2]
    shift = sides * rng.uniform(0.25, 0.45, (EACH, 2)) * rng.choice([-1, 1], (EACH, 2))
    box[moved] += np.hstack([shift, shift])
    again = box[doubled] + rng.normal(0, 0.03, (EACH, 4)) * np.tile(
        box[doubled, 2:] - box[doubled, :2], 2
    )
    image, place = _empty_places(truth, rng)
    kept = np.setdiff1d(np.arange(len(label)), gone)
    columns: dict[str, Any] = {
        "image": np.concatenate([truth.image[kept], truth.image[doubled], image]),
        "label": np.concatenate([label[kept], label[doubled], rng.choice(truth.label, EACH)]),
        "box": np.vstack([box[kept], again, place]),
        "difficult": np.append(truth.difficult[kept], np.zeros(2 * EACH, np.bool_)),
    }
    order = np.argsort(columns["image"], kind="stable")
    changed = replace(truth, **{name: column[order] for name, column in columns.items()})
    rows = {
        "wrong class": np.searchsorted(kept, renamed),
        "displaced": np.searchsorted(kept, moved),
        "duplicate": len(kept) + np.arange(EACH),
        "spurious": len(kept) + EACH + np.arange(EACH),
    }
    put = {
        kind: {_key(columns["image"][row], columns["box"][row]) for row in rows[kind]}
        for kind in rows
    }
    put["duplicate"] |= {_key(truth.image[row], box[row]) for row in doubled}  # either of the two
    put["missing"] = {(int(truth.image[row]), *truth.box[row].tolist()) for row in gone}
    return changed, put


def _empty_places(
    truth: GroundTruth, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw boxes of the sizes of objects that overlap none by more than a tenth."""
    images: list[int] = []
    boxes: list[NDArray[np.float64]] = []
    while len(boxes) < EACH:
        image, like = int(rng.integers(len(truth.image_ids))), int(rng.integers(len(truth.box)))
        sides = truth.box[like, 2:] - truth.box[like, :2]
        corner = rng.random(2) * np.maximum(truth.sizes[image] - sides, 0)
        box = np.append(corner, corner + sides)
        there = truth.box[truth.image == image]
        if not len(there) or paired_iou(np.tile(box, (len(there), 1)), there).max() < 0.1:
            images.append(image)
            boxes.append(box)
    return np.array(images), np.array(boxes)


def _key(image: int, box: NDArray[np.float64]) -> tuple[object, ...]:
    return int(image), *box.tolist()


def found_errors(
    before: GroundTruth,
    truth: GroundTruth,
    detections: Detections,
    put: dict[str, set[tuple[object, ...]]],
) -> dict[str, tuple[float, float, float]]:
    """Look at the first `EACH` candidates of each kind.

    Returns:
        For each kind the precision, the recall, and the share of the candidates that point to an
        error of whatever kind: where a displaced object was, one is missing, too.
    """
    was, now = _rows(before), _rows(truth)
    gone: dict[int, list[tuple[float, ...]]] = {}
    for image, _, *place in was - now:
        gone.setdefault(int(image), []).append(tuple(place))
    candidates = find_label_errors(truth, detections, match(truth, detections))
    told = {}
    for kind in KINDS:
        hits: set[tuple[object, ...]] = set()
        errors, first = 0, [c for c in candidates if c.kind == kind][:EACH]
        for found in first:
            if found.object is not None:
                key = _key(truth.image[found.object], truth.box[found.object])
                error = (key[0], int(truth.label[found.object]), *key[1:]) not in was
            else:
                image = int(detections.image[found.detection])
                places = np.array(gone.get(image, [])).reshape(-1, 4)
                box = np.tile(detections.box[found.detection], (len(places), 1))
                near = paired_iou(box, places)
                error = bool(near.max(initial=0) >= 0.5)
                key = _key(image, places[near.argmax()]) if error else ()
            errors += error or key in put[kind]
            hits |= {key} & put[kind]
        told[kind] = len(hits) / max(1, len(first)), len(hits) / EACH, errors / max(1, len(first))
    return told


def _rows(truth: GroundTruth) -> set[tuple[float, ...]]:
    columns = zip(truth.image.tolist(), truth.label.tolist(), truth.box.tolist(), strict=True)
    return {(image, label, *box) for image, label, box in columns}


def main() -> None:
    """Print a row per kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="2012:val")
    parser.add_argument("--detections", type=Path, help="of a detector; without, a simulated one")
    parser.add_argument("--seeds", type=int, default=5)
    flags = parser.parse_args()
    truth = read_truth(flags.data, flags.split)
    told = []
    for seed in range(flags.seeds):
        rng = np.random.default_rng(seed)
        found = (
            read_detections(flags.detections, truth) if flags.detections else simulate(truth, rng)
        )
        changed, put = corrupt(truth, rng)
        told.append(found_errors(truth, changed, found, put))
    print(
        f"{len(truth.image_ids)} images, {len(truth.label)} objects, {EACH} errors of each kind, "
        f"{flags.seeds} draws; among the first {EACH} candidates of each"
    )
    print(f"{'':12} {'precision':17} {'recall':17} errors of any kind")
    for kind in KINDS:
        columns = (100 * np.array([row[kind] for row in told])).T
        texts = [f"{c.mean():3.0f}% ({c.min():.0f} to {c.max():.0f})" for c in columns]
        print(f"{kind:12} {texts[0]:17} {texts[1]:17} {texts[2]}")


if __name__ == "__main__":
    main()
