"""`train --init`: a classifier that begins with weights of another."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.runs.checkpoints import load as load_checkpoint
from pretrain import __main__ as command

Run = Callable[..., tuple[int, str, str]]
TINY = (
    "--network cifar-resnet20 --images.size 32 --images.padding 2 --optimization.batch-size 8 "
    "--optimization.epochs 1 --optimization.warmup-steps 0 --optimization.lr 1e-9 --workers 0 "
    "--device cpu --evaluate-every 1"
).split()


@pytest.fixture
def train(call_command: Run, tmp_path: Path) -> Run:
    def call(out: str, data: Path, *flags: object) -> tuple[int, str, str]:
        given = ("--data", data, "--out", tmp_path / out, *TINY, *flags)
        return call_command(command, "train", "toy-resnet18", *given)

    return call


def test_a_run_begins_another_with_more_classes(train: Run, folders: Path, tmp_path: Path) -> None:
    code, _, err = train("first", folders)
    assert code == 0, err
    data = shutil.copytree(folders, tmp_path / "data")
    names = sorted(path.name for path in (data / "train").iterdir())
    for split in ("train", "val"):
        shutil.copytree(data / split / names[0], data / split / "aaa")
    code, out, err = train("second", data, "--init", tmp_path / "first" / "best.pt")
    assert code == 0, err
    assert f"begins with {tmp_path / 'first' / 'best.pt'}: " in out
    assert f"; the head of {len(names)} of {len(names) + 1} classes (" in out
    first, second = (
        load_checkpoint(tmp_path / run / "last.pt")["model"] for run in ("first", "second")
    )
    torch.testing.assert_close(second["fc.weight"][1:], first["fc.weight"], rtol=0, atol=1e-6)
    torch.testing.assert_close(second["conv1.weight"], first["conv1.weight"], rtol=0, atol=1e-6)


def test_weights_of_another_network_are_refused(train: Run, folders: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "x.pth")
    code, _, err = train("run", folders, "--init", tmp_path / "x.pth")
    assert code == 2 and err.count("\n") == 1 and "x.pth is of another network" in err
