"""Comparisons over seeds: against the paired bootstrap, Student's t, and what the words say."""

import json
import math
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from reports import FIRST, SECOND, write_devkit, write_run
from scipy import stats

from detect import __main__ as command
from detect.scoring import comparison, over_seeds
from detect.scoring.comparison import compare_folders
from detect.scoring.over_seeds import Difference, compare_runs, too_few, verdict


def runs(values, resamples=4000, spread=0.0, seed=0):
    """Runs of a method whose resamples move together."""
    noise = np.append(0.0, np.random.default_rng(seed).normal(0, spread, resamples))
    return [value + noise for value in values]


def test_one_run_each_is_the_paired_bootstrap():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.5, 0.01, (2, 1001))
    told = compare_runs([first], [second])
    low, high = np.percentile((second - first)[1:], (2.5, 97.5))
    assert (told.value, told.low, told.high) == pytest.approx((second[0] - first[0], low, high))
    assert told.seed_deviation is None and told.probability_better == np.mean(
        (second - first)[1:] > 0
    )


def test_seeds_alone_are_students_interval():
    first, second = [0.70, 0.71, 0.72], [0.73, 0.74, 0.75, 0.76]
    told = compare_runs(runs(first, 200_000), runs(second, 200_000))
    expected = stats.ttest_ind(second, first).confidence_interval(0.95)
    assert told.value == pytest.approx(0.035)
    assert (told.low, told.high) == pytest.approx((expected.low, expected.high), abs=3e-4)
    p = stats.ttest_ind(second, first).pvalue
    assert told.probability_better == pytest.approx(1 - p / 2, abs=2e-3)
    assert told.image_deviation == pytest.approx(0, abs=1e-12)


def test_images_that_all_runs_share_cancel():
    told = compare_runs(runs([0.5, 0.5], spread=0.1), runs([0.6, 0.6], spread=0.1))
    assert (told.low, told.high) == pytest.approx((0.1, 0.1))


def test_both_parts_add_up():
    first, second = [0.5, 0.52, 0.48], [0.55, 0.57, 0.53]
    told = compare_runs(runs(first, 100_000), runs(second, 100_000, spread=0.01))
    assert told.seed_deviation == pytest.approx(0.02)
    assert told.image_deviation == pytest.approx(0.01, rel=0.02)
    half = (told.high - told.low) / 2
    alone = stats.t.ppf(0.975, 4) * 0.02 * math.sqrt(2 / 3)
    assert alone < half < math.hypot(alone, 1.96 * 0.01) * 1.02


def test_luck_of_a_run_on_an_image_is_not_counted_twice():
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.01, (6, 4001))
    first, second = (list(0.5 + part) for part in (luck[:3], luck[3:]))
    assert compare_runs(first, second).image_deviation < 0.003


def test_luck_is_taken_out_by_the_runs_of_each_side():
    """Unequal sides: each run's share of the luck is one over the runs of its own side."""
    rng = np.random.default_rng(3)
    luck = rng.normal(0, 0.02, (7, 20_001))
    shared = rng.normal(0, 0.01, 20_001)
    first, second = list(0.5 + luck[:2]), list(0.6 + luck[2:] + shared)
    told = compare_runs(first, second)
    assert told.image_deviation == pytest.approx(0.01, rel=0.05)
    assert compare_runs(second, first).image_deviation == pytest.approx(0.01, rel=0.05)


def test_a_side_without_a_run():
    for sides in (([], runs([0.5])), (runs([0.5]), []), ([], [])):
        with pytest.raises(ValueError, match="each method needs a run"):
            compare_runs(*sides)


@pytest.mark.parametrize("gap", [0.02, 0.05])
def test_more_runs_decide(gap):
    told = compare_runs(runs([0.5, 0.56]), runs([0.5 + gap, 0.56 + gap]))
    assert not told.decided and told.more_runs > 0
    count = 2 + told.more_runs

    def half(runs_a_side):
        quantile = stats.t.ppf(0.975, 2 * runs_a_side - 2)
        return quantile * told.seed_deviation * math.sqrt(2 / runs_a_side)

    assert half(count) < gap <= half(count - 1)


