"""When a certificate is written while a run trains, and what it says of the run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Training
from torch import nn

from common.command.flags import RunFlags
from common.optimization.weight_average import WeightAverage
from common.processes.ranks import World
from common.recipe import Optimization
from common.runs.certificate import read_certificate, state_record
from common.runs.data_parts import digest
from common.storage import to_json
from common.training.certifying import Certifying, kept, recipe_digest, record_of
from common.training.checkpointing import TrainingState

RECIPE = Training(Optimization(lr=0.5, batch_size=8, epochs=2, accumulate=3))


def flags(folder: Path, **given: Any) -> RunFlags[Any]:
    return RunFlags(data=folder, out=folder / "x", recipe=RECIPE, certify_steps=4, **given)


def state(step: int, average: bool = False) -> TrainingState:
    model = nn.Linear(2, 1)
    return TrainingState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        focus=None,
        average=WeightAverage(model, 0.9) if average else None,
        scaling=None,
        extent={"steps_per_epoch": 5},
        step=step,
    )


def test_states_are_written_every_so_many_steps_and_with_each_checkpoint(tmp_path: Path) -> None:
    world = World(torch.device("cpu"), 0, 2)
    watch = Certifying(tmp_path, {"recipe": {"lr": 0.5}}, flags(tmp_path), world)
    watch.saved(state(1))  # not begun
    watch.begin(state(0), {"images": "ab"})
    for step in range(1, 10):
        watch.after_step(state(step))
        if step in (6, 8):
            watch.saved(state(step))
    content = read_certificate(tmp_path)
    assert [one["step"] for one in content["states"]] == [4, 6, 8]
    assert content["data"] == {"images": "ab"}
    assert content["recipe"] == digest([to_json({"lr": 0.5})])
    assert content["flags"]["certify_steps"] == 4
    (part,) = content["parts"]
    assert (part["step"], part["micro_batches"]) == (0, 6)
    assert (part["environment"]["ranks"], part["environment"]["device"]) == (2, "cpu")
    assert set(part["code"]) == {"commit", "dirty", "sources"}


@pytest.mark.parametrize("average", [False, True])
def test_the_weights_are_those_that_are_evaluated(average: bool) -> None:
    one = state(3, average)
    record = record_of(one)
    assert record == state_record(3, one.named(), "average." if average else "model.")
    alone = {f"model.{name}": value for name, value in one.evaluated().state_dict().items()}
    assert {f"model.{name}" for name, _ in one.model.named_parameters()} <= set(record["tensors"])
    if not average:
        assert record["weights"] == state_record(3, alone, "model.")["weights"]


def test_the_recipe_counts_and_nothing_else() -> None:
    assert recipe_digest({"recipe": {"lr": 1}, "seed": 0}) == recipe_digest({"recipe": {"lr": 1}})
    assert recipe_digest({"recipe": {"lr": 1}}) != recipe_digest({"recipe": {"lr": 2}})


def test_flags_are_kept_but_for_those_that_a_check_has_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    found = kept(RunFlags(data=Path("data"), out=Path("x"), recipe=RECIPE, seed=3))
    gone = {"name", "recipe", "out", "resume", "dry_run", "print_config", "stop_step"}
    assert not gone & set(found)
    assert found["data"] == str(tmp_path / "data")
    assert (found["seed"], found["checkpoint_minutes"], found["init"]) == (3, 5.0, None)
    assert kept(RECIPE)["optimization"]["accumulate"] == 3
