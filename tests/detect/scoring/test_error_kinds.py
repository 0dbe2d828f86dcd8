"""Kinds of error against cases worked out by hand and a loop-by-loop form of the definitions."""

import numpy as np
import pytest
import scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import detections_of

from detect.scoring.error_kinds import (
    ERROR_KINDS,
    analyse_errors,
    best_f1,
    confusion_matrix,
    pooled,
)
from detect.scoring.matches import match
from detect.scoring.voc import score_voc

CLASSES = ("cat", "dog", "emu")
CAT, DOG, EMU = range(3)
CLS, LOC, BOTH, DUPE, BKG = range(5)
RIGHT = -1
A = (0, 0, 10, 10)
A_HALF = (0, 0, 10, 5)  # IoU with A 1/2
A_THIRD = (5, 0, 15, 10)  # 1/3
A_TENTH = (0, 0, 10, 1)  # 1/10
A_LESS = (0, 0, 9, 1)  # 9/100
FAR = (50, 50, 60, 60)


def truth_of(objects, images=3):
    return scenes.truth_of(objects, CLASSES, images)


def analyse(objects, rows):
    """Kinds, missed objects and the gains that are not 0."""
    result = analyse_errors(truth_of(objects), detections_of(rows))
    assert list(result.counts) == list(ERROR_KINDS)
    for k, name in enumerate(ERROR_KINDS[:5]):
        assert result.counts[name] == result.kind.tolist().count(k)
    assert result.counts["missed"] == result.missed.sum()
    gains = {name: gain for name, gain in result.delta_ap.items() if gain}
    return result.kind.tolist(), np.flatnonzero(result.missed).tolist(), gains


# ---- one kind at a time, an object and a detection ----------------------------------------------


@pytest.mark.parametrize(
    ("label", "box", "kind", "missed"),
    [
        (CAT, A, RIGHT, []),
        (CAT, A_HALF, RIGHT, []),
        (CAT, A_THIRD, LOC, []),
        (CAT, A_TENTH, LOC, []),  # both ends belong to localization
        (CAT, A_LESS, BKG, [0]),
        (DOG, A, CLS, []),
        (DOG, A_HALF, CLS, []),
        (DOG, A_THIRD, BOTH, [0]),
        (DOG, A_TENTH, BKG, [0]),  # exactly background is background
        (DOG, A_LESS, BKG, [0]),
        (CAT, FAR, BKG, [0]),
    ],
)
def test_one_object(label, box, kind, missed):
    kinds, missing, _ = analyse([(0, CAT, A, False)], [(0, label, 0.9, box)])
    assert (kinds, missing) == ([kind], missed)


def test_an_image_without_objects_is_background():
    assert analyse([(0, CAT, A, False)], [(1, CAT, 0.9, A)])[:2] == ([BKG], [0])
    assert analyse([], [(1, CAT, 0.9, A)]) == ([BKG], [], {})


def test_nothing_detected_is_missed():
    # Without the missed cat, cats are out of the mean as any class without objects.
    objects = [(0, CAT, A, False), (0, DOG, A, False), (1, DOG, A, False)]
    found = [(0, DOG, 0.9, A)]
    gains = {"missed": 0.75, "false_negative": 0.75}  # from (0 + 1/2) / 2 to 1
    assert analyse(objects, found) == ([RIGHT], [0, 2], gains)
    assert analyse(objects, []) == ([], [0, 1, 2], {})


def test_localization_comes_before_classification_and_duplicate():
    # The box overlaps the cat by 1/3 and is a dog's exactly; as a cat it is off in place.
    objects = [(0, CAT, A, False), (0, DOG, A_THIRD, False)]
    assert analyse(objects, [(0, CAT, 0.9, A_THIRD)])[:2] == ([LOC], [1])
    # At exactly 1/2 a hit on a taken object is called localization, as TIDE's order has it.
    rows = [(0, CAT, 0.9, A), (0, CAT, 0.8, A_HALF), (0, CAT, 0.7, (0, 0, 10, 6))]
    assert analyse([(0, CAT, A, False)], rows)[0] == [RIGHT, LOC, DUPE]


