"""The table of equality over numbers of processes: what differs shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import world_sizes

from common.runs import checkpoints


def write_run(folder: Path, edit: Callable[[dict[str, Any], list[Any]], object]) -> Path:
    folder.mkdir()
    weights = {"a": torch.ones(3), "b": torch.zeros(2)}
    momenta = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"model": weights, "optimizer": momenta, "average": {"a": torch.ones(3)}}
    states = [{"step": step, "digest": f"d{step}"} for step in (1, 2, 3)]
    edit(content, states)
    checkpoints.save(content, folder / "last.pt")
    (folder / "certificate.json").write_text(json.dumps({"states": states}))
    return folder


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda content, states: None, "equal: 3 states, 4 tensors of last.pt"),
        (lambda content, states: states[1].update(digest="?"), "DIFFERS from step 2 on"),
        (lambda content, states: states.pop(), "DIFFERS from step 3 on"),
        (lambda content, states: states.append({"step": 4, "digest": "d4"}), "DIFFERS: 4 steps"),
        (lambda content, states: content["model"]["b"].neg_(), "DIFFERS in last.pt: ['.model.b']"),
        (
            lambda content, states: content["optimizer"]["state"][0]["momentum_buffer"].mul_(2),
            "DIFFERS in last.pt: ['.optimizer.state.0.momentum_buffer']",
        ),
        (
            lambda content, states: content["average"].update(b=torch.ones(1)),
            "DIFFERS in last.pt: names",
        ),
    ],
)
def test_what_differs_shows(
    tmp_path: Path, edit: Callable[[dict[str, Any], list[Any]], object], told: str
) -> None:
    reference = write_run(tmp_path / "one", lambda content, states: None)
    assert world_sizes.compare(write_run(tmp_path / "two", edit), reference).startswith(told)


@pytest.mark.parametrize("stage", world_sizes.STAGES)
def test_every_number_of_processes_has_four_parts(stage: str) -> None:
    arms = [arm for of, arm in world_sizes.ARMS if of == stage]
    assert len(arms) == 2
    for size in (1, 2, 4):
        words = world_sizes.command(stage, arms[0], size, "run")
        parts = int(words[words.index("--optimization.accumulate") + 1])
        started = int(words[words.index("--nproc-per-node") + 1]) if size > 1 else 1
        assert parts * started == 4
        assert "--deterministic" in words and words[words.index("-m", 3 if size > 1 else 0) :]
