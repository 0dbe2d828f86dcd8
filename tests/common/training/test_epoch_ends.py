"""What the loop does where an epoch ends, and where it is asked to end: everything in its order.

A network of one weight, six images in three steps; what takes part only notes that it was called.
"""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recipes import Training
from torch import Tensor, nn

from common.command.flags import Options
from common.images.sampling import MicroBatch
from common.processes.determinism import seed_generators
from common.processes.polling import Polling
from common.processes.ranks import World
from common.processes.signals import Terminated
from common.recipe import Optimization
from common.runs import checkpoints, trackers
from common.runs.folder import RunFolder
from common.runs.metrics_log import MetricsLog, read_metrics
from common.runs.progress import Progress
from common.runs.terminal import speaking
from common.training import assembly, loop
from common.training.non_finite import FiniteCheck
from common.training.task import Task

CPU = torch.device("cpu")
SETTINGS = Optimization(lr=0.1, batch_size=2, epochs=2)
Event = tuple[Any, ...]


def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Tensor]:
    for one in micro_batches:
        yield torch.ones(len(one.indices), 1)


def loss(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    assert network.training
    return {"loss": (network(batch) - 3).square().mean()}


def task(scores: Iterable[float | None] = (), **changes: Any) -> Task:
    """Make a task whose evaluations give these scores; without any, they give none."""
    given = iter([{"score": score} for score in scores])

    def evaluate(network: nn.Module) -> dict[str, float | None]:
        assert not network.training
        return next(given, {})

    return Task(
        **{
            "model": nn.Linear(1, 1).eval(),
            "num_images": 6,
            "load": load,
            "loss": loss,
            "evaluate": evaluate,
            "metric": "score",
            **changes,
        }
    )


def train(
    path: Path | None, task: Task, settings: Optimization = SETTINGS, watch: Any = None, **more: Any
) -> Any:
    options = Options(**{"log": "none", **more})
    folder = RunFolder(path, {"stage": "test"}) if path else None
    try:
        return loop.train(task, Training(settings), options, World(CPU), folder, watch)
    finally:
        if folder:
            folder.close()


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Heed it, though the tests may run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def asks(number: int = signal.SIGTERM) -> Callable[..., None]:
    return lambda *_: os.kill(os.getpid(), number)


# --------------------------------------------------------------------------- the order


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Let all that takes part in the end of an epoch note that it is called, and with what."""
    seen: list[Event] = []

    def noted(owner: Any, name: str, what: Callable[..., Event]) -> None:
        whole = getattr(owner, name)

        def call(*given: Any, **more: Any) -> Any:
            seen.append(what(*given, **more))
            return whole(*given, **more)

        monkeypatch.setattr(owner, name, call)

    def points(run: trackers.Tracked) -> Any:
        return SimpleNamespace(
            numbers=lambda step, values: seen.append(("sent", step, *sorted(values)[:1])),
            pictures=lambda step, drawn: seen.append(("pictures sent", step, *drawn)),
            close=lambda: seen.append(("closed",)),
        )

    monkeypatch.setitem(trackers.TRACKERS, "trackio", (points, "json"))
    monkeypatch.setattr(assembly, "_POINTS", 1)  # one point an epoch
    noted(FiniteCheck, "check", lambda self, sums, step, now=False: ("check", step, now))
    noted(loop, "seed_generators", lambda *given: ("seed", *given))
    monkeypatch.setattr(loop, "share", lambda tensors: seen.append(("share", len(list(tensors)))))
    noted(Progress, "waiting", lambda self, step, what: (what, step))
    noted(MetricsLog, "write", lambda self, record: ("line", record["epoch"], record["step"]))
    noted(loop, "emit", lambda record: ("emit", record["step"]))
    noted(Progress, "epoch", lambda self, record, best: ("shown", record["step"], best))
    noted(Progress, "say", lambda self, text: ("say", text))
    noted(MetricsLog, "flush", lambda self: ("flush",))
    noted(loop, "save_best", lambda state, folder: ("best.pt", state.step, folder.path.name))
    noted(loop, "save", lambda state, folder, world: ("last.pt", state.step, world.size))
    noted(assembly._Speed, "restart", lambda self, step: ("clock", step))
    return seen


class Watch:
    def __init__(self, seen: list[Event]) -> None:
        self.seen = seen

    def begin(self, state: Any, data: Any) -> None:
        self.seen.append(("begin", state.step))

    def after_step(self, state: Any) -> None:
        self.seen.append(("step", state.step))

    def saved(self, state: Any) -> None:
        self.seen.append(("saved", state.step))


def test_an_epoch_ends_in_this_order(tmp_path: Path, events: list[Event]) -> None:
    """The first is the best so far; of the second nothing is kept; the last is kept, no best."""
    with_buffer = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))  # of three buffers

    def draw(network: nn.Module) -> dict[str, Any]:
        assert network is with_buffer and not network.training
        events.append(("drawn",))
        return {"a/b": 0}

    of_task = task([5, 5, 4], model=with_buffer, pictures=draw)
    settings = replace(SETTINGS, epochs=3)
    train(tmp_path / "run", of_task, settings, Watch(events), seed=7, log="trackio")

    def begins(step: int) -> list[Event]:
        return [
            *(("check", step - 3, False), ("step", step - 2)),
            *(("check", step - 2, False), ("step", step - 1)),
            *(("check", step - 1, False), ("sent", step, "steps/loss"), ("step", step)),
            ("check", step, True),
            *(("seed", 7, step, -1, CPU), ("share", 3), ("evaluating", step)),
            *(("drawn",), ("pictures sent", step, "a/b")),
            *(("line", step // 3, step), ("emit", step), ("sent", step, "train/loss")),
        ]

    def saved(step: int) -> list[Event]:
        return [("check", step, True), ("flush",), ("saved", step), ("last.pt", step, 1)]

    said, events[:] = [e for e in events if e[0] == "say"], [e for e in events if e[0] != "say"]
    assert events == [
        *(("clock", 0), ("begin", 0)),
        *begins(3),
        ("shown", 3, True),
        *(("flush",), ("saved", 3), ("best.pt", 3, "run")),
        *saved(3),
        ("clock", 3),
        *begins(6),
        *(("shown", 6, False), ("clock", 6)),
        *begins(9),
        ("shown", 9, False),
        *saved(9),
        *(("clock", 9), ("closed",)),
    ]
    assert not any("stops early" in text for _, text in said)


def test_what_is_evaluated_and_kept_is_the_average(tmp_path: Path) -> None:
    seen: list[nn.Module] = []

    def evaluate(network: nn.Module) -> dict[str, float]:
        seen.append(network)
        assert not network.training
        return {"score": 1.0}

    of_task = task(evaluate=evaluate, pictures=seen.append)
    train(tmp_path, of_task, replace(SETTINGS, ema_decay=0.5))
    assert all(network is seen[0] is not of_task.model for network in seen)
    train(tmp_path / "plain", plain := task(evaluate=evaluate))
    assert seen[-1] is plain.model and plain.model.training and of_task.model.training


def test_evaluations_draw_by_seed_and_step(tmp_path: Path) -> None:
    """The same, whatever was drawn before, and other draws than those of any step."""
    drawn: list[float] = []
    evaluate = lambda network: drawn.append(torch.rand(()).item()) or {}  # noqa: E731
    train(tmp_path, task(evaluate=evaluate), seed=3)
    expected = []
    for step in (3, 6):
        seed_generators(3, step, -1, CPU)
        expected.append(torch.rand(()).item())
    assert drawn == expected


# --------------------------------------------------------------------------- what is kept


def test_an_undefined_score_is_no_better_one_and_none_is_no_evaluation(tmp_path: Path) -> None:
    found = train(tmp_path, task([None, -2.0, None, -2.5]), replace(SETTINGS, epochs=4))
    assert found == {"score": -2.5, "best_score": -2.0}
    last = checkpoints.load(tmp_path / "last.pt")
    assert (last["best"], last["stale"], last["metrics"]) == (-2.0, 2, {"score": -2.5})
    train(tmp_path / "none", task(), replace(SETTINGS, epochs=4), patience=1)
    last = checkpoints.load(tmp_path / "none" / "last.pt")
    assert (last["best"], last["stale"], last["step"]) == (float("-inf"), 0, 12)


@pytest.mark.parametrize(("patience", "ends", "told"), [(1, 6, True), (2, 9, True), (3, 12, False)])
def test_patience_is_not_lost_where_the_training_ends_anyway(
    tmp_path: Path, events: list[Event], patience: int, ends: int, told: bool
) -> None:
    found = train(tmp_path, task([3, 2, 1, 0]), replace(SETTINGS, epochs=4), patience=patience)
    said = f"stops early: {patience} evaluations without a better one"
    assert ([e for e in events if "stops early" in str(e[1:])] == [("say", said)]) is told
    assert [e for e in events if e[0] == "last.pt"] == [("last.pt", 3, 1), ("last.pt", ends, 1)]
    assert checkpoints.load(tmp_path / "last.pt")["stale"] == patience
    assert found == {"score": 3 - patience, "best_score": 3}


def test_a_rank_without_a_folder_trains_alike_and_is_silent(
    tmp_path: Path, events: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking(json_lines=True):
        assert train(None, task([1, 2]), quiet=True) == {"score": 2, "best_score": 2}
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    told = {"line", "emit", "flush", "best.pt", "sent"}
    assert not told & {what for what, *_ in events}
    assert [e for e in events if e[0] == "last.pt"] == [("last.pt", 3, 1), ("last.pt", 6, 1)]


def test_evaluating_and_saving_take_no_time_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that steps move by one second, evaluations and saves by a thousand."""
    now = [50.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("common.training.assembly.time.monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "save", lambda *_: passes(1000))
    of_task = replace(
        task(),
        loss=lambda network, batch: passes(1) or loss(network, batch),
        evaluate=lambda network: passes(1000) or {"score": now[0]},
    )
    train(tmp_path, of_task, replace(SETTINGS, epochs=3), checkpoint_minutes=1e4)
    lines = read_metrics(tmp_path)
    assert [line["seconds"] for line in lines] == [3, 3, 3]
    assert [line["images_per_second"] for line in lines] == [2, 2, 2]


@pytest.mark.parametrize(("minutes", "saves"), [(0.1, [4, 8, 12]), (0.09, [3, 6, 9, 12])])
def test_a_checkpoint_comes_after_more_than_its_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, saves: list[int]
) -> None:
    """By a clock that steps move, by two seconds each; 0.1 minutes are 6 seconds."""
    now, kept = [50.0], []

    def passes(step: float) -> None:
        now[0] += 2

    monkeypatch.setattr("common.training.assembly.time.monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "save", lambda state, *_: kept.append(state.step))
    settings = replace(SETTINGS, epochs=4)
    train(tmp_path, task(at_step=passes), settings, checkpoint_minutes=minutes)
    assert kept == saves


def test_counts_of_the_method_and_of_loss_scaling() -> None:
    """Layers' counts are summed over the ranks before they are read."""
    summed: list[int] = []
    layers = [SimpleNamespace(totals=1), SimpleNamespace(totals=2)]

    def counts() -> dict[str, int]:
        assert summed == [1, 2]
        return {"steps": 30, "participating_steps": 3, "images": 12}

    focus = SimpleNamespace(layers=layers, end_epoch=counts)
    state: Any = SimpleNamespace(focus=focus, scaling=SimpleNamespace(end_epoch=lambda: 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "sum_over_ranks", summed.append)
        of_method = {"focus_participating_steps": 3, "focus_images": 12}
        assert loop._method_counts(state) == {**of_method, "scaler_skips": 5}
        state.focus = None
        assert loop._method_counts(state) == {"scaler_skips": 5}
        state.scaling = None
        assert loop._method_counts(state) == {}
    assert summed == [1, 2]


# --------------------------------------------------------------------------- on request


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_while_it_is_put_together(tmp_path: Path, number: int, code: int) -> None:
    """Nothing is trained or saved; on resuming, the number of steps is that of the checkpoint."""
    asking = replace(task(), load=lambda plan: asks(number)() or load(plan))
    for step in (0, 3):
        with pytest.raises(Terminated, match=rf"^ended on request before step {step}$") as caught:
            train(tmp_path, asking)
        assert caught.value.exit_code == code
        assert (tmp_path / "last.pt").exists() == (step == 3)
        train(tmp_path, task(), stop_step=3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [1, 3, 6])
def test_asked_within_a_step(
    tmp_path: Path, events: list[Event], number: int, code: int, step: int
) -> None:
    """An epoch that this step completes has its line; one that it does not is not evaluated."""
    done: list[float] = []

    def at_step(share: float) -> None:
        done.append(share)
        if len(done) == step:
            asks(number)()

    with pytest.raises(Terminated, match=rf"^ended on request after step {step}$") as caught:
        train(tmp_path, task([1, 2], at_step=at_step), watch=Watch(events))
    assert caught.value.exit_code == code
    assert done == [n / 6 for n in range(step)]
    # The last thing that is done; where the epoch was cut in its evaluation, the only one.
    assert events[-1] == ("last.pt", step, 1) and events[-2] == ("saved", step)
    assert not (tmp_path / "metrics.jsonl").read_text() or step == 6
    resumed: list[float] = []
    found = train(tmp_path, task([1, 2][step == 6 :], at_step=resumed.append))
    assert found == {"score": 2, "best_score": 2}
    # The epoch whose evaluation was cut is evaluated as after its last step.
    cut = [] if step == 1 else [(step - 1) / 6]
    assert resumed == [*cut, *(n / 6 for n in range(step, 6))]
    assert [line["step"] for line in read_metrics(tmp_path)] == [3, 6]


def test_an_evaluation_that_is_cut_sends_no_pictures(tmp_path: Path, events: list[Event]) -> None:
    def evaluate(network: nn.Module) -> dict[str, float]:
        asks()()
        raise Terminated("of the task")

    cut = task(evaluate=evaluate, pictures=lambda network: {"a/b": 0})
    with pytest.raises(Terminated, match=r"^ended on request after step 3$"):
        train(tmp_path, cut, log="trackio")
    assert cut.model.training and not (tmp_path / "metrics.jsonl").read_text()
    assert not any(what in ("pictures sent", "line", "shown") for what, *_ in events)
    last = checkpoints.load(tmp_path / "last.pt")
    assert (last["step"], last["sums"]["images"], last["metrics"]) == (3, 6, {})


def test_a_finished_epoch_is_not_evaluated_again(tmp_path: Path) -> None:
    calls: list[float] = []

    def step(share: float) -> None:
        calls.append(share)

    train(tmp_path, task([1]), replace(SETTINGS, epochs=1))
    assert train(tmp_path, task([2], at_step=step)) == {"score": 2, "best_score": 2}
    assert calls == [3 / 6, 4 / 6, 5 / 6]


def test_what_the_ranks_agree_on_is_done(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rank was asked to end, without Ctrl-C; another one is late."""
    asked: list[Any] = []

    def ask(self: Any, step: int, *wishes: bool) -> list[bool]:
        asked.append((step, *wishes))
        return [step == 5, step in (2, 5)]

    monkeypatch.setattr(Polling, "ask", ask)
    with pytest.raises(Terminated, match="after step 5$") as caught:
        train(tmp_path, task([1]))
    assert caught.value.exit_code == 143
    assert asked == [(step, False, False) for step in (1, 2, 3, 4, 5)]
    assert [e[1] for e in events if e[0] == "last.pt"] == [2, 3, 5]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 3
