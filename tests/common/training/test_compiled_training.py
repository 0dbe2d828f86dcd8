"""Compiled trainings: which graphs are made, and for which batches they serve."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faults import same
from recipes import Training
from torch import Tensor, fx, nn

from common import FocusedDropout
from common.command.flags import Options
from common.images.sampling import MicroBatch, Sampling
from common.method.focused_training import participates
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.training import loop
from common.training.network import compile_network
from common.training.task import Task

# Of torch 2.11, whose compiler looks there itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
CPU = World(torch.device("cpu"))
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 3
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=4, compile=True)  # batches of 8, 8, 5
FOCUS = Focus(after="x", participation_rate=0.5, weight_decay=0.05)
Size = int | torch.SymInt
Kind = tuple[bool, Size]
"""Whether a graph is of training, and its number of images; symbolic where it serves several."""


class Graphs:
    """A backend of torch.compile that counts the graphs it makes, and the calls of each kind."""

    def __init__(self) -> None:
        self.made: list[Kind] = []
        self.calls: Counter[Kind] = Counter()

    def __call__(
        self, module: fx.GraphModule, inputs: list[Any], **options: Any
    ) -> Callable[..., Any]:
        (images,) = (i for i in inputs if isinstance(i, Tensor) and i.ndim == 4 and i.shape[2] == 6)
        kind = torch.is_grad_enabled(), images.shape[0]
        self.made.append(kind)

        def call(*arguments: Any) -> Any:
            self.calls[kind] += 1
            return module(*arguments)

        return call


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    backend = Graphs()
    compile_ = partialmethod(nn.Module.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", compile_)
    torch.compiler.reset()
    yield backend
    torch.compiler.reset()


class Network(nn.Module):
    """Not an nn.Sequential: torch 2.11 compiles none of its own classes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.focus, self.fc = FocusedDropout((0.4, 0.4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.focus(F.relu(self.norm(self.conv(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def train(path: Path, settings: Optimization = SETTINGS, focus: Focus = FOCUS) -> dict[str, Any]:
    """Train as the commands do; return the last checkpoint."""
    torch.manual_seed(1)
    model = Network()
    if settings.compile:
        compile_network(model)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], LABELS[m.indices]) for m in micro_batches)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(network(batch[0]), batch[1])}

    def evaluate(network: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            return {"val_score": -F.cross_entropy(network(IMAGES), LABELS).item()}

    stage = Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=evaluate,
        metric="val_score",
    )
    folder = RunFolder(path, {"stage": "test"})
    try:
        loop.train(stage, Training(settings, focus), Options(), CPU, folder)
    finally:
        folder.close()
    return checkpoints.load(path / "last.pt")


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_short_batches_make_no_graph_and_change_none(
    tmp_path: Path, graphs: Graphs, ema_decay: float | None
) -> None:
    """One graph with the layer, one without it, one of the evaluation, all of one size each.

    With an average of the weights that is what is evaluated; its copy is compiled as well.
    """
    train(tmp_path, replace(SETTINGS, ema_decay=ema_decay))
    took_part = [participates(0.5, 0, step) for step in range(12)]
    assert {taken for step, taken in enumerate(took_part) if step % 3 < 2} == {True, False}
    assert sorted(graphs.made) == [(False, 21), (True, 8), (True, 8)]
    assert graphs.calls == {(True, 8): 8, (False, 21): 4}


def test_parts_of_a_step_have_their_sizes(tmp_path: Path, graphs: Graphs) -> None:
    """3, 3 and 2 images of 8: two sizes, each with a graph of its own."""
    train(tmp_path, replace(SETTINGS, accumulate=3), Focus())
    assert sorted(graphs.made) == [(False, 21), (True, 2), (True, 3)]
    assert graphs.calls == {(True, 3): 16, (True, 2): 8, (False, 21): 4}


def test_trains_as_without(tmp_path: Path, graphs: Graphs) -> None:
    compiled = train(tmp_path / "compiled")
    eager = train(tmp_path / "eager", replace(SETTINGS, compile=False))
    assert graphs.made
    assert same(compiled["model"], eager["model"])


@pytest.mark.parametrize(("num_images", "full"), [(21, [True, True, False]), (16, [True, True])])
def test_full_steps(num_images: int, full: list[bool]) -> None:
    sampling = Sampling(num_images=num_images, batch_size=8, seed=0)
    steps = range(2 * sampling.steps_per_epoch)
    assert [sampling.is_full(step) for step in steps] == 2 * full
    batches = sampling.micro_batches(0, len(steps))
    assert [len(batch.indices) == 8 for batch in batches] == 2 * full
