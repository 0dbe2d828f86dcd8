"""The COCO metric against values worked out by hand, the COCO file format and the VOC hits."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.scoring import coco, coco_by_pycocotools
from detect.scoring.coco import score_coco
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.coco_json import write_coco_json
from detect.scoring.matches import match
from detect.scoring.voc import score_voc

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
LARGE = (0, 0, 100, 100)
SMALL = (200, 200, 220, 220)


def split(objects, found, images=1, classes=1):
    """Objects (image, label, box, difficult), detections (image, label, score, box)."""
    image, label, box, difficult = zip(*objects, strict=True) if objects else ((), (), (), ())
    truth = GroundTruth(
        classes=tuple(f"class{i}" for i in range(classes)),
        image_ids=tuple(f"{i + 1:06d}" for i in range(images)),
        sizes=np.full((images, 2), 500),
        image=np.array(image, dtype=np.int64),
        label=np.array(label, dtype=np.int64),
        box=np.array(box, dtype=np.float64).reshape(-1, 4),
        difficult=np.array(difficult, dtype=np.bool_),
    )
    image, label, score, box = zip(*found, strict=True) if found else ((), (), (), ())
    detections = Detections(
        image=np.array(image, dtype=np.int64),
        label=np.array(label, dtype=np.int64),
        score=np.array(score, dtype=np.float64),
        box=np.array(box, dtype=np.float64).reshape(-1, 4),
    )
    return truth, detections


def random_split(seed):
    """At most one object per class and image, none difficult, no tied scores."""
    rng = np.random.default_rng(seed)
    images, classes = 12, 3
    objects, found = [], []
    for cell in range(images * classes):
        corner = rng.integers(0, 100, 2)
        box = np.concatenate([corner, corner + rng.integers(10, 150, 2)])
        if rng.random() < 0.7:
            objects.append((cell // classes, cell % classes, box, False))
        for _ in range(rng.integers(0, 5)):
            shifted = box + rng.normal(0, 8, 4).astype(np.float32)
            shifted[2:] = np.maximum(shifted[2:], shifted[:2] + 1)
            found.append((cell // classes, cell % classes, rng.random(), shifted))
    return split(objects, found, images, classes)


def test_one_detection_counts_at_the_thresholds_it_passes():
    # IoU 0.62 passes 0.50, 0.55 and 0.60 of the ten thresholds.
    metrics = score_coco(*split([(0, 0, LARGE, False)], [(0, 0, 0.9, (0, 0, 100, 62))]))
    assert tuple(metrics) == NAMES
    assert metrics["ap"] == metrics["ap_large"] == pytest.approx(0.3, abs=1e-12)
    assert metrics["ap50"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["ap75"] == 0.0
    assert metrics["ap_small"] is None and metrics["ap_medium"] is None


def test_sizes_are_apart():
    objects = [(0, 0, LARGE, False), (0, 0, SMALL, False), (0, 0, (300, 300, 350, 350), False)]
    shifted = (310, 300, 360, 350)  # IoU 2/3 passes 0.50, 0.55, 0.60 and 0.65
    metrics = score_coco(*split(objects, [(0, 0, 0.9, SMALL), (0, 0, 0.8, shifted)]))
    assert metrics["ap_small"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["ap_medium"] == pytest.approx(0.4, abs=1e-12)
    assert metrics["ap_large"] == 0.0


@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        (31.99, ("ap_small",)),
        (32, ("ap_small", "ap_medium")),  # the ends belong to both
        (32.01, ("ap_medium",)),
        (95.99, ("ap_medium",)),
        (96, ("ap_medium", "ap_large")),
        (96.01, ("ap_large",)),
        (1e5, ("ap_large",)),
        (1e5 + 1, ()),
    ],
)
def test_the_ends_of_the_sizes(side, sizes):
    box = (0, 0, side, side)
    metrics = score_coco(*split([(0, 0, box, False)], [(0, 0, 0.9, box)]))
    known = [name for name in NAMES[3:] if metrics[name] is not None]
    assert known == list(sizes) and all(metrics[name] > 0.99 for name in known)
    assert (metrics["ap"] is None) is (side > 1e5)


@pytest.mark.parametrize(
    ("side", "small", "medium"),
    [(31.99, 0.5, 1), (32, 0.5, 0.5), (32.01, 1, 0.5), (96, 1, 0.5), (96.01, 1, 1)],
)
def test_a_false_detection_is_one_among_those_of_its_size(side, small, medium):
    objects = [(0, 0, SMALL, False), (0, 0, (300, 300, 350, 350), False)]
    found = [(0, 0, 0.9, (0, 0, side, side)), *[(0, 0, 0.8, box) for _, _, box, _ in objects]]
    metrics = score_coco(*split(objects, found))
    assert metrics["ap_small"] == pytest.approx(small, abs=1e-12)
    assert metrics["ap_medium"] == pytest.approx(medium, abs=1e-12)


def test_difficult_objects_are_crowds():
    # Both detections lie inside the difficult object. VOC finds the small one false, as its IoU
    # is 1/25; a crowd absorbs it, since it lies inside entirely.
    objects = [(0, 0, SMALL, False), (0, 0, LARGE, True)]
    found = [(0, 0, 0.9, LARGE), (0, 0, 0.8, (10, 10, 30, 30)), (0, 0, 0.7, SMALL)]
    truth, detections = split(objects, found)
    assert score_coco(truth, detections)["ap"] == pytest.approx(1.0, abs=1e-12)
    assert score_voc(truth, detections).metrics()["map_area"] == 0.5


def test_a_class_of_difficult_objects_only_is_not_counted():
    objects = [(0, 0, LARGE, False), (0, 1, LARGE, True)]
    found = [(0, 0, 0.9, LARGE), (0, 1, 0.9, LARGE), (0, 1, 0.9, SMALL)]
    assert score_coco(*split(objects, found, classes=2))["ap"] == pytest.approx(1.0, abs=1e-12)


def test_the_first_object_can_be_found():
    # An annotation of id 0 would read as "unmatched" in pycocotools.
    assert score_coco(*split([(0, 0, LARGE, False)], [(0, 0, 0.9, LARGE)]))["ap"] > 0.99


@pytest.mark.parametrize("images", [0, 1])
def test_nothing_counted(images):
    assert score_coco(*split([], [], images)) == dict.fromkeys(NAMES)


def test_nothing_detected(capsys):
    metrics = score_coco(*split([(0, 0, LARGE, False)], []))
    assert metrics == dict.fromkeys(NAMES, 0.0) | {"ap_small": None, "ap_medium": None}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pycocotools_reading_the_results_file(seed, tmp_path):
    truth, detections = random_split(seed)
    write_coco_json(detections, truth, tmp_path / "detections.json")
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        objects.dataset = {
            "images": [{"id": int(name)} for name in truth.image_ids],
            "categories": [{"id": i + 1} for i in range(len(truth.classes))],
            "annotations": [
                {
                    "id": i + 1,
                    "image_id": int(truth.image_ids[image]),
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
                for i, (image, label, (x1, y1, x2, y2)) in enumerate(
                    zip(truth.image, truth.label, truth.box, strict=True)
                )
            ],
        }
        objects.createIndex()
        found = objects.loadRes(str(tmp_path / "detections.json"))
        evaluation = COCOeval(objects, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = [None if value == -1 else value for value in evaluation.stats[:6].tolist()]
    assert list(score_coco(truth, detections).values()) == pytest.approx(expected, abs=1e-12)


def any_split(seed):
    """Crowds, ties, classes and images without anything, more than 100 detections, decimals."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 8)), int(rng.integers(1, 5))
    count, digits = int(rng.integers(1, 60)), seed % 4

    def boxes(number):
        corner = rng.uniform(0, 200, (number, 2))
        side = rng.choice([8, 32, 60, 96, 120], (number, 2)) * rng.choice([1, 1, 0.5, 1.37])
        return np.round(np.hstack([corner, corner + side]), digits)

    image, label = np.sort(rng.integers(0, images, count)), rng.integers(0, classes, count)
    box, crowd = boxes(count), rng.random(count) < 0.25
    objects = list(zip(image, label, box, crowd, strict=True))
    found = []
    for _ in range(int(rng.integers(0, 900))):
        source = rng.integers(0, count)
        shift = np.round(rng.normal(0, 6, 4), digits) * (rng.random() < 0.8)
        near = (image[source], label[source], box[source] + shift)
        away = (rng.integers(0, images), rng.integers(0, classes), boxes(1)[0])
        where, what, there = near if rng.random() < 0.7 else away
        found.append((where, what, np.round(rng.random(), 1 + seed % 3), there))
    truth, detections = split(objects, found, images, classes)
    area = rng.uniform(0.5, 1, count) * (box[:, 2:] - box[:, :2]).prod(axis=1)
    return (replace(truth, area=area) if seed % 2 else truth), detections