@pytest.mark.parametrize("gap", np.linspace(0.02, 0.1, 17))
@pytest.mark.parametrize(("first", "second"), [([0.5, 0.53], [0.51, 0.53]), ([0.5], [0.47, 0.53])])
def test_more_runs_decide_as_welch_and_satterthwaite_would(gap, first, second):
    """Of two variances, that of the images known, that of the seeds with 2n - 2 degrees."""
    second = [value + gap for value in second]
    told = compare_runs(runs(first, 100), runs(second, 100, spread=0.005))
    value, images, seeds = abs(told.value), told.image_deviation, told.seed_deviation
    assert images == pytest.approx(0.005, rel=0.2) and seeds > 0.015

    def decides(n):
        variance = images**2 + 2 * seeds**2 / n
        freedom = variance**2 / ((2 * seeds**2 / n) ** 2 / (2 * n - 2)) if n > 1 else 1
        return value > stats.t.ppf(0.975, freedom) * math.sqrt(variance)

    if not told.decided:
        # What is not decided by these resamples takes at least one more.
        assert told.more_runs == max(1, next(n for n in range(2, 101) if decides(n)) - 2)


def test_no_number_of_runs_decides_against_the_images():
    told = compare_runs(runs([0.5, 0.501]), runs([0.503, 0.504], spread=0.05))
    assert told.more_runs is None
    assert "would not decide it on these images" in verdict(told, (2, 2), 500)


def test_no_number_of_runs_tells_equal_methods_apart():
    told = compare_runs(runs([0.5, 0.5]), runs([0.5, 0.5]))
    assert (told.value, told.low, told.high, told.more_runs) == (0, 0, 0, None)
    assert told.probability_better == 0.5
    words = verdict(told, (2, 2), 500)
    assert words.startswith("not decided") and "100 seeds per side would not decide it" in words


@pytest.mark.parametrize("resamples", [[], [math.nan, math.nan]])
def test_without_a_resample_that_has_a_value_there_is_no_interval(resamples):
    told = compare_runs([np.array([0.5, *resamples])], [np.array([0.6, *resamples])])
    assert told.value == pytest.approx(0.1) and told.image_deviation == 0
    assert all(math.isnan(n) for n in (told.low, told.high, told.probability_better))
    assert verdict(told, (1, 1), 4).startswith("not defined")


def test_what_is_drawn_for_the_seeds_is_students_t_of_a_seed():
    first, second = runs([0.5, 0.52], 99), runs([0.6, 0.58, 0.59], 99)
    pooled = math.sqrt((2 * 0.01**2 + 2 * 0.01**2) / 3)
    for seed, told in (
        (0, compare_runs(first, second)),
        (5, compare_runs(first, second, seed=5)),
    ):
        drawn = np.random.default_rng(seed).standard_t(3, 99) * pooled * math.sqrt(1 / 2 + 1 / 3)
        ends = np.percentile(0.08 + drawn, (2.5, 97.5))
        assert [told.low, told.high] == pytest.approx(ends.tolist(), rel=1e-9)
        assert told.probability_better == np.mean(0.08 + drawn > 0)
        assert told.seed_deviation == pytest.approx(pooled)


@pytest.mark.parametrize(
    ("resamples", "deviation"), [([0.1], 0.0), ([0.1, 0.3], 0.02**0.5), ([0.1, math.nan], 0.0)]
)
def test_a_deviation_takes_two_resamples(resamples, deviation):
    told = compare_runs([np.zeros(1 + len(resamples))], [np.array([0.2, *resamples])])
    assert told.image_deviation == pytest.approx(deviation) and told.value == 0.2
    known = [number for number in resamples if number == number]
    assert [told.low, told.high] == pytest.approx(np.percentile(known, (2.5, 97.5)).tolist())
    assert told.more_runs == 0 and told.probability_better == 1


def test_half_of_the_ties_is_better():
    resamples = np.array([0.3, 0.1, 0.0, 0.0, 0.0, -0.1])
    told = compare_runs([np.zeros(6)], [resamples])
    assert told.probability_better == (1 + 3 / 2) / 5
    assert told.more_runs is None and not told.decided


