"""How far the scorer's figures lie from those of other programs, on sets drawn at random.

VOC's AP is held against the development kit's code in loops (`benchmarks.devkit`), COCO's metric
against pycocotools, and the kinds of error against tidecv, the program of TIDE's authors, where it
is installed (`pip install tidecv`; without it these rows are left out). The sets have between 1 and
40 images and 1 to 20 classes, one of them without objects, with difficult objects (crowds to COCO),
tied scores, objects that overlap, detections at just a threshold, boxes turned inside out, and more
than 100 detections of an image and class.

tidecv means something else in places. There the first of its tables compares what both mean alike,
the second says how far apart the rest is:

- A detection whose best object is taken may take the second best. Here, as in VOC, it is a
  duplicate. Compared are sets without detections that hit two objects of their class.
- Difficult objects can only be given to it as regions to ignore: what lies in them by more than
  half is no false positive, but is counted among the errors. Compared are sets without them.
- Its AP has 101 points, and a class without objects counts as 0. Where it mends, true detections
  come last among equal scores, and what becomes worse by that is 0. Compared is the area under the
  points as tidecv mended them, equal scores in the order of the file.
- It keeps 100 detections of an image, of all classes together; it is asked to keep all.
- Its overlaps are of x, y, width and height, ours in the kit's arithmetic, so decimals may differ
  in the last digit, which decides at exactly a threshold. Compared are quarters of pixels.

    python -m benchmarks.equality      from scripts/
"""

import argparse
import importlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.devkit import kit_evaluation
from detect.scoring import coco, coco_by_pycocotools
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.error_kinds import ERROR_KINDS, analyse_errors
from detect.scoring.matches import match
from detect.scoring.voc import mean_of_known, score_voc

SIZES = ((1, 1), (3, 2), (8, 4), (12, 20), (40, 6))
"""Images and classes."""
STEPS = (1, 4, 10, 100)
"""Positions in a pixel at which boxes end."""
GAINS = (*ERROR_KINDS, "false_positive", "false_negative")
Numbers = Mapping[str, float | None]


def draw(seed: int, steps: int | None = None) -> tuple[GroundTruth, Detections]:
    """Draw a set; the seed decides the size, `steps` (else the seed) the digits of the boxes."""
    rng = np.random.default_rng(seed)
    images, classes = SIZES[seed % len(SIZES)]
    steps = steps or STEPS[seed % len(STEPS)]
    count, found = int(rng.integers(1, 4 * images + 3)), int(rng.integers(0, 300 + 15 * images))

    def boxes(number: int) -> NDArray[np.float64]:
        corner = rng.uniform(0, 200, (number, 2))
        sides = rng.choice([9, 31, 59, 95, 119], (number, 2)) * rng.choice([1, 1, 0.5, 1.37])
        return np.asarray(np.rint(np.hstack([corner, corner + sides]) * steps) / steps)

    box, difficult = boxes(count), rng.random(count) < 0.25
    image = np.sort(rng.integers(0, images, count))
    label = rng.integers(0, max(1, classes - 1), count)  # the last class stays without objects
    beside = 1 + np.flatnonzero(rng.random(count - 1) < 0.25)  # overlap the one before
    image[beside], label[beside] = image[beside - 1], label[beside - 1]
    box[beside] = box[beside - 1] + np.tile(rng.integers(0, 9, (len(beside), 2)), 2)
    area = rng.uniform(0.5, 1, count) * (box[:, 2:] - box[:, :2]).prod(axis=1)
    truth = GroundTruth(
        classes=tuple(f"class{number}" for number in range(classes)),
        image_ids=tuple(f"{number + 1:06d}" for number in range(images)),
        sizes=np.full((images, 2), 400),
        image=image,
        label=label,
        box=box - [1, 1, 0, 0],  # as read from VOC's pixels
        difficult=difficult,
        area=area if seed % 2 else None,
    )
    source = rng.integers(0, count, found)
    near, named = rng.random(found) < 0.7, rng.random(found) < 0.85
    shift = np.rint(rng.normal(0, 6, (found, 4)) * steps) / steps * (rng.random((found, 1)) < 0.8)
    place = np.where(near[:, None], np.rint((box[source] + shift) * steps) / steps, boxes(found))
    cut = np.flatnonzero(near & (rng.random(found) < 0.2))  # overlap by just a half or a tenth
    share = rng.choice([0.5, 0.1], len(cut))
    place[cut] = box[source[cut]]
    height = (place[cut, 3] - place[cut, 1] + 1) * share
    place[cut, 3] = np.rint((place[cut, 1] - 1 + height) * steps) / steps
    detections = Detections(
        image=np.where(near, image[source], rng.integers(0, images, found)),
        label=np.where(near & named, label[source], rng.integers(0, classes, found)),
        score=np.round(rng.random(found), 1 + seed % 3),
        box=place - [1, 1, 0, 0],
    )
    return truth, detections