@pytest.mark.parametrize("seed", range(24))
def test_equals_pycocotools(seed):
    truth, detections = any_split(seed)
    ours, theirs = score_coco(truth, detections), coco_by_pycocotools.score_coco(truth, detections)
    assert list(ours) == list(theirs) == list(NAMES)
    assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=1e-12)


@pytest.mark.parametrize("iou", np.linspace(0.5, 0.95, 10).tolist())
def test_equals_pycocotools_at_each_threshold(iou):
    for height in (iou * 100, np.nextafter(iou * 100, 0), round(iou * 10, 2) * 10 + 0.1):
        rows = [(0, 0, 0.9, (0.1, 0.3, 100.1, 0.3 + height))]
        truth, detections = split([(0, 0, (0.1, 0.3, 100.1, 100.3), False)], rows)
        expected = coco_by_pycocotools.score_coco(truth, detections)
        assert score_coco(truth, detections) == pytest.approx(expected, abs=1e-12)


def test_of_equal_overlaps_the_last_object_is_taken():
    # The first detection overlaps both by 90/110; the second only the first object enough.
    objects = [(0, 0, (0, 0, 100, 100), False), (0, 0, (20, 0, 120, 100), False)]
    rows = [(0, 0, 0.9, (10, 0, 110, 100)), (0, 0, 0.8, (0, 0, 70, 100))]
    truth, detections = split(objects, rows)
    ours = score_coco(truth, detections)
    assert ours == pytest.approx(coco_by_pycocotools.score_coco(truth, detections), abs=1e-12)
    assert ours["ap50"] == pytest.approx(1, abs=1e-12)


