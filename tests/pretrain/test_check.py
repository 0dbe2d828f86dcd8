"""`check`: runs as they were, resumed, and tampered with, through the commands."""

import json
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

from common.runs import certificate, checkpoints
from common.runs.certificate import read_certificate
from pretrain import __main__ as command

Run = Callable[..., tuple[int, str, str]]
FLAGS = (
    "--network cifar-resnet20 --images.size 32 --optimization.batch-size 8 --optimization.epochs 2 "
    "--optimization.ema-decay 0.9 --focus.participation-rate 0.5 --optimization.warmup-steps 0 "
    "--workers 0 --device cpu --certify-steps 1 --focus.after layer2"
).split()


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command)


@pytest.fixture(scope="module")
def finished(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fd"
    arguments = ["train", "toy-resnet18-fd", "--data", folders, "--out", out, *FLAGS]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        patch.setattr(sys, "argv", [str(command.__file__), *map(str, arguments)])
        assert command.main() == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Edit a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_run_comes_out_as_it_did(run: Run, finished: Path) -> None:
    steps = [state["step"] for state in read_certificate(finished)["states"]]
    assert len(steps) > 3
    code, out, err = run("check", finished, "--steps", f"0:{steps[-1]}")
    assert (code, err) == (0, "")
    assert f"equal: {len(steps)} states" in out
    assert "not as it was" not in out
    code, out, _ = run("check", finished)  # from one checkpoint to the next
    assert code == 0
    assert "from last.previous.pt" in out


def test_a_resumed_run_comes_out_as_it_did(
    run: Run, finished: Path, copy: Path, folders: Path
) -> None:
    """Its certificate has the states of the run that was not interrupted."""
    (copy / "last.previous.pt").replace(copy / "last.pt")
    assert run("train", "toy-resnet18-fd", "--data", folders, "--out", copy, *FLAGS)[0] == 0
    straight, resumed = (read_certificate(folder) for folder in (finished, copy))
    assert resumed["states"] == straight["states"]
    assert [part["step"] for part in resumed["parts"]] == [0, 3]
    assert run("check", copy, "--steps", "3:6")[0] == 0


def flip_a_bit(path: Path) -> None:
    state = checkpoints.load(path)
    state["model"]["fc.weight"].view(torch.int32)[1, 2] ^= 1
    checkpoints.save(state, path)


def test_a_flipped_bit_of_a_checkpoint_is_named(run: Run, copy: Path) -> None:
    flip_a_bit(copy / "last.previous.pt")
    code, _, err = run("check", copy)
    assert code == 1
    assert "step 3: model.fc.weight differ in the checkpoint;" in err
    assert "are as they were, so a file or a memory was changed" in err
    assert err.count("\n") == 1


def test_a_changed_rate_is_named_with_the_first_step(run: Run, copy: Path) -> None:
    change(copy / "recipe.json", lambda c: c["recipe"]["optimization"].update(lr=0.0123))
    code, out, err = run("check", copy, "--steps", "3:6")
    assert code == 1
    assert "not as it was: recipe.json" in out
    assert "step 4: model.conv1.weight and " in err
    assert "differ now, and equal at step 3; not as it was: recipe.json" in err


def test_a_changed_image_is_named_by_its_step(
    run: Run, copy: Path, folders: Path, tmp_path: Path
) -> None:
    """Files are known by names and sizes; the rest shows in the first step that sees it."""
    data = shutil.copytree(folders, tmp_path / "data")
    path = data / "train" / "ant" / "3.jpg"
    cv2.imwrite(str(path), 255 - np.asarray(cv2.imread(str(path))))
    code, out, err = run("check", copy, "--steps", "0:6", "--data", data)
    assert code == 1 and "not as it was: the files of the training images" in out
    assert "differ now" in err
    pixels = folders / "train" / "ant" / "3.jpg"
    path.write_bytes(path.read_bytes()[: pixels.stat().st_size].ljust(pixels.stat().st_size, b"."))
    code, out, err = run("check", copy, "--steps", "0:6", "--data", data)
    assert (code, "not as it was" in out) == (1, False)
    assert "differ now" in err and "so a file or a memory was changed" in err
    (data / "train" / "ant" / "3.jpg").rename(data / "train" / "ant" / "33.jpg")
    code, out, _ = run("check", copy, "--steps", "0:6", "--data", data)
    assert code == 1
    assert "not as it was: the training images" in out or "the names of the training" in out


def test_another_version_and_number_of_threads_are_said(run: Run, copy: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["parts"][0]["environment"].update(torch="2.0.1", threads=7)
        content["parts"][0]["code"].update(sources="0" * 32, commit="f" * 40, dirty={"a.py": "1"})

    change(copy / "certificate.json", edit)
    code, out, _ = run("check", copy, "--steps", "5:6")
    assert code == 0, "equal all the same"
    assert "torch (2.0.1 then, " in out
    assert "threads (7 then, 1 now)" in out
    assert "the code (ffffffffffff with changes to a.py then, " in out


def test_a_non_finite_step_is_taken_again(run: Run, folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = [*FLAGS, "--optimization.lr", "1e38", "--optimization.warmup-steps", "0"]
    arguments = ["train", "toy-resnet18-fd", "--data", folders, "--out", out, *flags]
    assert run(*arguments)[0] == 3
    record = json.loads((out / "non_finite.json").read_text())
    code, printed, err = run("check", out)
    assert (code, err) == (0, "")
    assert f"became non-finite at step {record['step']}" in printed
    images = record["steps"][0]["images"][0]
    assert f"training images {', '.join(map(str, images[:8]))}" in printed
    change(out / "recipe.json", lambda c: c["recipe"]["optimization"].update(lr=1e-3))
    code, _, err = run("check", out, "--steps", "0:1")
    assert code == 1


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("6", "--steps 6: write two numbers"),
        ("5:2", "--steps 5:2: write two numbers"),
        ("7:9", "the certificate has no state from step 7 to 9"),
    ],
)
def test_wrong_steps(run: Run, finished: Path, steps: str, message: str) -> None:
    code, _, err = run("check", finished, "--steps", steps)
    assert (code, message in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize("content", ["{}", "[]", '{"states": [{}]}', "x"])
def test_a_run_without_a_whole_certificate(run: Run, copy: Path, content: str) -> None:
    (copy / "certificate.json").write_text(content)
    code, _, err = run("check", copy)
    assert (code, err.count("\n")) == (2, 1), err
    (copy / "certificate.json").unlink()
    code, _, err = run("check", copy)
    assert (code, err.count("\n")) == (2, 1), err
    assert "one of an older version cannot be checked, train again" in err


def test_an_export_carries_the_certificate(run: Run, copy: Path, tmp_path: Path) -> None:
    """`inspect` compares the file's weights with it, in the layout that has the run's names."""
    digest = certificate.fingerprint(copy)
    assert digest is not None
    assert f"certificate: {digest}; to check the run: " in run("inspect", copy)[1]
    for checkpoint in ("best", "last"):
        out = tmp_path / f"{checkpoint}.safetensors"
        assert run("export", "--run", copy, "--out", out, "--checkpoint", checkpoint)[0] == 0
        assert f"certificate: {digest}, step " in (told := run("inspect", out)[1])
        assert "; the weights are those of it" in told
    assert digest in (tmp_path / "last.md").read_text()
    state = checkpoints.load(copy / "last.pt")
    state["average"]["fc.bias"][0] += 1
    checkpoints.save(state, copy / "last.pt")
    flags = "--checkpoint", "last", "--out", tmp_path / "new.safetensors"
    code, _, err = run("export", "--run", copy, *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert "certificate.json has other weights at step 6 than the checkpoint" in err
