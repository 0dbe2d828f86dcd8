"""Trackers: the same numbers as metrics.jsonl, resumed, and no training ends for one."""

import json
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.runs import trackers
from common.runs.metrics_log import MetricsLog
from common.runs.trackers import Picture, Tracked, Trackers, chosen, grouped

PICTURE = np.full((8, 6, 3), 200, np.uint8)
RECORDS = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "lr": 0.1 / epoch,
        "train_loss": 1 / (3 * epoch),
        "val_accuracy": epoch / 7,
        "val_map": None,
        "focus_keep_ratio": 0.5 + epoch / 100,
        "images_per_second": 100.0 * epoch,
        "seconds": 1.5,
    }
    for epoch in (1, 2, 3)
]
EXPECTED = {
    "train/loss": "train_loss",
    "val/accuracy": "val_accuracy",
    "focus/keep_ratio": "focus_keep_ratio",
    "training/lr": "lr",
    "training/images_per_second": "images_per_second",
    "training/seconds": "seconds",
}


def begin(name: str, folder: Path, step: int, said: list[str] | None = None) -> Trackers:
    say: Callable[[str], None] = (said if said is not None else []).append
    return Trackers((name,), folder, "toy", step, {"seed": 0, "optimization.lr": 0.1}, say)


def follow(name: str, folder: Path) -> list[str]:
    """A training of three epochs that is killed after the second and resumed from the first."""
    said: list[str] = []
    first = begin(name, folder, 0, said)
    assert first
    log = MetricsLog(folder)
    for record in RECORDS[:2]:
        first.within_epoch(record["step"] - 5, {"loss": record["train_loss"] / 2})
        log.write(record)
        first.epoch(record)
        first.pictures(record["step"], lambda: {"samples/one": PICTURE})
    first.close()
    again = begin(name, folder, 10, said)
    log = MetricsLog(folder, 10)
    for record in RECORDS[1:]:
        again.within_epoch(record["step"] - 5, {"loss": record["train_loss"] / 2})
        log.write(record)
        again.epoch(record)
    again.close()
    return said


def expected() -> dict[str, list[tuple[int, float]]]:
    found = {
        curve: [(record["step"], record[key]) for record in RECORDS]
        for curve, key in EXPECTED.items()
    }
    steps = [(record["step"] - 5, record["train_loss"] / 2) for record in RECORDS]
    return found | {"steps/loss": steps}


def needs(package: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} is an extra that no test installs")


def test_curves_are_grouped_and_the_epoch_is_none() -> None:
    curves = grouped({**RECORDS[0], "flag": True, "text": "x"})
    assert curves == {curve: RECORDS[0][key] for curve, key in EXPECTED.items()}


def test_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is optional"
    )
    assert follow("tensorboard", tmp_path) == []
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert found == {
        curve: [(step, float(np.float32(value))) for step, value in points]
        for curve, points in expected().items()
    }
    assert [image.step for image in events.Images("samples/one")] == [10]  # 20 comes again
    assert not (tmp_path / "trackers.json").exists()


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Read the log format of LevelDB, in which W&B keeps its messages, after its own header."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert follow("wandb", tmp_path) == []
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[int, float]] = {}
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one run, resumed
    for file in files:
        records: list[Any] = []
        for _ in range(100):  # its own process writes them
            records = [Record.FromString(data) for data in leveldb_records(file.read_bytes())]
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                break
            time.sleep(0.1)
        for record in records:
            items = {
                item.key or "/".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            for curve in {*items} & {*EXPECTED, "steps/loss"}:
                points = found.setdefault(curve, {})
                step = int(record.history.step.num)
                assert step not in points
                points[step] = json.loads(items[curve])
    assert {curve: [*points.items()] for curve, points in found.items()} == expected()
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/samples/one*.png"))


@pytest.mark.filterwarnings("default")  # of its own code
def test_mlflow_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    needs("sqlalchemy")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert follow("mlflow", tmp_path) == []
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute("select key, step, value from metrics order by step").fetchall()
        runs = database.execute("select name, status from runs").fetchall()
        settings = dict(database.execute("select key, value from params").fetchall())
    found: dict[str, list[tuple[int, float]]] = {}
    for curve, step, value in rows:
        found.setdefault(curve, []).append((step, value))
    assert found == expected()
    assert runs == [(f"toy {tmp_path.name}", "FINISHED")]
    assert settings == {"seed": "0", "optimization.lr": "0.1"}


def test_trackio_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads the variable when it is imported
    assert follow("trackio", tmp_path) == []
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs(trackers.PROJECT)
    found: dict[str, list[tuple[int, float]]] = {}
    for row in SQLiteStorage.get_logs(trackers.PROJECT, run):
        for curve in {*row} & {*EXPECTED, "steps/loss"}:
            found.setdefault(curve, []).append((row["step"], row[curve]))
    assert found == expected()


class Failing:
    """A tracker whose server is gone after the first point."""

    def __init__(self, run: Tracked) -> None:
        self.points = 0

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        print("noise of a library")
        self.points += 1
        if self.points > 1:
            raise ConnectionError("the server\nis gone")

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None: ...

    def close(self) -> None:
        raise AssertionError("closed although it was left out")


def test_a_failing_tracker_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", (Failing, "json"))
    said: list[str] = []
    followed = begin("wandb", tmp_path, 0, said)
    for record in RECORDS:
        followed.epoch(record)
    followed.pictures(30, lambda: pytest.fail("drawn for nobody"))
    followed.close()
    assert said == ["warning: wandb failed and is left out (ConnectionError: the server is gone)"]
    assert not followed
    assert capsys.readouterr() == ("", "noise of a library\n" * 2)


def test_one_that_cannot_begin_and_pictures_that_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Tracked) -> None:
        raise PermissionError("log in first")

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", (refuse, "json"))  # type: ignore[arg-type]
    said: list[str] = []
    begin("mlflow", tmp_path, 0, said).epoch(RECORDS[0])
    assert said == [
        "warning: mlflow could not begin and is left out (PermissionError: log in first)"
    ]
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", (Failing, "json"))

    def broken() -> dict[str, Picture]:
        raise ValueError("no image")

    begin("mlflow", tmp_path, 0, said).pictures(1, broken)
    assert said[1:] == ["warning: no sample pictures for the trackers (ValueError: no image)"]


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_installed", lambda package: package in ("wandb", "tensorboard"))
    assert chosen("wandb,tensorboard, wandb") == ("wandb", "tensorboard")
    assert chosen("none") == ()
    assert chosen(None) == ("tensorboard",)
    with pytest.raises(InputError, match=r"--log wandbb is no tracker: choose from tensorboard, w"):
        chosen("wandbb")
    with pytest.raises(InputError, match=r"--log mlflow needs .*pip install mlflow"):
        chosen("mlflow")
    monkeypatch.setattr(trackers, "_installed", lambda package: False)
    assert chosen(None) == ()
