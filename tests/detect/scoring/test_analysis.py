"""analysis.json: scores by size against COCO and plain loops, and the whole of its form."""

import contextlib
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import detections_of

from detect.scoring import analysis
from detect.scoring.analysis import (
    Analysis,
    OperatingPoint,
    bootstrap_record,
    score_by_size,
)
from detect.scoring.bootstrap import (
    Interval,
    bootstrap_map,
    intervals_of_difference,
    resampled_ap,
    split_and_draws,
)
from detect.scoring.coco import score_coco
from detect.scoring.error_kinds import ERROR_KINDS, analyse_errors, confusion_matrix
from detect.scoring.matches import match
from detect.scoring.sizes import SIZES, size_of_objects
from detect.scoring.voc import score_voc

CLASSES = ("cat", "dog")
SMALL, MEDIUM, LARGE = (0, 0, 31, 31), (100, 100, 150, 150), (200, 200, 300, 300)


def analyse(truth, detections, ious, resamples):
    matches = match(truth, detections)
    draws = split_and_draws(truth, resamples, 0) if resamples else None
    ap = None if draws is None else resampled_ap(truth, detections, draws, ious[0], matches)
    return analysis.analyse(truth, detections, ious, matches, ap)


def truth_of(objects, images=3):
    return scenes.truth_of(objects, CLASSES, images)


def by_size(objects, rows):
    """Objects and mAP (area) of each size."""
    scores = score_by_size(truth_of(objects), detections_of(rows))
    assert tuple(scores) == SIZES
    return [
        (sum(c.objects for c in score.per_class.values()), score.metrics()["map_area"])
        for score in scores.values()
    ]


# ---- by size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 32, 31.99), 0),
        ((0, 0, 32, 32), 1),
        ((0, 0, 96, 96), 1),
        ((0, 0, 96, 96.01), 2),
    ],
)
def test_an_object_is_of_one_size(box, size):
    expected = [(0, None)] * 3
    expected[size] = (1, 1.0)
    assert by_size([(0, 0, box, False)], [(0, 0, 0.9, box)]) == expected


def test_sizes_are_of_the_areas_that_the_data_state():
    """COCO's are of outlines, which can be far smaller than their boxes."""
    truth, found = truth_of([(0, 0, LARGE, False)]), detections_of([(0, 0, 0.9, LARGE)])
    truth = replace(truth, area=np.array([500.0]))
    scores = score_by_size(truth, found).values()
    assert [score.per_class["cat"].objects for score in scores] == [1, 0, 0]
    assert score_coco(truth, found)["ap_small"] == pytest.approx(1.0)
    assert np.bincount(size_of_objects(truth), minlength=3).tolist() == [1, 0, 0]


def test_other_sizes_are_ignored():
    objects = [(0, 0, SMALL, False), (0, 0, MEDIUM, False), (0, 0, LARGE, False)]
    rows = [
        (0, 0, 0.9, LARGE),
        (0, 0, 0.8, LARGE),  # a duplicate, for large ones alone
        (1, 0, 0.7, MEDIUM),  # background, for medium ones alone
        (0, 0, 0.6, MEDIUM),
        (0, 0, 0.5, SMALL),
    ]
    assert by_size(objects, rows) == [(1, 1.0), (1, 0.5), (1, 1.0)]
    rows.append((0, 0, 0.95, LARGE))
    assert by_size(objects, rows) == [(1, 1.0), (1, 0.5), (1, 1.0)]


def test_a_hit_counts_whatever_the_size_of_its_box():
    # Medium itself, 900 square pixels of the 1025; on an object that is difficult it is ignored.
    small_hit = (0, 0, 30, 30)
    object_box = (0, 0, 41, 25)
    assert by_size([(0, 0, object_box, False)], [(0, 0, 0.9, small_hit)])[1] == (1, 1.0)
    both = [(0, 0, object_box, True), (1, 0, SMALL, False)]
    rows = [(0, 0, 0.9, small_hit), (1, 0, 0.8, SMALL)]
    assert by_size(both, rows)[0] == (1, 1.0)


