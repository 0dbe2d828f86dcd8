"""The whole of metrics.json."""

import json

import numpy as np
import pytest

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import match
from detect.scoring.metrics import score, write_metrics


def one_of_a_cat():
    truth = GroundTruth(
        classes=("cat", "dog"),
        image_ids=("000001",),
        sizes=np.array([[20, 20]]),
        image=np.array([0]),
        label=np.array([0]),
        box=np.array([[0.0, 0.0, 10.0, 10.0]]),
        difficult=np.array([False]),
    )
    detections = Detections(
        image=np.array([0]),
        label=np.array([0]),
        score=np.array([0.9]),
        box=np.array([[0.0, 0.0, 10.0, 6.2]]),  # IoU 0.62: a hit at 3 of COCO's 10 thresholds
    )
    return truth, detections


def test_metrics_file(tmp_path):
    truth, detections = one_of_a_cat()
    metrics = score(truth, detections)
    write_metrics(metrics, tmp_path / "new" / "er" / "metrics.json")
    assert json.loads((tmp_path / "new" / "er" / "metrics.json").read_text()) == metrics
    coco = {name: round(value, 9) for name, value in metrics["coco"].items() if value is not None}
    assert coco == {"ap": 0.3, "ap50": 1.0, "ap75": 0.0, "ap_small": 0.3}
    assert metrics["coco"]["ap_medium"] is None and metrics["coco"]["ap_large"] is None
    counts = {"objects": 1, "difficult": 0, "detections": 1}
    none = {"ap_11point": None, "ap_area": None, "objects": 0, "difficult": 0, "detections": 0}
    assert metrics["voc"] == {
        "iou": 0.5,
        "map_11point": 1.0,
        "map_area": 1.0,
        "per_class": {"cat": {"ap_11point": 1.0, "ap_area": 1.0, **counts}, "dog": none},
    }
    assert score(truth, detections, iou=0.7)["voc"]["map_area"] == 0.0


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_metrics({"map": float("nan")}, tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()


def test_known_matches_are_not_sought_again_and_either_engine_is_used(monkeypatch):
    truth, detections = one_of_a_cat()
    known, expected = match(truth, detections), score(truth, detections)
    monkeypatch.setattr("detect.scoring.metrics.match", lambda *_: pytest.fail("sought again"))
    assert score(truth, detections, matches=known) == expected
    given, theirs = [], {"ap": "pycocotools"}
    monkeypatch.setattr(
        "detect.scoring.coco_by_pycocotools.score_coco", lambda *them: given.append(them) or theirs
    )
    assert score(truth, detections, matches=known)["coco"] == expected["coco"] and not given
    of_theirs = score(truth, detections, matches=known, engine="pycocotools")
    assert of_theirs == {"voc": expected["voc"], "coco": theirs}
    assert given == [(truth, detections)]


def test_without_coco_its_numbers_are_none():
    truth, detections = one_of_a_cat()
    for engine in ("own", "pycocotools"):
        metrics = score(truth, detections, 0.5, False, engine=engine)
        names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
        assert list(metrics["coco"].items()) == [(name, None) for name in names]
        assert metrics["voc"] == score(truth, detections)["voc"]


def test_recall_is_compared_as_asked():
    """At 3 of 10 objects the two differ by one point of eleven."""
    count = 10
    truth = GroundTruth(
        classes=("cat",),
        image_ids=tuple(map(str, range(count))),
        sizes=np.full((count, 2), 20),
        image=np.arange(count),
        label=np.zeros(count, np.int64),
        box=np.tile([0.0, 0.0, 10.0, 10.0], (count, 1)),
        difficult=np.zeros(count, np.bool_),
    )
    found = Detections(
        image=np.arange(3), label=truth.label[:3], score=np.full(3, 0.9), box=truth.box[:3]
    )
    points = {rule: score(truth, found, recall=rule)["voc"] for rule in ("integer", "float")}
    assert points["integer"]["map_11point"] == pytest.approx(4 / 11, abs=1e-15)
    assert points["float"]["map_11point"] == pytest.approx(3 / 11, abs=1e-15)
    assert score(truth, found)["voc"] == points["integer"]


def test_the_file_to_the_character(tmp_path):
    """Also over one that is there."""
    for number in (1, 2):
        write_metrics({"voc": {"map": number / 4}, "coco": None}, tmp_path / "metrics.json")
        expected = f'{{\n  "voc": {{\n    "map": {number / 4}\n  }},\n  "coco": null\n}}\n'
        assert (tmp_path / "metrics.json").read_text() == expected
