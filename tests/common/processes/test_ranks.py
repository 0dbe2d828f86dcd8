"""Two ranks against one process, and against each other.

The ranks are started once, as torchrun would; the tests look at what they wrote.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout
from common.command.flags import Options
from common.errors import InputError
from common.images.sampling import MicroBatch
from common.processes.ranks import (
    World,
    any_rank,
    broadcast,
    gather,
    share,
    start,
    sum_over_ranks,
)
from common.processes.signals import Terminated
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.training.loop import train
from common.training.task import Task
from pretrain.data.splits import Split
from pretrain.recipes import RECIPES
from pretrain.task import evaluate

PIXELS = torch.randint(0, 256, (21, 3, 6, 6), generator=torch.Generator().manual_seed(0))
IMAGES, LABELS = PIXELS.double() / 128 - 1, torch.arange(21) % 7
SETTINGS = Optimization(lr=0.05, batch_size=8, epochs=17, clip_norm=1.0)  # batches of 8, 8, 5
FIXED, DRAWN = (0.4, 0.4), (0.3, 0.6)
INTERRUPTED_AT = 11  # in the fourth epoch; the ranks agree on it at its evaluation


def network(gamma: tuple[float, float], dropout: float) -> nn.Module:
    torch.manual_seed(1)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        FocusedDropout(gamma),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 7),
    ]
    return nn.Sequential(*layers).double()


def run(
    world: World,
    path: Path,
    model: nn.Module,
    settings: Optimization,
    hook: Callable[[int], None] = lambda call: None,
) -> list[bool]:
    """Train; return for each micro-batch of this rank whether it took part."""
    torch.manual_seed(world.rank)
    took_part: list[bool] = []

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], LABELS[m.indices]) for m in micro_batches)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        hook(len(took_part))
        took_part.append(next(m.active for m in model.modules() if isinstance(m, FocusedDropout)))
        logits = network(batch[0])
        right = (logits.argmax(1) == batch[1]).double().mean()
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": right}

    task = Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=lambda network: {"score": network(IMAGES).square().mean().item()},
        metric="score",
    )
    focus = Focus(after="3", participation_rate=0.5, weight_decay=1e-3)
    folder = RunFolder(path, {}) if world.is_main else None
    try:
        train(task, Training(settings, focus), Options(), world, folder)
    finally:
        if folder:
            folder.close()
    return took_part


def validate(world: World) -> dict[str, float]:
    """Score the 21 images, an odd number, with the metrics of the first stage."""

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((PIXELS[m.indices].byte(), LABELS[m.indices]) for m in micro_batches)

    split = Split(num_images=21, classes=tuple("abcdefg"), source="drawn", load=load)
    model = network(FIXED, 0.0).float().eval()
    return evaluate(model, split, RECIPES["toy-resnet18"](), world)


def rank_main(folder: Path, rank: int) -> None:
    """Do all that needs two ranks, and write down what this one saw."""
    with start("cpu") as world:
        seen: dict[str, Any] = {
            "world": (rank, world.rank, world.size, world.is_main),
            "broadcast": broadcast({"from": world.rank}),
            "gather": gather(f"rank {world.rank}"),
            "any_rank": [any_rank(world.rank == 1, world.device), any_rank(False, world.device)],
            "sum": sum_over_ranks(torch.tensor([1.0, world.rank])).tolist(),
            "validation": validate(world),
        }
        statistics = nn.BatchNorm2d(2)
        statistics.running_mean = torch.full((2,), float(world.rank) + 5)
        share(statistics.buffers())
        seen["shared"] = statistics.running_mean.tolist()

        model = network(FIXED, 0.0)
        seen["fixed took part"] = run(world, folder / "fixed", model, SETTINGS)
        seen["fixed"] = model.state_dict()

        model = network(DRAWN, 0.3)
        seen["drawn took part"] = run(world, folder / "drawn", model, SETTINGS)
        seen["drawn"] = model.state_dict()

        def interrupt(call: int) -> None:
            if call == INTERRUPTED_AT and world.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            run(world, folder / "resumed", network(DRAWN, 0.3), SETTINGS, interrupt)
        except Terminated as stop:
            seen["stop"] = str(stop)
        model = network(DRAWN, 0.3)
        run(world, folder / "resumed", model, SETTINGS)
        seen["resumed"] = model.state_dict()
        checkpoints.save(seen, folder / f"{world.rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    printed = folder / "printed"
    assert faults.live_ranks(partial(rank_main, folder), printed) == [0, 0], "\n".join(
        file.read_text() for file in (printed, printed.with_suffix(".1"))
    )
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [checkpoints.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_words_between_ranks(ranks: list[dict[str, Any]]) -> None:
    assert [rank["world"] for rank in ranks] == [(0, 0, 2, True), (1, 1, 2, False)]
    for rank in ranks:
        assert rank["broadcast"] == {"from": 0}
        assert rank["gather"] == ["rank 0", "rank 1"]
        assert rank["any_rank"] == [True, False]
        assert rank["sum"] == [2.0, 1.0]
        assert rank["shared"] == [5.0, 5.0]


@pytest.mark.parametrize(
    ("name", "gamma", "dropout"), [("fixed", FIXED, 0.0), ("drawn", DRAWN, 0.3)]
)
def test_two_ranks_equal_one_that_accumulates(
    ranks: list[dict[str, Any]],
    folder: Path,
    tmp_path: Path,
    name: str,
    gamma: tuple[float, float],
    dropout: float,
) -> None:
    """The halves have their own BatchNorm in both; the last batch is cut into 3 and 2."""
    model = network(gamma, dropout)
    alone = World(torch.device("cpu"))
    took_part = run(alone, tmp_path, model, replace(SETTINGS, accumulate=2))
    for rank in ranks:
        assert rank[f"{name} took part"] == took_part[::2] == took_part[1::2]
        for key, value in model.state_dict().items():
            torch.testing.assert_close(rank[name][key], value, rtol=0, atol=1e-9)
    for mine, theirs in zip(read_metrics(tmp_path), read_metrics(folder / name), strict=True):
        logged = [word for word in mine if word.startswith(("train_", "focus_"))]
        assert {"train_gradient_norm", "focus_images", "focus_keep_ratio"} <= set(logged)
        for word in ("step", *logged):
            assert mine[word] == pytest.approx(theirs[word], abs=1e-9)


def test_statistics_are_the_mean_over_the_ranks(
    ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Against running averages written out, of the halves that one process sees in turn."""
    model = network(FIXED, 0.0)
    halves: list[Tensor] = []
    norm = model.get_submodule("1")
    norm.register_forward_pre_hook(
        lambda module, inputs: halves.append(inputs[0].detach()) if module.training else None
    )
    run(World(torch.device("cpu")), tmp_path, model, replace(SETTINGS, accumulate=2))
    mean, variance = torch.zeros(4).double(), torch.ones(4).double()
    for first, second in zip(halves[::2], halves[1::2], strict=True):
        means = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2
        variances = (first.var((0, 2, 3)) + second.var((0, 2, 3))) / 2
        mean, variance = 0.9 * mean + 0.1 * means, 0.9 * variance + 0.1 * variances
    for rank in ranks:
        torch.testing.assert_close(rank["fixed"]["1.running_mean"], mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(rank["fixed"]["1.running_var"], variance, rtol=0, atol=1e-9)
        assert rank["fixed"]["1.num_batches_tracked"] == 51
    torch.testing.assert_close(norm.get_buffer("running_mean"), mean, rtol=0, atol=1e-9)


def test_ranks_stay_equal_to_the_bit(ranks: list[dict[str, Any]]) -> None:
    """After 51 steps; BatchNorm's statistics are shared."""
    zero, one = ranks
    assert len(zero["drawn took part"]) == 51
    assert zero["drawn took part"] == one["drawn took part"]
    assert set(zero["drawn took part"]) == {True, False}
    for run in ("fixed", "drawn"):
        assert all(torch.equal(value, one[run][name]) for name, value in zero[run].items())


def test_validation_counts_every_image_once(ranks: list[dict[str, Any]]) -> None:
    model = network(FIXED, 0.0).float().eval()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    with torch.inference_mode():
        logits = model((PIXELS / 255 - mean[:, None, None]) / std[:, None, None])
    places = (logits > logits.gather(1, LABELS[:, None])).sum(1)
    for metrics in (*(rank["validation"] for rank in ranks), validate(World(torch.device("cpu")))):
        assert metrics["val_accuracy"] == (places == 0).sum().item() / 21
        assert metrics["val_top5"] == (places < 5).sum().item() / 21
        assert metrics["val_loss"] == pytest.approx(F.cross_entropy(logits, LABELS).item(), 1e-5)


def test_a_signal_to_one_rank_ends_all_and_the_run_goes_on(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    """To the bit, and the sums of the cut epoch are complete."""
    for rank in ranks:
        assert rank["stop"] == "ended on request after step 12"
        for name, value in rank["drawn"].items():
            assert torch.equal(rank["resumed"][name], value)
    for run, again in zip(
        read_metrics(folder / "drawn"), read_metrics(folder / "resumed"), strict=True
    ):
        names = [name for name in run if name.startswith(("train_", "focus_"))]
        for name in ("step", "score", *names):
            assert run[name] == pytest.approx(again[name], abs=1e-12)


def test_one_process_needs_no_group() -> None:
    with start("cpu") as world:
        assert world == World(torch.device("cpu"), 0, 1)
        assert broadcast("x") == "x"
        assert gather("x") == ["x"]
        assert any_rank(True, world.device)
        assert sum_over_ranks(torch.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "unknown device 'gpu'"),
        ("meta", "device 'meta' is not supported"),
        ("cuda:99", "device cuda:99 is not there: torch sees"),
    ],
)
def test_devices_that_are_not_there(device: str, message: str) -> None:
    with pytest.raises(InputError, match=message), start(device):
        pass