def literal(objects, rows, label, size):
    """The curve's letters of one class and size: VOC's rules, other sizes ignored."""

    def size_of(box):
        area = (box[2] - box[0]) * (box[3] - box[1])
        return 0 if area < 1024 else 2 if area > 9216 else 1

    def overlap_of(a, b):
        width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
        both = width * height
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    taken, letters = set(), ""
    for image, label_d, _, box in sorted(rows, key=lambda row: -row[2]):
        if label_d != label:
            continue
        best, found = 0.0, None
        for number, (image_o, label_o, box_o, _) in enumerate(objects):
            if (image_o, label_o) == (image, label) and overlap_of(box, box_o) > best:
                best, found = overlap_of(box, box_o), number
        if best >= 0.5:
            if objects[found][3] or size_of(objects[found][2]) != size:
                continue
            if found not in taken:
                taken.add(found)
                letters += "T"
                continue
        if size_of(box) == size:
            letters += "F"
    npos = sum(o[1] == label and not o[3] and size_of(o[2]) == size for o in objects)
    return letters, npos


corner, length = st.integers(0, 2).map(lambda n: 16 * n), st.integers(1, 7).map(lambda n: 16 * n)
boxes = st.tuples(corner, corner, length, length).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
images, labels = st.integers(0, 2), st.integers(0, 1)
any_objects = st.lists(st.tuples(images, labels, boxes, st.booleans()), max_size=10)
any_scores = st.integers(0, 5).map(lambda n: n / 5)
any_detections = st.lists(st.tuples(images, labels, any_scores, boxes), max_size=16)


