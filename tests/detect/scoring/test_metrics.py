"""The whole of metrics.json."""

import json

import numpy as np

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.metrics import score, write_metrics


def test_metrics_file(tmp_path):
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
