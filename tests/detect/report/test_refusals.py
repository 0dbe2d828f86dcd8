"""What a report refuses, and in which words."""

import json

import pytest
from reports import write_devkit, write_run

from common.errors import InputError
from detect.report import write_report


@pytest.fixture
def fails(report, tmp_path):
    def check(folders, *parts: str, **arguments) -> None:
        with pytest.raises(InputError) as caught:
            report(folders, **arguments)
        assert all(part in str(caught.value) for part in parts), caught.value
        assert not (tmp_path / "out").exists()

    return check


def test_runs_on_different_splits_are_refused(two_runs, tmp_path, fails):
    devkit = write_devkit(tmp_path / "VOCdevkit", "val")
    lines = {"cat": [], "dog": [], "emu": []}
    other = write_run(tmp_path / "c", devkit, lines, "other", split="2007:val")
    fails([two_runs[0], other], str(two_runs[0]), str(other), "2007:test", "2007:val")


def test_runs_with_different_classes_or_overlaps_are_refused(two_runs, fails):
    file = two_runs[1] / "metrics.json"
    metrics = json.loads(file.read_text())
    swapped = dict(reversed(metrics["voc"]["per_class"].items()))
    file.write_text(json.dumps({**metrics, "voc": {**metrics["voc"], "per_class": swapped}}))
    fails(two_runs, "a and", "cat, dog, emu", "emu, dog, cat")
    file.write_text(json.dumps({**metrics, "voc": {**metrics["voc"], "iou": 0.6}}))
    fails(two_runs, "overlap", "0.5", "0.6")


def test_runs_with_different_rules_of_recall_are_refused(two_runs, fails):
    (two_runs[1] / "analysis.json").write_text('{"recall": {"rule": "float"}}')
    fails(two_runs, str(two_runs[0]), str(two_runs[1]), "--recall, integer and float")


def test_data_that_is_gone_can_be_given(two_runs, tmp_path, fails, report):
    moved = (tmp_path / "VOCdevkit").rename(tmp_path / "elsewhere")
    fails(two_runs, "VOCdevkit", "--data")
    page, _ = report(two_runs, data=moved)
    assert page.tables["Scores of the runs, percent"][1][1] == "77.3"


def test_other_data_than_was_scored_is_refused(two_runs, tmp_path, fails):
    annotation = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / "000002.xml"
    annotation.write_text(annotation.read_text().replace("<xmax>24", "<xmax>60"))
    fails(two_runs, "metrics.json", "--data")
    (tmp_path / "VOCdevkit" / "classes.txt").write_text("cat\ndog\nemu\nfox")
    fails(two_runs, "other classes", "--data")


@pytest.mark.parametrize("name", ["metrics.json", "evaluation.json"])
@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"voc": [], "coco": []}'])
def test_broken_folders_are_named(two_runs, fails, name, content):
    file = two_runs[1] / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    fails(two_runs, str(file))


@pytest.mark.parametrize(
    ("part", "value"), [("coco", {"ap": "much"}), ("coco", {"ap": float("nan")}), ("coco", None)]
)
def test_broken_metrics_are_named(two_runs, fails, part, value):
    file = two_runs[0] / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), part: value}))
    fails(two_runs, str(file))


def test_a_damaged_training_log_is_named(two_runs, fails, tmp_path):
    log = tmp_path / "plain" / "metrics.jsonl"
    log.write_text(log.read_text() + "{\n")
    fails(two_runs, str(log), "line 4")


def test_wrong_arguments_are_refused(two_runs, tmp_path, fails):
    fails([], "nothing to report")
    fails([two_runs[0], two_runs[0] / ".." / "a"], "twice")
    with pytest.raises(InputError, match=r"\.html"):
        write_report(two_runs, tmp_path / "report.md")
    fails([tmp_path / "absent"], "absent", "detect evaluate")


def test_labels_can_be_given(two_runs, report, fails):
    fails(two_runs, "--label", "1 of 2", labels=["old"])
    fails(two_runs, "--label", "empty", labels=["old", " "])
    page, _ = report(two_runs, labels=["old", "new"])
    assert list(page.rows("Scores of the runs, percent")) == ["old", "new"]
    assert "new against old" in page.visible
