"""The table of equality: every figure is compared, and one that is off shows; without tidecv."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks import equality

from detect.scoring.coco import NAMES
from detect.scoring.voc import average_precision


@pytest.fixture
def table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], tuple[dict[str, str], str]]:
    """Compare three sets; return the last cells by the first ones, and the last line."""
    monkeypatch.setattr(sys, "argv", ["equality", "--sets", "3"])
    monkeypatch.setitem(sys.modules, "tidecv", None)

    def call() -> tuple[dict[str, str], str]:
        equality.main()
        lines = capsys.readouterr().out.splitlines()
        cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        return {row[0]: row[-1] for row in cells[2:]}, lines[-1]

    return call


def numbers(cell: str) -> dict[str, float]:
    return {words[0]: float(words[1]) for words in (p.rsplit(" ", 1) for p in cell.split(", "))}


def test_equal_to_the_kit_and_to_pycocotools(table: Callable[[], Any]) -> None:
    rows, last = table()
    assert list(rows) == ["VOC AP and mAP", "true, false or ignored", "COCO"]
    assert rows["true, false or ignored"] == "0 differ"
    assert list(numbers(rows["VOC AP and mAP"])) == ["11 points", "area"]
    assert list(numbers(rows["COCO"])) == list(NAMES)
    for figures in (rows["VOC AP and mAP"], rows["COCO"]):
        assert max(numbers(figures).values()) < 1e-12
    assert last.startswith("The kinds of error are left out")


def test_a_figure_that_is_off_shows(
    table: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, coco = equality.kit_evaluation, equality.coco.score_coco

    def other_kit(*given: Any) -> Any:
        points, area, letters = kit(*given)
        turned = {**letters, **dict.fromkeys(list(letters)[:1], "?")}
        return points, None if area is None else area + 0.5, turned

    monkeypatch.setattr(equality, "kit_evaluation", other_kit)
    monkeypatch.setattr(equality.coco, "score_coco", lambda *given: coco(*given) | {"ap75": None})
    rows, _ = table()
    assert numbers(rows["VOC AP and mAP"])["area"] == 0.5
    assert rows["true, false or ignored"] != "0 differ"
    assert {name for name, value in numbers(rows["COCO"]).items() if value == np.inf} == {"ap75"}


def test_the_sets_hold_what_decides() -> None:
    drawn = [equality.draw(seed) for seed in range(20)]
    assert any((np.bincount(t.label, minlength=len(t.classes)) == 0).any() for t, _ in drawn)
    assert all(len(np.unique(f.score)) < len(f.score) for _, f in drawn if len(f.score) > 100)
    assert any(len(equality.once(t, f).score) < len(f.score) for t, f in drawn)
    assert any(np.bincount(f.image * 99 + f.label).max(initial=0) > 100 for _, f in drawn)
    assert any((f.box[:, 2:] < f.box[:, :2]).any() for _, f in drawn)
    assert any(t.difficult.any() for t, _ in drawn)


@pytest.mark.parametrize("seed", range(3))
def test_area_under_points(seed: int) -> None:
    """The area that tidecv's points are measured by, against ours; equal scores by number."""
    rng = np.random.default_rng(seed)
    score, true = rng.integers(0, 9, 30) / 9, rng.random(30) < 0.6
    points = {n: (score[n], true[n], {}) for n in rng.permutation(30).tolist()}
    found = SimpleNamespace(data_points=points, num_gt_positives=25)
    empty = SimpleNamespace(data_points=points, num_gt_positives=0)
    unseen = SimpleNamespace(data_points={}, num_gt_positives=3)
    falling = true[np.argsort(-score, kind="stable")]
    expected = average_precision(falling, 25)[1]
    measured = equality.mean_area(SimpleNamespace(objs={0: found, 1: empty, 2: unseen}))
    assert measured == pytest.approx(expected / 2, abs=1e-12)
    assert equality.mean_area(SimpleNamespace(objs={1: empty})) is None
