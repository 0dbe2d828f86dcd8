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


def test_of_equally_suspicious_ones_the_first_is_listed():
    """In each image two of one place; three scores in turn, which sorting could mix up."""
    places = [(1, (2, 0, 62, 60)), (0, (0, 0, 60, 60))]
    scores = [(0.5, 0.25, 0.4)[image % 3] for image in range(WIDE)]
    rows = [(i, label, scores[i], box) for i in range(WIDE) for label, box in places]
    truth, found, candidates = found_in([], rows)
    entries = describe(truth, found, candidates)["entries"]
    falling = sorted(range(WIDE), key=lambda image: -scores[image])
    assert [entry["image"] for entry in entries] == [f"{image:06}" for image in falling]
    assert {entry["class"] for entry in entries} == {"dog"}


# ---- the literal form ---------------------------------------------------------------------------


def overlap_of(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def literal(objects, rows):
    """Candidates by plain loops: {(kind, object, detection): suspicion}."""
    count = range(len(objects))
    falling = sorted(range(len(rows)), key=lambda d: -rows[d][2])

    def nearest(d, same):
        image, label, _, box = rows[d]
        best = (0.0, None)
        for o, (image_o, label_o, box_o, _) in enumerate(objects):
            if image_o == image and (label_o == label) == same:
                overlap = overlap_of(box, box_o)
                best = (overlap, o) if overlap > best[0] else best
        return best

    own, other = ([nearest(d, same) for d in range(len(rows))] for same in (True, False))
    score = [row[2] for row in rows]

    def support(pairs, values, least):
        """The highest value of each object, and the last detection that has it."""
        highest = dict.fromkeys(count, (0.0, None))
        for d, (overlap, o) in enumerate(pairs):
            if o is not None and overlap >= least and values[d] >= highest[o][0]:
                highest[o] = (values[d], d)
        return highest

    found = {}
    hit = [overlap >= 0.5 for overlap, _ in own]
    trust = dict.fromkeys(range(len(rows)), 1.0)
    if any(hit):
        pooled = {d: sum(hit[e] for e in falling[: n + 1]) / (n + 1) for n, d in enumerate(falling)}
        for label in (0, 1):
            of_class = [d for d in falling if rows[d][1] == label]
            for n, d in enumerate(of_class):
                right = sum(hit[e] for e in of_class[: n + 1])
                trust[d] = (right + 20 * pooled[d]) / (n + 1 + 20)
    fitting = support(own, score, 0.5)
    suspicion = {}
    for d in range(len(rows)):
        suspicion[d] = score[d] * trust[d]
        if own[d][0] >= 0.1 and score[d] > 0:
            suspicion[d] *= min(fitting[own[d][1]][0] / score[d], 1)
    listed = []
    for d in sorted(suspicion, key=lambda d: -suspicion[d]):
        near = [overlap_of(rows[e][3], rows[d][3]) for e in listed if rows[e][0] == rows[d][0]]
        if max(own[d][0], other[d][0], *near) < 0.3 and suspicion[d] >= 0.1:
            listed.append(d)
            found["missing", None, d] = suspicion[d]

    speaking = support(own, [s * o for s, (o, _) in zip(score, own, strict=True)], 0.1)
    free = [s * b if b > a else 0.0 for s, (a, _), (b, _) in zip(score, own, other, strict=True)]
    beside = support(other, free, 0.1)
    has = {o: max(speaking[o][0], beside[o][0]) for o in count if not objects[o][3]}
    seen = [o for o in has if has[o] >= 0.1]
    if seen:
        usual = float(np.median([has[o] for o in seen]))
        for o in has:
            alike = [p for p in has if objects[p][1] == objects[o][1]]
            share = len([p for p in alike if p in seen]) + 20 * len(seen) / len(has)
            rate = share / (len(alike) + 20)
            found["spurious", o, None] = rate * max(0.0, 1 - has[o] / usual)

    loose = [s if o < 0.6 else 0.0 for s, (o, _) in zip(score, own, strict=True)]
    called = support(other, loose, 0.5)
    far = [s * (1 - o) for s, (o, _) in zip(score, own, strict=True)]
    met, fits = support(own, far, 0.1), support(own, score, 0.6)
    for o in has:
        found["wrong class", o, called[o][1]] = called[o][0] * (1 - fitting[o][0])
        found["displaced", o, met[o][1]] = met[o][0] * (1 - fits[o][0])

    fit = {o: max([v for v, n in own if n == o], default=0.0) for o in count}
    for o in count:
        for p in range(o + 1, len(objects)):
            iou = overlap_of(objects[o][2], objects[p][2])
            if objects[o][:2] == objects[p][:2] and iou >= 0.7:
                key = "duplicate", o if fit[o] < fit[p] else p, None
                found[key] = max(iou, found.get(key, 0.0))
    return {key: value for key, value in found.items() if value >= 0.1}


@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_the_literal_form(seed):
    """Boxes of one place and side, so that overlaps are tenths and thresholds are met exactly."""
    rng = np.random.default_rng(seed)

    def box():
        x, y = 10 * int(rng.integers(0, 3)), int(rng.integers(0, 4)) // 3
        return (x, y, x + 10, y + int(rng.integers(1, 11)))

    def number(below):
        return int(rng.integers(below))

    objects = [(number(3), number(2), box(), bool(rng.random() < 0.2)) for _ in range(12)]
    rows = [(number(3), number(2), number(5) / 4, box()) for _ in range(1 + number(24))]
    if seed % 4 == 0:  # a detector that is right most of the time, as some kinds want it
        rows += [(image, label, 1.0, place) for image, label, place, _ in objects[:8]]
    truth, found, candidates = found_in(objects, rows, 3)
    ours = {(c.kind, c.object, c.detection): c.suspicion for c in candidates}
    assert len(ours) == len(candidates)
    expected = literal(objects, rows)
    assert ours.keys() == expected.keys()
    for key, suspicion in expected.items():
        assert ours[key] == pytest.approx(suspicion, abs=1e-12), key
    ranks = [(-c.suspicion, KINDS.index(c.kind)) for c in candidates]
    assert ranks == sorted(ranks)
    assert counts(candidates) == {kind: [c.kind for c in candidates].count(kind) for kind in KINDS}
    told = describe(truth, found, candidates)
    assert (told["kinds"], told["most"], len(told["entries"])) == (list(KINDS), 200, len(ours))
    for rank, (entry, c) in enumerate(zip(told["entries"], candidates, strict=True), start=1):
        suspect = rows[c.detection] if c.object is None else objects[c.object]
        place = -1 if c.object is None else 2
        against = None
        if c.kind == "duplicate":
            against = objects[c.other]
            assert against[:2] == suspect[:2]
            assert overlap_of(against[2], suspect[2]) == c.suspicion
        elif c.object is not None and c.detection is not None:
            against = rows[c.detection]
        same_image = [o for o in range(len(objects)) if objects[o][0] == suspect[0]]
        assert entry == {
            "rank": rank,
            "kind": c.kind,
            "suspicion": c.suspicion,
            "image": f"{suspect[0]:06d}",
            "class": CLASSES[suspect[1]],
            "box": list(suspect[place]),
            "object": None if c.object is None else same_image.index(c.object) + 1,
            "other_class": None if against is None else CLASSES[against[1]],
            "other_box": None
            if against is None
            else list(against[2 if c.kind == "duplicate" else 3]),
            "score": None if c.detection is None else rows[c.detection][2],
        }
