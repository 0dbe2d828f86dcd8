"""What a step does does not depend on how many processes share it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import faults
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout, FocusedTraining
from common.command.flags import Options
from common.images.sampling import MicroBatch
from common.method.controls import ControlDropout
from common.method.draws import image_keys
from common.method.participation import participates
from common.processes.determinism import deterministic
from common.processes.ranks import World, start
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.training.loop import train
from common.training.task import Task

IMAGES = torch.randn(42, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(42) % 3
EPOCHS = 3
STEPS = 3 * EPOCHS
"""Batches of 16, 16 and 10: of four parts the short ones have 3, 3, 2 and 2 images."""


def network(*, method: bool) -> nn.Module:
    torch.manual_seed(1)
    layer = FocusedDropout() if method else nn.Identity()
    control = ControlDropout(gamma_per="unit", reference="random", places="shuffled")
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        layer,
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        control if method else nn.Identity(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).to(memory_format=torch.channels_last)


def run(
    path: Path, world: World, accumulate: int, *, method: bool, stop: int | None = None
) -> nn.Module:
    """Train in a folder, or go on there."""
    model = network(method=method)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], LABELS[m.indices]) for m in micro_batches)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(network(batch[0]), batch[1])}

    task = Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=lambda network: {"score": 0.0},
        metric="score",
    )
    settings = Optimization(
        lr=0.1, batch_size=16, epochs=EPOCHS, accumulate=accumulate, clip_norm=0.5, ema_decay=0.9
    )
    focus = Focus(after="3", participation_rate=0.5, weight_decay=0.05) if method else Focus()
    folder = RunFolder(path, {}) if world.is_main else None
    try:
        train(task, Training(settings, focus), Options(stop_step=stop), world, folder)
    finally:
        if folder:
            folder.close()
    return model


def on_ranks(size: int, printed: Path, work: Callable[[World], object]) -> None:
    """Do something on so many ranks."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": str(size),
    }

    def main() -> None:
        with start("cpu") as world:
            work(world)

    files = [printed.with_suffix(f".{rank}") for rank in range(size)]
    pids = [
        faults.start(main, file, RANK=str(rank), **environment) for rank, file in enumerate(files)
    ]
    assert [faults.end(pid) for pid in pids] == [0] * size, "".join(f.read_text() for f in files)


def alone(path: Path, accumulate: int, **options: Any) -> dict[str, Any]:
    run(path, World(torch.device("cpu")), accumulate, **options)
    return checkpoints.load(path / "last.pt")


