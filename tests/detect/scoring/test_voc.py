"""The VOC metric against values worked out by hand and a loop-by-loop form of the kit's rules."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import scenes
from benchmarks.devkit import kit_evaluation, kit_overlap
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.scoring import matches as matching
from detect.scoring.matches import by_label, match, paired_iou
from detect.scoring.voc import VocScore, score_voc

CLASSES = ("cat", "dog", "emu")
IMAGES = ("000001", "000002", "000003")
A = (1, 1, 10, 10)  # boxes in the kit's 1-based inclusive pixels
FAR = (41, 41, 50, 50)


def continuous(boxes):
    return np.array(boxes, dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]


def truth_of(objects, classes=CLASSES, images=IMAGES):
    """Objects are (image, label, kit's box, difficult)."""
    shifted = [(i, label, continuous([box])[0], hard) for i, label, box, hard in objects]
    return scenes.truth_of(shifted, classes, images)


def detections_of(rows):
    """Detections are (image, label, score, kit's box)."""
    shifted = [(i, label, score, continuous([box])[0]) for i, label, score, box in rows]
    return scenes.detections_of(shifted)


def score_one_class(objects, rows, images=IMAGES) -> VocScore:
    """Objects (image, box, difficult) and detections (image, score, box) of one class."""
    truth = truth_of([(i, 0, box, hard) for i, box, hard in objects], ("cat",), images)
    return score_voc(truth, detections_of([(i, 0, score, box) for i, score, box in rows]))


def outcome(result: VocScore) -> str:
    """One letter a detection: true positive, ignored, false positive."""
    assert not (result.true_positive & result.ignored).any()
    pairs = zip(result.true_positive, result.ignored, strict=True)
    return "".join("T" if true else "I" if ignored else "F" for true, ignored in pairs)


def assert_ap(result: VocScore, ap_11point, ap_area):
    cat = result.per_class["cat"]
    assert cat.ap_11point == pytest.approx(float(ap_11point), abs=1e-12)
    assert cat.ap_area == pytest.approx(float(ap_area), abs=1e-12)


def test_difficult_object_absorbs_every_hit():
    objects = [(0, A, False), (0, FAR, True)]
    result = score_one_class(objects, [(0, 0.9, FAR), (0, 0.8, FAR), (0, 0.7, A)])
    assert outcome(result) == "IIT"
    assert result.match.tolist() == [1, 1, 0]
    assert_ap(result, 1, 1)
    cat = result.per_class["cat"]
    assert (cat.objects, cat.difficult, cat.detections) == (1, 1, 3)
    assert (cat.recall.tolist(), cat.precision.tolist(), cat.score.tolist()) == ([1], [1], [0.7])


def test_difficult_object_wins_over_a_counted_one_it_exceeds():
    result = score_one_class([(0, A, False), (0, (1, 1, 10, 14), True)], [(0, 0.9, (1, 1, 10, 13))])
    assert outcome(result) == "I"
    assert_ap(result, 0, 0)  # everything ignored: the kit divides 0 by 0, here AP is 0


def test_duplicate_is_false():
    objects = [(0, A, False), (1, A, False)]
    result = score_one_class(objects, [(0, 0.9, A), (0, 0.8, A), (1, 0.7, A)])
    assert outcome(result) == "TFT"
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: six points of 1 and five of 2/3.
    assert_ap(result, (6 + 5 * Fraction(2, 3)) / 11, Fraction(1, 2) + Fraction(1, 3))
    cat = result.per_class["cat"]
    assert cat.recall.tolist() == [0.5, 0.5, 1.0]
    assert cat.precision.tolist() == [1, 1 / 2, 2 / 3]
    assert cat.score.tolist() == [0.9, 0.8, 0.7]


def test_second_best_object_is_never_tried():
    # The second detection overlaps the taken object by 10/11 and the free one by 11/14.
    objects = [(0, A, False), (0, (1, 1, 10, 14), False)]
    result = score_one_class(objects, [(0, 0.9, A), (0, 0.8, (1, 1, 10, 11))])
    assert outcome(result) == "TF"
    assert result.match.tolist() == [0, 0]
    assert result.overlap.tolist() == [1.0, 10 / 11]
    assert_ap(result, Fraction(6, 11), Fraction(1, 2))


@pytest.mark.parametrize(("first_difficult", "expected"), [(True, "I"), (False, "T")])
def test_first_of_equal_overlaps_wins(first_difficult, expected):
    objects = [(0, A, first_difficult), (0, A, not first_difficult)]
    result = score_one_class(objects, [(0, 0.9, A)])
    assert outcome(result) == expected
    assert result.match.tolist() == [0]


def test_first_of_many_equal_overlaps_wins():
    objects = [(i % 3, A, False) for i in range(300)]
    result = score_one_class(objects, [(2, 0.9, A), (0, 0.8, A), (1, 0.7, A)])
    assert result.match.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("box", "expected"), [((1, 1, 10, 5), "T"), ((1, 1, 10, np.nextafter(5, 0)), "F")]
)
def test_exactly_half_overlap_is_a_hit(box, expected):
    result = score_one_class([(0, A, False)], [(0, 0.9, box)])
    assert outcome(result) == expected
    assert result.overlap[0] == pytest.approx(0.5)
    assert result.match.tolist() == [0 if expected == "T" else -1]
    assert_ap(result, expected == "T", expected == "T")


