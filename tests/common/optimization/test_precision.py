"""fp16 with a scaled loss, on the CPU: skipped steps, their counts, their end."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout
from common.command.flags import Options
from common.errors import InputError
from common.images.sampling import MicroBatch
from common.optimization.cuda_graphs import refuse
from common.optimization.optimizer import build_optimizer
from common.processes.ranks import World
from common.processes.signals import Terminated
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.training import loop
from common.training.non_finite import NonFiniteError
from common.training.task import Task

CPU = torch.device("cpu")
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 3
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=2, precision="fp16", weight_decay=0.1)
FOCUS = Focus(after="3", participation_rate=1.0, weight_decay=0.5)
Hook = Callable[[int, nn.Module], None]


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        FocusedDropout((0.4, 0.4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def train(
    path: Path,
    model: nn.Module,
    settings: Optimization = SETTINGS,
    poisoned: Iterable[int] = (),
    hook: Hook = lambda step, model: None,
) -> dict[str, Any]:
    """Train; in the poisoned steps the gradient is NaN, the loss is not."""
    calls = 0

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        step = calls // settings.accumulate
        hook(step, model)
        calls += 1
        logits = network(batch[0])
        assert logits.dtype == (torch.float16 if settings.precision == "fp16" else torch.float32)
        loss = F.cross_entropy(logits.float(), batch[1])
        if step in poisoned:  # the root of 0 is 0; its slope times 0 is not a number
            loss = loss + (0 * model.get_parameter("6.bias")).sqrt().sum()
        return {"loss": loss}

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], LABELS[m.indices]) for m in micro_batches)

    stage = Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=lambda network: {"val_score": 0.0},
        metric="val_score",
    )
    folder = RunFolder(path, {"stage": "test"})
    try:
        loop.train(stage, Training(settings, FOCUS), Options(), World(CPU), folder)
    finally:
        folder.close()
    return checkpoints.load(path / "last.pt")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_changes_no_weight(
    tmp_path: Path, optimizer: Literal["sgd", "adamw"], clip_norm: float | None, accumulate: int
) -> None:
    """The first one and one in the midst: neither gradient nor (magnified) decay, and a count."""
    before: list[dict[str, Tensor]] = []

    def hook(step: int, model: nn.Module) -> None:
        if len(before) == step:
            before.append({name: p.detach().clone() for name, p in model.named_parameters()})

    settings = replace(SETTINGS, optimizer=optimizer, clip_norm=clip_norm, accumulate=accumulate)
    last = train(tmp_path, network(), settings, poisoned=(0, 4, 5), hook=hook)
    changed = [
        not all(torch.equal(before[step][name], before[step + 1][name]) for name in before[step])
        for step in range(5)
    ]
    assert changed == [False, True, True, True, False]
    assert [record["scaler_skips"] for record in read_metrics(tmp_path)] == [1, 2]
    assert last["scaling"]["scaler"]["scale"] == 2**16 / 2**3
    assert all(value.isfinite().all() for value in last["model"].values())
    for record in read_metrics(tmp_path):
        assert 0 < record["train_loss"] < 10
        assert clip_norm is None or 0 < record["train_gradient_norm"] < 10


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_equals_fp32_but_for_roundings(tmp_path: Path, clip_norm: float | None) -> None:
    """The scale of 65536 must be gone from gradients before they are clipped or used."""
    half, full = (
        train(tmp_path / precision, network(), replace(SETTINGS, precision=precision, **clip))
        for precision, clip in (
            ("fp16", {"clip_norm": clip_norm}),
            ("fp32", {"clip_norm": clip_norm}),
        )
    )
    start = network().state_dict()
    for name in ("0.weight", "6.weight"):
        moved = full["model"][name] - start[name]
        assert (half["model"][name] - full["model"][name]).norm() < 0.02 * moved.norm()
    ours, theirs = (read_metrics(tmp_path / name)[0] for name in ("fp16", "fp32"))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=5e-3)
    if clip_norm:
        assert ours["train_gradient_norm"] == pytest.approx(theirs["train_gradient_norm"], rel=2e-2)


def test_goes_on_in_the_midst_of_skips(tmp_path: Path) -> None:
    poisoned = (1, 4)
    straight = train(tmp_path / "straight", network(), poisoned=poisoned)

    def interrupt(step: int, model: nn.Module) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated, match="after step 2$"):
        train(tmp_path / "resumed", network(), poisoned=poisoned, hook=interrupt)
    cut = checkpoints.load(tmp_path / "resumed" / "last.pt")["scaling"]
    assert (cut["skips"], cut["streak"]) == (1, 1)
    resumed = train(tmp_path / "resumed", network(seed=9), poisoned=[2])  # counted from step 2
    assert resumed["scaling"] == straight["scaling"]
    torch.testing.assert_close(resumed["model"], straight["model"], rtol=0, atol=0)
    skips = [
        [record["scaler_skips"] for record in read_metrics(tmp_path / run)]
        for run in ("straight", "resumed")
    ]
    assert skips == [[1, 1], [1, 1]]


def test_twenty_skips_in_a_row_are_borne_and_no_more(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=14)
    train(tmp_path / "twice", network(), settings, poisoned=[*range(20), *range(21, 41)])
    with pytest.raises(NonFiniteError, match="too many fp16 steps in a row .* at step 25"):
        train(tmp_path / "ended", network(), settings, poisoned=range(5, 42))
    last = checkpoints.load(tmp_path / "ended" / "last.pt")
    assert last["step"] == 3  # no later evaluation was better than the first


def test_a_row_of_skips_is_counted_across_a_resume(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=14)

    def interrupt(step: int, model: nn.Module) -> None:
        if step == 14:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated, match="after step 15$"):
        train(tmp_path, network(), settings, poisoned=range(42), hook=interrupt)
    with pytest.raises(NonFiniteError, match="too many fp16 steps in a row .* at step 20"):
        train(tmp_path, network(), settings, poisoned=range(42))


def test_momentum_is_defined_after_a_skipped_first_step() -> None:
    """Fused kernels would skip the step after they allocated it."""
    optimizer = build_optimizer(network(), SETTINGS)
    assert not optimizer.defaults["fused"]
    assert build_optimizer(network(), replace(SETTINGS, precision="bf16")).defaults["fused"]


def test_graphs_cannot_skip() -> None:
    settings = replace(SETTINGS, cuda_graphs=True)
    with pytest.raises(InputError, match=r"cuda-graphs cannot skip a step.*fp16.*: leave it out"):
        refuse(settings, World(torch.device("cuda")), scheduled=False)
