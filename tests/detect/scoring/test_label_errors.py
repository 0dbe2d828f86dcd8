"""The finder of likely label errors on scenes with one error of each kind."""

import numpy as np
import pytest
from scenes import detections_of, truth_of

from detect.scoring import label_errors
from detect.scoring.label_errors import KINDS, MOST, counts, describe, find_label_errors
from detect.scoring.matches import match

CLASSES = ("cat", "dog")
BOXES = [(100 * i, 0, 100 * i + 60, 60) for i in range(6)]
WIDE = 30


def found_in(objects, rows, images=WIDE):
    truth, found = truth_of(objects, CLASSES, images), detections_of(rows)
    candidates = find_label_errors(truth, found, match(truth, found))
    return truth, found, candidates


def scene():
    """Each image with a cat and a dog that are found, and a sure detector."""
    objects, rows = [], []
    for image in range(WIDE):
        for label in (0, 1):
            objects.append((image, label, BOXES[label], False))
            rows.append((image, label, 0.95, BOXES[label]))
    return objects, rows


def first_of(kind, objects, rows):
    truth, found, candidates = found_in(objects, rows)
    of_kind = [c for c in candidates if c.kind == kind]
    assert of_kind == sorted(of_kind, key=lambda c: -c.suspicion)
    assert all(0 <= c.suspicion <= 1 for c in candidates)
    told = describe(truth, found, of_kind)["entries"]
    return told[0] if told else None


def test_a_clean_set_has_no_candidates_but_faint_ones():
    _, _, candidates = found_in(*scene())
    assert all(candidate.suspicion < 0.1 for candidate in candidates)


def test_missing():
    objects, rows = scene()
    rows += [(3, 1, 0.9, BOXES[4]), (3, 0, 0.5, BOXES[4]), (4, 0, 0.3, BOXES[5])]
    first = first_of("missing", objects, rows)
    assert (first["image"], first["class"], first["box"]) == ("000003", "dog", list(BOXES[4]))
    assert first["score"] == 0.9
    # Of 31 dogs from 0.9 on 30 are right; 20 more count as all 61 detections so far do, 60 of 61.
    assert first["suspicion"] == pytest.approx(0.9 * (30 + 20 * 60 / 61) / (31 + 20))
    assert first["object"] is None and first["other_box"] is None
    _, _, candidates = found_in(objects, rows)
    assert counts(candidates)["missing"] == 2  # the fainter cat in the same place is not another


def test_scores_of_zero_are_no_second_opinion():
    """Rounded by their writer, such scores are common; NumPy's warnings would be errors here."""
    objects, rows = scene()
    faint = [(image, label, 0.0, box) for image, label, _, box in rows]
    assert len(found_in(objects, rows + faint)[2]) == len(found_in(objects, rows)[2])
    found_in(objects, faint)


def test_spurious():
    objects, rows = scene()
    objects += [(7, 1, BOXES[4], False), (8, 0, BOXES[4], True)]  # difficult ones are left out
    objects.sort(key=lambda row: row[0])
    first = first_of("spurious", objects, rows)
    assert (first["image"], first["class"], first["box"]) == ("000007", "dog", list(BOXES[4]))
    assert first["object"] == 3 and first["score"] is None
    assert first["suspicion"] > 0.8


def test_a_detection_of_an_object_beside_it_does_not_speak_for_a_spurious_one():
    objects, rows = scene()
    x1, y1, x2, y2 = BOXES[0]
    beside = (x1 + 40, y1, x2 + 40, y2)  # a fifth of either is shared with the cat, which is found
    objects += [(7, 1, beside, False)]
    objects.sort(key=lambda row: row[0])
    first = first_of("spurious", objects, rows)
    assert (first["image"], first["box"]) == ("000007", list(beside))
    # Of 31 dogs 30 are found, and of all objects 60 of 61; it has no support at all.
    assert first["suspicion"] == pytest.approx((30 + 20 * 60 / 61) / 51)


def test_of_two_objects_in_one_place_a_detection_speaks_for_its_class_alone():
    objects, rows = scene()
    objects += [(7, 0, BOXES[4], False), (7, 1, BOXES[4], False)]
    objects.sort(key=lambda row: row[0])
    rows += [(7, 0, 0.95, BOXES[4])]
    first = first_of("spurious", objects, rows)
    assert (first["image"], first["class"], first["box"]) == ("000007", "dog", list(BOXES[4]))
    assert first["suspicion"] > 0.8