def test_classification_comes_before_duplicate():
    objects = [(0, CAT, A, False), (0, DOG, A, False)]
    rows = [(0, CAT, 0.9, A), (0, CAT, 0.8, A)]
    kinds, missed, gains = analyse(objects, rows)
    assert (kinds, missed) == ([RIGHT, CLS], [])
    assert gains == {"classification": 0.5, "false_negative": 0.5}


def test_second_best_is_a_duplicate():
    objects = [(0, CAT, A, False), (0, CAT, (0, 0, 10, 14), False)]
    kinds, missed, _ = analyse(objects, [(0, CAT, 0.9, A), (0, CAT, 0.8, (0, 0, 10, 11))])
    assert (kinds, missed) == ([RIGHT, DUPE], [1])


# ---- gains worked out by hand -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((0, CAT, 0.9, FAR), "background"),
        ((0, CAT, 0.9, (5, 50, 15, 60)), "both"),  # IoU 1/3 with the dog
        ((1, CAT, 0.6, (0, 0, 10, 9)), "duplicate"),
    ],
)
def test_gain_of_dropping(wrong, kind):
    objects = [(0, CAT, A, False), (1, CAT, A, False), (0, DOG, (0, 50, 10, 60), True)]
    rows = [(1, CAT, 0.8, A), wrong, (0, CAT, 0.5, A)]
    before = (1 + 2 / 3) / 2 if kind == "duplicate" else (2 / 3 + 2 / 3) / 2
    gain = pytest.approx(1 - before)
    assert analyse(objects, rows)[2] == {kind: gain, "false_positive": gain}


def test_gain_of_localization():
    # Of two near misses the better scored becomes true, the other vanishes.
    objects = [(0, CAT, A, False), (1, CAT, A, False)]
    rows = [(0, CAT, 0.9, A), (1, CAT, 0.7, A_THIRD), (1, CAT, 0.8, (4, 0, 14, 10))]
    kinds, missed, gains = analyse(objects, rows)
    assert (kinds, missed) == ([RIGHT, LOC, LOC], [])
    assert gains == {"localization": 0.5, "false_negative": 0.5}


def test_a_near_miss_of_a_found_object_vanishes():
    rows = [(0, CAT, 0.9, A_THIRD), (0, CAT, 0.8, A)]
    assert analyse([(0, CAT, A, False)], rows)[2] == {"localization": 0.5, "false_positive": 0.5}


def test_gain_of_classification_moves_to_the_other_class():
    objects = [(0, CAT, A, False), (1, DOG, A, False)]
    rows = [(1, CAT, 0.9, A), (0, CAT, 0.8, A)]
    kinds, missed, gains = analyse(objects, rows)
    assert (kinds, missed) == ([CLS, RIGHT], [])
    # Cats from 1/2 to 1, dogs from 0 to 1.
    assert gains["classification"] == 0.75
    assert gains["false_positive"] == 0.25
    assert gains["false_negative"] == 0.25  # no dog left: the mean is that of cats, 1/2


def test_both_kinds_that_point_at_an_object_compete_for_it():
    objects = [(0, CAT, A, False), (1, CAT, A, False)]
    rows = [(1, CAT, 0.9, A), (0, CAT, 0.8, A_THIRD), (0, DOG, 0.7, A)]
    kinds, missed, gains = analyse(objects, rows)
    assert (kinds, missed) == ([RIGHT, LOC, CLS], [])
    assert gains == {"localization": 0.5, "false_negative": 0.5}  # the dog's is second


def test_gain_of_missed():
    objects = [(0, CAT, A, False), (1, CAT, A, False), (2, CAT, A, False)]
    rows = [(0, CAT, 0.9, A), (1, CAT, 0.8, A_THIRD)]
    kinds, missed, gains = analyse(objects, rows)
    assert (kinds, missed) == ([RIGHT, LOC], [2])
    third = pytest.approx(1 / 3)
    assert gains["localization"] == third  # 2 of 3
    assert gains["missed"] == pytest.approx(1 / 2 - 1 / 3)
    assert gains["false_negative"] == pytest.approx(2 / 3)


