"""Rows of finished runs, the table that keeps them, and the statistics over seeds."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.errors import InputError
from common.run_folder import to_json
from pretrain.recipes import RECIPES, Recipe
from pretrain.results import (
    Row,
    append_rows,
    changes,
    describe_changes,
    mean_and_deviation,
    paired_difference,
    row_of,
)

NAME = "cifar10-resnet20-fd"


def short(recipe: Recipe, **images: Any) -> Recipe:
    small = replace(recipe.optimization, epochs=3, milestones=(1.5, 2.25))
    return replace(recipe, optimization=small, images=replace(recipe.images, **images))


def write_run(folder: Path, recipe: Recipe, epochs: int = 3) -> Path:
    """Write what `train` leaves of a run, apart from the weights."""
    folder.mkdir(parents=True)
    description = {"stage": "pretrain", "name": NAME, "seed": 4, "recipe": asdict(recipe)}
    (folder / "recipe.json").write_text(to_json(description))
    facts = {
        "started": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
        "hardware": "a processor, 2 cores",
        "torch": "2.15.0",
        "source": ".jpg files",
        "train_images": 80,
        "val_images": 20,
    }
    (folder / "environment.json").write_text(json.dumps(facts))
    with (folder / "metrics.jsonl").open("w") as log:
        for epoch, accuracy in enumerate((0.5, 0.7, 0.6)[:epochs], start=1):
            record = {
                "epoch": epoch,
                "step": 10 * epoch,
                "seconds": 1.25,
                "train_loss": 1 / epoch,
                "train_accuracy": epoch / 10,
                "focus_participating_steps": epoch - 1,
                "focus_keep_ratio": None if epoch == 1 else 0.1 * epoch,
                "val_loss": 2 / epoch,
                "val_accuracy": accuracy,
                "val_top5": 0.9,
            }
            log.write(json.dumps(record) + "\n")
    return folder


def test_a_row_by_hand(tmp_path: Path) -> None:
    row = row_of(write_run(tmp_path / "run", short(RECIPES[NAME]())))
    assert row == Row(
        recipe=NAME,
        changes="optimization.epochs=3 optimization.milestones=1.5,2.25",
        data="cifar10 (.jpg files)",
        train_images=80,
        scored_images=20,
        held_out=0,
        seed=4,
        epochs=3,
        started="2026-01-02T03:04:05+00:00",
        commit="0123456789ab",
        hardware="a processor, 2 cores",
        torch="2.15.0",
        seconds=3.8,
        best_accuracy=0.7,
        best_epoch=2,
        last_accuracy=0.6,
        last_top5=0.9,
        last_loss=2 / 3,
        train_accuracy=0.3,
        train_loss=1 / 3,
        keep_ratio=0.25,
        participating_steps=3,
        test_accuracy=None,
    )


def test_an_unfinished_run_has_no_row(tmp_path: Path) -> None:
    recipe = short(RECIPES[NAME]())
    assert row_of(tmp_path / "nothing") is None
    assert row_of(write_run(tmp_path / "begun", recipe, epochs=0)) is None
    assert row_of(write_run(tmp_path / "two", recipe, epochs=2)) is None


def test_with_held_out_images_the_test_images_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", short(RECIPES[NAME](), held_out=20))
    assert row_of(run) is None
    (run / "evaluation.json").write_text(json.dumps({"val_accuracy": 0.65}))
    row = row_of(run)
    assert row is not None
    assert (row.held_out, row.best_accuracy, row.test_accuracy) == (20, 0.7, 0.65)


def test_changes_name_every_field_that_differs() -> None:
    recipe = RECIPES[NAME]()
    assert changes(NAME, recipe) == {}
    recipe = replace(
        recipe,
        block="bottleneck",
        optimization=replace(recipe.optimization, nesterov=True),
        focus=replace(recipe.focus, gamma=(0.9, 0.9)),
    )
    assert describe_changes(NAME, recipe) == (
        "block=bottleneck optimization.nesterov=True focus.gamma=0.9,0.9"
    )


def test_appending_twice_adds_nothing(tmp_path: Path) -> None:
    row = row_of(write_run(tmp_path / "run", short(RECIPES[NAME]())))
    assert row is not None
    other = replace(row, seed=5, test_accuracy=0.5)
    path = tmp_path / "deep" / "results.csv"
    assert append_rows(path, [row]) == 1
    assert append_rows(path, [row, other]) == 1
    assert append_rows(path, [other, row]) == 0
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["seed"], second["seed"]) == ("4", "5")
    assert first["best_accuracy"] == "0.7" and first["test_accuracy"] == ""
    assert first["changes"] == "optimization.epochs=3 optimization.milestones=1.5,2.25"


def test_several_writers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    row = row_of(write_run(tmp_path / "run", short(RECIPES[NAME]())))
    assert row is not None
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from pretrain.results import append_rows, row_of
row = row_of(Path(sys.argv[1]))
for seed in range(40):
    append_rows(Path(sys.argv[2]), [replace(row, seed=seed)])
"""
    path = tmp_path / "results.csv"
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(path)]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with path.open(newline="") as file:
        assert [line["seed"] for line in csv.DictReader(file)] == [str(s) for s in range(40)]


def test_a_table_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    row = row_of(write_run(tmp_path / "run", short(RECIPES[NAME]())))
    assert row is not None
    path = tmp_path / "results.csv"
    path.write_text("recipe,seed\nx,0\n")
    with pytest.raises(InputError, match=r"results\.csv has other columns"):
        append_rows(path, [row])
    assert path.read_text() == "recipe,seed\nx,0\n"


def test_an_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, so +- 2.4841.
    found = paired_difference({0: 11, 1: 22, 2: 33, 7: 99}, {0: 10, 1: 20, 2: 30, 5: 0})
    assert found is not None
    assert (found.mean, found.n) == (2, 3)
    assert (found.low, found.high) == (pytest.approx(-0.48414, abs=1e-5), pytest.approx(4.48414))


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    found = paired_difference({0: 3.0}, {0: 1.0})
    assert found is not None and (found.mean, found.low, found.high, found.n) == (2, None, None, 1)
    assert paired_difference({0: 3.0}, {1: 1.0}) is None


values = st.floats(0, 100).map(lambda value: round(value, 2))


@given(st.lists(st.tuples(values, values), min_size=2, max_size=6))
def test_statistics_equal_numpy_and_scipy(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    mean, deviation = mean_and_deviation(ours.values())
    assert mean == pytest.approx(np.mean(list(ours.values())))
    assert deviation == pytest.approx(np.std(list(ours.values()), ddof=1), abs=1e-9)
    found = paired_difference(ours, theirs)
    assert found is not None and found.low is not None and found.high is not None
    differences = np.array(list(ours.values())) - np.array(list(theirs.values()))
    if np.ptp(differences) > 1e-6:
        low, high = stats.t.interval(
            0.95, len(pairs) - 1, loc=differences.mean(), scale=stats.sem(differences)
        )
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
