"""`train --init`: a detector that begins with the weights of another, whose classes differ."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.runs.checkpoints import load as load_checkpoint
from detect import __main__ as command

pytestmark = pytest.mark.usefixtures("narrow_bodies")
Run = Callable[..., tuple[int, str, str]]
TINY = (
    "--detector.train-sizes 48 64 --detector.test-size 64 --detector.max-size 64 "
    "--detector.fpn-channels 16 --optimization.batch-size 3 --workers 0 --device cpu "
    "--optimization.epochs"
).split()
LOGITS = "head.classification_head.cls_logits.bias"


@pytest.fixture
def train(call_command: Run, toy_devkit: Path, tmp_path: Path) -> Run:
    def call(out: str, *flags: object, data: Path = toy_devkit) -> tuple[int, str, str]:
        given = ("--data", data, "--out", tmp_path / out, *flags)
        return call_command(command, "train", "toy-retinanet", *given)

    return call


def test_a_run_begins_another_with_other_classes(
    train: Run, toy_devkit: Path, tmp_path: Path
) -> None:
    # Random weights, and hardly a step: what is loaded can be told from what is learnt.
    slow = ("--optimization.lr", "1e-9", "--optimization.warmup-steps", "0")
    code, _, err = train("first", "--backbone", "scratch", *TINY, "1", *slow)
    assert code == 0, err
    data = shutil.copytree(toy_devkit, tmp_path / "data")
    classes = (toy_devkit / "classes.txt").read_text().split()
    now = ["moon", *reversed(classes)]
    (data / "classes.txt").write_text("\n".join(now) + "\n")

    begun = ("--init", tmp_path / "first", *TINY, "1", *slow)
    code, out, err = train("second", *begun, data=data)
    assert code == 0, err
    assert f"begins with {tmp_path / 'first'}: " in out
    assert f"the head of {len(classes)} of {len(now)} classes ('triangle', " in out
    first, second = (load_checkpoint(tmp_path / r / "last.pt") for r in ("first", "second"))
    rows = second["model"][LOGITS].view(9, len(now))[:, 1:].flip(1)
    torch.testing.assert_close(rows, first["model"][LOGITS].view(9, -1), rtol=0, atol=1e-5)
    body = "backbone.body.layer4.1.conv2.weight"
    torch.testing.assert_close(second["model"][body], first["model"][body], rtol=0, atol=1e-5)
    digest = hashlib.sha256((tmp_path / "first" / "best.pt").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "second" / "recipe.json").read_text())["init"] == digest

    (tmp_path / "first" / "best.pt").write_bytes(b"changed since")
    code, out, err = train("second", *begun, data=data)
    assert code == 0, err
    assert "resumes from its own checkpoint: --init " in out


def test_a_backbone_beside_it_is_refused(train: Run, tmp_path: Path) -> None:
    code, _, err = train("run", "--init", tmp_path, "--backbone", tmp_path / "x.pth")
    assert code == 2 and err.count("\n") == 1
    assert "--init brings weights of the whole detector: leave out --backbone" in err
    code, _, err = train("run", "--init", tmp_path / "gone.pth")
    assert code == 2 and "gone.pth is not there" in err and err.count("\n") == 1
