"""The seed of a training reaches every generator: with one left out, seeds are no repetitions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import seeds
import torch

from pretrain import __main__ as command

COMMON = (
    "--network cifar-resnet20 --focus.after layer2 --images.size 32 --workers 0 --device cpu "
    "--focus.participation-rate 1 --optimization.batch-size 8 --dry-run"
).split()


@pytest.mark.parametrize(
    ("crop", "drawn"),
    [
        ("pad", "pretrain.data.splits.ResidentImages"),
        ("resized", "pretrain.data.splits.train_image"),
    ],
)
def test_every_generator_has_the_seed_of_the_training(
    call_command: Callable[..., tuple[int, str, str]],
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crop: str,
    drawn: str,
) -> None:
    seen = seeds.watch(monkeypatch, *seeds.LOOP, drawn)
    of_weights: list[int] = []
    original = torch.manual_seed
    monkeypatch.setattr("torch.manual_seed", lambda seed: of_weights.append(seed) or original(seed))
    arguments = ["--data", folders, "--out", tmp_path / "run", "--seed", "5", *COMMON]
    code, _, err = call_command(
        command, "train", "toy-resnet18-fd", *arguments, "--images.crop", crop
    )
    assert code == 0, err
    assert set(of_weights) == {5}
    assert seen == {name: {5} for name in (*seeds.LOOP, drawn)}
