"""The seed of a training reaches every generator: with one left out, seeds are no repetitions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import seeds
import torch

from detect import __main__ as command

pytestmark = pytest.mark.usefixtures("narrow_bodies")
COMMON = (
    "--backbone scratch --detector.train-sizes 48 64 --detector.test-size 64 "
    "--detector.max-size 64 --detector.fpn-channels 16 --optimization.batch-size 3 --workers 0 "
    "--device cpu --focus.after layer3 --focus.participation-rate 1 --dry-run"
).split()
DRAWN = ("detect.task.augment", "detect.task.draw_size")


@pytest.mark.parametrize("scale", [False, True])
def test_every_generator_has_the_seed_of_the_training(
    call_command: Callable[..., tuple[int, str, str]],
    toy_devkit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scale: bool,
) -> None:
    drawn = (*DRAWN, "detect.task.draw_factor") if scale else DRAWN
    seen = seeds.watch(monkeypatch, *seeds.LOOP, *drawn)
    of_weights: list[int] = []
    original = torch.manual_seed
    monkeypatch.setattr("torch.manual_seed", lambda seed: of_weights.append(seed) or original(seed))
    arguments = ["--data", toy_devkit, "--out", tmp_path / "run", "--seed", "5", *COMMON]
    arguments += ["--augmentation.scale", "0.5", "2"] if scale else []
    code, _, err = call_command(command, "train", "toy-retinanet", *arguments)
    assert code == 0, err
    assert set(of_weights) == {5}
    assert seen == {name: {5} for name in (*seeds.LOOP, *drawn)}