@pytest.mark.parametrize("found", [3, 6, 7])
@pytest.mark.parametrize("objects", [10, 480])
def test_recall_on_a_threshold_reaches_it(found, objects):
    # 3/10, 6/10 and 7/10 are the thresholds that lie one ulp too high in binary fractions.
    images = tuple(f"{i:06d}" for i in range(objects))
    hits = [(i, 0.9, A) for i in range(found * objects // 10)]
    result = score_one_class([(i, A, False) for i in range(objects)], hits, images)
    assert_ap(result, Fraction(found + 1, 11), Fraction(found, 10))


def test_recall_just_under_a_threshold_does_not_reach_it():
    images = tuple(f"{i:06d}" for i in range(480))
    hits = [(i, 0.9, A) for i in range(143)]
    result = score_one_class([(i, A, False) for i in range(480)], hits, images)
    assert_ap(result, Fraction(3, 11), Fraction(143, 480))


@pytest.mark.parametrize(("boxes", "expected"), [((A, FAR), 1), ((FAR, A), Fraction(1, 2))])
def test_tied_scores_keep_their_order(boxes, expected):
    result = score_one_class([(0, A, False)], [(0, 0.5, box) for box in boxes])
    assert_ap(result, expected, expected)


def test_first_of_tied_hits_takes_the_object():
    result = score_one_class([(0, A, False)], [(0, 0.5, A)] * 20)
    assert outcome(result) == "T" + "F" * 19


def test_other_classes_and_images_do_not_match():
    truth = truth_of([(0, 0, A, False), (1, 1, A, False)])
    result = score_voc(truth, detections_of([(0, 1, 0.9, A), (1, 0, 0.9, A), (2, 2, 0.9, A)]))
    assert outcome(result) == "FFF"
    assert result.overlap.tolist() == [0, 0, 0]
    assert result.match.tolist() == [-1, -1, -1]


def test_metrics_leave_a_class_without_counted_objects_out_of_the_mean():
    truth = truth_of([(0, 0, A, False), (0, 2, A, True), (1, 0, A, False)])
    result = score_voc(truth, detections_of([(0, 0, 0.9, A), (0, 1, 0.8, A), (0, 2, 0.7, A)]))
    expected = {
        "iou": 0.5,
        "map_11point": pytest.approx(6 / 11, abs=1e-15),
        "map_area": 0.5,
        "per_class": {
            "cat": {
                "ap_11point": pytest.approx(6 / 11, abs=1e-15),
                "ap_area": 0.5,
                "objects": 2,
                "difficult": 0,
                "detections": 1,
            },
            "dog": {
                "ap_11point": None,
                "ap_area": None,
                "objects": 0,
                "difficult": 0,
                "detections": 1,
            },
            "emu": {
                "ap_11point": None,
                "ap_area": None,
                "objects": 0,
                "difficult": 1,
                "detections": 1,
            },
        },
    }
    assert result.metrics() == expected
    assert json.loads(json.dumps(result.metrics(), allow_nan=False)) == expected
    assert np.isnan(result.per_class["dog"].recall).all()


def test_nothing_to_score():
    empty = score_voc(truth_of([]), detections_of([])).metrics()
    assert empty["map_11point"] is None and empty["map_area"] is None
    unseen = score_voc(truth_of([(0, 0, A, False)]), detections_of([])).metrics()
    assert unseen["map_11point"] == 0.0 and unseen["map_area"] == 0.0


def test_another_threshold():
    truth = truth_of([(0, 0, A, False)])
    rows = detections_of([(0, 0, 0.9, (1, 1, 10, 7))])
    assert score_voc(truth, rows, iou=0.7).metrics()["map_area"] == 1.0
    assert score_voc(truth, rows, iou=0.75).metrics()["map_area"] == 0.0
    assert score_voc(truth, rows, iou=0.75).metrics()["iou"] == 0.75


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.01, math.nan])
def test_threshold_out_of_range(iou):
    with pytest.raises(ValueError, match="iou"):
        score_voc(truth_of([]), detections_of([]), iou)


