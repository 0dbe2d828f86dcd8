"""`python -m detect train` under kills."""

import importlib.util
import signal
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torchvision.models as models
from torchvision.models.detection.retinanet import RetinaNet

from common import train_loop
from common.backbones import save_backbone
from detect import __main__ as command
from detect.train import run as _imported_once_for_all_processes  # noqa: F401


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ROOT = Path(__file__).parents[2]
faults, toy_data = load(ROOT / "tests" / "faults.py"), load(ROOT / "scripts" / "toy_data.py")
KILLED = -signal.SIGKILL
NEVER = faults.Moments(10**9)
ARGUMENTS = (
    "train toy-retinanet --detector.train-sizes 64 --detector.test-size 64 --detector.max-size 64 "
    "--detector.fpn-channels 16 --detector.trainable-stages 1 --detector.test-batch-size 1 "
    "--optimization.batch-size 3 --optimization.epochs 2 --optimization.warmup-steps 2 "
    "--workers 1 --device cpu"
).split()  # two steps an epoch


def train(data: Path, out: Path, moments: Any = NEVER, *, every_step: bool = False) -> None:
    """Run the command, in a process of its own; save after every step, or every epoch."""
    if every_step:
        train_loop.CHECKPOINT_SECONDS = -1.0
    faults.reseed(faults.resumes(out))  # what is drawn before a resume may not matter
    moments.watch_command(RetinaNet)
    backbone = ["--backbone", str(data / "resnet18.safetensors")]
    sys.argv = [str(command.__file__), *ARGUMENTS, *backbone]
    sys.argv += ["--data", str(data / "VOCdevkit"), "--out", str(out)]
    raise SystemExit(command.main())


def test_killed_again_and_again(tmp_path: Path) -> None:
    """A life begins where the one before had saved; its steps are counted anew."""
    data, out, printed = tmp_path / "data", tmp_path / "run", tmp_path / "printed"
    sizes = toy_data.Sizes(train_per_class=1, val_per_class=1, trainval=6, test=3, scene_side=64)
    toy_data.make_toy_data(data, seed=0, sizes=sizes)
    weights = models.resnet18(weights=None, num_classes=2).state_dict()
    save_backbone(weights, {"architecture": "resnet18"}, data / "resnet18.safetensors")
    assert faults.live(partial(train, data, tmp_path / "straight"), printed) == 0, (
        printed.read_text()
    )
    lives = [
        (0, faults.Moments(1, kind="before the update")),
        (1, faults.Moments(0, 3, kind="evaluation")),  # at the second image
        (1, faults.Moments(0, kind="to last.pt")),
        (1, faults.Moments(1, kind="after the update")),
        (2, NEVER),
    ]
    for begin, moments in lives:
        code = faults.live(partial(train, data, out, moments, every_step=True), printed)
        assert code == (0 if moments is NEVER else KILLED), printed.read_text()
        assert (f"going on from step {begin}\n" in printed.read_text()) == (begin > 0)
    straight, killed = (faults.outcome(tmp_path / name) for name in ("straight", "run"))
    assert len(straight["log"]) == 2
    assert faults.different(straight, killed) == set()