def test_support_is_the_highest_score_and_the_surest_has_it():
    """Against loops: overlaps of exactly the least count, and of equal scores the last stays."""
    rng = np.random.default_rng(0)
    truth = truth_of([(0, 0, BOXES[0], False)] * 5, CLASSES, 1)
    nearest, overlap = rng.integers(-1, 4, 300), rng.integers(0, 5, 300) / 4
    score = rng.integers(1, 4, 300) / 4
    support, surest = [0.0] * 5, [-1] * 5
    for row, (number, shared, sure) in enumerate(zip(nearest, overlap, score, strict=True)):
        if number >= 0 and shared >= 0.5 and sure >= support[number]:
            support[number], surest[number] = sure, row
    given = truth, nearest, overlap, score, 0.5
    assert label_errors._support(*given).tolist() == support
    assert label_errors._surest(*given).tolist() == surest
    assert support[4] == 0 and surest[4] == -1
    one = truth, np.array([2]), np.array([0.5]), np.array([0.7])  # at the least itself
    assert label_errors._support(*one, 0.5)[2] == 0.7
    assert label_errors._support(*one, 0.51)[2] == 0


def test_where_a_displaced_object_was_none_is_missing():
    objects, rows = scene()
    objects[12] = (6, 0, (40, 0, 100, 60), False)  # overlap 1/5
    _, _, candidates = found_in(objects, rows)
    assert counts(candidates)["missing"] == 0 and counts(candidates)["displaced"] == 1


def test_wrong_class():
    objects, rows = scene()
    objects[10] = (5, 1, BOXES[0], False)  # a cat called dog
    first = first_of("wrong class", objects, rows)
    assert (first["image"], first["class"], first["other_class"]) == ("000005", "dog", "cat")
    assert first["object"] == 1 and first["score"] == 0.95
    assert first["suspicion"] == pytest.approx(0.95)
    assert first["box"] == first["other_box"] == list(BOXES[0])


def test_displaced():
    objects, rows = scene()
    shifted = (30, 0, 90, 60)  # overlap 1/3
    objects[12] = (6, 0, shifted, False)
    first = first_of("displaced", objects, rows)
    assert (first["image"], first["class"], first["box"]) == ("000006", "cat", list(shifted))
    assert first["other_box"] == list(BOXES[0])
    assert first["suspicion"] == pytest.approx(0.95 * 2 / 3)


@pytest.mark.parametrize("shift", [0, 3])
def test_duplicate(shift):
    objects, rows = scene()
    x1, y1, x2, y2 = BOXES[1]
    again = (x1 + shift, y1, x2 + shift, y2)
    objects.insert(3, (1, 1, again, False))
    objects.sort(key=lambda row: row[0])
    first = first_of("duplicate", objects, rows)
    assert (first["image"], first["class"]) == ("000001", "dog")
    assert {tuple(first["box"]), tuple(first["other_box"])} == {again, BOXES[1]}
    assert first["suspicion"] == pytest.approx((60 - shift) / (60 + shift))
    if shift:
        assert first["box"] == list(again)  # the one that the detection fits worse


def test_scores_that_are_no_probabilities_leave_the_duplicates():
    objects, rows = scene()
    rows = [(image, label, 95.0, box) for image, label, _, box in rows]
    objects.insert(1, objects[0])
    kinds = {candidate.kind for candidate in found_in(objects, rows)[2]}
    assert kinds == {"duplicate"}
    assert found_in(objects, [])[2][0].kind == "duplicate"


def test_the_list_is_short_and_ranked():
    rng = np.random.default_rng(0)
    rows = [(i % WIDE, 0, rng.random(), (9 * i, 9 * i, 9 * i + 8, 9 * i + 8)) for i in range(900)]
    truth, found, candidates = found_in([], rows)
    told = describe(truth, found, candidates)
    assert told["kinds"] == list(KINDS)
    assert len(told["entries"]) == counts(candidates)["missing"] == MOST
    assert [entry["rank"] for entry in told["entries"]] == list(range(1, MOST + 1))
    suspicions = [entry["suspicion"] for entry in told["entries"]]
    assert suspicions == sorted((row[2] for row in rows), reverse=True)[:MOST]