# Halves of pixels on a narrow grid: overlaps are exact, and hits, ties and equal overlaps frequent.
side = st.integers(0, 8).map(lambda n: n / 2)
boxes = st.tuples(side, side, side, side).map(
    lambda b: (b[0] + 1, b[1] + 1, b[0] + b[2] + 2, b[1] + b[3] + 2)
)
images = st.integers(0, len(IMAGES) - 1)
labels = st.integers(0, len(CLASSES) - 1)
any_objects = st.lists(st.tuples(images, labels, boxes, st.booleans()), max_size=14)
scores = st.integers(0, 6).map(lambda n: n / 6)
any_detections = st.lists(st.tuples(images, labels, scores, boxes), max_size=25)


# Tenths of pixels, which binary fractions only come near: the kit's own rounding decides at 0.5.
tenth = st.integers(0, 60).map(lambda n: n / 10)
decimal_boxes = st.tuples(tenth, tenth, tenth, tenth).map(
    lambda b: (b[0], b[1], round(b[0] + b[2], 1), round(b[1] + b[3] - 1, 1))
)
decimal_objects = st.lists(st.tuples(images, labels, decimal_boxes, st.booleans()), max_size=14)
decimal_detections = st.lists(st.tuples(images, labels, scores, decimal_boxes), max_size=25)


@settings(max_examples=300, deadline=None)
@given(decimal_objects, decimal_detections)
def test_agrees_with_the_kit_on_decimals(objects, rows):
    assert_as_the_kit(objects, rows)


@settings(max_examples=300, deadline=None)
@given(any_objects, any_detections)
def test_agrees_with_the_kit(objects, rows):
    assert_as_the_kit(objects, rows)


def assert_as_the_kit(objects, rows):
    result = score_voc(truth_of(objects), detections_of(rows))
    letters, ap_11point, ap_area = {}, [], []
    for label, name in enumerate(CLASSES):
        expected_11point, expected_area, found = kit_evaluation(objects, rows, label)
        letters |= found
        ours = result.per_class[name]
        if expected_11point is None:
            assert ours.ap_11point is None and ours.ap_area is None
        else:
            assert ours.ap_11point == pytest.approx(expected_11point, abs=1e-12)
            assert ours.ap_area == pytest.approx(expected_area, abs=1e-12)
            ap_11point.append(expected_11point)
            ap_area.append(expected_area)
    assert outcome(result) == "".join(letters[i] for i in range(len(rows)))
    metrics = result.metrics()
    if ap_area:
        assert metrics["map_11point"] == pytest.approx(np.mean(ap_11point), abs=1e-12)
        assert metrics["map_area"] == pytest.approx(np.mean(ap_area), abs=1e-12)
    else:
        assert metrics["map_11point"] is None and metrics["map_area"] is None


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_kit_on_crowded_images(monkeypatch, seed):
    monkeypatch.setattr(matching, "_BLOCK", 7)  # of 400 detections
    rng = np.random.default_rng(seed)

    def random_boxes(count):
        corner = rng.integers(1, 20, (count, 2))
        return np.concatenate([corner, corner + rng.integers(3, 12, (count, 2))], axis=1).tolist()

    def numbers(below, count):
        return rng.integers(0, below, count).tolist()

    n = 150
    objects = list(zip(numbers(3, n), numbers(3, n), random_boxes(n), numbers(2, n), strict=True))
    d = 400
    rows = list(zip(numbers(3, d), numbers(3, d), numbers(40, d), random_boxes(d), strict=True))
    result = score_voc(truth_of(objects), detections_of(rows))
    for label, name in enumerate(CLASSES):
        ap_11point, ap_area, letters = kit_evaluation(objects, rows, label)
        assert {letters[i] for i in letters} == {"T", "F", "I"}
        assert all(outcome(result)[i] == letter for i, letter in letters.items())
        assert result.per_class[name].ap_11point == pytest.approx(ap_11point, abs=1e-12)
        assert result.per_class[name].ap_area == pytest.approx(ap_area, abs=1e-12)