@settings(max_examples=150, deadline=None)
@given(any_objects, any_detections)
def test_sizes_agree_with_the_literal_form(objects, rows):
    scores = score_by_size(truth_of(objects), detections_of(rows))
    for size, score in enumerate(scores.values()):
        for label, curve in enumerate(score.per_class.values()):
            letters, npos = literal(objects, rows, label, size)
            assert curve.objects == npos
            assert len(curve.precision) == len(letters)
            true = [letters[: i + 1].count("T") / (i + 1) for i in range(len(letters))]
            assert curve.precision.tolist() == pytest.approx(true, abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_sizes_agree_with_pycocotools(seed):
    """With an object and a detection at most per class and image, VOC and COCO agree on hits."""
    rng = np.random.default_rng(seed)
    objects, rows = [], []
    for cell in range(80):
        start = rng.integers(0, 50, 2)
        sides = 2 ** (rng.uniform(3.5, 7.5) + rng.uniform(-0.3, 0.3, 2))
        box = np.concatenate([start, start + sides])
        if rng.random() < 0.8:
            objects.append((cell // 2, cell % 2, box, False))
        moved = box + rng.normal(0, 8, 4)
        moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
        rows.append((cell // 2, cell % 2, rng.random(), moved))
    truth, detections = truth_of(objects, 40), detections_of(rows)
    with contextlib.redirect_stdout(io.StringIO()):
        indexed = []
        for found in (truth, detections):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": i + 1} for i in range(40)],
                "categories": [{"id": 1}, {"id": 2}],
                "annotations": [
                    {
                        "id": n + 1,
                        "image_id": int(found.image[n]) + 1,
                        "category_id": int(found.label[n]) + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "score": 0.0 if found is truth else float(found.score[n]),
                    }
                    for n, (x1, y1, x2, y2) in enumerate(found.box.tolist())
                ],
            }
            coco.createIndex()
            indexed.append(coco)
        evaluation = COCOeval(*indexed, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0]  # (101 recalls, classes, areas, limits)
    for size, score in enumerate(score_by_size(truth, detections).values(), start=1):
        for label, curve in enumerate(score.per_class.values()):
            envelope = np.append(np.maximum.accumulate(curve.precision[::-1])[::-1], 0.0)
            points = np.searchsorted(curve.recall, np.linspace(0, 1, 101), side="left")
            np.testing.assert_allclose(envelope[points], precision[:, label, size, -1], atol=1e-12)
            assert curve.objects >= 3


# ---- the whole ----------------------------------------------------------------------------------

OBJECTS = [(0, 0, SMALL, False), (1, 0, MEDIUM, False), (1, 1, LARGE, False), (2, 1, SMALL, True)]
ROWS = [
    (0, 0, 0.9, SMALL),
    (1, 0, 0.8, (100, 100, 150, 130)),  # overlap 0.6
    (2, 0, 0.7, LARGE),
    (1, 1, 0.6, LARGE),
    (2, 1, 0.5, SMALL),
    (0, 1, 0.4, SMALL),
]


def test_the_form_of_the_analysis():
    truth, detections = truth_of(OBJECTS), detections_of(ROWS)
    record = analyse(truth, detections, (0.5, 0.75), resamples=30)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["iou"] == 0.5
    assert record["by_iou"] == [score_voc(truth, detections, t).metrics() for t in (0.5, 0.75)]
    none = {"ap_11point": None, "ap_area": None, "objects": 0}
    one = {"ap_11point": pytest.approx(1.0), "ap_area": 1.0, "objects": 1}
    whole = {"map_11point": pytest.approx(1.0), "map_area": 1.0, "objects": 1}
    assert record["by_size"] == {
        "small": {**whole, "per_class": {"cat": one, "dog": none}},
        "medium": {**whole, "per_class": {"cat": one, "dog": none}},
        "large": {**whole, "per_class": {"cat": none, "dog": one}},
    }
    intervals = bootstrap_map(truth, detections, 0.5, 30, seed=0)
    expected = {"level": 0.95, "resamples": 30, "seed": 0}
    for name, interval in intervals.items():
        ends = {"value": interval.value, "low": interval.low, "high": interval.high}
        expected[name] = {**ends, "excludes_zero": interval.low > 0}
    assert record["intervals"] == expected
    assert record["against"] is None
    errors = analyse_errors(truth, detections)
    assert record["errors"] == {
        "foreground": 0.5,
        "background": 0.1,
        "counts": errors.counts,
        "delta_ap": errors.delta_ap,
    }
    assert tuple(errors.counts) == ERROR_KINDS
    # Of all classes in one row TTFTF (the ignored one left out), F1 is best at the fourth, 6/7.
    assert record["confusion"] == {
        "score_threshold": 0.6,
        "classes": ["cat", "dog", "background"],
        "matrix": [[2, 0, 0], [0, 1, 0], [1, 0, 0]],
    }
    assert confusion_matrix(truth, detections, 0.6).tolist() == record["confusion"]["matrix"]
    cat, dog = record["per_class"].values()
    assert (cat["objects"], cat["difficult"], cat["detections"]) == (2, 0, 3)
    assert cat["best_f1"] == {
        "score_threshold": 0.8,
        "f1": 1.0,
        "precision": 1.0,
        "recall": 1.0,
        "true_positives": 2,
        "false_positives": 0,
    }
    assert (dog["objects"], dog["difficult"], dog["detections"]) == (1, 1, 3)
    assert dog["best_f1"]["score_threshold"] == 0.6


def test_all_of_an_analysis_by_itself():
    """What it finds out where nothing is handed to it, and the threshold that pictures take."""
    truth, detections = truth_of(OBJECTS), detections_of(ROWS)
    result = score_voc(truth, detections)
    plain = Analysis.of(truth, detections, result)
    assert plain.intervals == {} and plain.threshold == 0.6
    assert plain.overall == OperatingPoint(0.6, pytest.approx(6 / 7), 0.75, 1.0, 3, 1)
    assert plain.by_class["cat"] == OperatingPoint(0.8, 1.0, 1.0, 1.0, 2, 0)
    assert plain.errors.counts == analyse_errors(truth, detections).counts
    assert plain.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 0]]
    nothing = detections_of([])
    empty = Analysis.of(truth, nothing, score_voc(truth, nothing))
    assert (empty.overall, empty.threshold) == (None, -math.inf)
    assert empty.by_class == {"cat": None, "dog": None}
    assert empty.confusion.tolist() == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]


def test_the_rule_of_recall_holds_throughout():
    """Three of ten cats: recall 3/10 reaches the point 0.3 by one rule alone."""
    objects = [(n, 0, SMALL, False) for n in range(10)]
    truth = truth_of(objects, 10)
    found = detections_of([(n, 0, 0.9, SMALL) for n in range(3)])
    matches = match(truth, found)
    exact, rounded = pytest.approx(4 / 11), pytest.approx(3 / 11)
    for rule, own, other, value in (
        ((), "integer", "float", exact),
        (("integer",), "integer", "float", exact),
        (("float",), "float", "integer", rounded),
    ):
        record = analysis.analyse(truth, found, (0.5, 0.75), matches, None, *rule)
        assert [part["map_11point"] for part in record["by_iou"]] == [value, value]
        assert record["by_size"]["small"]["map_11point"] == value
        assert (
            score_by_size(truth, found, 0.5, None, *rule)["small"].metrics()["map_11point"] == value
        )
        ap = rounded if own == "integer" else exact
        assert record["recall"] == {
            "rule": own,
            other: {"map_11point": ap, "per_class": {"cat": ap, "dog": None}},
            "differs": ["cat"],
        }
    some = analyse(truth_of(OBJECTS), detections_of(ROWS), (0.5,), 0)["recall"]
    assert some["differs"] == [] and some["float"]["map_11point"] == pytest.approx(1.0)


def test_intervals_without_a_number():
    """None in JSON, each for itself."""
    intervals = {
        "map_area": Interval(0.5, 0.25, 0.75),
        "map_11point": Interval(math.nan, math.nan, math.nan),
    }
    assert bootstrap_record(intervals, 7) == {
        "level": 0.95,
        "resamples": 7,
        "seed": 0,
        "map_area": {"value": 0.5, "low": 0.25, "high": 0.75, "excludes_zero": True},
        "map_11point": {"value": None, "low": None, "high": None, "excludes_zero": False},
    }


def test_the_first_overlap_holds_throughout():
    truth, detections = truth_of(OBJECTS), detections_of(ROWS)
    record = analyse(truth, detections, (0.75, 0.5), resamples=0)
    assert record["iou"] == 0.75 and record["intervals"] is None
    assert record["by_size"]["medium"]["map_area"] == 0.0
    assert record["per_class"]["cat"]["best_f1"]["true_positives"] == 1
    assert record["confusion"]["matrix"][0] == [1, 0, 1]
    assert record["errors"]["counts"]["localization"] == 0  # at its own 0.5


def test_the_first_overlap_holds_for_intervals_and_comparisons():
    truth, first, second = truth_of(OBJECTS), detections_of(ROWS[:1]), detections_of(ROWS[:2])
    for iou, gain in ((0.5, 0.25), (0.75, 0.0)):  # the second of two cats, overlap 0.6
        intervals = analyse(truth, second, (iou, 0.9), resamples=3)["intervals"]
        assert intervals["map_area"]["value"] == 0.25 + gain
        draws = split_and_draws(truth, 3, seed=0)
        ap = (resampled_ap(truth, found, draws, iou) for found in (first, second))
        assert intervals_of_difference(*ap)["map_area"].value == gain


def test_counts_at_the_best_threshold():
    rows = [(0, 0, 0.9, LARGE), (0, 0, 0.8, SMALL), (1, 0, 0.8, MEDIUM), (2, 0, 0.1, LARGE)]
    record = analyse(truth_of(OBJECTS), detections_of(rows), (0.5,), resamples=0)
    best = record["per_class"]["cat"]["best_f1"]
    assert (best["true_positives"], best["false_positives"]) == (2, 1)
    assert best["f1"] == 0.8 and record["per_class"]["dog"]["best_f1"] is None


@pytest.mark.parametrize(
    ("objects", "missing", "value"), [([], [0, 0, 0], None), (OBJECTS, [2, 1, 0], 0.0)]
)
def test_nothing_found_or_nothing_to_find(objects, missing, value):
    record = analyse(truth_of(objects), detections_of([]), (0.5,), resamples=3)
    json.dumps(record, allow_nan=False)
    assert record["confusion"]["score_threshold"] is None
    assert [row[2] for row in record["confusion"]["matrix"]] == missing
    interval = record["intervals"]["map_area"]
    assert interval["value"] == value
    assert interval["excludes_zero"] is False


def test_without_a_true_positive_the_confusion_counts_all():
    record = analyse(truth_of(OBJECTS), detections_of([(0, 1, 0.0, SMALL)]), (0.5,), resamples=0)
    assert record["confusion"]["score_threshold"] is None
    assert record["confusion"]["matrix"][0] == [0, 1, 1]


def test_comparison():
    truth, first, second = truth_of(OBJECTS), detections_of(ROWS[:2]), detections_of(ROWS)
    draws = split_and_draws(truth, 30, seed=0)
    before, after = (resampled_ap(truth, found, draws, 0.5) for found in (first, second))
    intervals = intervals_of_difference(before, after)
    record, interval = bootstrap_record(intervals, 30), intervals["map_area"]
    assert record["map_area"] == {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "excludes_zero": interval.decided,
    }
    assert interval.value == 0.5 and not math.isnan(interval.low)
    assert (record["level"], record["resamples"]) == (0.95, 30)
