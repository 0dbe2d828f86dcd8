"""The tables of results in this repository: every row has its log, and agrees with it."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from common.runs.results import KEY, log_path
from detect.results import KEY as DETECT_KEY

ROOT = Path(__file__).parents[1]
KEYS = {"pretrain": KEY, "detect": DETECT_KEY}


def rows_of(stage: str) -> list[dict[str, str]]:
    with (ROOT / stage / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log_of(stage: str, row: dict[str, str]) -> list[dict[str, Any]]:
    log = log_path(ROOT / stage / "results.csv", row, KEYS[stage])
    return [json.loads(line) for line in gzip.decompress(log.read_bytes()).splitlines()]


@pytest.mark.parametrize("stage", KEYS)
def test_each_row_has_one_log_and_each_log_a_row(stage: str) -> None:
    table = ROOT / stage / "results.csv"
    logs = [log_path(table, row, KEYS[stage]) for row in rows_of(stage)]
    assert sorted(logs) == sorted((ROOT / stage / "logs").iterdir())


@pytest.mark.parametrize("stage", KEYS)
def test_rows_tell_what_their_logs_tell(stage: str) -> None:
    for row in rows_of(stage):
        epochs = log_of(stage, row)
        assert [epoch["epoch"] for epoch in epochs] == list(range(1, int(row["epochs"]) + 1))
        assert float(row["seconds"]) == pytest.approx(sum(e["seconds"] for e in epochs), abs=0.06)
        steps = sum(epoch.get("focus_participating_steps", 0) for epoch in epochs)
        assert int(row["participating_steps"] or 0) == steps
        if stage == "pretrain":
            best = max(epoch.get("val_accuracy", 0) for epoch in epochs)
            assert float(row["best_accuracy"]) == best
            assert epochs[int(row["best_epoch"]) - 1]["val_accuracy"] == best
            assert float(row["last_accuracy"]) == epochs[-1]["val_accuracy"]
            assert float(row["train_loss"]) == epochs[-1]["train_loss"]
