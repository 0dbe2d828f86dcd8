"""Trackers: the same numbers as metrics.jsonl, resumed, and no training ends for one."""

import json
import math
import os
import sqlite3
import struct
import sys
import time
import types
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


class Recorder(types.ModuleType):
    """A library that notes how it is called; what it returns notes its calls, too."""

    def __init__(self, name: str, **fields: Any) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*given: Any, **named: Any) -> Any:
            self.calls.append((name, *given, named) if named else (name, *given))
            return self if name == "init" else (name, *given)

        return called


def run_of(folder: Path, step: int = 10) -> Tracked:
    return Tracked(folder=folder, name="toy", step=step, config={"seed": 0}, id="ab12")


@pytest.mark.parametrize("project", [None, "mine"])
@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_how_a_library_is_called(
    package: str, project: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Recorder(package)
    monkeypatch.setitem(sys.modules, package, library)
    variable = f"{package.upper()}_PROJECT"
    if project:
        monkeypatch.setenv(variable, project)
    else:
        monkeypatch.delenv(variable, raising=False)
    tracker = trackers.TRACKERS[package][0](run_of(tmp_path))
    tracker.numbers(11, {"train/loss": 0.5})
    tracker.pictures(12, {"samples/a": PICTURE})
    tracker.close()
    begun = {
        "wandb": {
            "project": project or "focused-dropout",
            "name": f"toy {tmp_path.name}",
            "id": "ab12",
            "resume": "allow",
            "dir": str(tmp_path),
            "config": {"seed": 0},
            "settings": ("Settings",),
        },
        "trackio": {
            "project": project or "focused-dropout",
            "name": "toy-ab12",
            "config": {"seed": 0},
            "resume": "allow",
            "embed": False,
            "auto_log_gpu": False,
            "auto_log_cpu": False,
        },
    }[package]
    calls = library.calls
    if package == "wandb":
        assert calls.pop(0) == ("Settings", {"console": "off", "quiet": True})
    assert calls[0] == ("init", begun)
    assert calls[1] == ("log", {"train/loss": 0.5}, {"step": 11})
    assert calls[2] == ("Image", PICTURE)
    assert calls[3] == ("log", {"samples/a": ("Image", PICTURE)}, {"step": 12})
    assert calls[4:] == [("finish",)]


class Client(Recorder):
    """MLflow's client, of a server that may know the experiment and the run."""

    def __init__(self, experiment: object, known: list[Any]) -> None:
        super().__init__("client")
        self.experiment, self.known = experiment, known

    def get_experiment_by_name(self, name: str) -> object:
        self.calls.append(("get_experiment_by_name", name))
        return self.experiment

    def get_experiment(self, number: object) -> object:
        return types.SimpleNamespace(experiment_id=number)

    def create_run(self, *given: Any, **named: Any) -> object:
        self.calls.append(("create_run", *given, named))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="new"))

    def search_runs(self, *given: Any) -> list[Any]:
        self.calls.append(("search_runs", *given))
        return self.known


def mlflow(
    patch: pytest.MonkeyPatch, folder: Path, experiment: object, known: list[Any]
) -> tuple[Any, list[tuple[Any, ...]], list[str]]:
    client, places = Client(experiment, known), []

    def connect(uri: str) -> Client:
        places.append(uri)
        return client

    entities = Recorder("mlflow.entities", Metric=lambda *given: given)
    tracking = Recorder("mlflow.tracking", MlflowClient=connect)
    patch.setitem(sys.modules, "mlflow", Recorder("mlflow", entities=entities, tracking=tracking))
    patch.setitem(sys.modules, "mlflow.entities", entities)
    patch.setitem(sys.modules, "mlflow.tracking", tracking)
    patch.setattr(time, "time", lambda: 1.5)
    return trackers.MLflow(run_of(folder)), client.calls, places


def test_mlflow_begins_a_run_in_a_database_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    tracker, calls, places = mlflow(monkeypatch, tmp_path, None, [])
    assert places == [f"sqlite:///{tmp_path}/mlflow.db"]
    tracker.numbers(11, {"train/loss": 0.5})
    tracker.pictures(12, {"samples/a": PICTURE})
    tracker.close()
    created = ("create_experiment", "focused-dropout", (tmp_path / "mlflow").as_uri())
    assert calls == [
        ("get_experiment_by_name", "focused-dropout"),
        created,
        ("search_runs", [created], "tags.focused_dropout_run = 'ab12'"),
        (
            "create_run",
            created,
            {"tags": {"focused_dropout_run": "ab12"}, "run_name": f"toy {tmp_path.name}"},
        ),
        ("log_param", "new", "seed", 0),
        ("log_batch", "new", [("train/loss", 0.5, 1500, 11)]),
        ("log_image", "new", PICTURE, {"key": "samples-a", "step": 12}),
        ("set_terminated", "new"),
    ]