def test_deviations_of_groups_by_hand():
    assert over_seeds._pooled_deviation([[1.0], [2.0]]) is None
    assert over_seeds._pooled_deviation([[1.0, 3.0], [2.0]]) == math.sqrt(2)
    assert over_seeds._pooled_deviation([[1.0, 3.0], [4.0, 8.0]]) == math.sqrt(5)
    first = [np.array([99.0, 1.0, 3.0]), np.array([0.0, 3.0, 1.0])]
    assert over_seeds._of_runs_and_images([first, [np.zeros(3)]]) == 2
    assert over_seeds._of_runs_and_images([first, [np.zeros(3)] * 2]) == 1
    assert over_seeds._of_runs_and_images([first[:1], [np.zeros(3)]]) == 0
    gone = [np.append(run, math.nan) for run in first]
    assert over_seeds._of_runs_and_images([gone, [np.zeros(4)]]) == 2


@pytest.mark.parametrize("runs_now", [2, 99, 100])
def test_a_hundred_runs_are_the_most(runs_now):
    """Of seeds alone, of images alone, and without either, where nothing is to be decided."""

    def half(count):
        return stats.t.ppf(0.975, 2 * count - 2) * 0.03 * math.sqrt(2 / count)

    more = over_seeds._more_runs
    assert more(half(100) * 1.0001, 0.0, 0.03, runs_now) == max(1, 100 - runs_now)
    assert more(half(100) * 0.9999, 0.0, 0.03, runs_now) is None
    assert more(0.01 * stats.norm.ppf(0.975) * 1.0001, 0.01, 0.0, runs_now) == 1
    assert more(0.01 * stats.norm.ppf(0.975) * 0.9999, 0.01, 0.0, runs_now) is None
    assert more(0.0, 0.0, 0.0, runs_now) is None
    assert more(9.0, 0.01, None, runs_now) is None


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((5, 200), ""),
        ((4, 200), "rests on 4 runs per side (decided takes 5 and 200)"),
        ((5, 199), "rests on 199 images (decided takes 5 and 200)"),
        ((1, 1), "rests on 1 run per side and 1 image (decided takes 5 and 200)"),
    ],
)
def test_what_an_interval_rests_on(counts, words):
    assert too_few(*counts) == words


@pytest.mark.parametrize(
    ("changes", "counts", "words"),
    [
        ({}, (5, 6), "the second is better: decided at 95% over 5 and 6 seeds and the images"),
        (
            {"value": -0.02, "low": -0.03, "high": -0.01, "seed_deviation": None},
            (4, 7),
            "the second looks worse: its 95% interval over images alone leaves out 0, but rests on "
            "4 runs per side (decided takes 5 and 200)",
        ),
        (
            {"low": 0.0, "more_runs": 7},
            (3, 4),
            "not decided at 95% over 3 and 4 seeds and the images; about 7 more seeds per side "
            "would, if the difference stays",
        ),
        (
            {"high": 0.0, "low": -1.0, "more_runs": None},
            (3, 4),
            "not decided at 95% over 3 and 4 seeds and the images; up to 100 seeds per side would "
            "not decide it on these images",
        ),
        (
            {"low": 0.0, "seed_deviation": None},
            (1, 1),
            "not decided at 95% over images alone; more seeds would show what a seed changes",
        ),
    ],
)
def test_verdicts_to_the_letter(changes, counts, words):
    assert verdict(made(**changes), counts, 200) == words


def made(**changes):
    usual = {
        "value": 0.02,
        "low": 0.01,
        "high": 0.03,
        "probability_better": 0.999,
        "seed_deviation": 0.002,
        "image_deviation": 0.004,
        "more_runs": 0,
    }
    return Difference(**{**usual, **changes})


@pytest.mark.parametrize(
    ("low", "high", "decided"),
    [(1e-9, 1, True), (0, 1, False), (-1, 1, False), (-1, 0, False), (-1, -1e-9, True)],
)
def test_an_interval_that_ends_at_0_decides_nothing(low, high, decided):
    assert made(low=low, high=high).decided == decided


