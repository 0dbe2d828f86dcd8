"""Reliability by hand."""

import pytest
from scenes import detections_of, truth_of

from detect.scoring.calibration import BINS, calibration
from detect.scoring.voc import score_voc

A, FAR = (0, 0, 10, 10), (50, 50, 60, 60)
OBJECTS = [(0, 0, A, False), (1, 0, A, False), (0, 1, A, True)]


def reliability(rows, objects=OBJECTS, iou=0.5):
    truth, found = truth_of(objects, ("cat", "dog"), 3), detections_of(rows)
    return calibration(truth, found, score_voc(truth, found, iou))


def test_bins_and_error():
    rows = [
        (0, 0, 0.95, A),  # true
        (1, 0, 0.91, FAR),  # false
        (1, 0, 0.9, A),  # true: bins hold their lower end
        (2, 0, 0.25, A),  # false
        (0, 1, 0.8, A),  # on a difficult object: left out
        (2, 1, 1.0, FAR),  # false, in the last bin
    ]
    told = reliability(rows)
    cat, dog = told["per_class"]["cat"], told["per_class"]["dog"]
    assert (told["iou"], told["detections"], cat["detections"], dog["detections"]) == (0.5, 5, 4, 1)
    last = cat["bins"][9]
    assert (last["low"], last["high"], last["detections"]) == (0.9, 1.0, 3)
    assert last["score"] == pytest.approx(2.76 / 3) and last["precision"] == pytest.approx(2 / 3)
    assert cat["ece"] == pytest.approx((abs(2 - 2.76) + 0.25) / 4, abs=1e-12)
    assert dog["ece"] == pytest.approx(1.0)
    assert told["ece"] == pytest.approx((abs(2 - 3.76) + 0.25) / 5, abs=1e-12)
    empty = cat["bins"][5]
    assert (empty["detections"], empty["score"], empty["precision"]) == (0, None, None)
    assert len(cat["bins"]) == BINS == 10


def test_the_whole_of_its_form():
    """Two classes meet in the bins of all; both ends of [0, 1] are scores."""
    rows = [(0, 0, 1.0, A), (1, 0, 0.0, A), (2, 1, 0.0, A), (2, 1, 0.5, A)]

    def bins(*given):
        told = {place: found for place, *found in given}
        return [
            dict(
                zip(
                    ("low", "high", "detections", "score", "precision"),
                    (place / 10, (place + 1) / 10, *told.get(place, (0, None, None))),
                    strict=True,
                )
            )
            for place in range(10)
        ]

    cat = bins((0, 1, 0.0, 1.0), (9, 1, 1.0, 1.0))
    dog = bins((0, 1, 0.0, 0.0), (5, 1, 0.5, 0.0))
    both = bins((0, 2, 0.0, 0.5), (5, 1, 0.5, 0.0), (9, 1, 1.0, 1.0))
    assert reliability(rows, iou=0.75) == {
        "iou": 0.75,
        "ece": (1 + 0.5 + 0) / 4,
        "detections": 4,
        "bins": both,
        "per_class": {
            "cat": {"ece": 0.5, "detections": 2, "bins": cat},
            "dog": {"ece": 0.25, "detections": 2, "bins": dog},
        },
    }


@pytest.mark.parametrize("place", range(10))
def test_a_bin_holds_its_lower_end(place):
    told = reliability([(0, 0, place / 10, A)])["bins"]
    assert [part["detections"] for part in told] == [int(n == place) for n in range(10)]


def test_nothing_detected():
    told = reliability([])
    assert told["ece"] is None and told["per_class"]["cat"]["ece"] is None
    assert sum(part["detections"] for part in told["bins"]) == 0


@pytest.mark.parametrize("score", [1.01, -0.01, 95.0])
def test_scores_that_are_no_probabilities(score):
    assert reliability([(0, 0, score, A)]) is None