def trained_on(world: World, folder: Path, accumulate: int) -> None:
    """Do all that needs so many ranks."""
    for method in (True, False):
        run(folder / f"{world.size} {method} one step", world, accumulate, method=method, stop=1)
        with deterministic(True):
            run(folder / f"{world.size} {method}", world, accumulate, method=method)
    with deterministic(True):  # goes on from a checkpoint of a single process
        run(folder / f"{world.size} begun alone", world, accumulate, method=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    for size in (2, 4):
        alone(folder / f"{size} begun alone", 4, method=True, stop=5)
        on_ranks(size, folder / "printed", partial(trained_on, folder=folder, accumulate=4 // size))
    return folder


STATE: tuple[Literal["model", "optimizer", "average"], ...] = ("model", "optimizer", "average")


@pytest.mark.parametrize("method", [True, False], ids=["focused", "plain"])
@pytest.mark.parametrize("size", [2, 4])
def test_a_training_is_equal_to_the_bit(
    folder: Path, tmp_path: Path, size: int, method: bool
) -> None:
    """1 process x 4 parts, 2 x 2 and 4 x 1: weights, statistics, momenta, average and counts."""
    one, many = (
        alone(tmp_path, 4, method=method),
        checkpoints.load(folder / f"{size} {method}/last.pt"),
    )
    assert one["step"] == STEPS
    for part in (*STATE, "focus"):
        assert faults.same(one[part], many[part]), part
    assert one["model"]["1.num_batches_tracked"] == STEPS


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_is_equal_but_for_rounding_where_sums_have_any_order(
    folder: Path, tmp_path: Path, size: int
) -> None:
    one = alone(tmp_path, 4, method=True, stop=1)
    many = checkpoints.load(folder / f"{size} True one step/last.pt")
    torch.testing.assert_close(many["model"], one["model"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [2, 4])
def test_a_checkpoint_of_one_process_goes_on_on_several(
    folder: Path, tmp_path: Path, size: int
) -> None:
    straight = alone(tmp_path, 4, method=True)
    moved = checkpoints.load(folder / f"{size} begun alone/last.pt")
    assert all(faults.same(straight[part], moved[part]) for part in (*STATE, "focus"))
    assert (straight["ranks"], moved["ranks"]) == (1, size)


def test_a_checkpoint_of_several_goes_on_on_one(folder: Path, tmp_path: Path) -> None:
    def begin(world: World) -> None:
        with deterministic(True):
            run(tmp_path / "moved", world, 2, method=True, stop=5)

    on_ranks(2, tmp_path / "printed", begin)
    moved = alone(tmp_path / "moved", 4, method=True)
    straight = alone(tmp_path / "straight", 4, method=True)
    assert all(faults.same(straight[part], moved[part]) for part in (*STATE, "focus"))


def test_the_statistics_take_one_update_a_step(tmp_path: Path) -> None:
    """Against the mean over the parts, written out; the second norm counts its updates."""
    parts: list[Tensor] = []
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Flatten(), nn.Linear(192, 3))
    model[0].register_forward_pre_hook(
        lambda module, inputs: parts.append(inputs[0]) if module.training else None
    )
    task = Task(
        model=model,
        num_images=len(IMAGES),
        load=lambda plan: ((IMAGES[m.indices],) for m in plan),
        loss=lambda network, batch: {"loss": network(batch[0]).square().mean()},
        evaluate=lambda network: {"score": 0.0},
        metric="score",
    )
    settings = Optimization(lr=0.1, batch_size=16, epochs=1, accumulate=4)
    recipe, options = Training(settings, Focus()), Options()
    train(task, recipe, options, World(torch.device("cpu")), None)
    mean, variance = torch.zeros(3), torch.ones(3)
    for begin, end in pairwise(range(0, 13, 4)):
        of_step = parts[begin:end]
        mean = 0.7 * mean + 0.3 * torch.stack([x.mean((0, 2, 3)) for x in of_step]).mean(0)
        variance = 0.7 * variance + 0.3 * torch.stack([x.var((0, 2, 3)) for x in of_step]).mean(0)
    torch.testing.assert_close(model[0].running_mean, mean)
    torch.testing.assert_close(model[0].running_var, variance)


def test_a_checkpoint_with_generators_goes_on_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As versions before wrote them."""
    state = alone(tmp_path, 1, method=True, stop=3)
    del state["ranks"]
    state["random"] = [checkpoints.random_state(torch.device("cpu"))]
    checkpoints.save(state, tmp_path / "last.pt")
    assert alone(tmp_path, 1, method=True)["step"] == STEPS
    assert "whose draws came from the states of generators" in capsys.readouterr().out


def test_parts_of_a_step_draw_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image has the key of its place in the whole batch, each part a seed of its own."""
    keys: list[Tensor] = []
    seeds: list[int] = []

    def draw_from(self: FocusedTraining, given: Tensor | None) -> None:
        if given is not None:
            keys.append(given)
            seeds.append(torch.initial_seed())

    monkeypatch.setattr(FocusedTraining, "draw_from", draw_from)
    alone(tmp_path, 4, method=True)
    steps = [step for step in range(STEPS) if participates(0.5, 0, step)]
    sizes = [10 if step % 3 == 2 else 16 for step in steps]
    wanted = [image_keys(0, step, 0, size) for step, size in zip(steps, sizes, strict=True)]
    assert torch.equal(torch.cat(keys), torch.cat(wanted))
    assert len(set(seeds)) == len(seeds) == 4 * len(steps)
