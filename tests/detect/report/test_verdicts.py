"""What the report says first, and what it calls the runs."""

from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import InputError
from detect.report.comparison import Comparison, Run
from detect.report.labels import given_labels, short_labels, tell_apart
from detect.report.sections.classes import decided
from detect.report.sections.summary import map_dots
from detect.report.verdicts import images_needed, verdict
from detect.scoring.bootstrap import Interval

# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("titles", "labels"),
    [
        (["toy from r18", "toy from r18-fd"], ["baseline", "fd"]),
        (["small from a", "small with FocusedDropout from a"], ["baseline", "with FocusedDropout"]),
        (["r18", "r50"], ["r18", "r50"]),
        (["a r18 b", "a r50 b", "a r101 b"], ["r18", "r50", "r101"]),
        (["toy-fd", "toy"], ["fd", "toy"]),  # only the first can be the baseline
        (["one", "one"], ["one", "one"]),
        (["x from a", "x from a-fd", "x from a"], ["baseline", "fd", "baseline"]),
        (["voc-retinanet-small from a-very-long-name"], ["voc-retinanet-small"]),
        (["y" * 40, "z" * 40], ["y" * 23 + "\u2026", "z" * 23 + "\u2026"]),
        (["y" * 40 + "1", "y" * 40 + "2"], ["y" * 23 + "\u2026", "run 2"]),
    ],
)
def test_labels_are_what_tells_titles_apart(titles, labels):
    assert short_labels(titles) == labels


def test_runs_of_one_label_are_told_apart_by_their_seeds():
    assert tell_apart(["a", "b", "a"], [0, 0, 1]) == ["a, seed 0", "b", "a, seed 1"]
    assert tell_apart(["a", "a"], [0, 0]) == ["a, run 1", "a, run 2"]
    assert tell_apart(["a", "a"], [0, None]) == ["a, run 1", "a, run 2"]


def test_given_labels_are_checked():
    assert given_labels([" a  b ", "c"], 2) == ["a b", "c"]
    for labels in (["a"], ["a", "b", "c"], ["a", " "]):
        with pytest.raises(InputError, match="--label"):
            given_labels(labels, 2)


# ---- verdicts -----------------------------------------------------------------------------------


def run_of(label, values, seed=0, backbone=None) -> Run:
    """A run of one class, whose AP on the split and on two resamples is given, in percent."""
    ap = np.repeat(np.array(values, float).reshape(-1, 1, 1) / 100, 2, axis=2)
    arm, _, _ = label.partition(", ")
    voc = SimpleNamespace(metrics=lambda: {"map_11point": ap[0, 0, 0], "map_area": ap[0, 0, 0]})
    evaluation = {"split": "2007:test", "seed": seed, "backbone": backbone}
    return Run(None, label, label, arm, evaluation, {}, None, voc, None, None, ap, {})


def told(*runs, images=150):
    return verdict(Comparison([None] * images, None, list(runs), "drawn shapes"))


def test_one_run_each_is_never_a_decision_between_methods():
    """Whether the interval over images holds 0 or not."""
    open_ = told(run_of("baseline", [46, 44, 48]), run_of("fd", [45, 41, 49]))
    assert open_.sentence == (
        "fd against baseline: -1.0 points of mAP (11-point) [-2.9, +0.9] on 150 images "
        "(drawn shapes, 2007:test), one seed each: not decided."
    )
    apart = told(run_of("baseline", [46, 44, 48]), run_of("fd", [40, 38.5, 42.5]))
    assert apart.sentence.endswith("these two networks differ, the methods are not decided.")
    for each in (open_, apart):
        assert not each.decided
        assert "over images alone" in each.basis
        assert "never decides between methods" in each.basis
        assert "five or more seeds of each" in each.deciding
    assert "about 550 such images" in open_.deciding  # 150 * (1.9 / 1.0) ** 2
    assert "such images" not in apart.deciding


def test_cocos_metric_comes_first_for_cocos_data():
    runs = [run_of("baseline", [46, 44, 48]), run_of("fd", [45, 41, 49])]
    for run, ap in zip(runs, (0.412, None), strict=True):
        run.evaluation["metric"] = "coco"
        run.coco.update(ap=ap, ap50=0.6)
    assert told(*runs).sentence.startswith(
        "COCO AP: baseline 41.2, fd n/a. With an interval, mAP (11-point): fd against baseline: "
    )
    assert told(runs[0]).sentence.startswith(
        "COCO AP 41.2, AP50 60.0. With an interval, mAP (11-point): baseline: 46.0 [44."
    )


def test_detections_of_strangers_are_runs_not_seeds():
    ours = told(run_of("a", [46, 44, 48], None), run_of("b", [45, 41, 49], None))
    assert "one run each: not decided." in ours.sentence


def test_of_a_few_images_no_interval_tells_networks_apart():
    few = told(run_of("a", [46, 46, 46]), run_of("b", [40, 40, 40]), images=9)
    assert few.sentence.endswith("one seed each: not decided.")


def test_of_several_runs_the_first_two_are_compared():
    runs = [run_of(name, [v, v - 3, v + 3]) for name, v in (("a", 40), ("b", 52), ("c", 50))]
    summed = told(*runs)
    assert summed.sentence.startswith(
        "b leads 3 runs; against c, the next: +2.0 points of mAP (11-point) [+2.0, +2.0] on 150"
    )
    assert "picked after looking" in summed.basis


