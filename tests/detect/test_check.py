"""`check` of detectors: runs as they were, resumed, and tampered with, through the commands."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from common.runs import checkpoints
from common.runs.certificate import read_certificate
from detect import __main__ as command

pytestmark = pytest.mark.usefixtures("narrow_bodies")
Run = Callable[..., tuple[int, str, str]]
FLAGS = (
    "--backbone scratch --detector.train-sizes 48 64 --detector.test-size 64 "
    "--detector.max-size 64 --detector.fpn-channels 16 --optimization.batch-size 3 "
    "--optimization.epochs 3 --optimization.warmup-steps 0 --optimization.ema-decay 0.9 "
    "--focused-dropout layer3 --focus.participation-rate 0.5 --workers 0 --device cpu "
    "--certify-steps 1 --evaluate-every 2"
).split()  # two steps per epoch; checkpoints after 4 and 6 steps


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command)


@pytest.fixture(scope="module")
def finished(
    narrow_bodies: None, toy_devkit: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fd"
    arguments = ["train", "toy-retinanet", "--data", toy_devkit, "--out", out, *FLAGS]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        patch.setattr(sys, "argv", [str(command.__file__), *map(str, arguments)])
        assert command.main() == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def steps_of(path: Path) -> int:
    step: int = checkpoints.load(path)["step"]
    return step


def test_a_run_comes_out_as_it_did(run: Run, finished: Path) -> None:
    assert [state["step"] for state in read_certificate(finished)["states"]] == [1, 2, 3, 4, 5, 6]
    code, out, err = run("check", finished, "--steps", "0:6")
    assert (code, err) == (0, "")
    assert "taking steps 0 to 6 again, from the start" in out
    assert "equal: 6 states" in out and "not as it was" not in out
    before = steps_of(finished / "last.previous.pt")
    code, out, _ = run("check", finished)  # from one checkpoint to the next
    assert code == 0
    assert f"taking steps {before} to 6 again, from last.previous.pt" in out


def test_a_resumed_run_comes_out_as_it_did(
    run: Run, finished: Path, copy: Path, toy_devkit: Path
) -> None:
    (copy / "last.previous.pt").replace(copy / "last.pt")
    begun = steps_of(copy / "last.pt")
    words = ["train", "toy-retinanet", "--data", toy_devkit, "--out", copy, *FLAGS]
    assert run(*words)[0] == 0
    straight, resumed = (read_certificate(folder) for folder in (finished, copy))
    assert resumed["states"] == straight["states"]
    assert [part["step"] for part in resumed["parts"]] == [0, begun]
    code, out, _ = run("check", copy, "--steps", "0:6")
    assert code == 0 and "equal: 6 states" in out


def test_a_changed_weight_is_named(run: Run, copy: Path) -> None:
    name = "head.classification_head.cls_logits.bias"
    state = checkpoints.load(copy / "last.previous.pt")
    state["model"][name].view(torch.int32)[3] ^= 1
    checkpoints.save(state, copy / "last.previous.pt")
    code, _, err = run("check", copy)
    assert code == 1 and err.count("\n") == 1
    assert f"step {state['step']}: model.{name} differ in the checkpoint;" in err
    assert "are as they were, so a file or a memory was changed" in err


def test_a_changed_image_is_named_or_its_step_is(
    run: Run, copy: Path, toy_devkit: Path, tmp_path: Path
) -> None:
    """Files are known by names and sizes; the rest shows in the first step that sees it."""
    data = shutil.copytree(toy_devkit, tmp_path / "VOCdevkit")
    ids = (data / "VOC2007/ImageSets/Main/trainval.txt").read_text().split()
    path = data / "VOC2007/JPEGImages" / f"{ids[0]}.jpg"
    whole = path.read_bytes()
    cv2.imwrite(str(path), 255 - np.asarray(cv2.imread(str(path))))
    code, out, err = run("check", copy, "--steps", "0:6", "--data", data)
    assert (code, err.count("\n")) == (1, 1)
    assert "not as it was: the files of the training images" in out
    assert "step " in err and "differ now" in err
    darker = np.asarray(cv2.imread(str(path)))
    for quality in range(95, 5, -5):  # as long as before: cut to fit, then filled up
        content = cv2.imencode(".jpg", darker, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(content) <= len(whole):
            break
    path.write_bytes(content.ljust(len(whole), b"\0"))
    code, out, err = run("check", copy, "--steps", "0:6", "--data", data)
    assert (code, "not as it was" in out) == (1, False)
    assert "differ now" in err and "so a file or a memory was changed" in err
    steps = {"step 1:", "step 2:"}  # an epoch shows all images
    assert any(f"error: {step}" in err or f" {step}" in err for step in steps), err


def test_a_changed_box_is_named(run: Run, copy: Path, toy_devkit: Path, tmp_path: Path) -> None:
    data = shutil.copytree(toy_devkit, tmp_path / "VOCdevkit")
    trained = set((data / "VOC2007/ImageSets/Main/trainval.txt").read_text().split())
    for path in (data / "VOC2007/Annotations").iterdir():
        if path.stem in trained:
            text = path.read_text()
            path.write_text(re.sub(r"<xmin>\d+", "<xmin>1", text))
    code, out, err = run("check", copy, "--steps", "0:6", "--data", data)
    assert (code, err.count("\n")) == (1, 1)
    assert "not as it was: the annotations of the training images" in out
    assert "step 1: " in err and "differ now" in err


def test_another_library_version_is_named(run: Run, copy: Path) -> None:
    """Beside equal states, and as the reason where they differ."""
    path = copy / "certificate.json"

    def edit(change: Callable[[Any], object]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    edit(lambda content: content["parts"][0]["environment"].update(torchvision="0.1.2"))
    code, out, _ = run("check", copy, "--steps", "5:6")
    assert code == 0
    assert "not as it was: torchvision (0.1.2 then, " in out
    edit(lambda content: content["states"][-1].update(digest="0" * 32))
    code, _, err = run("check", copy, "--steps", "5:6")
    assert code == 1
    assert "step 6: " in err and "; not as it was: torchvision (0.1.2 then, " in err
