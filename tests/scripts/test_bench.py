"""The benchmarks measure what they say; times themselves are never tested."""

import importlib.util
from pathlib import Path

import numpy as np

from detect.voc_score import score_voc

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench.py"


def test_synthetic_detections_are_of_the_stated_size_and_partly_right() -> None:
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    truth, detections = bench.synthetic(40, 2000)
    assert len(truth.image_ids) == 40
    assert len(truth.box) == 120
    assert len(detections.score) == 2000
    assert (detections.box[:, 2:] > detections.box[:, :2]).all()
    result = score_voc(truth, detections)
    assert 0.2 < np.mean(result.overlap >= 0.5) < 0.8