def test_mlflow_goes_on_with_a_run_that_a_server_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    old = types.SimpleNamespace(info=types.SimpleNamespace(run_id="old"))
    experiment = types.SimpleNamespace(experiment_id="7")
    tracker, calls, places = mlflow(monkeypatch, tmp_path, experiment, [old])
    tracker.close()
    assert places == ["http://here"]
    assert calls == [
        ("get_experiment_by_name", "mine"),
        ("search_runs", ["7"], "tags.focused_dropout_run = 'ab12'"),
        ("update_run", "old", {"status": "RUNNING"}),
        ("set_terminated", "old"),
    ]
    _, calls, _ = mlflow(monkeypatch, tmp_path, None, [old])
    assert calls[1] == ("create_experiment", "mine", None)


class Kept:
    """A tracker that keeps what it is sent."""

    sent: list[tuple[int, Any]]

    def __init__(self, run: Tracked) -> None:
        self.run, self.sent = run, []

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.sent.append((step, dict(values)))

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        self.sent.append((step, list(pictures)))

    def close(self) -> None:
        self.sent.append((-1, "closed"))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(trackers.TRACKERS, name, (Kept, "json"))


@pytest.mark.usefixtures("kept")
def test_a_point_is_sent_once_but_to_those_that_take_points_back(tmp_path: Path) -> None:
    (tmp_path / "trackers.json").write_text('{"id": "cd34", "step": 20}')
    both = Trackers(("wandb", "tensorboard"), tmp_path, "toy", 10, {"seed": 0}, print)
    one, other = (both._open[name] for name in ("wandb", "tensorboard"))
    assert isinstance(one, Kept) and isinstance(other, Kept)
    assert one.run == Tracked(folder=tmp_path, name="toy", step=10, config={"seed": 0}, id="cd34")
    for step in (19, 20, 21):
        both.within_epoch(step, {"loss": float(step), "gone": math.nan, "far": math.inf})
    both.epoch({"step": 20, "train_loss": 0.5})
    assert json.loads((tmp_path / "trackers.json").read_text())["step"] == 20
    both.epoch({"step": 30, "train_loss": 0.25})
    both.pictures(30, lambda: {"samples/a": PICTURE})
    both.close()
    assert not both
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"id": "cd34", "step": 30}
    late = [
        (21, {"steps/loss": 21.0}),
        (30, {"train/loss": 0.25}),
        (30, ["samples/a"]),
        (-1, "closed"),
    ]
    assert one.sent == late
    early = [(19, {"steps/loss": 19.0}), (20, {"steps/loss": 20.0})]
    assert other.sent == [*early, late[0], (20, {"train/loss": 0.5}), *late[1:]]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("content", "step", "sent"),
    [
        ('{"id": "cd34", "step": 20}', 10, 20),
        ('{"id": "cd34", "step": 20}', 30, 30),
        ('{"id": "cd34", "step": 20}', 0, None),  # a new run in the folder
        ("{}", 10, None),
        ("[", 10, None),
        ('{"id": "cd34", "step": "x"}', 10, None),
        ("[1]", 10, None),
    ],
)
def test_what_a_resumed_run_remembers(
    content: str, step: int, sent: int | None, tmp_path: Path
) -> None:
    (tmp_path / "trackers.json").write_text(content)
    run = Trackers(("wandb",), tmp_path, "toy", step, {}, print)
    if sent is None:
        assert run._id != "cd34" and len(run._id) == 8 and run._id.isalnum()
        assert run._sent == step
    else:
        assert (run._id, run._sent) == ("cd34", sent)


def test_groups_of_names() -> None:
    named = {"train_loss": 1, "train": 2, "train_": 3, "other_loss": 4.0, "val_a_b": 5, "epoch": 6}
    assert grouped({**named, "step": 7, "on": True, "text": "x", "none": None}) == {
        "train/loss": 1,
        "training/train": 2,
        "training/train_": 3,
        "training/other_loss": 4.0,
        "val/a_b": 5,
    }


def test_a_reason_is_one_line_of_160_characters() -> None:
    assert trackers._reason(ValueError("a\n  b")) == "ValueError: a b"
    assert trackers._reason(ValueError("x" * 200)) == f"ValueError: {'x' * 148}"