def apart(ours: Numbers, theirs: Numbers) -> dict[str, float]:
    """Return the differences by name; one that is None on one side alone is infinite."""
    return {
        name: abs(ours[name] - theirs[name])  # type: ignore[operator]
        if None not in (ours[name], theirs[name])
        else (0.0 if ours[name] is theirs[name] else np.inf)
        for name in theirs
    }


class Largest(defaultdict[str, float]):
    """The largest difference so far of each figure."""

    def __init__(self) -> None:
        super().__init__(float)

    def take(self, differences: Mapping[str, float]) -> None:
        """Add those of a set."""
        for name, value in differences.items():
            self[name] = max(self[name], value)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.1g}" for name, value in self.items())


def row(*cells: object) -> None:
    """Print a line of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


def head(*cells: str) -> None:
    """Print the head of a table."""
    row(*cells)
    row(*["---"] * len(cells))


def voc(seeds: Iterable[int]) -> tuple[Largest, int, int, int]:
    """Return differences to the kit, its classes, detections, and those judged in another way."""
    largest, classes, total, other = Largest(), 0, 0, 0
    for seed in seeds:
        truth, found = draw(seed)
        pixels, given = (np.add(part.box, [1, 1, 0, 0]) for part in (truth, found))
        objects = list(zip(truth.image, truth.label, pixels.tolist(), truth.difficult, strict=True))
        rows = list(zip(found.image, found.label, found.score, given.tolist(), strict=True))
        result = score_voc(truth, found)
        letter = np.select([result.true_positive, result.ignored], ["T", "I"], "F")
        kit: list[tuple[float | None, float | None]] = []
        for label, name in enumerate(truth.classes):
            points, area, letters = kit_evaluation(objects, rows, label)
            kit.append((points, area))
            score = result.per_class[name]
            ours = {"11 points": score.ap_11point, "area": score.ap_area}
            largest.take(apart(ours, {"11 points": points, "area": area}))
            classes += points is not None
            other += sum(letter[i] != theirs for i, theirs in letters.items())
        total += len(rows)
        points, area = (mean_of_known(column) for column in zip(*kit, strict=True))
        means = result.metrics()
        largest.take(
            apart(
                {"11 points": means["map_11point"], "area": means["map_area"]},
                {"11 points": points, "area": area},
            )
        )
    return largest, classes, total, other


def by_pycocotools(seeds: Iterable[int]) -> tuple[Largest, int]:
    """Return differences to pycocotools, and in how many sets there was anything to count."""
    largest, counted = Largest(), 0
    for seed in seeds:
        truth, found = draw(seed)
        theirs = coco_by_pycocotools.score_coco(truth, found)
        largest.take(apart(coco.score_coco(truth, found), theirs))
        counted += theirs["ap"] is not None
    return largest, counted


class ByTide:
    """What tidecv makes of a set: the kind of each detection, what is missed, and the gains."""

    def __init__(self, tidecv: Any, truth: GroundTruth, found: Detections) -> None:
        objects, detections = (
            tidecv.Data(name, max_dets=sys.maxsize) for name in ("objects", "detections")
        )
        for image in range(len(truth.image_ids)):
            objects.add_image(image, str(image))
        for image, label, box, difficult in zip(
            truth.image.tolist(), truth.label.tolist(), _sides(truth), truth.difficult, strict=True
        ):
            add = objects.add_ignore_region if difficult else objects.add_ground_truth
            add(image, label, box=box)
        for image, label, score, box in zip(
            *(c.tolist() for c in (found.image, found.label, found.score)),
            _sides(found),
            strict=True,
        ):
            detections.add_detection(image, label, score, box=box)
        self.run = tidecv.TIDE().evaluate(objects, detections)
        self.types = tidecv.TIDE._error_types
        self.false_positive = tidecv.quantify.FalsePositiveError.fix
        self.kind = np.full(len(found.score), -1)
        self.ignored = np.array([d["used"] is None for d in detections.annotations], dtype=np.bool_)
        self.missed = np.zeros(len(truth.label), dtype=np.bool_)
        for error in self.run.errors:
            number = self.types.index(type(error))
            if number < len(self.types) - 1:
                self.kind[error.pred["_id"]] = number
            else:
                self.missed[error.gt["_id"]] = True

    def gains(self, mean: Callable[[Any], float | None]) -> Numbers:
        """Return the gains by what tidecv has mended, with the mAP of `mean`."""
        fix = self.run.fix_errors
        mended = [fix(lambda error, kind=kind: isinstance(error, kind)) for kind in self.types]
        mended += [fix(transform=self.false_positive), fix(false_neg_dict=self.run.false_negatives)]
        before, after = mean(self.run.ap_data), [mean(data) for data in mended]
        pairs = zip(GAINS, after, strict=True)
        return {n: 0.0 if before is None or a is None else a - before for n, a in pairs}


def _sides(part: GroundTruth | Detections) -> list[list[float]]:
    """Return boxes as x, y, width and height."""
    return np.hstack([part.box[:, :2], part.box[:, 2:] - part.box[:, :2]]).tolist()  # type: ignore[no-any-return]


def mean_area(data: Any) -> float | None:
    """Return the mean area under tidecv's points, of the classes that have objects."""
    areas = []
    for of_class in data.objs.values():
        if of_class.num_gt_positives:
            given = of_class.data_points.items()
            points = sorted((-score, number, true) for number, (score, true, _) in given)
            area, highest, true = 0.0, 0.0, sum(point[2] for point in points)
            for place in range(len(points), 0, -1):
                highest = max(highest, true / place)
                area += highest * points[place - 1][2]
                true -= points[place - 1][2]
            areas.append(area / of_class.num_gt_positives)
    return mean_of_known(areas)