# ---- difficult objects --------------------------------------------------------------------------


def test_difficult_objects():
    objects = [(0, CAT, A, True), (1, CAT, A, False)]
    rows = [
        (1, CAT, 0.3, A),
        (0, CAT, 0.9, A),  # hits: ignored
        (0, CAT, 0.8, A_THIRD),  # comes near
        (0, DOG, 0.7, A),  # calls it a dog
    ]
    kinds, missed, gains = analyse(objects, rows)
    assert (kinds, missed) == ([RIGHT, RIGHT, LOC, CLS], [])
    # Mended they are ignored: the near miss no longer stands before the true positive.
    assert gains == {"localization": 0.5, "false_positive": 0.5}


@pytest.mark.parametrize(
    ("foreground", "background"), [(0.5, 0.5), (0.1, 0.5), (0.5, 0.0), (1.1, 0.1), (np.nan, 0.1)]
)
def test_thresholds_out_of_order(foreground, background):
    with pytest.raises(ValueError, match="background"):
        analyse_errors(truth_of([]), detections_of([]), foreground, background)


def test_thresholds_that_meet_their_ends():
    """A foreground of 1 asks for the box itself."""
    truth = truth_of([(0, CAT, A, False)])
    found = detections_of([(0, CAT, 0.9, A_HALF), (0, CAT, 0.8, A_TENTH), (0, CAT, 0.7, A)])
    assert analyse_errors(truth, found, 1.0, 0.25).kind.tolist() == [LOC, BKG, RIGHT]
    assert analyse_errors(truth, found, 0.5, 0.05).kind.tolist() == [RIGHT, LOC, DUPE]
    assert analyse_errors(truth, found).kind.tolist() == [RIGHT, LOC, DUPE]


# ---- the literal form ---------------------------------------------------------------------------


