"""Putting a training together: its images, its last step, what it says, by hand."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recipes import Training
from torch import nn

from common.command.flags import Options
from common.errors import InputError
from common.processes.ranks import World
from common.recipe import Optimization
from common.training import assembly
from common.training.epoch_means import EpochSums
from common.training.task import Task

SETTINGS = Optimization(lr=0.5, batch_size=8, epochs=2)
CPU = torch.device("cpu")


def task(**given: Any) -> Task:
    return Task(
        model=nn.Linear(2, 1),
        num_images=given.pop("num_images", 21),
        load=lambda parts: iter(()),
        loss=lambda network, batch: {},
        evaluate=lambda network: {},
        metric="score",
        **given,
    )


def assemble(
    which: Task,
    settings: Optimization = SETTINGS,
    world: World = World(CPU),  # noqa: B008 - never changed
    **options: Any,
) -> assembly.Training:
    given = Options(name="toy", log="none", **options)
    with assembly.assembled(which, Training(settings), given, world, None, None) as training:
        return training


def test_the_images_of_an_epoch() -> None:
    sampling = assemble(task(), seed=5).sampling
    assert (sampling.num_images, sampling.batch_size, sampling.seed) == (21, 8, 5)
    assert (sampling.rank, sampling.world_size, sampling.accumulate) == (0, 1, 1)
    assert sampling.drawn_from is None
    grouped = task(groups=[0, 1] * 10 + [0], balanced_over=[1] * 21)
    sampling = assemble(grouped, replace(SETTINGS, accumulate=2)).sampling
    assert (sampling.groups, sampling.balanced_over) == (grouped.groups, grouped.balanced_over)
    assert sampling.accumulate == 2


@pytest.mark.parametrize(
    ("batches", "images", "drawn_from"), [(1, 8, 21), (2, 16, 21), (3, 21, None), (9, 21, None)]
)
def test_overfitting_takes_so_many_batches(
    batches: int, images: int, drawn_from: int | None
) -> None:
    sampling = assemble(task(), overfit_batches=batches).sampling
    assert (sampling.num_images, sampling.drawn_from) == (images, drawn_from)


def test_images_that_are_left_out_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assemble(task(num_images=17))
    told = "toy: 1 image of 17 left out of each epoch, other ones each time: too few for a last bat"
    assert capsys.readouterr().out.startswith(told)
    assemble(task(num_images=18))
    assert "left out" not in capsys.readouterr().out


def test_a_part_of_one_image_is_refused_where_the_network_needs_two() -> None:
    halves = replace(SETTINGS, batch_size=8, accumulate=4)
    assemble(task(num_images=24, single_images=False), halves)  # parts of two
    assemble(task(num_images=20), halves)  # of one
    with pytest.raises(
        InputError, match="20 images in batches of 8 over 4 ranks and micro-batches"
    ):
        assemble(task(num_images=20, single_images=False), halves)


@pytest.mark.parametrize(("stop", "last"), [(None, 6), (5, 5), (6, 6), (7, 6)])
def test_the_last_step(stop: int | None, last: int) -> None:
    training = assemble(task(), stop_step=stop)
    assert training.last_step == last
    ends = []
    for training.state.step in range(1, last + 1):
        if training.at_epoch_end():
            ends.append(training.state.step)
    assert ends == sorted({3, last})


def test_patience() -> None:
    training = assemble(task(), patience=2)
    for training.state.stale, out in ((1, False), (2, True), (3, True)):
        assert training.out_of_patience() == out
    training = assemble(task())
    training.state.stale = 100
    assert not training.out_of_patience()


def test_a_checkpoint_is_due_after_so_many_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    training = assemble(task(), checkpoint_minutes=2.0)
    for later, due in ((120.0, False), (0.5, True)):
        now += later
        assert training.checkpoint_is_due() == due


def test_images_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    speed = assembly._Speed(8, 10)
    assert speed.images_per_second(10) == 0  # in no time
    now = 54.0
    assert (speed.seconds(), speed.images_per_second(13)) == (4.0, 6.0)
    speed.restart(13)
    now = 54.5
    assert (speed.seconds(), speed.images_per_second(14)) == (0.5, 16.0)


def sums(*batches: tuple[float, int]) -> EpochSums:
    taken = EpochSums()
    for loss, images in batches:
        taken.add({"loss": torch.tensor(loss)}, images)
    return taken


def test_means_since_the_last_point() -> None:
    epoch = sums((1.0, 4))
    means = assembly._Means(epoch)
    epoch.add({"loss": torch.tensor(3.0)}, 2)
    epoch.add({"loss": torch.tensor(6.0), "box": torch.tensor(6.0)}, 1)
    found = means.means_since_last(epoch)
    assert found == pytest.approx({"loss": (3 * 2 + 6) / 3, "box": 2.0})
    epoch.add({"loss": torch.tensor(0.5)}, 8)
    assert means.means_since_last(epoch)["loss"] == pytest.approx(0.5)
    epoch.add({"loss": torch.tensor(9.0)}, 1)
    assert means.means_since_last(epoch)["loss"] == pytest.approx(9.0)
    assert means.means_since_last(sums((7.0, 2), (1.0, 4))) == pytest.approx({"loss": 3.0})
    assert means.means_since_last(EpochSums()) == {}


@pytest.mark.parametrize(("steps", "every"), [(10, 1), (20, 1), (39, 1), (40, 2), (100, 5)])
def test_points_within_an_epoch(steps: int, every: int) -> None:
    sent: list[tuple[int, dict[str, float]]] = []
    training = assemble(task(num_images=8 * steps))
    training.trackers = SimpleNamespace(  # type: ignore[assignment]
        within_epoch=lambda step, values: sent.append((step, values))
    )
    for step in range(steps + 1, 2 * steps + 1):
        training.state.step = step
        training.state.sums.add({"loss": torch.tensor(2.0)}, 8)
        training.track()
    assert [step for step, _ in sent] == [
        step for step in range(steps + 1, 2 * steps + 1) if (step - steps) % every == 0
    ]
    assert all(values == pytest.approx({"loss": 2.0, "lr": 0.5}) for _, values in sent)


def test_the_bar_is_shown_when_it_is_due() -> None:
    shown: list[tuple[int, dict[str, float], float]] = []
    training = assemble(task())
    training.state.step = 2
    training.state.sums = sums((1.5, 4))
    training.speed = SimpleNamespace(images_per_second=lambda step: 8.0 * step)  # type: ignore[assignment]
    for due in (False, True):
        training.progress = SimpleNamespace(  # type: ignore[assignment]
            due=lambda due=due: due, update=lambda *what: shown.append(what)
        )
        training.show()
    assert shown == [(2, {"loss": 1.5}, 16.0)]


def test_what_is_trained_on_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def said(world: World = World(CPU), settings: Optimization = SETTINGS, **how: bool) -> str:  # noqa: B008
        which, recipe = task(num_images=8 * settings.epochs), Training(settings)
        sampling = assemble(which, settings, quiet=True).sampling
        options = Options(name="toy", **how)
        assembly._progress(which, recipe, options, world, sampling, 0, 4).close()
        return capsys.readouterr().out.partition("\n")[0]

    assert said() == "toy: 16 images, 2 epochs of 2 steps, batch 8, on cpu"
    once = replace(SETTINGS, epochs=1)
    assert said(World(CPU, 0, 2), once) == "toy: 8 images, 1 epoch of 1 step, batch 8, on 2 x cpu"
    assert said(World(CPU, 1, 2)) == said(quiet=True) == said(json=True) == ""


@pytest.mark.parametrize(
    ("warmup", "told"), [(2, ""), (3, ""), (4, "for 4 steps, and this training has 6")]
)
def test_a_long_warm_up(warmup: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assemble(task(), replace(SETTINGS, warmup_steps=warmup))
    out = capsys.readouterr().out
    assert ("warning: the learning rate rises" in out) == bool(told)
    assert told in out


def test_nothing_but_the_state_is_kept_without_a_folder(tmp_path: Path) -> None:
    training = assemble(task())
    assert (training.folder, training.log, training.trackers) == (None, None, None)
    assert training.tracked.means_since_last(training.state.sums) == {}


@pytest.mark.parametrize(
    ("asked", "step", "saved_by", "refused"),
    [
        ("a.pt", 6, 1, True),
        ("a.pt", 7, 2, True),
        ("a.pt", 5, 1, False),
        ("a.pt", 6, None, False),
        ("auto", 6, 1, False),
        ("never", 6, 1, False),
    ],
)
def test_a_file_of_a_finished_training_is_not_trained_further(
    asked: str,
    step: int,
    saved_by: int | None,
    refused: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def resume(state: Any, *given: Any) -> int | None:
        state.step = step
        return saved_by

    monkeypatch.setattr(assembly, "resume", resume)
    if refused:
        with pytest.raises(
            InputError,
            match=rf"^--resume a.pt is of step {step}, and this training has 6 steps: raise",
        ):
            assemble(task(), resume=asked)
        return
    assert assemble(task(), resume=asked).state.step == step
    told = f"toy: resuming from step {step}\n" in capsys.readouterr().out
    assert told == (saved_by is not None)


def test_a_checkpoint_of_other_ranks_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assembly, "resume", lambda state, *given: 3)
    assemble(task())
    assert capsys.readouterr().out.startswith("toy: resuming from step 0 of a run on 3 ranks\n")
