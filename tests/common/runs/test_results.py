"""The table of finished runs."""

import csv
import fcntl
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common.errors import InputError
from common.runs.results import (
    KEY,
    append_rows,
    changes,
    describe_changes,
    facts,
    flatten,
    log_path,
    record_runs,
)


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
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_appending_twice_adds_nothing(tmp_path: Path) -> None:
    row = Row()
    other = replace(row, seed=5, test_accuracy=0.5)
    path = tmp_path / "deep" / "deeper" / "results.csv"
    assert append_rows(path, Row, [row]) == 1
    assert append_rows(path, Row, [row, other]) == 1
    assert append_rows(path, Row, [other, row]) == 0
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["seed"], second["seed"]) == ("4", "5")
    assert first["accuracy"] == "0.7" and first["test_accuracy"] == ""
    assert first["changes"] == "epochs=3 milestones=1.5,2.25"


def test_a_run_that_is_given_twice_is_appended_once(tmp_path: Path) -> None:
    """As that of a folder that was copied; of two accuracies the first stays."""
    path = tmp_path / "results.csv"
    rows = [Row(), Row(seed=5), Row(accuracy=0.9)]
    assert append_rows(path, Row, rows) == 2
    with path.open(newline="") as file:
        lines = [(line["seed"], line["accuracy"]) for line in csv.DictReader(file)]
    assert lines == [("4", "0.7"), ("5", "0.7")]


