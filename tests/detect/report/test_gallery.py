"""The images: which come first, what the page holds of them, and that it stays within its size."""

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scenes import truth_of

from detect.report.comparison import Comparison, read_runs
from detect.report.sections.finds import Finds, choose
from detect.report.sections.gallery import (
    DETECTION_KINDS,
    SCALE,
    Kept,
    allot,
    gallery,
    kinds_of,
    most_boxes,
    whole_scores,
)
from detect.report.sections.label_errors import label_errors, merge
from detect.report.sections.photographs import boxes, describe
from detect.report.writers.blocks import Html


@pytest.fixture
def finds(two_runs) -> Finds:
    return Finds.of(read_runs(two_runs, None))


# ---- who found what -----------------------------------------------------------------------------


def made_up(objects, found, false) -> Finds:
    """Objects by image; (runs, objects) found; (runs, images) false detections."""
    images = len(false[0])
    truth = truth_of([(image, 0, (0, 0, 9, 9), False) for image in objects], ["x"], images)
    scores = np.where(np.array(found, bool).reshape(len(false), -1), 1.0, -np.inf)
    runs = []
    for of_run in false:
        image = np.repeat(np.arange(images), of_run)
        nothing = np.zeros(len(image), bool)
        runs.append(
            SimpleNamespace(
                label="x",
                detections=SimpleNamespace(image=image, score=np.ones(len(image))),
                voc=SimpleNamespace(true_positive=nothing, ignored=nothing),
                analysis=SimpleNamespace(threshold=0.5),
            )
        )
    return Finds(Comparison([None] * images, truth, runs, "x"), scores)


def test_gained_is_what_was_found_not_what_was_kept_silent_on():
    """Image 0: five false detections less. Image 1: one object more, and one false detection."""
    finds = made_up([0, 1], [[1, 0], [1, 1]], [[5, 0], [0, 1]])
    assert finds.gained(1).tolist() == [0, 1]
    assert finds.lost(1).tolist() == [0, 0]
    assert finds.order == [1, 0]
    assert choose(finds)[0] == ("Most gained by x", 1)


@given(st.data())
def test_images_are_ordered_by_objects_that_some_found_then_by_false_detections(data):
    objects = data.draw(st.lists(st.integers(0, 4), max_size=12))
    found = [[data.draw(st.booleans()) for _ in objects] for _ in range(3)]
    false = [[data.draw(st.integers(0, 3)) for _ in range(5)] for _ in range(3)]
    finds = made_up(objects, found, false)
    keys = []
    for image in range(5):
        here = [i for i, at in enumerate(objects) if at == image]
        some = sum(len({row[i] for row in found}) > 1 for i in here)
        counts = [row[image] for row in false]
        keys.append((-some, min(counts) - max(counts), image))
    assert finds.order == sorted(range(5), key=lambda image: keys[image])
    chosen = [image for _, image in choose(finds)]
    assert len(chosen) == len(set(chosen)) == 3


def test_what_was_found_is_what_the_metric_counts(finds):
    # plain: the cat of 1, the dog of 2; focused: both cats. Image 3 has a difficult emu.
    assert finds.found_on.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert finds.missed_on.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert finds.false_on.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert finds.gained(1).tolist() == finds.lost(1).tolist() == [0, 1, 0, 0]
    kinds = {box.label: box.kind for box in boxes(finds, 1)}
    assert kinds == {"cat": "second", "dog": "first"}
    assert [box.kind for box in boxes(finds, 2)] == ["ignored"]
    assert describe(finds, 3) == "0 objects: plain 0 found, 1 false; focused 0 found, 0 false"


# ---- what the page holds ------------------------------------------------------------------------


def data_of(section) -> dict:
    (html,) = (b.html for b in section.blocks if isinstance(b, Html) and "images-data" in b.html)
    return json.loads(re.search(r">(.*)</script>", html)[1])


def test_the_page_holds_every_image_with_what_was_found(finds):
    data = data_of(gallery(finds, 1))
    assert [image["id"] for image in data["images"]] == ["000002", "000004", "000001", "000003"]
    assert [run["threshold"] for run in data["runs"]] == [7000, 8000]
    second = data["images"][0]
    cat, dog = (np.array(second["objects"]).reshape(2, -1)).tolist()
    assert cat[:2] == [0, 0]
    assert cat[2:6] == [62, 83, 375, 500]  # 4 / 64, 4 / 48, 24 / 64, 24 / 48
    assert cat[6:] == [-1, 8000]
    assert dog[6:] == [7000, -1]
    assert second["found"][1][:3] == [0, DETECTION_KINDS.index("hit"), 8000]
    assert second["found"][1][7:10] == [1, DETECTION_KINDS.index("background"), 2000]
    assert second["left"] == [0, 0]
    assert [image["false"] for image in data["images"]] == [[0, 0], [1, 0], [0, 0], [0, 0]]


