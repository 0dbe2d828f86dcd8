"""Trainings with captured steps against the same trainings without, and against resumed ones.

The tests run on a GPU, and everywhere with a stand-in for CUDA's graphs that, like them, keeps the
Python values of its capture.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from faults import same
from recipes import Training
from torch import Tensor, nn
from torch.optim import Optimizer

from common import FocusedDropout
from common.command.flags import Options
from common.errors import InputError
from common.images.sampling import MicroBatch
from common.method.focused_training import participates
from common.optimization.cuda_graphs import Capture, GraphedStep, Means, refuse
from common.optimization.optimizer import build_optimizer
from common.processes.determinism import deterministic
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.training import loop, steps
from common.training.non_finite import NonFiniteError
from common.training.task import Task

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
CPU = torch.device("cpu")
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 3
EPOCHS, STEPS = 10, 30
SETTINGS = Optimization(  # batches of 8, 8, 5; the rates are exact in float32
    lr=0.125,
    batch_size=8,
    epochs=EPOCHS,
    milestones=(6, 8),
    lr_factor=0.5,
    weight_decay=1e-3,
    precision="fp32",
    cuda_graphs=True,
)
FOCUS = Focus(after="x", participation_rate=0.5, weight_decay=0.05)


class StandIn(Capture):
    """Keeps the Python values that a graph would hold, and runs the step with them at a replay.

    Args:
        optimizer: Its groups hold some of these values.
        model: Its layers hold the others.
        events: What was done is appended to it.
        rounding: Share by which the weights come out larger in a replay than in an eager step, as
            other kernels would round otherwise.
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module, events: list[str], rounding: float = 0.0
    ) -> None:
        self.groups, self.events, self.rounding = optimizer.param_groups, events, rounding
        self.layers = [layer for layer in model.modules() if isinstance(layer, FocusedDropout)]

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        self.events.append("eager")
        yield

    def capture(self, step: Callable[[], Means]) -> tuple[Callable[[], None], Means]:
        self.events.append("capture")
        captured = self.values()
        means: Means = {}

        def replay() -> None:
            self.events.append("replay")
            now = self.values()
            self.set_values(*captured)
            for name, value in step().items():
                assert not value.requires_grad, "the autograd graph would live on"
                means.setdefault(name, torch.empty_like(value)).copy_(value)
            assert all(p.grad is None for group in self.groups for p in group["params"])
            with torch.no_grad():
                for group in self.groups:
                    torch._foreach_mul_(group["params"], 1 + self.rounding)
            self.set_values(*now)

        return replay, means

    def values(self) -> tuple[list[dict[str, Any]], list[bool]]:
        return [dict(group) for group in self.groups], [layer.active for layer in self.layers]

    def set_values(self, groups: list[dict[str, Any]], active: list[bool]) -> None:
        for group, values in zip(self.groups, groups, strict=True):
            group.update(values)
        for layer, switch in zip(self.layers, active, strict=True):
            layer.active = switch


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        FocusedDropout(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    images, labels = batch
    logits = model(images)
    return {
        "loss": F.cross_entropy(logits, labels),
        "accuracy": (logits.argmax(1) == labels).double().mean(),
    }


class Trainer:
    """Trains with CUDA's graphs, or with the stand-in on the CPU; notes what the latter did."""

    def __init__(self, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device, self.monkeypatch = device, monkeypatch
        self.events: list[str] = []
        self.rounding = 0.0

    def __call__(
        self,
        path: Path,
        settings: Optimization = SETTINGS,
        dtype: torch.dtype = torch.float64,
        poisoned: int | None = None,
        loss: Callable[[nn.Module, Any], Means] = loss,
        **options: Any,
    ) -> dict[str, Any]:
        """Train in a folder; return its last checkpoint. `poisoned` is a step with NaN images."""
        model = network().to(self.device, dtype)
        if self.device == CPU:
            self.stand_in(model)

        def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
            for number, micro_batch in enumerate(micro_batches):
                images = IMAGES[micro_batch.indices].to(self.device, dtype)
                labels = LABELS[micro_batch.indices].to(self.device)
                yield images * (float("nan") if number == poisoned else 1.0), labels

        stage = Task(
            model=model,
            num_images=len(IMAGES),
            load=load,
            loss=loss,
            evaluate=lambda model: {"val_score": 0.0},
            metric="val_score",
        )
        folder = RunFolder(path, {"stage": "test"})
        try:
            world = World(self.device)
            loop.train(stage, Training(settings, FOCUS), Options(**options), world, folder)
        finally:
            folder.close()
        return checkpoints.load(path / "last.pt")

    def stand_in(self, model: nn.Module) -> None:
        def build(
            step: Callable[[Any], Means],
            optimizer: Optimizer,
            changed: Callable[[], list[Tensor]],
            capture: None,
        ) -> GraphedStep:
            stand_in = StandIn(optimizer, model, self.events, self.rounding)
            return GraphedStep(step, optimizer, changed, stand_in)

        self.events.clear()
        self.monkeypatch.setattr(steps, "refuse", lambda *arguments, **more: None)
        self.monkeypatch.setattr(steps, "Capture", lambda device: None)
        self.monkeypatch.setattr(steps, "GraphedStep", build)


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=needs_gpu)])
def train(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    device = CPU if request.param == "stand-in" else torch.device("cuda", 0)
    return Trainer(device, monkeypatch)


def assert_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-9) -> None:
    for part in ("model", "optimizer"):
        torch.testing.assert_close(one[part], other[part], rtol=tolerance, atol=tolerance)
    assert one["focus"] == other["focus"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"clip_norm": 0.1}, {"optimizer": "adamw"}],
    ids=["sgd", "clipped", "adamw"],
)
def test_equals_eager_steps(train: Trainer, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Weights, momenta, counts and log: two rates' milestones, both decays, the short batches."""
    settings = replace(SETTINGS, **changes)
    graphed = train(tmp_path / "graphed", settings)
    eager = train(tmp_path / "eager", replace(settings, cuda_graphs=False))
    assert_same(graphed, eager)
    logs = [read_metrics(tmp_path / name) for name in ("graphed", "eager")]
    assert [record["lr"] for record in logs[0]] == [0.125] * 6 + [0.0625] * 2 + [0.03125] * 2
    for ours, theirs in zip(*logs, strict=True):
        for name in ours.keys() - {"images_per_second", "seconds"}:
            value = theirs[name]  # None where no step took part
            assert ours[name] == (value and pytest.approx(value, rel=1e-9)), name
    assert len({record["train_loss"] for record in logs[0]}) == EPOCHS


def test_each_kind_of_step_is_captured_once_and_then_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = Trainer(CPU, monkeypatch)
    train(tmp_path)
    expected: list[str] = []
    seen: set[bool] = set()
    for step in range(STEPS):
        kind = participates(0.5, 0, step)
        if step % 3 == 2:  # the short batch
            expected.append("eager")
            continue
        if kind not in seen:
            expected += ["eager"] * 3 + ["capture"]
        seen.add(kind)
        expected.append("replay")
    assert train.events == expected
    assert Counter(expected) == {"eager": 10 + 6, "capture": 2, "replay": 20}


CHANCY = replace(SETTINGS, clip_norm=0.1, epochs=4, milestones=(2,))


def drawing_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    """Draw from Python's and the CPU's generators as well, as a graph could not."""
    return loss(model, batch) | {"draws": torch.tensor(random.random()) + torch.rand(())}


@pytest.mark.parametrize("stop", range(1, 12))
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_takes_the_steps_of_the_straight_one(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stop: int,
    optimizer: Literal["sgd", "adamw"],
) -> None:
    """To the bit, though a replay rounds otherwise than an eager step: both replay the same."""
    train = Trainer(CPU, monkeypatch)
    train.rounding = 2**-20
    settings = replace(CHANCY, optimizer=optimizer)

    def run(path: Path, **options: Any) -> dict[str, Any]:
        random.seed(0)
        return train(path, settings, loss=drawing_loss, **options)

    straight = run(tmp_path / "straight")
    run(tmp_path / "resumed", stop_step=stop)
    resumed = run(tmp_path / "resumed")
    for part in ("model", "optimizer", "focus"):
        assert same(straight[part], resumed[part]), part
    train.rounding = 0.0
    assert not same(straight["model"], run(tmp_path / "exact")["model"])


@needs_gpu
@pytest.mark.parametrize("stop", [1, 5, 6, 11])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_is_equal_to_the_bit_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stop: int,
    optimizer: Literal["sgd", "adamw"],
) -> None:
    train = Trainer(torch.device("cuda", 0), monkeypatch)
    settings = replace(CHANCY, optimizer=optimizer, precision="bf16")
    with deterministic(True):
        straight = train(tmp_path / "straight", settings, torch.float32)
        train(tmp_path / "resumed", settings, torch.float32, stop_step=stop)
        resumed = train(tmp_path / "resumed", settings, torch.float32)
    for part in ("model", "optimizer", "focus"):
        assert same(straight[part], resumed[part]), part