def test_a_point_overlaps_nothing_not_even_itself():
    point = (50, 50, 50, 50)
    objects = [(0, 0, LARGE, False), (0, 0, point, False)]
    truth, detections = split(objects, [(0, 0, 0.9, point), (0, 0, 0.8, LARGE)])
    found = score_coco(truth, detections)
    assert found == pytest.approx(coco_by_pycocotools.score_coco(truth, detections), abs=1e-12)
    # One false, then one true: a precision of a half up to a recall of a half.
    assert found["ap"] == pytest.approx(51 / 101 / 2, abs=1e-12)


def test_a_hundred_detections_of_an_image_and_class_count():
    objects = [(0, 0, LARGE, False), (0, 1, LARGE, False), (1, 0, LARGE, False)]
    away = [(0, 0, 0.9, (300, 300, 340, 340))] * 100
    rows = [*away, (0, 0, 0.8, LARGE), (0, 1, 0.7, LARGE), (1, 0, 0.6, LARGE)]
    truth, detections = split(objects, rows, images=2, classes=2)
    found = score_coco(truth, detections)
    assert found == pytest.approx(coco_by_pycocotools.score_coco(truth, detections), abs=1e-12)
    # Class 0: 51 recalls at 1/101; class 1: all.
    assert found["ap"] == pytest.approx((51 / 101 / 101 + 1) / 2, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_ap50_agrees_with_the_voc_curves(seed):
    """With one object per class and image, VOC and COCO agree on the hits at IoU 0.5."""
    truth, detections = random_split(seed)
    averages = []
    for curve in score_voc(truth, detections).per_class.values():
        envelope = np.append(np.maximum.accumulate(curve.precision[::-1])[::-1], 0.0)
        points = np.searchsorted(curve.recall, np.linspace(0, 1, 101), side="left")
        averages.append(envelope[points].mean())
    assert 0.1 < np.mean(averages) < 0.9
    assert score_coco(truth, detections)["ap50"] == pytest.approx(np.mean(averages), abs=1e-12)


def test_a_curve_by_hand():
    """True, false, true, true of four objects; pycocotools adds the spacing of 1 to each count."""
    curve = coco._interpolated(np.array([0, 1, 1]), 4)
    eps = np.finfo(np.float64).eps
    assert curve.tolist() == [1 / (1 + eps)] * 26 + [3 / 4] * 50 + [0] * 25
    assert coco._interpolated(np.array([], np.int64), 4).tolist() == [0] * 101
    whole = coco._interpolated(np.array([0, 0, 7]), 3)
    assert whole.tolist() == [1.0] * 67 + [3 / 10] * 34  # of two, eps is rounded away


def test_overlaps_by_hand():
    a = np.array([[0, 0, 10, 10]] * 4, np.float64)
    b = np.array([[5, 0, 15, 10], [0, 0, 20, 20], [10, 0, 20, 10], [5, 0, 15, 10]], np.float64)
    crowd = np.array([False, True, False, True])
    assert coco._overlap(a, b, crowd).tolist() == [50 / 150, 1.0, 0.0, 50 / 100]


def test_bits_of_the_ranges_that_an_area_is_outside():
    """Ten thresholds each of all, small, medium and large."""
    ten = 2**10 - 1
    small, medium, large = ten << 10, ten << 20, ten << 30
    found = coco._outside(np.array([0, 32.0**2, 32.0**2 + 1, 96.0**2, 1e10, 1e10 + 1e3]))
    both = large, medium | large
    assert found.tolist() == [
        both[1],
        large,
        small | large,
        small,
        small | medium,
        ten | small | medium | large,
    ]


def test_runs_of_equal_keys():
    runs = coco._runs(np.array([2, 2, 5, 0]), np.array([7, 8, 9, 6]))
    assert [(key, values.tolist()) for key, values in runs] == [(2, [7, 8]), (5, [9]), (0, [6])]
    assert list(coco._runs(np.array([], np.int64), np.array([], np.int64))) == []


@pytest.mark.parametrize("number", [99, 100, 101])
def test_the_highest_hundred_of_each_image_and_class(number):
    rows = [(0, 0, 0.5 + i / 1000, LARGE) for i in range(number)]
    rows += [(0, 1, 0.9, LARGE), (1, 0, 0.1, LARGE), (1, 0, 0.1, SMALL)]
    truth, detections = split([], rows, images=2, classes=2)
    least = max(0, number - 100)
    expected = [*reversed(range(least, number)), number, number + 1, number + 2]
    assert coco._highest(truth, detections, match(truth, detections)).tolist() == expected