def test_few_of_many_detections_are_kept_the_highest(two_runs):
    lines = [f"000001 {0.5 - i / 1000:.3f} {1 + i % 20} 1 60 40" for i in range(300)]
    with (two_runs[0] / "voc" / "comp4_det_test_dog.txt").open("a") as file:
        file.write("\n" + "\n".join(lines))
    metrics = two_runs[0] / "metrics.json"
    content = json.loads(metrics.read_text())
    content["voc"]["per_class"]["dog"]["detections"] += 300
    metrics.write_text(json.dumps(content))
    finds = Finds.of(read_runs(two_runs[:1], None))
    (first,) = [image for image in data_of(gallery(finds, 1))["images"] if image["id"] == "000001"]
    scores = first["found"][0][2::7]
    assert len(scores) == 60
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 9000
    assert first["left"] == [301 - 60]


@pytest.mark.parametrize(
    ("above", "below", "shown", "any_score"), [(3, 47, 60, 10), (20, 30, 10, 10), (0, 5, 60, 60)]
)
def test_room_for_boxes_goes_first_to_those_that_are_shown(above, below, shown, any_score):
    """Room for 100 on ten images: each has so many above and below the threshold of its run."""
    image = np.repeat(np.arange(10), above + below)
    score = np.tile(np.r_[np.full(above, 0.9), np.full(below, 0.1)], 10)
    run = SimpleNamespace(
        detections=SimpleNamespace(image=image, score=score),
        analysis=SimpleNamespace(threshold=0.5),
    )
    comparison = Comparison([None] * 10, truth_of([], ["x"], 10), [run], "x")
    assert most_boxes(comparison, 4 * 100 * 27) == Kept(shown, any_score)


@pytest.mark.parametrize("room", [0.005, 0.02, 0.1])
def test_the_images_stay_within_their_size(two_runs, room):
    root = two_runs[0].parent / "VOCdevkit" / "VOC2007" / "JPEGImages"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    for file in root.iterdir():
        cv2.imwrite(str(file), noise)
    section = gallery(Finds.of(read_runs(two_runs, None)), room)
    size = sum(len(b.html) for b in section.blocks if isinstance(b, Html))
    assert size <= room * 1e6 + 1000  # what frames the images
    text = " ".join(b.text for b in section.blocks if hasattr(b, "text"))
    assert ("do not fit" in text) == (room == 0.005)


@given(st.integers(0, 6000), st.integers(0, 20_000_000), st.booleans())
def test_room_is_shared_out_and_no_more_than_there_is(images, room, first):
    shares = allot(images, room, first)
    assert len(shares) <= images
    assert sum(shares) <= room
    assert shares == sorted(shares, reverse=True)
    if images * 24_000 <= room:
        assert shares == [24_000] * images


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1))
@example([0.50004, 0.50006, 0.50007], 0.50006)
def test_whole_scores_are_on_the_same_side_of_the_threshold(scores, threshold):
    whole = whole_scores(np.array([*scores, -np.inf]), threshold, 0.0, 1.0)
    limit = int(np.floor(threshold * SCALE))
    assert whole[-1] == -1
    for score, number in zip(scores, whole.tolist(), strict=False):
        if limit > 0:
            assert (score >= threshold) == (number >= limit)
        assert abs(number / SCALE - score) <= 2 / SCALE


def test_detections_are_named_after_their_errors(finds):
    plain = finds.comparison.runs[0]
    names = [DETECTION_KINDS[kind] for kind in kinds_of(plain)]
    assert sorted(names) == ["background", "hit", "hit", "ignored"]


# ---- likely label errors ------------------------------------------------------------------------


def entry(**changes):
    known = {"kind": "missing", "suspicion": 0.5, "image": "b", "class": "cat"}
    return {**known, "box": [0, 0, 10, 10], "other_class": None, "other_box": None, **changes}


def test_what_several_runs_suspect_is_one_candidate_and_comes_first():
    merged = merge(
        [
            ("x", entry(image="a", suspicion=0.9)),
            ("x", entry()),
            ("y", entry(box=[1, 0, 10, 10], suspicion=0.6)),
            ("y", entry(box=[50, 0, 60, 10])),
            ("y", entry(**{"class": "dog"})),
            ("y", entry(image="unknown")),
            ("y", entry(box="broken")),
        ],
        ["a", "b"],
    )
    assert [(s.image, s.name, s.suspicion, s.runs) for s in merged] == [
        (1, "cat", 0.6, ("x", "y")),
        (0, "cat", 0.9, ("x",)),
        (1, "cat", 0.5, ("y",)),
        (1, "dog", 0.5, ("y",)),
    ]
    assert merged[0].box == (1, 0, 10, 10)


@pytest.mark.parametrize(("means", "told"), [([0.2, 0.49], True), ([0.2, 0.5], False)])
def test_candidates_of_weak_detectors_are_called_errors_of_their_own(monkeypatch, means, told):
    section = "detect.report.sections.label_errors"
    monkeypatch.setattr(f"{section}._entries", lambda run: [entry()])
    monkeypatch.setattr(f"{section}._pictures", lambda *_: [])
    monkeypatch.setattr(f"{section}._table", lambda *_: None)
    runs = [SimpleNamespace(label=str(m), mean=lambda kind, m=m: m) for m in means]
    truth = SimpleNamespace(image_ids=["b"])
    finds = SimpleNamespace(comparison=SimpleNamespace(runs=runs, truth=truth))
    (built,) = label_errors(finds)
    assert ("most will be errors of the detector" in built.blocks[0].text) is told