def overlap_of(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def literal_map(judged, npos):
    """Area under the envelope; `judged` are (label, score, number, whether true)."""
    averages = []
    for label, count in enumerate(npos):
        if not count:
            continue
        letters = [j[3] for j in sorted(judged, key=lambda j: (-j[1], j[2])) if j[0] == label]
        precision = [sum(letters[: i + 1]) / (i + 1) for i in range(len(letters))]
        area = sum(max(precision[i:]) for i in range(len(letters)) if letters[i]) / count
        averages.append(area)
    return sum(averages) / len(averages) if averages else None


def literal(objects, rows, fg=0.5, bg=0.1):
    """Kinds, missed objects and gains by plain loops over the definitions."""
    taken, verdict, pointed = set(), {}, {}
    order = sorted(range(len(rows)), key=lambda i: -rows[i][2])

    def best(i, same):
        """The largest overlap in the image with the same or the other classes; its object."""
        image, label, _, box = rows[i]
        found = (0.0, None)
        for o, (image_o, label_o, box_o, _) in enumerate(objects):
            if image_o == image and (label_o == label) == same:
                overlap = overlap_of(box, box_o)
                if overlap > found[0]:
                    found = (overlap, o)
        return found

    for i in order:
        overlap, o = best(i, True)
        if overlap >= fg and objects[o][3]:
            verdict[i] = "ignored"
        elif overlap >= fg and o not in taken:
            taken.add(o)
            verdict[i] = "true"
    for i in order:
        if i in verdict:
            continue
        (same, same_object), (other, other_object) = best(i, True), best(i, False)
        if same == other == 0.0:
            verdict[i] = BKG
        elif bg <= same <= fg:
            verdict[i], pointed[i] = LOC, same_object
        elif other >= fg:
            verdict[i], pointed[i] = CLS, other_object
        elif same >= fg and same_object in taken:
            verdict[i] = DUPE
        elif max(same, other) <= bg:
            verdict[i] = BKG
        else:
            verdict[i] = BOTH
    lost = {o for o in range(len(objects)) if not objects[o][3] and o not in taken}
    missed = lost - set(pointed.values())
    chosen = {}
    for i in order:
        if pointed.get(i) in lost:
            chosen.setdefault(pointed[i], i)

    def score(mend=None, without=(), drop_false=False):
        judged = []
        for i, (_, label, confidence, _) in enumerate(rows):
            true = verdict[i] == "true"
            if verdict[i] == "ignored" or (drop_false and not true):
                continue
            if mend is not None and verdict[i] == mend:
                if i not in chosen.values():
                    continue
                label, true = objects[pointed[i]][1], True
            judged.append((label, confidence, i, true))
        npos = [
            sum(o[1] == label and not o[3] and n not in without for n, o in enumerate(objects))
            for label in range(len(CLASSES))
        ]
        return literal_map(judged, npos)

    before = score()
    after = {name: score(mend=k) for k, name in enumerate(ERROR_KINDS[:5])}
    after["missed"] = score(without=missed)
    after["false_positive"] = score(drop_false=True)
    after["false_negative"] = score(without=lost)
    gains = {n: 0.0 if before is None or v is None else v - before for n, v in after.items()}
    kinds = [RIGHT if verdict[i] in ("true", "ignored") else verdict[i] for i in range(len(rows))]
    return kinds, missed, gains


# A narrow grid: hits, ties, equal overlaps and all kinds are frequent.
side = st.integers(0, 6)
boxes = st.tuples(side, side, side, side).map(
    lambda b: (b[0], b[1], b[0] + b[2] + 2, b[1] + b[3] + 2)
)
images, labels = st.integers(0, 2), st.integers(0, 2)
any_objects = st.lists(st.tuples(images, labels, boxes, st.booleans()), max_size=10)
any_scores = st.integers(0, 6).map(lambda n: n / 6)
any_detections = st.lists(st.tuples(images, labels, any_scores, boxes), max_size=20)


@settings(max_examples=300, deadline=None)
@given(any_objects, any_detections)
def test_agrees_with_the_literal_form(objects, rows):
    check_literal(objects, rows)


def check_literal(objects, rows):
    result = analyse_errors(truth_of(objects), detections_of(rows))
    kinds, missed, gains = literal(objects, rows)
    assert result.kind.tolist() == kinds
    assert np.flatnonzero(result.missed).tolist() == sorted(missed)
    assert list(result.delta_ap) == list(gains)
    for name, gain in gains.items():
        assert result.delta_ap[name] == pytest.approx(gain, abs=1e-12), name
        assert result.delta_ap[name] >= -1e-12
    return kinds


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_literal_form_on_crowded_images(seed):
    rng = np.random.default_rng(seed)

    def random_boxes(count):
        corner = rng.integers(0, 20, (count, 2))
        return np.concatenate([corner, corner + rng.integers(3, 12, (count, 2))], axis=1).tolist()

    def numbers(below, count):
        return rng.integers(0, below, count).tolist()

    n, d = 30, 150
    hard = (rng.random(n) < 0.2).tolist()
    objects = list(zip(numbers(3, n), numbers(3, n), random_boxes(n), hard, strict=True))
    rows = list(zip(numbers(3, d), numbers(3, d), numbers(40, d), random_boxes(d), strict=True))
    near = [(i, (c + (k % 3 == 0)) % 3, 40, b) for k, (i, c, b, _) in enumerate(objects[:20])]
    kinds = check_literal(objects, rows + near)
    assert set(kinds) == {RIGHT, CLS, LOC, BOTH, DUPE, BKG}


# ---- confusion ----------------------------------------------------------------------------------


def test_confusion_by_hand():
    objects = [
        (0, CAT, A, False),
        (1, DOG, A, False),
        (2, EMU, A, False),
        (2, DOG, FAR, True),
        (2, CAT, FAR, False),
    ]
    rows = [
        (0, CAT, 0.9, A),  # right
        (0, CAT, 0.8, A),  # a duplicate: background
        (0, DOG, 0.8, A),  # the cat is taken: background
        (1, EMU, 0.7, A),  # the dog taken for an emu
        (1, CAT, 0.6, A),  # and for a cat, too late: background
        (2, DOG, 0.5, FAR),  # ignored
        (2, DOG, 0.4, A_THIRD),  # no hit: background
        (2, EMU, 0.1, A),  # below the score
    ]
    matrix = confusion_matrix(truth_of(objects), detections_of(rows), 0.2)
    expected = np.zeros((4, 4), dtype=int)
    expected[CAT, CAT] = 1
    expected[3, CAT] = 2
    expected[3, DOG] = 2
    expected[DOG, EMU] = 1
    expected[EMU, 3] = 1
    expected[CAT, 3] = 1
    assert matrix.dtype == np.int64
    assert matrix.tolist() == expected.tolist()


def test_confusion_counts_a_score_at_the_threshold():
    truth, found = truth_of([(0, CAT, A, False)]), detections_of([(0, CAT, 0.5, A)])
    assert confusion_matrix(truth, found, 0.5)[CAT, CAT] == 1
    assert confusion_matrix(truth, found, np.nextafter(0.5, 1))[CAT].tolist() == [0, 0, 0, 1]


def test_confusion_at_another_overlap():
    truth, found = truth_of([(0, CAT, A, False)]), detections_of([(0, DOG, 0.5, A_HALF)])
    assert confusion_matrix(truth, found, 0.1, iou=0.5)[CAT, DOG] == 1
    assert confusion_matrix(truth, found, 0.1, iou=0.6)[CAT, DOG] == 0
    with pytest.raises(ValueError, match="iou"):
        confusion_matrix(truth, found, 0.1, iou=0)


def test_a_true_positive_comes_before_a_confusion_of_higher_score():
    truth = truth_of([(0, CAT, A, False)])
    matrix = confusion_matrix(truth, detections_of([(0, DOG, 0.9, A), (0, CAT, 0.5, A)]), 0.1)
    assert matrix[CAT].tolist() == [1, 0, 0, 0]
    assert matrix[3].tolist() == [0, 1, 0, 0]


def test_a_difficult_object_of_another_class_is_background():
    truth = truth_of([(0, CAT, A, True)])
    matrix = confusion_matrix(truth, detections_of([(0, DOG, 0.9, A), (0, CAT, 0.5, A)]), 0.1)
    assert matrix.sum() == matrix[3, DOG] == 1


@settings(max_examples=150, deadline=None)
@given(any_objects, any_detections, any_scores)
def test_confusion_sums_to_what_the_metric_counts(objects, rows, threshold):
    truth, found = truth_of(objects), detections_of(rows)
    matrix = confusion_matrix(truth, found, threshold)
    result = score_voc(truth, found)
    shown = found.score >= threshold
    for label in range(3):
        of_class = shown & (found.label == label)
        counted = [not o[3] for o in objects if o[1] == label]
        assert matrix[label, label] == (of_class & result.true_positive).sum()
        assert matrix[label].sum() == sum(counted)
        assert matrix[:, label].sum() == (of_class & ~result.ignored).sum()
    assert matrix[3, 3] == 0
    assert (matrix >= 0).all()


@settings(max_examples=150, deadline=None)
@given(any_objects, any_detections)
def test_confusion_agrees_with_the_literal_form(objects, rows):
    expected = np.zeros((4, 4), dtype=int)
    result = score_voc(truth_of(objects), detections_of(rows))
    taken = {int(m) for m, true in zip(result.match, result.true_positive, strict=True) if true}
    for o in taken:
        expected[objects[o][1], objects[o][1]] += 1
    for i in sorted(range(len(rows)), key=lambda i: -rows[i][2]):
        if result.true_positive[i] or result.ignored[i]:
            continue
        image, label, _, box = rows[i]
        found, o = 0.0, None
        for number, (image_o, label_o, box_o, _) in enumerate(objects):
            if (image_o, label_o == label) == (image, False) and overlap_of(box, box_o) > found:
                found, o = overlap_of(box, box_o), number
        if found >= 0.5 and not objects[o][3] and o not in taken:
            taken.add(o)
            expected[objects[o][1], label] += 1
        else:
            expected[3, label] += 1
    for number, (_, label, _, difficult) in enumerate(objects):
        expected[label, 3] += not difficult and number not in taken
    matrix = confusion_matrix(truth_of(objects), detections_of(rows), 0.0)
    assert matrix.tolist() == expected.tolist()


# ---- best F1 ------------------------------------------------------------------------------------


def curve_of(letters, scores, objects):
    """A class of `objects` images with an object each, and detections: T hits, F fails."""
    truth = truth_of([(i, CAT, A, False) for i in range(objects)], images=max(objects, 1))
    hits = iter(range(objects))
    rows = [
        (next(hits), CAT, s, A) if t == "T" else (0, CAT, s, FAR)
        for t, s in zip(letters, scores, strict=True)
    ]
    return score_voc(truth, detections_of(rows)).per_class["cat"]


def test_best_f1_by_hand():
    # F1 2/5, 4/6, 4/7, 6/8, 6/9 of 4 objects.
    curve = curve_of("TTFTF", (0.9, 0.8, 0.7, 0.6, 0.5), 4)
    assert best_f1(curve) == pytest.approx((0.6, 0.75, 0.75, 0.75), abs=1e-15)


def test_best_f1_takes_all_of_a_score():
    # Between equal scores no threshold passes: 0.8 takes both, F1 4/4 would need one of them.
    curve = curve_of("TTF", (0.9, 0.8, 0.8), 2)
    assert best_f1(curve) == pytest.approx((0.8, 4 / 5, 2 / 3, 1.0), abs=1e-15)


def test_best_f1_of_equals_is_the_highest_threshold():
    curve = curve_of("TFFT", (0.9, 0.8, 0.7, 0.6), 2)
    assert best_f1(curve) == pytest.approx((0.9, 2 / 3, 1.0, 0.5), abs=1e-15)


@pytest.mark.parametrize(("letters", "objects"), [("", 2), ("FF", 2), ("FF", 0)])
def test_no_best_f1_without_a_true_positive(letters, objects):
    assert best_f1(curve_of(letters, (0.9, 0.8)[: len(letters)], objects)) is None


def test_pooled_curve_by_hand():
    objects = [(0, CAT, A, False), (0, DOG, A, False), (1, DOG, A, True), (2, EMU, A, False)]
    rows = [
        (0, DOG, 0.8, A),
        (1, DOG, 0.9, A),  # ignored
        (0, CAT, 0.7, FAR),
        (0, CAT, 0.6, A),
    ]
    truth, found = truth_of(objects), detections_of(rows)
    curve = pooled(score_voc(truth, found), found, match(truth, found))
    assert curve.score.tolist() == [0.8, 0.7, 0.6]
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3]
    assert (curve.objects, curve.difficult, curve.detections) == (3, 1, 4)
    assert best_f1(curve) == pytest.approx((0.6, 2 / 3, 2 / 3, 2 / 3), abs=1e-15)


@settings(max_examples=150, deadline=None)
@given(any_objects, any_detections)
def test_best_f1_agrees_with_trying_every_threshold(objects, rows):
    truth, found = truth_of(objects), detections_of(rows)
    result = score_voc(truth, found)
    curves = {
        **{i: (result.per_class[name], found.label == i) for i, name in enumerate(CLASSES)},
        None: (pooled(result, found, match(truth, found)), np.full(len(rows), True)),
    }
    for label, (curve, of_class) in curves.items():
        npos = sum(not o[3] for o in objects if label in (o[1], None))
        tried = []
        for threshold in set(found.score.tolist()):
            shown = of_class & (found.score >= threshold) & ~result.ignored
            true = (shown & result.true_positive).sum()
            if true:
                precision, recall = true / shown.sum(), true / npos
                f1 = 2 * true / (shown.sum() + npos)
                tried.append((f1, threshold, precision, recall))
        best = best_f1(curve)
        if not tried:
            assert best is None
        else:
            f1, threshold, precision, recall = max(tried)
            assert best[0] == threshold
            assert best[1:] == pytest.approx((f1, precision, recall), abs=1e-12)