@pytest.mark.parametrize(
    ("difference", "counts", "images", "says", "not_says"),
    [
        (made(), (5, 5), 200, ["second is better: decided at 95% over 5 and 5 seeds"], ["rests"]),
        (made(value=-0.02, low=-0.03, high=-0.01), (6, 5), 999, ["second is worse: decided"], []),
        (
            made(),
            (4, 5),
            999,
            ["looks better", "rests on 4 runs per side"],
            ["images (", "is better"],
        ),
        (made(), (5, 5), 199, ["looks better", "rests on 199 images"], ["runs per side"]),
        (
            made(seed_deviation=None),
            (1, 1),
            24,
            ["over images alone", "rests on 1 run per side and 24 images"],
            ["is better"],
        ),
        (made(low=-0.01, more_runs=3), (3, 3), 999, ["not decided", "about 3 more seeds"], []),
        (made(low=-0.01, seed_deviation=None), (1, 1), 999, ["over images alone; more seeds"], []),
        (made(value=math.nan, low=math.nan), (5, 5), 999, ["not defined"], ["decided"]),
    ],
)
def test_words(difference, counts, images, says, not_says):
    told = verdict(difference, counts, images)
    assert all(part in told for part in says) and not any(part in told for part in not_says)
    assert "\n" not in told and len(told) < 200


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    devkit = write_devkit(root / "VOCdevkit")
    lines = {"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND}
    return [write_run(root / name, devkit, text, name) for name, text in lines.items()]


def test_the_command(call_command, folders, tmp_path):
    given = ("--baseline", *folders[:2], "--against", *folders[2:], "--out", tmp_path)
    code, printed, _ = call_command(command, "compare", *given, "--bootstrap", "50")
    assert code == 0
    told = json.loads((tmp_path / "comparison.json").read_text())
    assert told["runs"] == [2, 2] and told["resamples"] == 50 and told["split"] == "2007:test"
    area = told["map_area"]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    values = [metric["voc"]["map_area"] for metric in metrics]
    assert area["baseline"] + area["against"] == pytest.approx(values)
    assert area["difference"] == pytest.approx(values[2] - values[0])
    assert area["seed_deviation"] == 0
    assert area["verdict"] in printed and "better with a probability of" in printed


def test_each_number_stands_where_it_belongs(folders, tmp_path, monkeypatch):
    """Three runs against one, of two classes; the second has no value in one resample."""
    rng = np.random.default_rng(0)
    scored = {folder: rng.random((21, 2, 2)) for folder in folders}
    scored[folders[3]][4] = math.nan
    asked = []

    def load(folder, truth, iou, resamples):
        asked.append((folder, len(truth.image_ids), iou, resamples))
        return SimpleNamespace(resampled=scored[folder])

    monkeypatch.setattr(comparison, "load_scored", load)
    told = compare_folders(folders[:3], folders[3:], tmp_path / "new" / "out")
    images = told["images"]
    assert asked == [(folder, images, 0.5, 1000) for folder in folders] and images > 1
    means = [scored[folder].mean(axis=1) for folder in folders]
    for column, kind in enumerate(("map_11point", "map_area")):
        of_kind = [run[:, column] for run in means]
        difference = compare_runs(of_kind[:3], of_kind[3:])
        rest = asdict(difference)
        assert told.pop(kind) == {
            "baseline": [run[0] for run in of_kind[:3]],
            "against": [of_kind[3][0]],
            "difference": rest.pop("value"),
            **rest,
            "verdict": verdict(difference, (3, 1), images),
        }
    assert told == {
        "images": images,
        "runs": [3, 1],
        "resamples": 1000,
        "iou": 0.5,
        "split": "2007:test",
        "baseline": [str(folder) for folder in folders[:3]],
        "against": [str(folders[3])],
    }
    written = tmp_path / "new" / "out" / "comparison.json"
    again = compare_folders(folders[:3], folders[3:], written.parent)
    assert json.loads(written.read_text()) == again
    for folder in folders:
        scored[folder][:] = math.nan
    (tmp_path / "new").rename(tmp_path / "old")
    undefined = compare_folders(folders[:1], folders[3:])["map_area"]
    assert undefined.pop("verdict").startswith("not defined")
    assert undefined["against"] == undefined["baseline"] == [None]
    assert {undefined[key] for key in ("difference", "low", "high", "probability_better")} == {None}
    assert not (tmp_path / "new").exists()


def test_an_overlap_of_the_whole_is_one(folders, tmp_path):
    one = tmp_path / "one", tmp_path / "two"
    for folder, source in zip(one, folders, strict=False):
        shutil.copytree(source, folder)
        told = json.loads((folder / "metrics.json").read_text())
        told["voc"]["iou"] = 1
        (folder / "metrics.json").write_text(json.dumps(told))
    assert comparison._records(one)[1]["iou"] == 1
    assert list(comparison._records(one)[0])[-3:] == ["classes", "iou", "recall"]


def test_one_folder_by_two_names(call_command, folders, tmp_path):
    (tmp_path / "link").symlink_to(folders[0])
    given = ("--baseline", *folders[:2], "--against", tmp_path / "link")
    code, _, error = call_command(command, "compare", *given)
    assert code == 2 and f"{tmp_path / 'link'} is given twice: give the folder" in error


def test_data_that_are_gone(call_command, folders, tmp_path):
    one, two = (shutil.copytree(folders[n], tmp_path / f"{n}") for n in (0, 2))
    for folder in (one, two):
        told = json.loads((folder / "evaluation.json").read_text())
        (folder / "evaluation.json").write_text(json.dumps(told | {"data": "/nowhere/data"}))
    code, _, error = call_command(command, "compare", "--baseline", one, "--against", two)
    assert code == 2 and error.count("\n") == 1
    assert f"/nowhere/data, the data of {one}, is gone: say with --data where it is now" in error
    (two / "metrics.json").unlink()
    code, _, error = call_command(command, "compare", "--baseline", one, "--against", two)
    assert code == 2 and f"{two / 'metrics.json'} is missing: give an output folder" in error


def test_folders_that_cannot_be_compared(call_command, folders, tmp_path):
    for against, told in (
        (folders[0], "is given twice: give the folder of each seed once"),
        (tmp_path, "evaluation.json is missing: give an output folder of detect evaluate"),
    ):
        given = ("--baseline", folders[0], "--against", against)
        code, _, error = call_command(command, "compare", *given)
        assert code == 2 and told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        (
            "evaluation.json",
            lambda told: told.update(split="2007:val"),
            "their split, 2007:test and 2007:val",
        ),
        (
            "metrics.json",
            lambda told: told["voc"].update(per_class={"cat": {}}),
            "their classes, ['cat', 'dog', 'emu'] and ['cat']",
        ),
        (
            "metrics.json",
            lambda told: told["voc"].update(iou=0.75),
            "their iou, 0.5 and 0.75",
        ),
        (
            "analysis.json",
            lambda told: told.update(recall={"rule": "float"}),
            "their recall, integer and float",
        ),
    ],
)
def test_folders_of_two_kinds(call_command, folders, tmp_path, name, edit, told):
    other = shutil.copytree(folders[2], tmp_path / "other")
    record = json.loads((other / name).read_text()) if (other / name).exists() else {}
    edit(record)
    (other / name).write_text(json.dumps(record))
    code, _, error = call_command(command, "compare", "--baseline", folders[0], "--against", other)
    assert code == 2 and error.count("\n") == 1
    assert f"{folders[0]} and {other} differ in {told}: compare evaluations of one kind" in error


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("metrics.json", lambda told: told.pop("voc")),
        ("metrics.json", lambda told: told.update(voc=[1])),
        ("metrics.json", lambda told: told["voc"].update(per_class=["cat"])),
        ("metrics.json", lambda told: told["voc"].pop("iou")),
        ("metrics.json", lambda told: told["voc"].update(iou="0.5")),
        ("metrics.json", lambda told: told["voc"].update(iou=0)),
        ("metrics.json", lambda told: told["voc"].update(iou=1.01)),
        ("evaluation.json", lambda told: told.pop("data")),
        ("evaluation.json", lambda told: told.update(split=7)),
    ],
)
def test_a_folder_that_holds_something_else(call_command, folders, tmp_path, name, edit):
    other = shutil.copytree(folders[2], tmp_path / "other")
    told = json.loads((other / name).read_text())
    edit(told)
    (other / name).write_text(json.dumps(told))
    code, _, error = call_command(command, "compare", "--baseline", other, "--against", folders[0])
    assert code == 2 and error.count("\n") == 1
    assert f"{other} is not what detect score writes: evaluate again" in error


def test_data_of_other_classes(call_command, folders, tmp_path):
    devkit = write_devkit(tmp_path / "VOCdevkit", classes=("cat", "dog", "fox"))
    given = ("--baseline", folders[0], "--against", folders[2], "--data", devkit)
    code, _, error = call_command(command, "compare", *given)
    assert code == 2 and error.count("\n") == 1
    assert f"{folders[0]} was scored with other classes than {devkit} has" in error