def test_who_is_as_good_as_the_next_does_not_lead():
    summed = told(*(run_of(name, [0, 0, 0]) for name in "abc"))
    assert "leads" not in summed.sentence and "favours" not in summed.basis
    assert summed.sentence.startswith("a is no better than another of the 3 runs; against b")


def test_seeds_decide():
    """Differences of 2, 3, 4, 3 and 3: mean 3, deviation sqrt(1/2), so 3 +- 2.776 / sqrt(10)."""
    runs = [run_of(f"a, seed {s}", [40, 30, 50], s, {"seed": s}) for s in range(5)]
    runs += [
        run_of(f"b, seed {s}", [40 + d, 30, 50], s, {"seed": s + 9})
        for s, d in enumerate((2, 3, 4, 3, 3))
    ]
    summed = told(*runs, images=200)
    assert summed.sentence.startswith("b against a: +3.0 points of mAP (11-point) [+2.1, +3.9] on")
    assert summed.sentence.endswith("5 seeds each: decided.")
    assert summed.decided
    assert "over seeds" in summed.basis
    few = told(*runs, images=199)
    assert not few.decided
    assert "leaves out 0, but rests on 199 images (decided takes 5 and 200)" in few.basis


def test_three_seeds_do_not_decide_however_alike():
    """Differences of 2, 3 and 4: mean 3, deviation 1, so 3 +- 4.303 / sqrt(3)."""
    runs = [run_of(f"a, seed {s}", [40 + s, 30, 50], s, {"seed": s}) for s in range(3)]
    runs += [run_of(f"b, seed {s}", [42 + 2 * s, 30, 50], s, {"seed": s + 9}) for s in range(3)]
    summed = told(*runs)
    assert summed.sentence.startswith("b against a: +3.0 points of mAP (11-point) [+0.5, +5.5] on")
    assert summed.sentence.endswith("3 seeds each: not decided.")
    assert not summed.decided
    assert "but rests on 3 runs per side and 150 images" in summed.basis
    assert summed.deciding == "What would decide it: 5 seeds of each method on 200 images."


def test_seeds_are_drawn_in_pairs_and_their_mean_with_its_own_interval():
    runs = [run_of(f"a, seed {s}", [40 + s, 30, 50], s) for s in range(3)]
    runs += [run_of(f"b, seed {s}", [42 + 2 * s, 33, 51], s) for s in (2, 0, 1)]
    (_, plot) = map_dots(Comparison([None] * 50, None, runs, "drawn shapes"))
    assert plot.caption.startswith("b against a, points")
    assert [(row.name, row.dots[0].run, round(row.dots[0].value, 9)) for row in plot.rows] == [
        ("seed 2", 3, 4),
        ("seed 0", 4, 2),
        ("seed 1", 5, 3),
        ("mean of 3 seeds", 3, 3),
    ]
    assert all(1 < row.dots[0].low < row.dots[0].high < 5 for row in plot.rows[:3])  # over images
    assert plot.rows[3].text == "+3.0 [+0.5, +5.5]"


def test_seeds_that_scatter_do_not_decide_and_say_how_many_would():
    """Differences of -1, 0 and 4."""
    runs = [run_of(f"a, seed {s}", [40, 30, 50], s, {"seed": s}) for s in range(3)]
    runs += [
        run_of(f"b, seed {s}", [40 + d, 30, 50], s, {"seed": s + 9})
        for s, d in enumerate((-1, 0, 4))
    ]
    summed = told(*runs)
    assert summed.sentence.endswith("3 seeds each: not decided.")
    assert not summed.decided
    assert "seeds of each would see a difference of this size" in summed.deciding


def test_seeds_of_one_pretraining_each_do_not_decide_between_pretrainings():
    runs = [run_of(f"a, seed {s}", [40 + s, 30, 50], s, {"seed": 0}) for s in range(3)]
    runs += [run_of(f"b, seed {s}", [42 + 2 * s, 30, 50], s, {"seed": 7}) for s in range(3)]
    summed = told(*runs)
    assert not summed.decided
    assert summed.sentence.endswith("3 seeds each: not decided.")
    assert "seeds of the fine-tuning alone" in summed.basis


def test_a_single_run_has_nothing_to_compare_with():
    summed = told(run_of("a", [46, 44, 48]))
    assert summed.sentence.startswith("a: 46.0 [44.1, 47.9] mAP (11-point) on 150 images")
    assert not summed.decided
    assert summed.deciding == ""


def test_images_needed_grow_with_the_square():
    assert images_needed(Interval(0.01, -0.01, 0.03), 100) == 400
    assert images_needed(Interval(0.0, -0.01, 0.01), 100) is None
    assert images_needed(Interval(1e-9, -0.01, 0.01), 100) is None


def test_looking_at_many_classes_takes_a_wider_interval():
    """Of 1,000 resamples ten lie below 0: outside 95% of one class, inside those of twenty."""
    values = np.concatenate([[5.0], np.full(10, -1.0), np.linspace(1, 9, 990)])
    assert decided(values, 1)
    assert not decided(values, 20)
    assert decided(np.concatenate([[5.0], np.linspace(1, 9, 1000)]), 20)
    assert not decided(np.full(5, np.nan), 1)