wide = st.tuples(tenth, tenth, tenth, tenth).map(
    lambda b: (b[0] + 1, b[1] + 1, round(b[0] + b[2] + 2, 1), round(b[1] + b[3] + 2, 1))
)


@given(st.one_of(boxes, wide), st.one_of(boxes, wide))
@settings(max_examples=200, deadline=None)
def test_continuous_overlap_is_the_kits(first, second):
    ours = paired_iou(continuous([first]), continuous([second]))
    assert ours.tolist() == [max(kit_overlap(first, second), 0.0)]


@pytest.mark.parametrize(
    ("objects", "found", "iou"),
    [
        ([(1, 1, 12.6, 10)], (1, 1, 6.3, 10), 0.5),
        ([(1, 1, 12.6, 10)], (1, 1, 6.29, 10), None),
        ([(1.7, 1, 8.9, 10)], (1.7, 1, 4.8, 10), 0.5),  # of 0.7 to 8.9 it would be below
        ([(0, 1, 3, 10)], (0, 1, 3, 10), 1.0),  # begins outside a picture that is counted from 1
        ([(-4, 1, 5, 10)], (1, 1, 5, 10), 0.5),
        ([(91, 1, 110, 10)], (91, 1, 100, 10), 0.5),  # ends outside one of 100 pixels
    ],
)
def test_objects_are_scored_as_annotated(objects, found, iou):
    truth = truth_of([(0, 0, box, False) for box in objects], ("cat",))
    result = score_voc(truth, detections_of([(0, 0, 0.9, found)]), iou or 0.5)
    assert outcome(result) == ("F" if iou is None else "T")
    assert iou is None or result.overlap.tolist() == [pytest.approx(iou, abs=1e-12)]


@pytest.mark.parametrize("box", [(5, 5, 4, 9), (5, 5, 3, 9), (5, 5, 3, 2), (5, 9, 8, 2)])
def test_a_box_without_area_is_a_false_detection(box):
    result = score_one_class([(0, (1, 1, 9, 9), False)], [(0, 0.9, box), (0, 0.8, (1, 1, 9, 9))])
    assert outcome(result) == "FT"
    assert_ap(result, Fraction(1, 2), Fraction(1, 2))
    assert result.overlap.tolist() == [0, 1]


def test_an_object_without_area_is_never_found():
    result = score_one_class([(0, (5, 5, 4, 9), False)], [(0, 0.9, (5, 5, 4, 9))])
    assert outcome(result) == "F"
    assert result.per_class["cat"].objects == 1


def py_faster_rcnn_11point(letters, npos):
    """voc_eval.py: voc_ap(rec, prec, use_07_metric=True) on the flags of falling scores."""
    tp = np.cumsum([letter == "T" for letter in letters if letter != "I"])
    fp = np.cumsum([letter == "F" for letter in letters if letter != "I"])
    rec = tp / float(npos)
    prec = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
    ap = 0.0
    for t in np.arange(0.0, 1.1, 0.1):
        p = 0 if np.sum(rec >= t) == 0 else np.max(prec[rec >= t])
        ap = ap + p / 11.0
    return ap


@pytest.mark.parametrize("objects", [*range(1, 41), 285, 325, 480])
def test_float_recall_is_py_faster_rcnns(objects):
    rng = np.random.default_rng(objects)
    hits = rng.random(objects) < 0.9
    rows = [(i, 1 - i / 1000, A if hit else FAR) for i, hit in enumerate(hits)]
    images = [f"{i}" for i in range(objects)]
    truth = truth_of([(i, 0, A, False) for i in range(objects)], ("cat",), images)
    found = detections_of([(i, 0, score, box) for i, score, box in rows])
    result = score_voc(truth, found, recall="float")
    expected = py_faster_rcnn_11point(outcome(result), objects)
    assert result.per_class["cat"].ap_11point == pytest.approx(expected, abs=1e-12)
    exact = score_voc(truth, found).per_class["cat"]
    assert exact.ap_11point >= result.per_class["cat"].ap_11point - 1e-12
    assert exact.ap_area == result.per_class["cat"].ap_area


