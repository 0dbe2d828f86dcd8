"""A log that tells of nothing that was lost, and lines for people."""

import errno
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from common.runs.epoch_lines import Column
from common.runs.metrics_log import MetricsLog, read_metrics
from common.runs.progress import Progress, bar_line


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
    for step in (1, 2):
        log.write({"step": step})
        assert [record["step"] for record in read_metrics(tmp_path)][-1] == step
    assert synced == []
    log.flush()
    log.flush()
    assert synced == [log.path.read_text()]


def test_a_new_run_starts_with_an_empty_log(tmp_path: Path) -> None:
    write(tmp_path, 10)
    MetricsLog(tmp_path)
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


COLUMNS = (
    Column("train_loss", "loss", group="train"),
    Column("train_accuracy", "accuracy", "percent", group="train"),
    Column("val_accuracy", "accuracy", "percent", group="val"),
    Column("lr", "lr", "rate"),
)
RECORD = {"epoch": 1, "step": 40, "train_loss": 1.23456, "train_accuracy": 0.5, "lr": 0.1}


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(
        100, 40, epochs=5, steps_per_epoch=20, columns=COLUMNS, show=True, seconds=0
    )
    assert progress.due()
    progress.update(70, {"loss": 0.123456, "accuracy": 0.25, "gradient_norm": 1.0}, 1000.0)
    progress.say("a line")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 4/5 70%  loss 0.123  accuracy 25.00%  1000 images/s  0:00 left",
        "a line",
    ]


def test_time_left_counts_the_steps_of_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("common.runs.progress.time.monotonic", lambda: now)
    progress = Progress(100, 40, show=True)
    now = 1060.0  # 10 steps in a minute, 50 to go
    assert progress.due()
    progress.update(50, {}, 1.0)
    assert not progress.due()
    assert capsys.readouterr().out.endswith("5:00 left\n")


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, 0, show=False, seconds=0)
    assert not progress.due()
    progress.update(1, {"loss": 1.0}, 1.0)
    progress.epoch(RECORD, best=True)
    progress.say("epoch 1")
    progress.close()
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return screen


def test_a_bar_on_a_terminal_is_wide_and_stays_below_the_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_a_terminal(monkeypatch)
    progress = Progress(40, 0, epochs=2, steps_per_epoch=20, columns=COLUMNS, show=True)
    progress.update(10, {"loss": 0.5, "accuracy": 0.25}, 431.0)
    progress.epoch(RECORD, best=True)
    progress.waiting(20, "evaluating")
    progress.close()
    bars = [part.split("\033[K")[-1] for part in terminal.getvalue().split("\r")]
    bar = next(part for part in bars if part.startswith("epoch 1/2 ") and "0.500" in part)
    bar = bar.partition("\033")[0]
    assert len(bar) == 79 and bar.count("━") + bar.count("─") >= 10
    assert bar.count("━") == (bar.count("━") + bar.count("─")) // 4
    assert "loss 0.500  431 images/s  0:00 left" in bar
    # It is wiped before a line, drawn again below it, and gone at the end.
    assert f"best\033[0m\n{bar}" in terminal.getvalue()
    assert re.search(r"epoch 1/2 ━+─+  50%  evaluating", terminal.getvalue())
    assert terminal.getvalue().endswith("\r\033[K")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    progress = Progress(40, 0, epochs=2, steps_per_epoch=20, columns=COLUMNS, show=True)
    progress.epoch(RECORD, best=True)
    progress.close()
    assert "\033" not in terminal.getvalue() and " best\n" in terminal.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 200])
def test_a_bar_fits_its_line(columns: int) -> None:
    parts = ["loss 1.234", "accuracy 12.34%", "1234 images/s", "1:02:03 left"]
    line = bar_line("epoch 12/300", 0.5, parts, columns, ascii_only=True)
    assert len(line) <= columns
    if columns >= 40:
        assert len(line) == columns and line.count("#") + line.count(".") >= 10
        assert "50%" in line
    if columns == 60:  # what matters least goes first
        assert "left" in line and "loss" not in line


def test_the_head_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(40, 0, epochs=60, steps_per_epoch=1, columns=COLUMNS, show=True)
    for epoch in range(1, 28):
        progress.epoch({**RECORD, "epoch": epoch}, best=False)
    assert capsys.readouterr().out.count("accuracy") == 4  # two in each head
