"""What a training says at its end."""

import io
import json
import sys
from pathlib import Path

import pytest

from common.runs.ending import command, end, lines, wrapped_command
from common.runs.epoch_lines import Column
from common.runs.metrics_log import MetricsLog
from common.runs.terminal import speaking

RUN = Path("runs/a b")
COLUMNS = [Column("val_accuracy", "accuracy", "percent", "validation")]


def record(epoch: int, accuracy: float | None) -> dict[str, float | None]:
    return {"epoch": epoch, "step": 5 * epoch, "val_accuracy": accuracy, "seconds": 30.25}


def test_the_best_is_the_first_of_equals_and_the_last_the_last_that_was_scored() -> None:
    records = [record(1, 0.25), record(2, 0.5), record(3, 0.5), record(4, 0.375), record(5, None)]
    assert lines(RUN, records, "val_accuracy", COLUMNS) == [
        "best  validation accuracy 50.00% in epoch 2: runs/a b/best.pt",
        "last  validation accuracy 37.50% in epoch 4: runs/a b/last.pt",
        "log   runs/a b/metrics.jsonl; 2:31 in training steps",
    ]


def test_without_a_score_there_is_no_best() -> None:
    unscored = [record(1, None), {"epoch": 2, "step": 10}]
    assert lines(RUN, unscored, "val_accuracy", COLUMNS) == [
        "log   runs/a b/metrics.jsonl; 0:30 in training steps"
    ]
    assert lines(RUN, [], "val_accuracy", COLUMNS) == [
        "log   runs/a b/metrics.jsonl; 0:00 in training steps"
    ]


def test_a_command_is_broken_before_its_flags_where_the_terminal_ends() -> None:
    told = "python -m pretrain export 'a b' --out c --best"
    assert (
        command("python", "-m", "pretrain", "export", Path("a b"), "--out", "c", "--best") == told
    )
    assert wrapped_command(None, told) == told
    whole = len(f"      {told} \\")
    assert wrapped_command(whole, told) == told
    first = "python -m pretrain export 'a b'"
    assert wrapped_command(whole - 1, told) == f"{first} --out c \\\n        --best"
    short = len(f"      {first} --out c \\") - 1
    assert wrapped_command(short, told) == f"{first} \\\n        --out c --best"
    assert wrapped_command(10, told) == f"{first} \\\n        --out c \\\n        --best"


def test_people_and_programs_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    log = MetricsLog(tmp_path)
    log.write(record(1, 0.25))
    with speaking(json_lines=True):
        end(tmp_path, {"val_accuracy": 0.25}, "val_accuracy", COLUMNS, "evaluate x --best")
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "run": str(tmp_path),
        "best_checkpoint": f"{tmp_path}/best.pt",
        "last_checkpoint": f"{tmp_path}/last.pt",
        "val_accuracy": 0.25,
    }
    assert err.splitlines() == [
        f"best  validation accuracy 25.00% in epoch 1: {tmp_path}/best.pt",
        f"last  validation accuracy 25.00% in epoch 1: {tmp_path}/last.pt",
        f"log   {tmp_path}/metrics.jsonl; 0:30 in training steps",
        "next  evaluate x --best",
    ]


def test_the_command_that_follows_comes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held))
    end(tmp_path, {}, "val_accuracy", COLUMNS, "evaluate x")
    assert held.getvalue().endswith(b"next  evaluate x\n")
