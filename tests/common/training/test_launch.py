"""One call of `train`: the description of the run, what it records, its dry run."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Training
from torch import Tensor, nn

from common.command.flags import RunFlags
from common.errors import InputError
from common.images.loading import default_workers
from common.images.sampling import MicroBatch
from common.processes.ranks import World
from common.recipe import Optimization
from common.runs import trackers
from common.runs.metrics_log import read_metrics
from common.storage import read_json
from common.training import launch
from common.training.checkpointing import TrainingState
from common.training.task import Task

SETTINGS = Optimization(lr=0.5, batch_size=4, epochs=3)  # 2 steps an epoch
CPU = World(torch.device("cpu"))
IMAGES = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def build(world: World) -> tuple[Task, dict[str, Any]]:
    def load(parts: Iterable[MicroBatch]) -> Iterator[Tensor]:
        return (IMAGES[part.indices] for part in parts)

    def loss(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": network(batch).square().mean()}

    print("8 images are read")
    task = Task(
        model=nn.Linear(3, 1),
        num_images=8,
        load=load,
        loss=loss,
        evaluate=lambda network: {"score": 0.5},
        metric="score",
    )
    return task, {"classes": ["cat"]}


def flags(out: Path, **given: Any) -> RunFlags[Any]:
    return RunFlags(data=out, out=out, recipe=Training(SETTINGS), device="cpu", log="none", **given)


class Seen:
    """A `Watch` that notes the steps."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.steps: list[int] = []

    def begin(self, state: TrainingState, data: Any) -> None:
        self.begun.append(state.step)

    def after_step(self, state: TrainingState) -> None:
        self.steps.append(state.step)

    def saved(self, state: TrainingState) -> None: ...


def test_a_run_is_described_and_its_place_recorded(tmp_path: Path) -> None:
    out = tmp_path / "run"
    metrics = launch.launch("test", flags(out, name="toy", seed=3), build, {"backbone": "ab"})
    assert metrics["score"] == 0.5
    description = read_json(out / "recipe.json")
    assert description["recipe"]["optimization"]["lr"] == 0.5
    del description["recipe"]
    assert description == {
        "stage": "test",
        "backbone": "ab",
        "name": "toy",
        "seed": 3,
        "overfit_batches": None,
    }
    environment = read_json(out / "environment.json")
    assert (environment["classes"], environment["deterministic"]) == (["cat"], False)
    assert (environment["device"], environment["world_size"]) == ("cpu", 1)
    assert (out / "certificate.json").is_file()
    assert [record["step"] for record in read_metrics(out)] == [2, 4, 6]


def test_a_limit_of_images_belongs_to_the_description(tmp_path: Path) -> None:
    launch.launch("test", flags(tmp_path / "a", limit_images=5, deterministic=True), build)
    assert read_json(tmp_path / "a" / "recipe.json")["limit_images"] == 5
    assert read_json(tmp_path / "a" / "environment.json")["deterministic"] is True
    assert not torch.are_deterministic_algorithms_enabled()


def test_who_observes_writes_no_certificate(tmp_path: Path) -> None:
    seen = Seen()
    launch.launch("test", flags(tmp_path / "a"), build, watch=seen)
    assert (seen.begun, seen.steps) == ([0], [1, 2, 3, 4, 5, 6])
    assert not (tmp_path / "a" / "certificate.json").exists()


def test_a_dry_run_takes_two_steps_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, out = Seen(), tmp_path / "new" / "er" / "run"
    assert launch.launch("test", flags(out, dry_run=True), build, watch=seen)["score"] == 0.5
    assert (seen.begun, seen.steps) == ([0, 2], [1, 2])
    assert list((tmp_path / "new" / "er").iterdir()) == []
    said = capsys.readouterr().out
    assert said.count("8 images are read") == 1
    assert "resuming from step 2" in said
    assert said.endswith(
        "dry run: two steps, evaluation, save and load went well; nothing is kept\n"
        "GPU memory: not measured, for this ran on the CPU\n"
    )


def test_a_dry_run_looks_at_the_flags_that_it_replaces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.pt"):
        launch.launch("test", flags(tmp_path / "a", dry_run=True, resume="gone.pt"), build)
    (tmp_path / "b").touch()
    with pytest.raises(InputError, match=r"b is a file: choose another --out"):
        launch.launch("test", flags(tmp_path / "b", dry_run=True), build)
    (tmp_path / "c").mkdir()
    for resume in ("auto", "never"):
        launch._check_unused(flags(tmp_path / "c", resume=resume))
    assert not list((tmp_path / "c").iterdir())


def test_a_mistyped_tracker_is_told_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(asked: str | None) -> tuple[str, ...]:
        raise InputError(f"no {asked}")

    monkeypatch.setattr(trackers, "chosen", refuse)
    with pytest.raises(InputError, match="no none"):
        launch.launch("test", flags(tmp_path / "a"), lambda world: pytest.fail("too late"))
    assert not (tmp_path / "a").exists()


def test_freed_memory_is_kept_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(launch.memory, "keep_freed_memory", lambda: called.append(True))
    launch.launch("test", flags(tmp_path / "a"), build)
    assert called == [True]


def test_the_folder_is_free_after_a_failure(tmp_path: Path) -> None:
    def fail(world: World) -> Any:
        raise InputError("no data: give some")

    for _ in range(2):
        with pytest.raises(InputError, match="no data"):
            launch.launch("test", flags(tmp_path / "a"), fail)
    launch.launch("test", flags(tmp_path / "a", resume="auto"), build)


def test_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * 2**29)
    whole = type("Properties", (), {"total_memory": 24 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    told = launch._memory_needed(torch.device("cuda", 1))
    assert told == "GPU memory: 1.5 of 24.0 GiB at most"


def test_how_images_are_read(tmp_path: Path) -> None:
    out = tmp_path / "a"
    found = launch.reading(flags(out, workers=0, skip_bad=3), CPU)
    assert (found.workers, found.device, found.skip_bad) == (0, CPU.device, 3)
    assert found.record == out / "unreadable.txt"
    found = launch.reading(flags(out, skip_bad=3, dry_run=True), CPU)
    assert (found.workers, found.skip_bad) == (default_workers(), 0)


def claimed(
    patch: pytest.MonkeyPatch, mine: RunFlags[Any], problem: str | None, **others: Any
) -> Any:
    """Claim the folder as the second of two ranks, of which the first has other flags."""
    patch.setattr(launch.ranks, "gather", lambda one: [{**one, **others}, one])
    patch.setattr(launch.ranks, "broadcast", lambda one: problem)
    return launch._claim_folder(mine, {"seed": 1}, World(CPU.device, 1, 2))


@pytest.mark.parametrize(
    "name", ["evaluate_every", "patience", "dry_run", "deterministic", "resume", "seed"]
)
def test_ranks_must_have_the_same_flags(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=rf"different flags \({name}\): give all of them the same"):
        claimed(monkeypatch, flags(tmp_path / "a"), None, **{name: "another"})


def test_a_rank_hears_of_a_folder_that_the_first_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="taken"):
        claimed(monkeypatch, flags(tmp_path / "a"), "taken")
    assert claimed(monkeypatch, flags(tmp_path / "a"), None) is None
    assert not (tmp_path / "a").exists()
