"""The table of finished runs, and the statistics over seeds."""

import csv
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.errors import InputError
from common.results import append_rows, flat, mean_and_deviation, paired_difference


@dataclass(frozen=True)
class Row:
    recipe: str = "small"
    changes: str = "epochs=3 milestones=1.5,2.25"
    data: str = "squares"
    seed: int = 4
    started: str = "2026-01-02T03:04:05+00:00"
    accuracy: float = 0.7
    test_accuracy: float | None = None


def test_nested_names() -> None:
    assert flat({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_appending_twice_adds_nothing(tmp_path: Path) -> None:
    row = Row()
    other = replace(row, seed=5, test_accuracy=0.5)
    path = tmp_path / "deep" / "results.csv"
    assert append_rows(path, Row, [row]) == 1
    assert append_rows(path, Row, [row, other]) == 1
    assert append_rows(path, Row, [other, row]) == 0
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["seed"], second["seed"]) == ("4", "5")
    assert first["accuracy"] == "0.7" and first["test_accuracy"] == ""
    assert first["changes"] == "epochs=3 milestones=1.5,2.25"


def test_several_writers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    code = """
import sys
from dataclasses import dataclass
from pathlib import Path
from common.results import append_rows

@dataclass
class Row:
    seed: int
    recipe: str = "small"
    changes: str = ""
    data: str = "squares"
    started: str = "now"

for seed in range(40):
    append_rows(Path(sys.argv[1]), Row, [Row(seed)])
"""
    path = tmp_path / "results.csv"
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with path.open(newline="") as file:
        assert [line["seed"] for line in csv.DictReader(file)] == [str(s) for s in range(40)]


def test_a_table_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    row = Row()
    path = tmp_path / "results.csv"
    path.write_text("recipe,seed\nx,0\n")
    with pytest.raises(InputError, match=r"results\.csv has other columns"):
        append_rows(path, Row, [row])
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
