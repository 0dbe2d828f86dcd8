"""The average of the weights against torch's own, and what a training does with it."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import FocusedDropout
from common.command.flags import Options
from common.images.sampling import MicroBatch
from common.optimization.weight_average import WeightAverage
from common.processes.ranks import World
from common.processes.signals import Terminated
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.finished import open_run
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.storage import to_json
from common.training import loop, steps
from common.training.task import Task

CPU = torch.device("cpu")
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(21) % 3
DECAY = 0.3
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=2, ema_decay=DECAY)  # batches of 8, 8, 5
FOCUS = Focus(after="3", participation_rate=0.5, weight_decay=0.05)
Weights = dict[str, Tensor]


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        FocusedDropout((0.3, 0.6)),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


def clone(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Run:
    """A training; notes the weights before each micro-batch and those that were evaluated."""

    def __init__(self, model: nn.Module, stop_at: int | None = None) -> None:
        self.model, self.stop_at = model, stop_at
        self.before: list[Weights] = []
        self.evaluated: list[Weights] = []

    def __call__(
        self, path: Path, settings: Optimization = SETTINGS, **options: Any
    ) -> dict[str, Any]:
        stage = Task(
            model=self.model,
            num_images=len(IMAGES),
            load=self.load,
            loss=self.loss,
            evaluate=self.evaluate,
            metric="val_score",
        )
        folder = RunFolder(path, {"stage": "test"})
        try:
            loop.train(stage, Training(settings, FOCUS), Options(**options), World(CPU), folder)
        finally:
            folder.close()
        return checkpoints.load(path / "last.pt")

    def load(self, micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], LABELS[m.indices]) for m in micro_batches)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if len(self.before) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.before.append(clone(model))
        return {"loss": F.cross_entropy(model(batch[0]), batch[1])}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not any(module.training for module in model.modules())
        self.evaluated.append(clone(model))
        with torch.inference_mode():
            return {"val_score": -F.cross_entropy(model(IMAGES), LABELS).item()}


def test_equals_torchs_average_after_any_steps() -> None:
    model = network()
    average = WeightAverage(model, 0.3)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.3), use_buffers=True)
    theirs.update_parameters(model)  # the first one copies
    for step in range(7):
        theirs.multi_avg_fn = get_ema_multi_avg_fn(min(0.3, (1 + step) / (10 + step)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(IMAGES[step : step + 4])  # changes the statistics
        average.update(step)
        theirs.update_parameters(model)
    ours, expected = average.network().state_dict(), theirs.module.state_dict()
    assert ours.pop("1.num_batches_tracked").item() == 7
    expected.pop("1.num_batches_tracked")  # theirs averages the count, cut to an integer
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert not torch.equal(ours["1.running_mean"], model.get_buffer("1.running_mean"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_is_taken_after_each_step_evaluated_and_kept(tmp_path: Path, accumulate: int) -> None:
    """By hand from the weights before each step; the last step's from the checkpoint."""
    run = Run(network())
    last = run(tmp_path, replace(SETTINGS, accumulate=accumulate))
    trajectory = [*run.before[::accumulate], last["model"]]
    assert len(trajectory) == 7
    names = [name for name in last["model"] if "num_batches" not in name]
    expected = {name: trajectory[0][name] for name in names}
    for step, weights in enumerate(trajectory[1:], start=1):
        decay = (0.1, 2 / 11, 0.25, DECAY, DECAY, DECAY)[step - 1]  # (1 + t) / (10 + t), t from 0
        expected = {n: decay * expected[n] + (1 - decay) * weights[n] for n in names}
        if step % 3 == 0:
            seen = run.evaluated[step // 3 - 1]
            torch.testing.assert_close({n: seen[n] for n in names}, expected)
            assert not torch.allclose(seen["0.weight"], weights["0.weight"])
    torch.testing.assert_close(last["average"], run.evaluated[1], rtol=0, atol=0)
    best = checkpoints.load(tmp_path / "best.pt")
    assert "average" not in best
    torch.testing.assert_close(best["model"], run.evaluated[best["epoch"] - 1], rtol=0, atol=0)
    assert run.model.training


def test_does_not_change_the_training(tmp_path: Path) -> None:
    averaged, plain = (
        Run(network())(tmp_path / name, settings)
        for name, settings in (("a", SETTINGS), ("b", replace(SETTINGS, ema_decay=None)))
    )
    assert "average" not in plain
    for part in ("model", "optimizer", "sums"):
        torch.testing.assert_close(averaged[part], plain[part], rtol=0, atol=0)


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    straight = Run(network())(tmp_path / "straight")
    with pytest.raises(Terminated):
        Run(network(), stop_at=1)(tmp_path / "resumed")
    cut = checkpoints.load(tmp_path / "resumed" / "last.pt")
    assert not torch.equal(cut["average"]["0.weight"], cut["model"]["0.weight"])
    resumed = Run(network(seed=1234))(tmp_path / "resumed")
    for part in ("model", "average", "optimizer", "best"):
        torch.testing.assert_close(resumed[part], straight[part], rtol=0, atol=0)


def test_is_taken_of_captured_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that runs the step: the average is taken outside of graphs."""

    def build(step: Callable[[Any], Any], *rest: Any) -> Callable[..., Any]:
        return lambda batch, *, participating, full: step(batch)

    monkeypatch.setattr(steps, "refuse", lambda *arguments, **more: None)
    monkeypatch.setattr(steps, "Capture", lambda device: None)
    monkeypatch.setattr(steps, "GraphedStep", build)
    graphed = Run(network())(tmp_path / "graphed", replace(SETTINGS, cuda_graphs=True))
    eager = Run(network())(tmp_path / "eager")
    torch.testing.assert_close(graphed["average"], eager["average"], rtol=0, atol=0)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_a_finished_run_gives_the_average(tmp_path: Path, checkpoint: str) -> None:
    run = Run(network())
    run(tmp_path)
    description = {"stage": "test", "name": "x", "seed": 0, "recipe": {}}
    (tmp_path / "recipe.json").write_text(to_json(description))
    (tmp_path / "environment.json").write_text("{}")
    finished = open_run(tmp_path, "test", Focus, checkpoint)
    model = network(seed=7)
    finished.load_into(model)
    epoch = finished.state["epoch"]
    torch.testing.assert_close(clone(model), run.evaluated[epoch - 1], rtol=0, atol=0)
    with torch.inference_mode():
        score = -F.cross_entropy(model.eval()(IMAGES), LABELS).item()
    assert score == read_metrics(tmp_path)[epoch - 1]["val_score"]


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_decay must be above 0 and below 1, not"):
        replace(SETTINGS, ema_decay=decay)
