"""The batch size that fits: the search alone, and a training under a memory that is made up."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from recipes import Training

from common.command.flags import RunFlags
from common.errors import InputError
from common.recipe import Optimization
from common.storage import read_json, to_json
from common.training import batch_size
from common.training.batch_size import (
    Fit,
    has_own_memory,
    largest,
    release,
    share_used,
    with_batch,
)
from common.training.batch_size import with_fitting_batch as chosen_by
from common.training.epoch_means import EpochSums
from common.training.task import Watch
from pretrain import __main__ as command
from pretrain import train as pretrain_train

TINY = (
    "--network cifar-resnet20 --images.size 32 --optimization.epochs 1 --optimization.lr 0.1 "
    "--optimization.batch-size 4 --optimization.warmup-steps 0 --workers 0 --device cpu"
).split()


@pytest.mark.parametrize(("limit", "found"), [(2, 2), (3, 2), (64, 64), (100, 64)])
def test_the_largest_power_of_two_under_a_limit(limit: int, found: int) -> None:
    asked = []

    def attempt(size: int) -> Fit:
        asked.append(size)
        return "fits" if size <= limit else "too large"

    assert largest(attempt) == found
    assert asked == [2**power for power in range(1, len(asked) + 1)]
    assert asked[-1] == 2 * found  # none above the first that does not


def test_no_limit_but_the_images_and_one_that_is_too_low() -> None:
    assert largest(lambda size: "fits" if size <= 40 else "holds every image") == 32
    assert largest(lambda _: "holds every image") == 2
    assert largest(lambda _: "fits") == 2**15
    with pytest.raises(InputError, match="not even a batch of 2 fits"):
        largest(lambda _: "too large")


def flags_of(out: Path, accumulate: int = 1, **changes: Any) -> RunFlags[Training]:
    settings = Optimization(lr=0.1, batch_size=4, epochs=2, accumulate=accumulate)
    given = {"recipe": Training(settings), "device": "cpu", "batch_size": "auto", **changes}
    return RunFlags(data=out / "data", out=out, **given)


class Memory:
    """In place of a GPU: what a training takes of it, by its images in a batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: Callable[[int], float]) -> None:
        self.tried: list[RunFlags[Any]] = []
        self.released = 0
        self.images = 10**6
        monkeypatch.setattr(batch_size, "has_own_memory", lambda device: True)
        monkeypatch.setattr(batch_size, "release", lambda device: self._release())
        size = self.size = [0]
        monkeypatch.setattr(batch_size, "share_used", lambda device: share(size[0]))

    def _release(self) -> None:
        self.released += 1

    def train(self, flags: RunFlags[Any], watch: Watch) -> None:
        """Take two steps of at most the images that there are."""
        assert self.released == 2 * len(self.tried) + 1
        self.tried.append(flags)
        self.size[0] = flags.recipe.optimization.batch_size
        print("is not shown")
        watch.begin(None, {})
        sums = EpochSums()
        for images in (self.size[0], min(1, self.images)):  # the second epoch has begun
            sums.add({}, min(images, self.images))
            watch.after_step(SimpleNamespace(sums=sums))
            sums = EpochSums()
        watch.saved(None)


@pytest.mark.parametrize(
    ("optimizer", "rate", "shown"), [("sgd", 0.1 * 4, "0.4"), ("adamw", 0.1 * 2, "0.2")]
)
def test_the_rate_goes_with_the_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    optimizer: Any,
    rate: float,
    shown: str,
) -> None:
    """A share of 0.9 of the memory still fits."""
    memory = Memory(monkeypatch, lambda size: 0.9 if size <= 16 else 0.9001)
    flags = flags_of(tmp_path, json=True)
    optimization = replace(flags.recipe.optimization, optimizer=optimizer)
    flags = replace(flags, recipe=replace(flags.recipe, optimization=optimization))
    found = chosen_by(flags, memory.train)
    with_rate = replace(optimization, batch_size=16, lr=rate)
    assert found == replace(flags, batch_size=None, recipe=Training(with_rate))
    assert capsys.readouterr().out.split() == (
        f"batch size 16, the largest that fits; learning rate {shown} (the recipe: 4, 0.1)".split()
    )
    for size, tried in zip((2, 4, 8, 16, 32), memory.tried, strict=True):
        of_size = replace(optimization, batch_size=size)
        dry = {"dry_run": True, "quiet": True, "json": False, "batch_size": None}
        assert tried == replace(flags, **dry, recipe=Training(of_size))
    assert memory.released == 10


def test_a_size_that_is_given_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = flags_of(tmp_path, batch_size=None)
    assert chosen_by(flags, Memory(monkeypatch, lambda _: 0.0).train) is flags


def test_more_parts_than_images_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, lambda _: 0.5)
    memory.images = 20
    flags = chosen_by(flags_of(tmp_path, accumulate=8), memory.train)
    assert flags.recipe.optimization.batch_size == 16
    assert [one.recipe.optimization.batch_size for one in memory.tried] == [8, 16, 32]


