"""A log that tells of nothing that was lost."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from common.errors import InputError
from common.runs.metrics_log import MetricsLog, read_metrics


def write(folder: Path, *steps: int) -> None:
    log = MetricsLog(folder, step=steps[0] - 1)
    for step in steps:
        log.write({"step": step, "loss": step / 8, "focus_keep_ratio": None})


def test_one_object_a_line(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    expected = [
        {"step": 1, "loss": 0.125, "focus_keep_ratio": None},
        {"step": 2, "loss": 0.25, "focus_keep_ratio": None},
    ]
    assert [json.loads(line) for line in lines] == expected
    assert read_metrics(tmp_path) == expected
    assert read_metrics(tmp_path / "nothing") == []


def test_records_after_the_checkpoint_and_half_lines_go(tmp_path: Path) -> None:
    write(tmp_path, 10, 20, 30, 40)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 30, 40]
    log = MetricsLog(tmp_path, step=30)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]
    log.write({"step": 35})
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 30, 35]


def test_the_disk_is_waited_for_once_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    log = MetricsLog(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(log.path.read_text()))
    log.flush()  # of nothing
    for step in (1, 2):
        log.write({"step": step})
        assert [record["step"] for record in read_metrics(tmp_path)][-1] == step
    assert synced == []
    log.flush()
    log.flush()
    assert synced == [log.path.read_text()]


def test_a_new_run_keeps_no_line_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 10)
    MetricsLog(tmp_path)
    assert [record["step"] for record in read_metrics(tmp_path)] == [0]


@pytest.mark.parametrize(
    "line", ["half", "", "3", "[]", "{}", '{"step": "3"}', '{"step": 3.0}', '{"step": true}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    for reading in (read_metrics, MetricsLog):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} is damaged in line 2: "):
            reading(tmp_path)


def test_a_full_disk_at_the_start_leaves_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 10, 20)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"metrics\.jsonl could"):
        patch.setattr("os.fsync", full)
        MetricsLog(tmp_path, step=10)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