def test_rates_and_decays_of_replayed_steps(train: Trainer, tmp_path: Path) -> None:
    """Without a gradient and momentum, each step shrinks the weights by its rate and decay."""

    def no_gradient(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
        return {"loss": 0 * loss(model, batch)["loss"]}

    settings = replace(SETTINGS, momentum=0.0, weight_decay=0.01)
    last = train(tmp_path, settings, loss=no_gradient)
    left = 1.0
    for step in range(STEPS):
        rate = 0.125 if step < 18 else 0.0625 if step < 24 else 0.03125
        left *= 1 - rate * (0.05 if participates(0.5, 0, step) else 0.01)
    weight = network().double().state_dict()["0.weight"]
    torch.testing.assert_close(last["model"]["0.weight"], weight * left, rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("graphs_first", [True, False])
def test_goes_on_with_or_without_graphs(
    train: Trainer, tmp_path: Path, graphs_first: bool, optimizer: Literal["sgd", "adamw"]
) -> None:
    graphs = replace(SETTINGS, optimizer=optimizer)
    straight = train(tmp_path / "straight", graphs)
    for second in (graphs, replace(graphs, cuda_graphs=False)):
        path = tmp_path / f"resumed-{second.cuda_graphs}"
        cut = train(path, replace(graphs, cuda_graphs=graphs_first), stop_step=16)
        (group,) = cut["optimizer"]["param_groups"]
        assert type(group["lr"]) is float
        assert group["weight_decay"] == 1e-3
        assert not group.get("capturable")
        assert_same(train(path, second), straight)


def test_a_poisoned_step_is_never_saved(train: Trainer, tmp_path: Path) -> None:
    noticed = 25 if train.device == CPU else 27  # on a GPU every ten steps, and before a save
    with pytest.raises(NonFiniteError, match=f"at step {noticed}.*nothing was saved since"):
        train(tmp_path, poisoned=25)
    last = checkpoints.load(tmp_path / "last.pt")
    assert last["step"] == 3  # the first evaluation is the best: all are equal
    assert all(value.isfinite().all() for value in last["model"].values())


@needs_gpu
def test_equals_eager_steps_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rounding in bf16 is 2^-8; thirty small steps stay within a few."""
    train = Trainer(torch.device("cuda", 0), monkeypatch)
    settings = replace(SETTINGS, precision="bf16")
    graphed = train(tmp_path / "graphed", settings, torch.float32)
    eager = train(tmp_path / "eager", replace(settings, cuda_graphs=False), torch.float32)
    assert_same(graphed, eager, tolerance=0.02)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("device", "size", "accumulate", "scheduled", "reason"),
    [
        ("cpu", 1, 1, False, "needs a GPU"),
        ("cuda", 2, 1, False, "is for a single process"),
        ("cuda", 1, 2, False, "needs --optimization.accumulate 1"),
        ("cuda", 1, 1, True, "cannot follow a dropout"),
    ],
)
def test_refuses(device: str, size: int, accumulate: int, scheduled: bool, reason: str) -> None:
    world = World(torch.device(device), size=size)
    with pytest.raises(InputError, match=f"^--optimization.cuda-graphs {reason}.*: leave it out$"):
        refuse(replace(SETTINGS, accumulate=accumulate), world, scheduled=scheduled)


def test_refuses_nothing_else() -> None:
    refuse(SETTINGS, World(torch.device("cuda")), scheduled=False)


@pytest.mark.parametrize("at_step", [None, lambda done: None])
def test_the_loop_refuses(at_step: Callable[[float], None] | None) -> None:
    """On a CPU for lack of a GPU, elsewhere for a schedule."""
    world = World(CPU if at_step is None else torch.device("cuda"))
    stage = Task(
        model=network(),
        num_images=21,
        load=lambda micro_batches: iter(()),
        loss=loss,
        evaluate=lambda model: {},
        metric="val_score",
        at_step=at_step,
    )
    with pytest.raises(InputError, match="needs a GPU" if at_step is None else "rate changes"):
        loop.train(stage, Training(SETTINGS, FOCUS), Options(), world, None)


def test_refuses_batches_of_changing_shape(tmp_path: Path) -> None:
    """As the detector's: lists of images, each with its boxes."""
    model = network()
    optimizer = build_optimizer(model, SETTINGS)
    step = GraphedStep(lambda batch: {}, optimizer, list, StandIn(optimizer, model, []))
    with pytest.raises(InputError, match="cuda-graphs needs batches of one shape"):
        step(([IMAGES[0]], [LABELS[0]]), participating=False, full=True)
