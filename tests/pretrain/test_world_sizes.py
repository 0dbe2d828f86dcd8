"""`python -m pretrain train --deterministic` on one process and on two comes to the same bits.

`python -m benchmarks.world_sizes` has the whole table, with four processes and torchrun.
"""

import copy
import json
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest

from common.processes import polling
from common.runs.certificate import read_certificate
from pretrain import __main__ as command
from pretrain.networks.cifar_resnet import CifarResNet
from pretrain.train import train_classifier as _imported_once_for_all_processes  # noqa: F401

KILLED = -signal.SIGKILL
NEVER = faults.Moments(10**9)
FLAGS = (
    "--network cifar-resnet20 --images.size 32 --optimization.batch-size 9 "
    "--optimization.epochs 2 --optimization.warmup-steps 2 --optimization.ema-decay 0.9 "
    "--workers 0 --device cpu --deterministic --checkpoint-minutes 0 --certify-steps 1"
).split()  # three steps per epoch, of 9, 9 and 6 images: parts of 3, 2, 2, 2 and 2, 2, 1, 1
ARMS = {
    "focused": "toy-resnet18-fd --focus.after layer2 --focus.participation-rate 0.7",
    "plain": "toy-resnet18",
}


def train(
    data: Path, arm: str, out: Path, rank: int = 0, *, parts: int, moments: Any = NEVER
) -> None:
    """Run the command in a process of its own, which takes so many parts of each step."""
    faults.reseed(faults.resumes(out))
    polling.SECONDS = 0.0  # several ranks, too, save after every step
    moments.watch_command(CifarResNet)
    sys.argv = [str(command.__file__), "train", *ARMS[arm].split(), *FLAGS]
    sys.argv += ["--data", str(data), "--out", str(out), "--optimization.accumulate", str(parts)]
    raise SystemExit(command.main())


@pytest.fixture(scope="module")
def straight(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    life = partial(train, folders, "plain", folder / "run", parts=4)
    assert faults.live(life, folder / "printed") == 0, (folder / "printed").read_text()
    return folder / "run"


@pytest.mark.parametrize("arm", ARMS)
def test_begun_on_one_process_killed_and_ended_on_two(
    call_command: Callable[..., tuple[int, str, str]], folders: Path, tmp_path: Path, arm: str
) -> None:
    printed, run = tmp_path / "printed", tmp_path / "run"
    life = partial(train, folders, arm)
    undisturbed = partial(life, tmp_path / "straight", parts=4)
    assert faults.live(undisturbed, printed) == 0, printed.read_text()
    dies = faults.Moments(2, kind="before the update")
    assert faults.live(partial(life, run, parts=4, moments=dies), printed) == KILLED
    assert faults.live_ranks(partial(life, run, parts=2), printed) == [0, 0], printed.read_text()
    assert "resuming from step 2 of a run on 1 rank\n" in printed.read_text()
    one, two = faults.outcome(tmp_path / "straight"), faults.outcome(run)
    for part in ("parameters", "buffers", "momentum"):
        assert faults.same(one[part], two[part]), part
    assert faults.same(one["rest"]["average"], two["rest"]["average"])
    assert [(end["rest"]["step"], end["rest"]["ranks"]) for end in (one, two)] == [(6, 1), (6, 2)]
    states = [read_certificate(tmp_path / name)["states"] for name in ("straight", "run")]
    assert states[0] == states[1] and len(states[0]) == 6
    # recipe.json has how two shared a step, and a check begins where one had all of it.
    code, out, err = call_command(command, "check", run, "--steps", "0:6")
    assert (code, err) == (0, ""), err
    assert "equal: 6 states" in out and "not as it was" not in out


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"micro_batches": 2}, "parts of a step (4 then, 2 now)"),
        ({"environment": {"torch": "2.0.1"}}, "torch ("),
        ({"environment": {"ranks": 2, "deterministic": False}}, "deterministic ("),
    ],
)
def test_a_run_that_was_continued_otherwise_is_told_from_one_that_was_changed(
    call_command: Callable[..., tuple[int, str, str]],
    straight: Path,
    tmp_path: Path,
    edit: dict[str, Any],
    told: str,
) -> None:
    """Its states after that differ from those of the first version, which is no fault."""
    run = shutil.copytree(straight, tmp_path / "run")
    path = run / "certificate.json"
    content = json.loads(path.read_text())
    later = copy.deepcopy(content["parts"][0]) | {"step": 3}
    later["environment"] |= edit.pop("environment", {})
    content["parts"].append(later | edit)
    content["states"][-1].update(
        digest="0" * 32, tensors="0" * len(content["states"][0]["tensors"])
    )
    path.write_text(json.dumps(content))
    code, _, err = call_command(command, "check", run, "--steps", "0:6")
    assert code == 1
    assert f"and equal at step 5; the run itself was continued at step 3 with other {told}" in err
