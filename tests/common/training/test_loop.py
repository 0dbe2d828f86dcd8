"""The loop against one written out by hand; what it keeps, and what it refuses to keep.

Interrupted runs are in test_resume.py.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faults import same
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout, focused_dropout
from common.command.flags import Options
from common.images.loading import stream
from common.images.sampling import MicroBatch
from common.method.focused_training import participates
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.runs import checkpoints, trackers
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.runs.terminal import speaking
from common.training import loop
from common.training.epoch_means import EpochSums
from common.training.non_finite import FiniteCheck, NonFiniteError
from common.training.task import Task

CPU = torch.device("cpu")
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(21) % 3
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=2, weight_decay=1e-3)  # batches of 8, 8, 5
FOCUS = Focus(after="x", participation_rate=0.5, weight_decay=0.05)
Hook = Callable[[int, nn.Module], None]


class Network(nn.Module):
    def __init__(self, gamma: tuple[float, float], dropout: float, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)
        self.focus = FocusedDropout(gamma)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.focus(F.relu(self.norm(self.conv(x))))
        logits: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))
        return logits


def network(gamma: tuple[float, float] = (0.3, 0.6), dropout: float = 0.3) -> Network:
    torch.manual_seed(1)
    return Network(gamma, dropout)


def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
    def read(epoch: int, position: int) -> tuple[Tensor, Tensor]:
        return IMAGES[position], LABELS[position]

    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*items, strict=True)
        return torch.stack(images), torch.stack(labels)

    return stream(read, micro_batches, collate, workers=0, device=CPU)


def evaluate(model: nn.Module) -> dict[str, float]:
    with torch.inference_mode():
        return {"val_score": -F.cross_entropy(model(IMAGES), LABELS).item()}


def stage(model: nn.Module, hook: Hook | None = None) -> Task:
    """Make a task; `hook` gets the number of the loss call, from 0, and the network."""
    calls = 0

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        if hook:
            hook(calls, network)
        calls += 1
        images, labels = batch
        logits = network(images)
        return {
            "loss": F.cross_entropy(logits, labels),
            "accuracy": (logits.argmax(1) == labels).double().mean(),
        }

    return Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=evaluate,
        metric="val_score",
    )


def train(
    path: Path,
    task: Task,
    settings: Optimization = SETTINGS,
    focus: Focus = FOCUS,
    **options: Any,
) -> dict[str, float]:
    folder = RunFolder(path, {"stage": "test"}, options.get("resume", "auto"))
    try:
        return loop.train(task, Training(settings, focus), Options(**options), World(CPU), folder)
    finally:
        folder.close()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --------------------------------------------------------------------------- what a step does


def by_hand(rates: list[float], accumulate: int, clip_norm: float | None) -> Network:
    """SGD with momentum 0.9, FocusedDropout with gamma 0.4 and MWD, written out."""
    model = network((0.4, 0.4), 0.0)
    parameters = list(model.parameters())
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for step, rate in enumerate(rates):
        order = np.random.default_rng((0, step // 3)).permutation(21)
        batch = order[step % 3 * 8 : step % 3 * 8 + 8]
        half = len(batch) if accumulate == 1 else (len(batch) + 1) // 2
        taking_part = participates(0.5, 0, step)
        loss = torch.zeros((), dtype=torch.float64)
        before, made = dict(model.norm.named_buffers()), []
        for part in filter(len, (batch[:half], batch[half:])):
            for name, value in before.items():  # one update a step, by the mean of its parts
                setattr(model.norm, name, value.clone())
            x = F.relu(model.norm(model.conv(IMAGES[part])))
            made.append((model.norm.running_mean.clone(), model.norm.running_var.clone()))
            if taking_part:
                x = focused_dropout(x, 0.4)
            logits = model.fc(x.mean(dim=(2, 3)))
            loss = loss + F.cross_entropy(logits, LABELS[part], reduction="sum") / len(batch)
        model.norm.running_mean, model.norm.running_var = (
            torch.stack(values).mean(0) for values in zip(*made, strict=True)
        )
        gradients = torch.autograd.grad(loss, parameters)
        norm = sum(gradient.square().sum() for gradient in gradients) ** 0.5
        scale = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm.item() + 1e-6))
        decay = 0.05 if taking_part else 1e-3
        with torch.no_grad():
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                momentum.mul_(0.9).add_(gradient * scale + decay * parameter)
                parameter.sub_(rate * momentum)
    return model


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_equals_a_loop_written_by_hand(
    tmp_path: Path, accumulate: int, clip_norm: float | None
) -> None:
    settings = replace(
        SETTINGS,
        epochs=3,
        milestones=(2,),
        warmup_steps=2,
        warmup_start=0.5,
        accumulate=accumulate,
        clip_norm=clip_norm,
    )
    model = network((0.4, 0.4), 0.0)
    train(tmp_path, stage(model), settings)
    rates = [0.05, 0.075, *[0.1] * 4, *[0.01] * 3]
    assert {participates(0.5, 0, step) for step in range(9)} == {True, False}
    expected = by_hand(rates, accumulate, clip_norm)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("freeze", [True, False])
def test_masked_maps_stay_out_of_the_statistics_if_asked(tmp_path: Path, freeze: bool) -> None:
    model = network()
    always = replace(FOCUS, participation_rate=1.0, freeze_bn_stats=freeze)
    train(tmp_path, stage(model), focus=always)
    assert model.norm.num_batches_tracked.item() == (0 if freeze else 6)


def test_the_log_counts_images(tmp_path: Path) -> None:
    """Accuracy and loss of an epoch are means over 21 images, not over batches of 8, 8 and 5."""
    task = stage(network())
    right: list[int] = []

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        means = task.loss(network, batch)
        right.append(round(means["accuracy"].item() * len(batch[1])))
        return means

    train(tmp_path, replace(task, loss=loss), replace(SETTINGS, epochs=4, clip_norm=5.0))
    records = read_metrics(tmp_path)
    assert [(record["epoch"], record["step"]) for record in records] == [
        (1, 3),
        (2, 6),
        (3, 9),
        (4, 12),
    ]
    of_epochs = [sum(right[start : start + 3]) for start in range(0, 12, 3)]
    assert len(set(of_epochs)) > 1
    assert [record["train_accuracy"] * 21 for record in records] == pytest.approx(of_epochs)
    assert records[1]["focus_participating_steps"] == sum(
        participates(0.5, 0, step) for step in (3, 4, 5)
    )
    assert [key for key in records[0] if not key.startswith("focus_")] == [
        "epoch",
        "step",
        "lr",
        "train_loss",
        "train_accuracy",
        "train_gradient_norm",
        "images_per_second",
        "seconds",
        "val_score",
    ]
    assert "focus_steps" not in records[0]


def test_a_line_has_the_rate_of_the_last_step_of_its_epoch(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=3, milestones=(2,), warmup_steps=4, warmup_start=0.5)
    train(tmp_path, stage(network()), settings)
    rates = [record["lr"] for record in read_metrics(tmp_path)]
    assert rates == pytest.approx([0.1 * (0.5 + 0.5 * 2 / 4), 0.1, 0.01])


def test_lines_for_programs_are_those_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with speaking(json_lines=True):
        train(tmp_path, stage(network()), json=True)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == read_metrics(tmp_path) and len(printed) == 2


def test_without_anything_to_validate_on(tmp_path: Path) -> None:
    task = replace(stage(network()), evaluate=lambda model: {})
    assert train(tmp_path, task) == {}
    last = checkpoints.load(tmp_path / "last.pt")
    assert (last["epoch"], last["metrics"], last["stale"]) == (2, {}, 0)
    assert not (tmp_path / "best.pt").exists()
    assert not any(key.startswith("val_") for key in read_metrics(tmp_path)[1])


def test_the_memory_of_a_gpu_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * 2**29)
    assert loop._gpu_memory(World(torch.device("cuda", 0))) == {"gpu_memory_gib": 1.5}
    assert loop._gpu_memory(World(CPU)) == {}


def test_who_looks_on_sees_every_step_and_what_is_saved(tmp_path: Path) -> None:
    """A checkpoint at each new best, first of the best weights and then of the state; each step."""
    seen: list[tuple[str, int, bool]] = []

    class Watch:
        def begin(self, state: Any, data: Any) -> None:
            seen.append(("begin", state.step, data == {"a": "b"}))

        def after_step(self, state: Any) -> None:
            seen.append(("step", state.step, True))

        def saved(self, state: Any) -> None:
            lines = len(read_metrics(tmp_path))
            seen.append(("saved", state.step, lines == state.step // 3))

    task = replace(scored([1, 2]), data={"a": "b"})
    folder = RunFolder(tmp_path, {"stage": "test"})
    loop.train(task, Training(SETTINGS, FOCUS), Options(), World(CPU), folder, Watch())
    folder.close()
    assert all(right for *_, right in seen)
    saved, steps = ["saved"] * 2, ["step"] * 3
    assert [what for what, *_ in seen] == ["begin", *steps, *saved, *steps, *saved]
    assert [step for _, step, _ in seen] == [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 6]


def test_stops_after_a_step(tmp_path: Path) -> None:
    """A dry run: the cut epoch is evaluated and saved."""
    metrics = train(tmp_path, stage(network()), stop_step=2)
    assert checkpoints.load(tmp_path / "last.pt")["step"] == 2
    (record,) = read_metrics(tmp_path)
    assert metrics == {"val_score": record["val_score"], "best_val_score": record["val_score"]}


def test_a_schedule_follows_the_share_of_all_steps(tmp_path: Path) -> None:
    """Also where a training is cut and resumed; and before the step's loss."""

    def run(path: Path, **options: Any) -> list[float]:
        events: list[float] = []
        task = stage(network(), lambda call, network: events.append(-1.0))
        settings = replace(SETTINGS, epochs=4, accumulate=2)
        train(path, replace(task, at_step=events.append), settings, **options)
        assert events[1::3] == events[2::3] == [-1.0] * (len(events) // 3)  # two losses a step
        return events[::3]

    assert run(tmp_path / "straight") == [step / 12 for step in range(12)]
    assert run(tmp_path / "cut", stop_step=5) == [step / 12 for step in range(5)]
    assert run(tmp_path / "cut") == [step / 12 for step in range(5, 12)]


def test_overfitting_uses_the_same_few_images_only(tmp_path: Path) -> None:
    task = stage(network((0.3, 0.6), 0.0))
    seen: list[int] = []

    def watched(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        plan = list(micro_batches)
        seen.extend(int(i) for micro_batch in plan for i in micro_batch.indices)
        return load(plan)

    settings = replace(SETTINGS, epochs=60)
    train(tmp_path, replace(task, load=watched), settings, Focus(), overfit_batches=1)
    assert len(set(seen)) == 8
    assert set(seen) != set(range(8)), "a sorted data set starts with one class only"
    assert len(seen) == 60 * 8
    records = read_metrics(tmp_path)
    assert records[-1]["train_loss"] < 0.2 * records[0]["train_loss"]


# --------------------------------------------------------------------------- what is kept


def scripted(task: Task, scores: list[float], kept: list[dict[str, Tensor]]) -> Task:
    """Let the evaluations give these scores, and keep the weights they saw."""

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        kept.append(weights(model))
        return {"val_score": scores[len(kept) - 1]}

    return replace(task, evaluate=evaluate)


def test_the_best_evaluation_is_kept(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    task = scripted(stage(network()), [0.25, 0.75, 0.5], kept)
    metrics = train(tmp_path, task, replace(SETTINGS, epochs=3))
    assert metrics == {"val_score": 0.5, "best_val_score": 0.75}
    best, last = (checkpoints.load(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert (best["epoch"], best["metrics"]) == (2, {"val_score": 0.75})
    assert (last["epoch"], last["metrics"]) == (3, {"val_score": 0.5})
    assert same(best["model"], kept[1])
    assert same(last["model"], kept[2])
    assert not same(kept[1], kept[2])
    assert checkpoints.load(tmp_path / "last.previous.pt")["epoch"] == 2
    assert task.model.training


def test_of_equal_evaluations_the_first_is_kept(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    train(tmp_path, scripted(stage(network()), [0.75, 0.75], kept))
    best = checkpoints.load(tmp_path / "best.pt")
    assert best["epoch"] == 1 and same(best["model"], kept[0])


def test_the_time_of_an_epoch_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only steps move, by two seconds each: 21 images in three steps."""
    passed = [100.0]

    def step(call: int, model: nn.Module) -> None:
        passed[0] += 2

    monkeypatch.setattr("common.training.assembly.time.monotonic", lambda: passed[0])
    train(tmp_path, stage(network(), step), replace(SETTINGS, epochs=3))
    records = read_metrics(tmp_path)
    assert [record["seconds"] for record in records] == [6, 6, 6]
    assert [record["images_per_second"] for record in records] == [4, 4, 4]  # batches of 8


def test_evaluates_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    task = scripted(stage(network()), [0.1, 0.2, 0.3], kept)
    train(tmp_path, task, replace(SETTINGS, epochs=5), evaluate_every=2)
    assert ["val_score" in record for record in read_metrics(tmp_path)] == [
        False,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_magnified_decay_is_never_saved(tmp_path: Path, rate: float) -> None:
    train(tmp_path, stage(network()), focus=replace(FOCUS, participation_rate=rate))
    groups = checkpoints.load(tmp_path / "last.pt")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [1e-3]
    assert read_metrics(tmp_path)[0]["focus_participating_steps"] == 3 * rate


# --------------------------------------------------------------------------- not a number


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_a_number_changes_nothing(tmp_path: Path, accumulate: int) -> None:
    """Step 4, the second of the second epoch: its images are named, and all is as before it."""
    model = network()
    before: dict[str, Tensor] = {}
    files: dict[str, bytes] = {}

    def hook(call: int, network: nn.Module) -> None:
        if call == 4 * accumulate:
            before.update((name, p.detach().clone()) for name, p in network.named_parameters())
            files.update((path.name, path.read_bytes()) for path in tmp_path.glob("*.*"))

    task = stage(model, hook)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        means = task.loss(network, batch)
        return means | {"loss": means["loss"] * float("nan")} if before else means

    with pytest.raises(NonFiniteError, match="^loss became non-finite at step 4: lower") as caught:
        settings = replace(SETTINGS, accumulate=accumulate)
        train(tmp_path, replace(task, loss=loss), settings)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    images = np.random.default_rng((0, 1)).permutation(21)[8:16].tolist()
    named = f"(training images {', '.join(map(str, images))} of step 4, listed in non_finite.json)"
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    half = 8 // accumulate
    parts = [images[:half], images[half:]] if accumulate == 2 else [images]
    after = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert json.loads(after.pop("non_finite.json")) == {
        "step": 4,
        "non_finite": ["loss"],
        "steps": [{"step": 4, "epoch": 1, "images": parts}],
    }
    assert after == files, "nothing else is written"
    last = checkpoints.load(tmp_path / "last.pt")
    assert last["step"] == 3
    assert all(value.isfinite().all() for value in last["model"].values())


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_a_number_is_never_saved(
    tmp_path: Path, clip_norm: float | None
) -> None:
    """In the last step of an epoch, where no later loss could tell before the save.

    With clipping it is seen before the update; without, what it did to the weights is.
    """
    model = network()
    task = stage(model)
    calls = 0
    before: dict[str, Tensor] = {}

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        means = task.loss(network, batch)
        if calls == 6:  # the root of 0 is 0; its slope times 0 is not a number
            before.update((name, p.detach().clone()) for name, p in network.named_parameters())
            means["loss"] = means["loss"] + (0 * network.get_parameter("fc.bias")).sqrt().sum()
        return means

    where = (
        "gradient_norm became .* at step 5:" if clip_norm else "a weight became .* at step 6, or"
    )
    with pytest.raises(NonFiniteError, match=where):
        train(tmp_path, replace(task, loss=loss), replace(SETTINGS, clip_norm=clip_norm))
    kept = [torch.equal(p, before[name]) for name, p in model.named_parameters()]
    assert all(kept) == (clip_norm is not None)
    images = np.random.default_rng((0, 1)).permutation(21)[16:].tolist()
    (step,) = json.loads((tmp_path / "non_finite.json").read_text())["steps"]
    assert step == {"step": 5, "epoch": 1, "images": [images]}
    for name in ("last.pt", "best.pt"):
        state = checkpoints.load(tmp_path / name)
        assert state["step"] == 3
        assert all(value.isfinite().all() for value in state["model"].values())


def test_a_poisoned_update_is_blamed_and_not_the_step_that_shows_it(tmp_path: Path) -> None:
    """Without clipping, the gradient of step 0 is seen in the loss of step 1."""
    task = stage(network())
    calls = 0

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        means = task.loss(network, batch)
        if calls == 1:
            means["loss"] = means["loss"] + (0 * network.get_parameter("fc.bias")).sqrt().sum()
        return means

    with pytest.raises(NonFiniteError, match=r"at step 1, or up to 1 before: .* of steps 0 to 1,"):
        train(tmp_path, replace(task, loss=loss))
    steps = json.loads((tmp_path / "non_finite.json").read_text())["steps"]
    assert [step["step"] for step in steps] == [0, 1]


def test_where_looking_costs_the_steps_since_the_last_look_are_named(tmp_path: Path) -> None:
    """Two ranks, as a GPU, look every ten steps; step 10 was looked at, its update was not."""
    check = FiniteCheck(nn.Linear(1, 1), World(CPU, size=2), tmp_path)
    sums = EpochSums()
    for step in range(20):
        check.begin(step, [MicroBatch(0, np.array([step, 100 + step]), 1.0)])
        sums.add({"loss": torch.tensor(float("inf") if step == 13 else 1.0)}, 2)
        check.check(sums, step)
    check.begin(20, [MicroBatch(1, np.array([20, 120]), 1.0)])
    message = (
        r"^loss became non-finite at step 20, or up to 10 before: .* \(training images 10, 110, "
        r"11, 111, 12, 112, 13, 113 and 14 more of steps 10 to 20, listed in non_finite\.json\)"
    )
    with pytest.raises(NonFiniteError, match=message):
        check.check(sums, 20)
    record = json.loads((tmp_path / "non_finite.json").read_text())
    assert record["steps"] == [
        {"step": step, "epoch": int(step == 20), "images": [[step, 100 + step]]}
        for step in range(10, 21)
    ]


def test_a_full_disk_does_not_hide_it(tmp_path: Path) -> None:
    check = FiniteCheck(nn.Linear(1, 1), World(CPU), tmp_path / "absent")
    sums = EpochSums()
    sums.add({"loss": torch.tensor(float("nan"))}, 1)
    check.begin(0, [MicroBatch(0, np.array([3]), 1.0)])
    with pytest.raises(NonFiniteError, match=r"training images 3 of step 0\);"):
        check.check(sums, 0)


def test_a_dry_run_names_no_list_for_it_keeps_none(tmp_path: Path) -> None:
    task = stage(network())

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {name: value * torch.nan for name, value in task.loss(network, batch).items()}

    with pytest.raises(NonFiniteError, match=r"of step 0\);"):
        train(tmp_path, replace(task, loss=loss), dry_run=True)


def test_a_metric_that_is_undefined_is_none(tmp_path: Path) -> None:
    """It is no best, and no 0.0 in the log."""
    scores = iter([None, -3.0, None])
    task = replace(stage(network()), evaluate=lambda model: {"val_score": next(scores)})
    found = train(tmp_path, task, replace(SETTINGS, epochs=3))
    assert found == {"val_score": None, "best_val_score": -3.0}
    assert [record["val_score"] for record in read_metrics(tmp_path)] == [None, -3.0, None]
    assert checkpoints.load(tmp_path / "best.pt")["epoch"] == 2
    scores = iter([None])
    task = replace(task, evaluate=lambda model: {"val_score": next(scores)})
    found = train(tmp_path / "never", task, replace(SETTINGS, epochs=1))
    assert found == {"val_score": None, "best_val_score": None}
    assert not (tmp_path / "never" / "best.pt").exists()


def scored(values: Iterable[float]) -> Task:
    """A task whose evaluations give these scores, whatever the network."""
    given = iter(values)
    return replace(stage(network()), evaluate=lambda model: {"val_score": next(given)})


def test_patience_ends_a_training_that_is_no_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = replace(SETTINGS, epochs=9)
    found = train(tmp_path, scored([1, 3, 3, 2, 9]), longer, patience=2)
    assert found == {"val_score": 2, "best_val_score": 3}
    assert [record["epoch"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert "stops early: 2 evaluations without a better one\n" in capsys.readouterr().out
    last = checkpoints.load(tmp_path / "last.pt")
    assert (last["epoch"], last["stale"]) == (4, 2)
    # The same command again finds nothing to do; with more patience it goes on.
    assert train(tmp_path, scored([]), longer, patience=2) == found
    assert train(tmp_path, scored([2, 4, 1, 1, 1]), longer, patience=4)["best_val_score"] == 4
    assert len(read_metrics(tmp_path)) == 9


def test_patience_is_counted_in_evaluations_and_kept_over_a_resume(tmp_path: Path) -> None:
    longer = replace(SETTINGS, epochs=9)
    train(tmp_path, scored([3, 2]), replace(SETTINGS, epochs=4), evaluate_every=2, patience=2)
    assert checkpoints.load(tmp_path / "last.pt")["stale"] == 1
    train(tmp_path, scored([2, 9]), longer, evaluate_every=2, patience=2)
    assert checkpoints.load(tmp_path / "last.pt")["epoch"] == 6


def test_trackers_get_points_within_the_epoch_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points are means over the images since the last one: together the epoch's mean."""
    sent: list[tuple[int, dict[str, float]]] = []

    class Kept:
        def __init__(self, run: trackers.Tracked) -> None: ...

        def numbers(self, step: int, values: dict[str, float]) -> None:
            sent.append((step, values))

        def pictures(self, step: int, pictures: dict[str, Any]) -> None:
            sent.append((step, dict.fromkeys(pictures, 0.0)))

        def close(self) -> None: ...

    monkeypatch.setitem(trackers.TRACKERS, "trackio", (Kept, "json"))
    drawn = {"samples/a": np.zeros((1, 1, 3), np.uint8)}

    def draw(model: nn.Module) -> dict[str, Any]:
        assert not model.training
        torch.rand(3)  # what it draws is undone
        return drawn

    task = replace(stage(network()), pictures=draw)
    train(tmp_path / "sent", task, log="trackio")
    plain = stage(network())
    train(tmp_path / "plain", plain, log="none")
    torch.testing.assert_close(task.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)
    record, _ = read_metrics(tmp_path / "sent")
    points = [values["steps/loss"] for step, values in sent if "steps/loss" in values]
    assert len(points) == 6
    of_first = np.average(points[:3], weights=[8, 8, 5])
    assert of_first == pytest.approx(record["train_loss"], rel=1e-6)
    assert [step for step, values in sent if "samples/a" in values] == [3, 6]
    epochs = [values for step, values in sent if "train/loss" in values]
    assert epochs[0]["train/loss"] == record["train_loss"]


def test_trackers_get_some_twenty_points_of_a_long_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(
        "common.runs.trackers.Trackers.within_epoch", lambda self, step, means: sent.append(step)
    )

    def again(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return load(replace(one, indices=one.indices % 21) for one in micro_batches)

    long = replace(stage(network()), num_images=90, load=again)
    train(tmp_path, long, replace(SETTINGS, batch_size=2, epochs=1))
    assert 15 < len(sent) < 30 and sent[-1] == 45


@pytest.mark.parametrize(("warmup", "told"), [(6, False), (7, True)])
def test_a_warm_up_of_more_than_half_of_the_steps_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], warmup: int, told: bool
) -> None:
    """As that of a recipe for many images is on a few."""
    train(tmp_path, stage(network()), replace(SETTINGS, epochs=4, warmup_steps=warmup))
    said = (
        f"warning: the learning rate rises for {warmup} steps, and this training has 12: "
        "give more --optimization.epochs, or --optimization.warmup-steps 1\n"
    )
    assert (said in capsys.readouterr().out) == told
