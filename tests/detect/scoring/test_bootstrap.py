"""Resampled mAP against scoring the resampled images themselves."""

import math

import numpy as np
import pytest
import scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import detections_of

from detect.scoring import bootstrap
from detect.scoring.bootstrap import (
    Interval,
    bootstrap_map,
    intervals_of,
    intervals_of_difference,
    mean_of_classes,
    resampled_ap,
    split_and_draws,
)
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import match
from detect.scoring.voc import score_voc

A = (0, 0, 10, 10)
FAR = (50, 50, 60, 60)


def truth_of(objects, images, classes=3):
    return scenes.truth_of(objects, "abcdef"[:classes], images)


def random_case(seed, images=8, objects=20, found=60):
    """Objects, and detections near them with tied scores; some are difficult."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (objects, 2))
    box = np.hstack([corner, corner + rng.integers(8, 20, (objects, 2))])
    image, label = rng.integers(0, images, objects), rng.integers(0, 3, objects)
    hard = rng.random(objects) < 0.2
    truth = truth_of(list(zip(image, label, box, hard, strict=True)), images)
    source = rng.integers(0, objects, found)
    moved = box[source] + rng.integers(-3, 4, (found, 4))
    scores = rng.integers(0, 12, found) / 12
    rows = list(zip(image[source], label[source], scores, moved, strict=True))
    return truth, detections_of(rows)


def literal(truth, detections, counts, iou=0.5, recall="integer"):
    """Copies every image as often as it was drawn, under new ids, and scores the copies.

    Copies of a row follow it, so the order of equal scores stays.
    """
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def copies(images):
        rows, new = [], []
        for row, image in enumerate(images):
            for copy in range(counts[image]):
                rows.append(row)
                new.append(first[image] + copy)
        return np.array(rows, dtype=np.int64), np.array(new, dtype=np.int64)

    rows, new = copies(truth.image)
    total = int(np.sum(counts))
    copied = GroundTruth(
        truth.classes,
        tuple(f"copy{i}" for i in range(total)),
        np.full((total, 2), 500),
        new,
        truth.label[rows],
        truth.box[rows],
        truth.difficult[rows],
    )
    rows, new = copies(detections.image)
    found = Detections(new, detections.label[rows], detections.score[rows], detections.box[rows])
    metrics = score_voc(copied, found, iou, recall=recall).metrics()
    maps = metrics["map_11point"], metrics["map_area"]
    return [math.nan if value is None else value for value in maps]


def resampled_map(truth, detections, draws, iou=0.5):
    return mean_of_classes(resampled_ap(truth, detections, draws, iou))


def difference(truth, first, second, resamples, seed=0):
    draws = split_and_draws(truth, resamples, seed)
    return intervals_of_difference(*(resampled_ap(truth, d, draws, 0.5) for d in (first, second)))


def assert_literal(truth, detections, draws, iou=0.5):
    ours = resampled_map(truth, detections, draws, iou)
    expected = [literal(truth, detections, counts, iou) for counts in draws]
    np.testing.assert_allclose(ours, np.array(expected), rtol=0, atol=1e-14)
    return ours


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_each_resample_is_scored_exactly(seed, iou):
    truth, detections = random_case(seed)
    maps = assert_literal(truth, detections, split_and_draws(truth, 45, seed), iou)
    assert len({round(value, 6) for value in maps[:, 0]}) > 20


@pytest.mark.parametrize("exact", [1, 10**9])
def test_the_rule_of_recall_and_the_type_of_the_counts(exact, monkeypatch):
    """With 7 of 10 objects found the rules differ; known matches are not sought again."""
    monkeypatch.setattr(bootstrap, "_EXACT", exact)
    truth = truth_of([(i, 0, A, False) for i in range(10)], 10, classes=1)
    detections = detections_of([(i, 0, 0.9, A if i < 7 else FAR) for i in range(10)])
    draws = split_and_draws(truth, 40, seed=2)
    known = match(truth, detections)
    monkeypatch.setattr(bootstrap, "match", lambda *_: pytest.fail("sought again"))
    values = {}
    for rule in ("integer", "float"):
        ap = resampled_ap(truth, detections, draws, 0.5, known, recall=rule)
        expected = [literal(truth, detections, counts, 0.5, rule) for counts in draws]
        np.testing.assert_allclose(mean_of_classes(ap), expected, rtol=0, atol=1e-14)
        values[rule] = ap[:, 0, 0]
    assert (values["integer"] >= values["float"]).all()
    assert (values["integer"] > values["float"] + 1e-3).any()
    usual = resampled_ap(truth, detections, draws, 0.5, known)
    assert usual[:, 0, 0].tolist() == values["integer"].tolist()


def test_one_resample_is_enough_and_none_is_not():
    truth = truth_of([], 6)
    draws = split_and_draws(truth, 1, seed=4)
    drawn = np.random.default_rng(4).integers(6, size=6).tolist()
    assert draws.tolist() == [[1] * 6, [drawn.count(image) for image in range(6)]]
    with pytest.raises(ValueError, match=r"^resamples is 0; at least 1 is needed$"):
        split_and_draws(truth, 0, seed=4)


def test_intervals_of_numbers_by_hand():
    nan = np.nan
    ap = np.array([[[0.5, 0.25]], [[0.0, nan]], [[0.2, 0.4]], [[nan, 0.3]], [[1.0, nan]]])
    expected = {
        "map_11point": Interval(0.5, pytest.approx(0.01), pytest.approx(0.96)),
        "map_area": Interval(0.25, pytest.approx(0.3025), pytest.approx(0.3975)),
    }
    assert intervals_of(ap) == intervals_of_difference(np.zeros_like(ap), ap) == expected
    two = np.concatenate([ap, np.full_like(ap, nan)], axis=1)  # a class that has no value
    assert intervals_of(two) == expected
    # Of two classes, the mean: in the second resample 0 and 0.4.
    two[2, 1] = 0.4, 0.8
    assert mean_of_classes(two)[2].tolist() == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize(
    ("low", "high", "decided"),
    [(0.0, 1.0, False), (1e-9, 1.0, True), (-1.0, 0.0, False), (-1.0, -1e-9, True), (-1, 1, False)],
)
def test_an_interval_that_ends_at_0_decides_nothing(low, high, decided):
    assert Interval(0.5, low, high).decided == decided


def test_what_is_not_said_is_half_an_overlap_a_thousand_resamples_and_seed_0():
    truth, found = random_case(1, images=4, objects=6, found=8)
    said = {"resamples": 1000, "seed": 0, "iou": 0.5}
    assert bootstrap_map(truth, found) == bootstrap_map(truth, found, **said)
    assert bootstrap_map(truth, found) != bootstrap_map(truth, found, iou=0.9)


side = st.integers(0, 5)
boxes = st.tuples(side, side, side, side).map(
    lambda b: (b[0], b[1], b[0] + b[2] + 2, b[1] + b[3] + 2)
)
images, labels = st.integers(0, 3), st.integers(0, 2)
any_objects = st.lists(st.tuples(images, labels, boxes, st.booleans()), max_size=12)
any_scores = st.integers(0, 4).map(lambda n: n / 4)
any_detections = st.lists(st.tuples(images, labels, any_scores, boxes), max_size=20)
any_draws = st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=4)


@pytest.mark.parametrize("block", [1, 25, 60])
def test_a_few_resamples_at_a_time(block, monkeypatch):
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    truth, detections = random_case(0)
    assert_literal(truth, detections, split_and_draws(truth, 7, seed=0))


@settings(max_examples=150, deadline=None)
@given(any_objects, any_detections, any_draws)
def test_any_counts_are_scored_exactly(objects, rows, draws):
    assert_literal(truth_of(objects, 4), detections_of(rows), np.array(draws))


@pytest.mark.parametrize("found", [3, 6, 7])
def test_recall_on_a_threshold_reaches_it(found):
    # Recall found/10 of 30 objects, as in the split; binary fractions would miss it.
    truth = truth_of([(i, 0, A, False) for i in range(10)], 10, classes=1)
    detections = detections_of([(i, 0, 0.9, A) for i in range(found)])
    maps = resampled_map(truth, detections, np.full((1, 10), 3), 0.5)
    assert maps.tolist() == [pytest.approx([(found + 1) / 11, found / 10], abs=1e-15)]


def test_copies_stand_in_a_row():
    # A true and a false positive of equal score, twice each: T T F F, not T F T F.
    truth = truth_of([(0, 0, A, False)], 2, classes=1)
    detections = detections_of([(0, 0, 0.5, A), (1, 0, 0.5, A)])
    assert resampled_map(truth, detections, np.array([[2, 2]]), 0.5).tolist() == [[1.0, 1.0]]


def test_a_class_that_was_not_drawn_is_out_of_the_mean():
    truth = truth_of([(0, 0, A, False), (1, 1, A, False)], 2, classes=2)
    detections = detections_of([(0, 0, 0.5, A)])
    maps = resampled_map(truth, detections, np.array([[1, 1], [2, 0], [0, 2]]), 0.5)
    assert maps[:, 1].tolist() == [0.5, 1.0, 0.0]


def test_draws_are_images_with_replacement():
    whole, *drawn = split_and_draws(truth_of([], 50), 4000, seed=1)
    assert whole.tolist() == [1] * 50
    draws = np.array(drawn)
    assert draws.shape == (4000, 50) and draws.dtype == np.int32
    assert (draws.sum(axis=1) == 50).all()
    # Binomial(50, 1/50): mean 1, variance 0.98; the mean of 4000 has a deviation of 0.016.
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(draws.var(), 0.98, atol=0.02)
    assert len(np.unique(draws, axis=0)) == 4000


def test_intervals_are_percentiles_of_the_resamples():
    truth, detections = random_case(7)
    draws = split_and_draws(truth, 60, seed=3)[1:]
    maps = np.array([literal(truth, detections, counts, 0.6) for counts in draws])
    intervals = bootstrap_map(truth, detections, iou=0.6, resamples=60, seed=3)
    metrics = score_voc(truth, detections, 0.6).metrics()
    assert list(intervals) == ["map_11point", "map_area"]
    for column, (name, interval) in enumerate(intervals.items()):
        assert interval.value == pytest.approx(metrics[name], abs=1e-14)
        expected = np.percentile(maps[:, column], [2.5, 97.5])
        assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-14)


def test_differences_are_taken_resample_by_resample():
    truth, first = random_case(8)
    _, second = random_case(9)
    second = second.select(np.arange(40))
    draws = split_and_draws(truth, 60, seed=5)[1:]
    maps = [np.array([literal(truth, d, counts) for counts in draws]) for d in (first, second)]
    expected = np.percentile(maps[1] - maps[0], [2.5, 97.5], axis=0).T
    intervals = difference(truth, first, second, 60, seed=5)
    both = [score_voc(truth, d).metrics() for d in (first, second)]
    for (name, interval), ends in zip(intervals.items(), expected, strict=True):
        assert interval.value == pytest.approx(both[1][name] - both[0][name], abs=1e-14)
        assert [interval.low, interval.high] == pytest.approx(ends, abs=1e-14)


def test_a_detector_does_not_differ_from_itself():
    truth, detections = random_case(0)
    same = Interval(0.0, 0.0, 0.0)
    assert difference(truth, detections, detections, 20) == {
        "map_11point": same,
        "map_area": same,
    }
    assert not same.decided


def test_pairing_decides_what_intervals_of_their_own_do_not():
    # Half of 60 images is hard for both; the second finds three more objects than the first.
    objects = [(i, 0, A, False) for i in range(60)]
    truth = truth_of(objects, 60, classes=1)
    first, second = (detections_of([(i, 0, 0.9, A) for i in range(count)]) for count in (30, 36))
    alone = [bootstrap_map(truth, d, resamples=400)["map_area"] for d in (first, second)]
    assert alone[0].high > alone[1].low
    paired = difference(truth, first, second, 400)["map_area"]
    assert paired.value == pytest.approx(0.1)
    assert paired.decided and paired.low > 0
    back = difference(truth, second, first, 400)["map_area"]
    assert back == Interval(-paired.value, -paired.high, -paired.low)
    assert back.decided


def test_the_seed_decides():
    truth, detections = random_case(1)
    first, same, other = (bootstrap_map(truth, detections, seed=s) for s in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize("images", [0, 2])
def test_without_counted_objects(images):
    truth = truth_of([(0, 0, A, True)] if images else [], images)
    interval = bootstrap_map(truth, detections_of([]), resamples=5)["map_area"]
    assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert not interval.decided


def test_resamples_without_counted_objects_are_left_out():
    truth = truth_of([(0, 0, A, False)], 2)
    intervals = bootstrap_map(truth, detections_of([(0, 0, 0.5, A)]), resamples=50)
    assert set(intervals.values()) == {Interval(1.0, 1.0, 1.0)}


@pytest.mark.parametrize("flags", [{"resamples": 0}, {"iou": 0.0}, {"iou": 1.5}])
def test_out_of_range(flags):
    truth, detections = random_case(0)
    with pytest.raises(ValueError, match=next(iter(flags))):
        bootstrap_map(truth, detections, **flags)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 7, 8, 9])
def test_where_columns_are_bisected(rows):
    rng = np.random.default_rng(rows)
    rising = np.sort(rng.integers(0, 6, (rows, 3)), axis=0)
    least = np.array([[0, 1, 2], [3, 4, 5], [6, 5, 0], [7, 7, 7]])
    found = bootstrap._first_at(rising, least)
    assert found.tolist() == [
        [int(np.searchsorted(rising[:, n], one)) for n, one in enumerate(row)]
        for row in least.tolist()
    ]


def test_detections_between_true_positives():
    """Of images 2, 0, 1, 1, 2: the second and the fourth are true."""
    image, true = np.array([2, 0, 1, 1, 2]), np.array([1, 3])
    found = bootstrap._between(image, true, 3, np.float32)
    assert found.toarray().tolist() == [[1, 0, 1], [0, 2, 0]]
    assert found.dtype == np.float32
    assert bootstrap._between(image, np.array([], np.int64), 3, np.float64).shape == (0, 3)