def test_the_two_comparisons_of_recall_differ_at_three_tenths():
    objects = [(i, A, False) for i in range(10)]
    rows = [(i, 0.9 - i / 100, A) for i in range(3)]
    truth = truth_of([(i, 0, A, False) for i, _, _ in objects], ("cat",), list("0123456789"))
    found = detections_of([(i, 0, score, box) for i, score, box in rows])
    exact, floating = (
        score_voc(truth, found, recall=r).per_class["cat"] for r in ("integer", "float")
    )
    assert exact.ap_11point == pytest.approx(4 / 11, abs=1e-12)
    assert floating.ap_11point == pytest.approx(3 / 11, abs=1e-12)


def test_matches_without_an_object_in_reach():
    found = match(truth_of([(0, 0, A, False)]), detections_of([(0, 0, 0.9, FAR), (1, 0, 0.9, A)]))
    assert found.overlap.tolist() == found.other_overlap.tolist() == [0, 0]
    assert found.nearest.tolist() == found.other_nearest.tolist() == [-1, -1]


def test_matches_by_hand():
    """A cat, a dog of its upper half, a difficult cat around both; and a cat of another image."""
    whole, half, around = (1, 1, 10, 10), (1, 1, 10, 5), (1, 1, 40, 40)
    objects = [
        (0, 0, whole, False),
        (0, 1, half, False),
        (0, 0, around, True),
        (1, 0, whole, False),
    ]
    rows = [
        (0, 0, 0.3, whole),
        (0, 1, 0.9, whole),
        (0, 0, 0.8, (6, 1, 15, 10)),  # 50 of 150; of the dog 25 of 125
        (2, 0, 0.8, whole),  # no object is in its image
        (0, 2, 0.1, (1, 1, 10, 4)),  # an emu: 40 of 100, of the dog 40 of 50
        (1, 0, 0.5, (1, 1, 10, 4)),
    ]
    found = match(truth_of(objects), detections_of(rows))
    assert found.falling.tolist() == [1, 2, 3, 5, 0, 4]
    assert found.order.tolist() == [2, 3, 5, 0, 1, 4] and found.bounds.tolist() == [0, 4, 5, 6]
    assert found.overlap.tolist() == [1, 0.5, 1 / 3, 0, 0, 0.4]
    assert found.nearest.tolist() == [0, 1, 0, -1, -1, 3]
    assert found.other_overlap.tolist() == [0.5, 1, 0.2, 0, 0.8, 0]
    assert found.other_nearest.tolist() == [1, 0, 1, -1, 1, -1]
    # Of one class and half an overlap; or half of the detection inside a difficult object.
    assert sorted(found.pairs.tolist()) == [[0, 0], [0, 2], [1, 1], [2, 2]]


@pytest.mark.parametrize(("height", "paired"), [(5, True), (4.99, False)])
@pytest.mark.parametrize("difficult", [False, True])
def test_a_pair_is_half_an_overlap_or_half_inside_what_is_difficult(height, paired, difficult):
    box = (1, 1, 10, height) if not difficult else (1, 11 - height, 10, 20 - height)
    found = match(truth_of([(0, 0, A, difficult)]), detections_of([(0, 0, 0.9, box)]))
    assert (found.pairs.tolist() == [[0, 0]]) is paired and (len(found.pairs) == 0) is not paired


@pytest.mark.parametrize("labels", [1, 255, 256, 257, 65536, 70000])
def test_rows_of_a_label_keep_their_order(labels):
    label = np.random.default_rng(0).integers(0, labels, 500)
    label[::2] = labels - 1
    order, bounds = by_label(label, labels)
    assert order.tolist() == sorted(range(500), key=lambda row: label[row])
    assert bounds.tolist() == np.searchsorted(np.sort(label), np.arange(labels + 1)).tolist()