def test_a_table_to_the_character(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    append_rows(path, Row, [])
    header = "recipe,changes,data,seed,started,accuracy,test_accuracy\n"
    assert path.read_bytes() == header.encode()
    append_rows(path, Row, [Row(changes="a,b", test_accuracy=0.0)])
    line = 'small,"a,b",squares,4,2026-01-02T03:04:05+00:00,0.7,0.0\n'
    assert path.read_bytes() == (header + line).encode()


@dataclass(frozen=True)
class Inner:
    milestones: tuple[float, ...] = (1.5, 2.25)
    rate: float = 0.1


@dataclass(frozen=True)
class Recipe:
    inner: Inner = Inner()
    epochs: int = 3
    name: str | None = None


def test_changes_by_hand() -> None:
    now = Recipe(Inner((4.0, 5.0)), 9, None)
    assert changes(Recipe(), now) == {"inner.milestones": (4.0, 5.0), "epochs": 9}
    assert describe_changes(Recipe(), now) == "inner.milestones=4.0,5.0 epochs=9"
    assert changes(now, now) == {} and describe_changes(now, now) == ""
    assert describe_changes(Recipe(name="a"), Recipe(Inner(()))) == "inner.milestones= name=None"


def test_a_run_whose_key_lacks_a_value_is_appended_once(tmp_path: Path) -> None:
    """A detector from random weights has no backbone to tell it by."""
    path, key = tmp_path / "results.csv", (*KEY, "test_accuracy")
    assert append_rows(path, Row, [Row()], key) == 1
    assert append_rows(path, Row, [Row(), Row(test_accuracy=0.5)], key) == 1
    assert append_rows(path, Row, [Row(), Row(test_accuracy=0.5)], key) == 0


def test_line_ends_within_a_value_stay_what_they_are(tmp_path: Path) -> None:
    path, row = tmp_path / "results.csv", Row(data="two\r\nlines")
    assert append_rows(path, Row, [row]) == 1
    assert append_rows(path, Row, [row]) == 0
    assert b'"two\r\nlines"' in path.read_bytes()


def write_log(folder: Path, *records: dict[str, float]) -> Path:
    folder.mkdir()
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_the_log_of_a_run_is_found_by_its_row(tmp_path: Path) -> None:
    table = tmp_path / "new" / "er" / "results.csv"
    runs = {
        write_log(tmp_path / f"run-{seed}", {"step": 1, "loss": seed / 4}): Row(seed=seed)
        for seed in (4, 5)
    }
    assert record_runs(table, Row, runs) == 2
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    kept = [log_path(table, line) for line in lines]
    assert sorted(kept) == sorted((tmp_path / "new" / "er" / "logs").iterdir())
    assert [gzip.decompress(log.read_bytes()) for log in kept] == [
        *(b'{"step": 1, "loss": 1.0}\n', b'{"step": 1, "loss": 1.25}\n')
    ]
    text = "small\nepochs=3 milestones=1.5,2.25\nsquares\n4\n2026-01-02T03:04:05+00:00"
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert kept[0].name == f"small-{digest[:12]}-seed4.jsonl.gz"


@pytest.mark.parametrize("column", KEY)
def test_two_runs_have_two_logs(column: str) -> None:
    line = dict.fromkeys(KEY, "1")
    assert log_path(Path("a.csv"), line) != log_path(Path("a.csv"), line | {column: "2"})


def test_a_log_is_written_once_and_to_older_tables_too(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    runs = {write_log(tmp_path / "run", {"step": 1}): Row()}
    append_rows(table, Row, runs.values())  # as before logs were kept
    assert record_runs(table, Row, runs) == 0
    (log,) = (tmp_path / "logs").iterdir()
    before = log.read_bytes(), log.stat().st_mtime_ns
    (tmp_path / "run" / "metrics.jsonl").write_text("changed since\n")
    assert record_runs(table, Row, runs) == 0
    assert (log.read_bytes(), log.stat().st_mtime_ns) == before
    assert len(table.read_text().splitlines()) == 2


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the folder is called, and whenever it was written."""
    kept = []
    for name, written in (("a", 10**9), ("b", 2 * 10**9)):
        (tmp_path / name).mkdir()
        run = write_log(tmp_path / name / f"run-{name}", {"step": 1, "loss": 0.5})
        os.utime(run / "metrics.jsonl", (written, written))
        record_runs(tmp_path / name / "results.csv", Row, {run: Row()})
        (log,) = (tmp_path / name / "logs").iterdir()
        kept.append((log.name, log.read_bytes()))
    assert kept[0] == kept[1]
    flags, time = kept[0][1][3], kept[0][1][4:8]
    assert (flags, time) == (0, bytes(4))  # no file name, no time (RFC 1952)


def test_no_row_without_its_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        record_runs(tmp_path / "results.csv", Row, {tmp_path / "nothing": Row()})
    assert not (tmp_path / "results.csv").exists()


def test_facts_by_hand() -> None:
    environment = {
        "train_images": 80,
        "started": "2026-01-02T03:04:05+00:00",
        "commit": None,
        "hardware": "a processor",
        "torch": "2.15.0",
        "python": "3.11",
    }
    epochs = [{"seconds": 1.25}, {"seconds": 2.5, "focus_participating_steps": 3}]
    environment_facts = {key: environment[key] for key in list(environment)[:5]}
    assert facts(environment, epochs) == {
        **environment_facts,
        "seconds": 3.8,
        "participating_steps": 3,
    }
    assert facts(environment, epochs[:1])["participating_steps"] is None


def test_several_writers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    code = """
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from common.runs.results import append_rows

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


def test_a_writer_waits_until_another_is_done(tmp_path: Path) -> None:
    """Then it finds the row that the other wrote, and adds nothing."""
    append_rows(tmp_path / "whole.csv", Row, [Row()])
    path = tmp_path / "results.csv"
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        child = os.fork()
        if not child:
            added = 9
            try:
                added = append_rows(path, Row, [Row()])
            finally:
                os._exit(added)
        time.sleep(0.3)
        file.write((tmp_path / "whole.csv").read_text())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_text() == (tmp_path / "whole.csv").read_text()


def test_a_table_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    row = Row()
    path = tmp_path / "results.csv"
    path.write_text("recipe,seed\nx,0\n")
    with pytest.raises(InputError, match=r"results\.csv has other columns"):
        append_rows(path, Row, [row])
    assert path.read_text() == "recipe,seed\nx,0\n"
