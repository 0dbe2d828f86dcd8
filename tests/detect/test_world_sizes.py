"""`python -m detect train --deterministic` on one process and on two comes to the same bits.

`python -m benchmarks.world_sizes` has the whole table, with four processes and torchrun.
"""

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest
from torchvision.models.detection.retinanet import RetinaNet

from common.processes import polling
from detect import __main__ as command
from detect.train import train_detector as _imported_once_for_all_processes  # noqa: F401

KILLED = -signal.SIGKILL
NEVER = faults.Moments(10**9)
FLAGS = (
    "train toy-retinanet --backbone scratch --detector.train-sizes 48 64 --detector.test-size 64 "
    "--detector.max-size 64 --detector.fpn-channels 16 --optimization.batch-size 6 "
    "--optimization.epochs 4 --optimization.warmup-steps 2 --optimization.ema-decay 0.9 "
    "--evaluate-every 9 --workers 0 --device cpu --deterministic --checkpoint-minutes 0"
).split()  # a step per epoch, of 6 images: parts of 2, 2, 1 and 1
ARMS = {"focused": "--focused-dropout layer3 --focus.participation-rate 0.7", "plain": ""}


def train(
    data: Path, arm: str, out: Path, rank: int = 0, *, parts: int, moments: Any = NEVER
) -> None:
    """Run the command in a process of its own, which takes so many parts of each step."""
    faults.reseed(faults.resumes(out))
    polling.SECONDS = 0.0  # several ranks, too, save after every step
    moments.watch_command(RetinaNet)
    sys.argv = [str(command.__file__), *FLAGS, *ARMS[arm].split()]
    sys.argv += ["--data", str(data), "--out", str(out), "--optimization.accumulate", str(parts)]
    raise SystemExit(command.main())


@pytest.mark.usefixtures("narrow_bodies")
@pytest.mark.parametrize("arm", ARMS)
def test_begun_on_two_processes_killed_and_ended_on_one(
    toy_devkit: Path, tmp_path: Path, arm: str
) -> None:
    printed, run = tmp_path / "printed", tmp_path / "run"
    life = partial(train, toy_devkit, arm)
    straight = partial(life, tmp_path / "straight", parts=4)
    assert faults.live(straight, printed) == 0, printed.read_text()
    dies = faults.Moments(2, kind="before the update")
    killed = partial(life, run, parts=2, moments=dies)
    assert faults.live_ranks(killed, printed) == [KILLED, KILLED]
    assert faults.live(partial(life, run, parts=4), printed) == 0, printed.read_text()
    assert "resuming from step 2 of a run on 2 ranks\n" in printed.read_text()
    one, moved = faults.outcome(tmp_path / "straight"), faults.outcome(run)
    for part in ("parameters", "buffers", "momentum"):
        assert faults.same(one[part], moved[part]), part
    assert faults.same(one["rest"]["average"], moved["rest"]["average"])
    assert one["rest"]["step"] == moved["rest"]["step"] == 4
