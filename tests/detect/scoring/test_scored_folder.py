"""`detect score` from the command line to its three files."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from detect import __main__ as command
from detect.data.options import DataOptions
from detect.scoring import scored_folder
from detect.scoring.bootstrap import resampled_ap, split_and_draws
from detect.scoring.formats.reading import read_detections
from detect.scoring.matches import match
from detect.scoring.scored_folder import (
    Scoring,
    data_fingerprint,
    load_scored,
    options_of,
    read_truth,
    recall_of,
    recorded,
)

OBJECT = (
    "<object><name>disc</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>40</ymax>"
    "</bndbox></object>"
)
XML = "<annotation><size><width>90</width><height>90</height></size>{}</annotation>"
IMAGES = [f"{number:06}" for number in range(1, 31)]
HIT = "1 1 40 40"
CLOSE = "1 1 40 26"  # overlap 0.65


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    """Thirty images with a disc each, in two sets."""
    root = tmp_path_factory.mktemp("voc")
    (root / "classes.txt").write_text("disc\nring\n")
    year = root / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    for image in IMAGES:
        (year / "JPEGImages" / f"{image}.jpg").write_bytes(b"not read")
        (year / "Annotations" / f"{image}.xml").write_text(XML.format(OBJECT))
    for name in ("test", "again"):
        (year / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(IMAGES))
    return root


def detections(folder, found, box=HIT):
    """Discs found in the first `found` images."""
    folder.mkdir()
    lines = [f"{image} 0.9 {box}\n" for image in IMAGES[:found]]
    (folder / "comp4_det_test_disc.txt").write_text("".join(lines))
    (folder / "comp4_det_test_ring.txt").write_text("")
    return folder


@pytest.fixture
def score(call_command, devkit, tmp_path):
    def call(path, *flags, out="scored", split="2007:test"):
        given = ("--detections", path, "--data", devkit, "--split", split, "--out", tmp_path / out)
        return call_command(command, "score", *given, *flags)

    return call


def read(tmp_path, name, out="scored"):
    return json.loads((tmp_path / out / name).read_text())


def test_the_three_files(score, tmp_path):
    code, printed, _ = score(detections(tmp_path / "d", 12, CLOSE), "--bootstrap", "50")
    assert code == 0
    metrics, analysis = read(tmp_path, "metrics.json"), read(tmp_path, "analysis.json")
    evaluation = read(tmp_path, "evaluation.json")
    assert metrics["voc"]["iou"] == 0.5 and metrics["voc"]["map_area"] == pytest.approx(0.4)
    assert [part["iou"] for part in analysis["by_iou"]] == [0.5, 0.75]
    assert [part["map_area"] for part in analysis["by_iou"]] == pytest.approx([0.4, 0.0])
    assert analysis["by_iou"][0] == metrics["voc"]
    assert analysis["errors"]["counts"]["missed"] == 18
    interval = analysis["intervals"]["map_area"]
    assert interval["low"] < 0.4 < interval["high"]
    assert analysis["intervals"]["resamples"] == 50
    assert evaluation["images"] == 30 and evaluation["classes"] == ["disc", "ring"]
    low, high = (100 * interval[end] for end in ("low", "high"))
    assert f"40.00 [{low:.2f}, {high:.2f}] (area), 95% intervals from 50 resamples" in printed
    assert "against" not in printed


def test_what_was_scored_is_recorded(score, devkit, tmp_path):
    path = detections(tmp_path / "some.detector", 12)
    assert score(path, "--bootstrap", "0", "--no-coco", "--classes", "ring,disc")[0] == 0
    record = read(tmp_path, "evaluation.json")
    assert record.pop("command").startswith("python -m detect score --detections ")
    unknown = "checkpoint epoch seconds images_per_second latency throughput training recipe"
    chosen = DataOptions(classes="ring,disc")
    truth = read_truth(devkit, "2007:test", chosen)
    assert record == {
        **dict.fromkeys(f"{unknown} environment backbone".split()),
        "title": "some",
        "detections": str(path),
        "data": str(devkit),
        "split": "2007:test",
        "data_options": {
            "images": None,
            "classes": "ring,disc",
            "coordinates": None,
            "split_by": None,
            "empty_images": True,
        },
        "metric": "voc",
        "data_fingerprint": data_fingerprint(truth, "2007:test"),
        "images": 30,
        "classes": list(truth.classes),
    }
    assert options_of(record) == chosen
    assert read(tmp_path, "label_errors.json").keys() and (tmp_path / "scored/matches.npz").exists()
    assert read(tmp_path, "analysis.json")["label_errors"].keys()


def test_what_is_scored_if_nothing_is_said():
    assert Scoring() == Scoring(
        ious=(0.5, 0.75), resamples=1000, coco=True, engine="own", recall="integer", against=None
    )


def test_detections_are_matched_once(score, tmp_path, monkeypatch):
    """With hits enough, no other reading is tried."""
    calls = []

    def counted(*given):
        calls.append(given)
        return match(*given)

    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("detect.scoring.") and getattr(module, "match", None) is match
    ]
    for module in users:
        monkeypatch.setattr(module, "match", counted)
    assert len(users) > 4
    path = detections(tmp_path / "d", 12)
    assert score(path, "--bootstrap", "3")[0] == 0 and len(calls) == 1
    assert score(path, "--bootstrap", "3", "--against", path)[0] == 0 and len(calls) == 3


@pytest.mark.parametrize(
    "options",
    [
        DataOptions(),
        DataOptions(images=Path("pictures"), classes="a,b", coordinates="zero-based"),
        DataOptions(split_by=0.25, empty_images=False),
    ],
)
def test_options_return_from_their_record(options):
    """Paths as whole ones: a comparison may start in another folder."""
    record = json.loads(json.dumps(recorded(options)))
    again = options_of({"data_options": {**record, "of a later version": 1}})
    assert again == replace(options, images=options.images and options.images.resolve())
    assert recorded(None) is None


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"data_options": None},
        {"data_options": [1]},
        {"data_options": {"split_by": 2}},
        {"data_options": {"split_by": "a"}},
        {"data_options": {"classes": 3}},
        {"data_options": {"images": 3}},
    ],
)
def test_a_record_without_options_that_could_be(record):
    assert options_of(record) is None


def test_a_record_of_an_older_version_has_the_defaults_of_the_rest():
    assert options_of({"data_options": {"classes": "a"}}) == DataOptions(classes="a")


def test_a_scored_folder_is_loaded_as_it_was_computed_or_again(score, devkit, tmp_path):
    path, folder = detections(tmp_path / "d", 9), tmp_path / "scored"
    flags = ("--bootstrap", "4", "--no-coco", "--recall", "float")
    assert score(path, *flags)[0] == 0
    truth = read_truth(devkit, "2007:test")
    found = read_detections(path, truth)

    def resampled(count):
        return resampled_ap(truth, found, split_and_draws(truth, count, 0), 0.5, recall="float")

    whole = (folder / "matches.npz").read_bytes()
    (folder / "matches.npz").write_bytes(b"")
    for content in (b"", whole):
        (folder / "matches.npz").write_bytes(content)
        for count in (4, 5, 1):
            scored = load_scored(folder, truth, 0.5, count)
            assert scored.detections.score.tolist() == [0.9] * 9
            assert len(scored.resampled) == count + 1
            np.testing.assert_array_equal(scored.resampled, resampled(count))
        kept = load_scored(folder, truth, 0.5, 0).resampled
        assert (kept is None) == (content == b"")
        assert load_scored(folder, truth, 0.7, 2).resampled.shape == (3, 2, 2)
    assert load_scored(folder, truth, 0.5).resampled.shape == (1001, 2, 2)
    (path / "comp4_det_test_disc.txt").write_text("")
    assert len(load_scored(folder, truth, 0.5, 4).detections.score) == 0
    shutil.rmtree(path)  # what was kept serves all the same
    assert len(load_scored(folder, truth, 0.5, 4).detections.score) == 9
    (folder / "matches.npz").unlink()
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_scored(folder, truth, 0.5, 4)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "integer"),
        ("{}", "integer"),
        ('{"recall": "float"}', "integer"),
        ('{"recall": {"rule": "other"}}', "integer"),
        ('{"recall": {"rule": "integer"}}', "integer"),
        ('{"recall": {"rule": "float"}}', "float"),
    ],
)
def test_how_a_folder_compared_recall(tmp_path, content, rule):
    if content is not None:
        (tmp_path / "analysis.json").write_text(content)
    assert recall_of(tmp_path) == rule


def test_a_folder_without_a_record_is_named(tmp_path):
    record = tmp_path / "evaluation.json"
    with pytest.raises(InputError, match=f"^{re.escape(str(record))} is missing: give a folder of"):
        scored_folder.detections_of(tmp_path)
    record.write_text('{"detections": "d"}')
    assert scored_folder.detections_of(tmp_path) == "d"


def test_boxes_that_look_counted_otherwise_are_told(score, devkit, tmp_path):
    """Once, in the line that says what is scored: here the numbers of the devkit begin at 1."""
    path = detections(tmp_path / "d", 12)
    _, printed, _ = score(path, "--bootstrap", "0", "--no-coco")
    assert printed.splitlines()[0].startswith(f"{devkit}: ") and "warning" not in printed
    assert "; 2007:test of 30 images" in printed.splitlines()[0].replace("\n", " ")
    flags = ("--bootstrap", "0", "--no-coco", "--coordinates", "zero-based")
    _, printed, _ = score(path, *flags)
    assert printed.splitlines()[0].count("; warning: 30 of 30 boxes begin at 1, none at 0") == 1


def test_flags_leave_parts_out(score, tmp_path):
    path = detections(tmp_path / "d", 12, CLOSE)
    code, printed, _ = score(path, "--bootstrap", "0", "--no-coco", "--iou", "0.7", "0.6")
    assert code == 0
    metrics, analysis = read(tmp_path, "metrics.json"), read(tmp_path, "analysis.json")
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert metrics["coco"] == dict.fromkeys(names)
    assert metrics["voc"]["iou"] == 0.7 and metrics["voc"]["map_area"] == 0.0
    assert [part["iou"] for part in analysis["by_iou"]] == [0.7, 0.6]
    assert analysis["by_iou"][1]["map_area"] == pytest.approx(0.4)
    assert analysis["intervals"] is None
    assert "[" not in printed and "COCO AP   n/a" in printed


def test_both_engines_of_coco_agree(score, tmp_path):
    path = detections(tmp_path / "d", 12, CLOSE)
    for engine in ("own", "pycocotools"):
        flags = ("--bootstrap", "0", "--coco-engine", engine)
        assert score(path, *flags, out=engine)[0] == 0
    ours, theirs = (read(tmp_path, "metrics.json", out)["coco"] for out in ("own", "pycocotools"))
    assert ours["ap50"] > 0.3 and ours == pytest.approx(theirs, abs=1e-12)


def test_the_other_comparison_of_recall_is_told(score, tmp_path):
    path = detections(tmp_path / "d", 9)  # of 30: 3/10
    code, printed, _ = score(path, "--bootstrap", "3")
    assert code == 0
    assert "py-faster-rcnn's comparison would give 27.27 (disc differ); --recall float" in printed
    told = read(tmp_path, "analysis.json")["recall"]
    assert told["rule"] == "integer" and told["differs"] == ["disc"]
    assert read(tmp_path, "metrics.json")["voc"]["map_11point"] == pytest.approx(4 / 11)
    assert score(path, "--bootstrap", "3", "--recall", "float", out="float")[0] == 0
    metrics = read(tmp_path, "metrics.json", "float")["voc"]
    assert metrics["map_11point"] == pytest.approx(3 / 11) == told["float"]["map_11point"]
    intervals = read(tmp_path, "analysis.json", "float")["intervals"]
    assert intervals["map_11point"]["value"] == pytest.approx(3 / 11)
    # At 12 of 30 the two agree, and nothing is said.
    _, printed, _ = score(detections(tmp_path / "e", 12), "--bootstrap", "3")
    assert "py-faster-rcnn" not in printed


def test_what_was_read_otherwise_is_told(score, tmp_path):
    file = tmp_path / "d.json"
    entry = {"image_id": 1, "category_id": 0, "bbox": [0, 0, 40, 40], "score": 0.9}
    file.write_text(json.dumps([entry, {**entry, "bbox": [0, 0, 0, 4]}]))
    code, printed, _ = score(file, "--bootstrap", "0")
    notes = read(tmp_path, "analysis.json")["reading"]
    assert code == 0 and len(notes) == 2
    assert all(f"note: {note}\n" in printed for note in notes)


def test_pictures_need_not_be_there(score, devkit, tmp_path):
    pictures = devkit / "VOC2007" / "JPEGImages"
    pictures.rename(devkit / "away")
    try:
        assert score(detections(tmp_path / "d", 12), "--bootstrap", "0")[0] == 0
    finally:
        (devkit / "away").rename(pictures)


def test_against_detections_or_an_evaluated_folder(score, tmp_path):
    path, less = detections(tmp_path / "d", 24), detections(tmp_path / "less", 12)
    assert score(less, "--bootstrap", "20", out="first")[0] == 0
    told = []
    for other in (less, tmp_path / "first"):
        code, printed, _ = score(path, "--bootstrap", "200", "--no-coco", "--against", other)
        assert code == 0
        against = read(tmp_path, "analysis.json")["against"]
        assert against["detections"] == str(other)
        area = against["map_area"]
        assert area["value"] == pytest.approx(0.4) and area["excludes_zero"]
        low, high = (100 * area[end] for end in ("low", "high"))
        sentence = (
            f"+40.00 points [{low:+.2f}, {high:+.2f}]: these two networks differ at 95% (area mAP)"
        )
        assert sentence in printed.splitlines()[-1]
        told.append(printed.splitlines()[-1].partition(": ")[2])
    assert told[0] == told[1]


@pytest.mark.parametrize("rule", ["integer", "float"])
def test_against_is_by_the_same_rule_of_recall(score, tmp_path, rule):
    path = detections(tmp_path / "d", 9)  # of 30: the rules differ
    flags = ("--bootstrap", "3", "--no-coco", "--recall", rule, "--against", path)
    assert score(path, *flags)[0] == 0
    against = read(tmp_path, "analysis.json")["against"]
    assert (against["resamples"], against["seed"]) == (3, 0)
    equal = {"value": 0.0, "low": 0.0, "high": 0.0, "excludes_zero": False}
    assert against["map_11point"] == against["map_area"] == equal


def test_against_is_at_the_first_overlap(score, tmp_path):
    path, close = detections(tmp_path / "d", 24), detections(tmp_path / "close", 24, CLOSE)
    for iou, gain in (("0.7", 0.8), ("0.6", 0.0)):
        flags = ("--bootstrap", "3", "--no-coco", "--against", close, "--iou", iou)
        assert score(path, *flags)[0] == 0
        against = read(tmp_path, "analysis.json")["against"]
        assert against["map_area"]["value"] == pytest.approx(gain)


def test_a_small_difference_is_not_decided(score, tmp_path):
    path, more = detections(tmp_path / "d", 23), detections(tmp_path / "more", 24)
    code, printed, _ = score(path, "--bootstrap", "200", "--no-coco", "--against", more)
    assert code == 0
    assert "-3.33 points [-" in printed and "+0.00]: not decided (area mAP)" in printed


def test_against_another_split(score, tmp_path):
    path = detections(tmp_path / "d", 24)
    assert score(path, "--bootstrap", "0", "--no-coco", out="first", split="2007:again")[0] == 0
    code, _, error = score(path, "--against", tmp_path / "first")
    assert code == 2
    assert error.count("\n") == 1 and "evaluated on 2007:again, not 2007:test" in error
    record = tmp_path / "first" / "evaluation.json"
    record.write_text('{"split": "2007:test", "detections": null}')
    code, _, error = score(path, "--against", tmp_path / "first")
    assert code == 2
    assert error.count("\n") == 1 and f"{record}: 'detections' is not a text" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--iou", "0"), "iou must be above 0"),
        (("--iou", "0.5", "1.5"), "iou must be above 0 and at most 1"),
        (("--iou", "nan"), "iou must be"),
        (("--bootstrap", "-1"), "bootstrap must be at least 0"),
        (("--bootstrap", "0", "--against", "x"), "--against needs resamples"),
    ],
)
def test_flags_out_of_range(score, tmp_path, flags, message):
    code, _, error = score(tmp_path / "absent", *flags)
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_the_data_fingerprint_tells_objects_apart(devkit):
    truth = read_truth(devkit, "2007:test")
    moved = replace(truth, box=truth.box + 1e-9)
    first, second = (data_fingerprint(objects, "2007:test") for objects in (truth, moved))
    assert first != second == data_fingerprint(moved, "2007:test")
    assert data_fingerprint(truth, "2007:val") != first


def test_scoring_does_not_wait_for_torch():
    code = "import sys, detect.scoring.scored_folder; sys.exit('torch' in sys.modules)"
    root = Path(command.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