def once(truth: GroundTruth, found: Detections) -> Detections:
    """Leave out the detections that hit two objects of their class."""
    hits = np.bincount(match(truth, found).pairs[:, 0], minlength=len(found.score))
    return found.select(hits < 2)


def tide(tidecv: Any, seeds: Iterable[int]) -> None:
    """Print the rows of what both mean alike, and the table of what they do not."""
    seeds = list(seeds)
    largest, own = Largest(), Largest()
    detections, objects, other_kind, other_missed, own_sets = 0, 0, 0, 0, 0
    counts = dict.fromkeys(ERROR_KINDS, 0)
    all_hits, regions = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for seed in seeds:
        whole, found = draw(seed, steps=4)
        regions += differing(tidecv, whole, once(whole, found))
        truth = replace(whole, difficult=np.zeros(len(whole.label), np.bool_))
        all_hits += differing(tidecv, truth, found)

        found = once(truth, found)
        ours, theirs = analyse_errors(truth, found), ByTide(tidecv, truth, found)
        objects += len(truth.label)
        detections += len(found.score)
        counts = {kind: count + ours.counts[kind] for kind, count in counts.items()}
        other_kind += int(np.count_nonzero(ours.kind != theirs.kind))
        other_missed += int(np.count_nonzero(ours.missed != theirs.missed))
        largest.take(apart(ours.delta_ap, theirs.gains(mean_area)))

        # Its own mAP, where every class has a found object: none is without any when mended.
        found = found.select(np.isin(found.label, truth.label))
        hit = found.label[score_voc(truth, found).true_positive]
        if not np.setdiff1d(truth.label, hit).size:
            order = np.argsort(-found.score, kind="stable")
            score = np.empty(len(order))
            score[order] = np.linspace(1, 0, len(order), endpoint=False)
            untied = replace(found, score=score)
            gains = ByTide(tidecv, truth, untied).gains(lambda data: float(data.get_mAP()) / 100)
            own.take(apart(analyse_errors(truth, untied).delta_ap, gains))
            own_sets += 1
    name = f"tidecv {version('tidecv')}"
    *kinds, missed = (f"{kind} {count:,}" for kind, count in counts.items())
    seen = f"{detections:,} detections ({', '.join(kinds)})"
    row("kind of each detection", name, seen, f"{other_kind} differ")
    row("missed", name, f"{objects:,} objects ({missed})", f"{other_missed} differ")
    row("dAP", name, f"{len(seeds)} sets", largest)
    print()
    head("where tidecv means something else", "differ")
    row("detections that hit two objects kept", "{:,} of {:,} kinds".format(*all_hits[[0, 2]]))
    without = "{:,} of {:,} kinds, {:,} without those that it ignores"
    row("difficult objects as regions to ignore", without.format(*regions[[0, 2, 1]]))
    row(f"its own mAP of 101 points, {own_sets} sets where every class is found", f"dAP: {own}")


def differing(tidecv: Any, truth: GroundTruth, found: Detections) -> NDArray[np.int64]:
    """Return how many kinds differ, how many where tidecv ignores nothing, and of how many."""
    theirs = ByTide(tidecv, truth, found)
    other = analyse_errors(truth, found).kind != theirs.kind
    return np.array([other.sum(), (other & ~theirs.ignored).sum(), len(other)], dtype=np.int64)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=int, default=200, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next have the next")
    flags = parser.parse_args()
    seeds = range(flags.seed, flags.seed + flags.sets)
    print(f"seeds {seeds[0]} to {seeds[-1]}\n")
    head("figure", "against", "compared", "largest difference")
    largest, classes, total, other = voc(seeds)
    row("VOC AP and mAP", "the kit's code in loops", f"{classes:,} classes", largest)
    row("true, false or ignored", "the same", f"{total:,} detections", f"{other} differ")
    largest, counted = by_pycocotools(seeds)
    row("COCO", f"pycocotools {version('pycocotools')}", f"{counted} sets", largest)
    try:
        tidecv = importlib.import_module("tidecv")
    except ImportError as error:
        print(f"\nThe kinds of error are left out, since tidecv is not there: {error}.")
    else:
        tide(tidecv, seeds)


if __name__ == "__main__":
    main()
