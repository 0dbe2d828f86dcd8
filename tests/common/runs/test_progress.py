"""A log that tells of nothing that was lost, and lines for people."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from common.runs.metrics_log import MetricsLog, read_metrics
from common.runs.progress import Progress


def write(folder: Path, *steps: int) -> None:
    log = MetricsLog(folder, step=steps[0] - 1)
    for step in steps:
        log.write({"step": step, "loss": step / 8, "focus_keep_ratio": None})
    log.close()


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
    log.close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 30, 35]


def test_the_disk_is_waited_for_once_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    log = MetricsLog(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(log.path.read_text()))
    for step in (1, 2):
        log.write({"step": step})
        assert [record["step"] for record in read_metrics(tmp_path)][-1] == step
    assert synced == []
    log.flush()
    log.flush()
    assert synced == [log.path.read_text()]
    log.close()


def test_a_new_run_starts_with_an_empty_log(tmp_path: Path) -> None:
    write(tmp_path, 10)
    MetricsLog(tmp_path).close()
    assert read_metrics(tmp_path) == []


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


def test_tensorboard_reads_the_scalars_without_the_lost_ones(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is optional"
    )

    write(tmp_path, 10, 20, 30)
    log = MetricsLog(tmp_path, step=20)
    log.write({"step": 25, "loss": 7.0})
    log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    points = [(event.step, event.value) for event in events.Scalars("loss")]
    assert points == [(10, 1.25), (20, 2.5), (25, 7.0)]


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, 40, "toy", show=True, seconds=0)
    assert progress.due()
    progress.step()
    progress.update(70, {"loss": 0.123456, "images/s": 1000.0})
    progress.say("epoch 1")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["toy step 70/100 loss 0.1235 images/s 1000 ETA 00:00:00", "epoch 1"]


def test_time_left_counts_the_steps_of_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("common.runs.progress.time.monotonic", lambda: now)
    progress = Progress(100, 40, "toy", show=True)
    now = 1060.0  # 10 steps in a minute, 50 to go
    assert progress.due()
    progress.update(50, {})
    assert not progress.due()
    assert capsys.readouterr().out.endswith("ETA 00:05:00\n")


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, 0, "toy", show=False, seconds=0)
    assert not progress.due()
    progress.step()
    progress.update(1, {"loss": 1.0})
    progress.say("epoch 1")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(4, 1, "toy", show=True)
    progress.step()
    progress.update(2, {"loss": 0.5})
    progress.say("epoch 1")
    progress.close()
    out, err = capsys.readouterr()
    assert out == "epoch 1\n"
    assert "toy:  50%" in err
    assert "loss 0.5" in err
