"""A run folder is opened again: its best or last weights, averaged where there is an average."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Training
from torch import nn

from common.errors import InputError
from common.recipe import Optimization
from common.runs import checkpoints
from common.runs.finished import FinishedRun, open_run
from common.runs.folder import RunFolder
from common.storage import to_json, write_json

RECIPE = Training(Optimization(lr=0.5, batch_size=8, epochs=2))


def run_folder(path: Path, **state: Any) -> Path:
    described = {"stage": "detect", "name": "toy", "seed": 7, "recipe": json.loads(to_json(RECIPE))}
    RunFolder(path, described).close()
    write_json(path / "recipe.json", described)
    write_json(path / "environment.json", {"classes": ["cat"]})
    checkpoints.save({"epoch": 1, "metrics": {}, **state}, path / "best.pt")
    return path


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((1, 2), value), "bias": torch.full((1,), value)}


def test_the_weights_are_those_that_were_evaluated(tmp_path: Path) -> None:
    plain = open_run(run_folder(tmp_path / "a", model=weights(1)), "detect", Training, "best")
    assert (plain.folder, plain.name, plain.seed) == (tmp_path / "a", "toy", 7)
    assert plain.recipe == RECIPE
    assert plain.fact("classes") == ["cat"]
    network = nn.Linear(2, 1)
    plain.load_into(network)
    assert network.weight.tolist() == [[1, 1]]
    state = {"model": weights(1), "average": weights(3)}
    open_run(run_folder(tmp_path / "b", **state), "detect", Training, "best").load_into(network)
    assert network.weight.tolist() == [[3, 3]]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", model=weights(1))
    opened: FinishedRun[Training] = open_run(folder, "detect", Training, "best")
    with pytest.raises(InputError, match=r"environment.json lacks 'mean': train again"):
        opened.fact("mean")
    with pytest.raises(InputError, match=f"{re.escape(str(folder))} holds weights that do not fit"):
        opened.load_into(nn.Linear(3, 1))
    with pytest.raises(InputError, match=r"last\.pt"):
        open_run(folder, "detect", Training, "last")
    with pytest.raises(InputError):
        open_run(folder, "pretrain", Training, "best")
    for left in ("model", "epoch", "metrics"):
        whole = {"model": weights(1), "epoch": 1, "metrics": {}}
        del whole[left]
        (folder / "best.pt").unlink()
        checkpoints.save(whole, folder / "best.pt")
        with pytest.raises(InputError, match=r"best.pt is no checkpoint of a run: train again"):
            open_run(folder, "detect", Training, "best")