def test_the_memory_is_that_of_the_device_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the training is its own; a step that runs out of memory is too large."""
    asked: list[Any] = []
    monkeypatch.setattr(batch_size.ranks, "choose_device", lambda name: f"the {name}")
    monkeypatch.setattr(batch_size, "has_own_memory", lambda of: asked.append(of) or True)
    monkeypatch.setattr(batch_size, "release", asked.append)
    monkeypatch.setattr(batch_size, "share_used", lambda of: asked.append(of) or 0.9)
    flags = flags_of(tmp_path, device="cuda:1")
    errors: list[Exception] = [torch.cuda.OutOfMemoryError("made up"), ValueError("another")]

    def train(flags: Any, watch: Any) -> None:
        watch.images = 2
        if flags.recipe.optimization.batch_size > 2:
            raise errors.pop(0)

    assert chosen_by(flags, train).recipe.optimization.batch_size == 2
    assert set(asked) == {"the cuda:1"}
    with pytest.raises(ValueError, match="^another$"):
        chosen_by(flags, train)


def test_several_processes_find_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But take the one that the run began with, of which the first tells."""
    memory = Memory(monkeypatch, lambda _: 0.5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--batch-size auto is found by one process: find it on"):
        chosen_by(flags_of(tmp_path), memory.train)
    assert memory.tried == []


@pytest.mark.parametrize("name", ["last.pt", "last.previous.pt"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_has_begun_keeps_its_size(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    rank: int,
) -> None:
    memory = Memory(monkeypatch, lambda _: 0.95)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    flags = flags_of(tmp_path)
    begun = with_batch(flags, 64, 0.3)
    described = {"stage": "detect", "name": "x", "seed": 0, "recipe": begun.recipe}
    (tmp_path / "recipe.json").write_text(to_json(described))
    with pytest.raises(InputError, match="found by one process"):  # no checkpoint yet
        chosen_by(flags, memory.train)
    (tmp_path / name).touch()
    assert chosen_by(flags, memory.train) == replace(begun, batch_size=None)
    told = "batch size 64, as this run began with; learning rate 0.3 (the recipe: 4, 0.1)".split()
    assert capsys.readouterr().out.split() == (told if rank == 0 else [])
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(InputError, match="found by one process"):
        chosen_by(flags, memory.train)


def test_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    device, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert has_own_memory(device) and not has_own_memory(cpu)
    monkeypatch.setattr(batch_size.gc, "collect", lambda: calls.append("objects"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("cache"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    release(cpu)
    assert calls == ["objects"]
    release(device)
    assert calls[1:] == ["objects", "cache", device]
    properties = {device: SimpleNamespace(total_memory=80)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", {device: 20}.__getitem__)
    assert share_used(device) == 0.25


@pytest.fixture
def train(
    call_command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    rng = np.random.default_rng(0)
    for folder, count in (("train", 20), ("val", 2)):
        for name in ("ant", "bee"):
            (tmp_path / "data" / folder / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / "data" / folder / name / f"{number}.png"), pixels)

    def call(*more: str, out: str = "run") -> tuple[int, str, str]:
        flags = ("--data", tmp_path / "data", "--out", tmp_path / out, *TINY)
        return call_command(command, "train", "toy-resnet18", *flags, "--batch-size", "auto", *more)

    return call


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make steps fail above so many images, and take a share of the memory."""

    def limit(images: int, share: Callable[[int], float] = lambda _: 0.5) -> None:
        seen = [0]
        make = pretrain_train.classification_loss

        def limited_loss(*arguments: Any) -> Any:
            loss = make(*arguments)

            def with_limit(network: Any, batch: Any) -> Any:
                seen[0] = len(batch[0][0]) if len(batch) == 1 else len(batch[0])
                if seen[0] > images:
                    raise torch.cuda.OutOfMemoryError("made up")
                return loss(network, batch)

            return with_limit

        monkeypatch.setattr(pretrain_train, "classification_loss", limited_loss)
        monkeypatch.setattr(batch_size, "has_own_memory", lambda _: True)
        monkeypatch.setattr(batch_size, "share_used", lambda _: share(seen[0]))

    return limit


def chosen(run: Path) -> tuple[int, float]:
    optimization = read_json(run / "recipe.json")["recipe"]["optimization"]
    return optimization["batch_size"], optimization["lr"]


def test_a_training_takes_what_fits_and_keeps_it(
    train: Any, limited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(20)
    code, out, err = train("--optimization.optimizer", "sgd")
    assert code == 0, err
    assert "batch size 16, the largest that fits; learning rate 0.4 (the recipe: 4, 0.1)" in out
    assert "dry run" not in out and out.count("class folders in train") == 1
    assert chosen(tmp_path / "run") == (16, pytest.approx(0.4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]

    def nothing(*_: object) -> Any:
        raise AssertionError("searched again")

    monkeypatch.setattr(batch_size, "largest", nothing)
    code, out, err = train("--optimization.optimizer", "sgd")
    assert code == 0, err
    assert "batch size 16, as this run began with; learning rate 0.4" in out


def test_memory_that_is_nearly_full_and_a_set_that_is_small(
    train: Any, limited: Any, tmp_path: Path
) -> None:
    limited(1000, share=lambda images: images / 9)
    code, out, err = train("--optimization.optimizer", "adamw")
    assert code == 0, err
    assert "batch size 8, the largest that fits; learning rate 0.1414" in out  # by the root
    limited(1000)
    code, out, err = train("--optimization.optimizer", "adamw", out="all")
    assert code == 0, err
    assert chosen(tmp_path / "all")[0] == 32  # of 40 images


def test_a_cpu_has_no_such_limit(train: Any, tmp_path: Path) -> None:
    code, _, err = train()
    assert code == 2 and err.count("\n") == 1
    assert "trains on the CPU: give --optimization.batch-size" in err
    assert not (tmp_path / "run").exists()
