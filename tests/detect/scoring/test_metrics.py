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
    write_metrics(metrics, tmp_path / "new" / "metrics.json")
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == metrics
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
    theirs = {"ap": "pycocotools"}
    monkeypatch.setattr("detect.scoring.coco_by_pycocotools.score_coco", lambda *_: theirs)
    assert score(truth, detections, matches=known)["coco"] == expected["coco"]
    assert score(truth, detections, matches=known, engine="pycocotools")["coco"] == theirs
