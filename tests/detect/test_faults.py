"""`python -m detect train` under kills."""

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest
import torchvision.models as models
from torchvision.models.detection.retinanet import RetinaNet

from common.weights.backbone import save_backbone
from detect import __main__ as command
from detect.train import train_detector as _imported_once_for_all_processes  # noqa: F401

KILLED = -signal.SIGKILL
NEVER = faults.Moments(10**9)
ARGUMENTS = (
    "train toy-retinanet --detector.train-sizes 64 --detector.test-size 64 --detector.max-size 64 "
    "--detector.fpn-channels 16 --detector.trainable-stages 1 --detector.test-batch-size 1 "
    "--optimization.batch-size 3 --optimization.epochs 2 --optimization.warmup-steps 2 "
    "--workers 1 --device cpu"
).split()  # two steps per epoch


def train(
    data: Path, backbone: Path, out: Path, moments: Any = NEVER, *, every_step: bool = False
) -> None:
    """Run the command, in a process of its own; save after every step, or every epoch."""
    faults.reseed(faults.resumes(out))  # what is drawn before a resume may not matter
    moments.watch_command(RetinaNet)
    sys.argv = [str(command.__file__), *ARGUMENTS, "--backbone", str(backbone)]
    sys.argv += ["--data", str(data), "--out", str(out)]
    if every_step:
        sys.argv += ["--checkpoint-minutes", "0"]
    raise SystemExit(command.main())


@pytest.mark.usefixtures("narrow_bodies")
def test_killed_again_and_again(toy_devkit: Path, tmp_path: Path) -> None:
    """A life begins where the one before had saved; its steps are counted anew."""
    backbone, printed = tmp_path / "resnet18.safetensors", tmp_path / "printed"
    weights = models.resnet18(weights=None, num_classes=2).state_dict()
    save_backbone(weights, {"architecture": "resnet18"}, backbone)
    life = partial(train, toy_devkit, backbone)
    assert faults.live(partial(life, tmp_path / "straight"), printed) == 0, printed.read_text()
    lives = [
        (0, faults.Moments(1, kind="before the update")),
        (1, faults.Moments(0, 3, kind="evaluation")),  # at the second image
        (1, faults.Moments(0, kind="to last.pt")),
        (1, faults.Moments(1, kind="after the update")),
        (2, NEVER),
    ]
    for begin, moments in lives:
        code = faults.live(partial(life, tmp_path / "run", moments, every_step=True), printed)
        assert code == (0 if moments is NEVER else KILLED), printed.read_text()
        assert (f"resuming from step {begin}\n" in printed.read_text()) == (begin > 0)
    straight, killed = (faults.outcome(tmp_path / name) for name in ("straight", "run"))
    assert len(straight["log"]) == 2
    assert faults.different(straight, killed) == set()
