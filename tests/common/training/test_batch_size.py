"""The batch size that fits: the search alone, and a training under a memory that is made up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from common.errors import InputError
from common.storage import read_json
from common.training import batch_size
from common.training.batch_size import Fit, largest
from pretrain import __main__ as command
from pretrain import train as pretrain_train

TINY = (
    "--network cifar-resnet20 --images.size 32 --optimization.epochs 1 --optimization.lr 0.1 "
    "--optimization.batch-size 4 --optimization.warmup-steps 0 --workers 0 --device cpu"
).split()


@pytest.mark.parametrize(("limit", "found"), [(2, 2), (3, 2), (64, 64), (100, 64)])
def test_the_largest_power_of_two_under_a_limit(limit: int, found: int) -> None:
    asked = []

    def attempt(size: int) -> Fit:
        asked.append(size)
        return "fits" if size <= limit else "too large"

    assert largest(attempt) == found
    assert asked == [2**power for power in range(1, len(asked) + 1)]
    assert asked[-1] == 2 * found  # none above the first that does not


def test_no_limit_but_the_images_and_one_that_is_too_low() -> None:
    assert largest(lambda size: "fits" if size <= 40 else "holds every image") == 32
    assert largest(lambda _: "holds every image") == 2
    assert largest(lambda _: "fits") == 2**15
    with pytest.raises(InputError, match="not even a batch of 2 fits"):
        largest(lambda _: "too large")


@pytest.fixture
def train(
    call_command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    rng = np.random.default_rng(0)
    for folder, count in (("train", 20), ("val", 2)):
        for name in ("ant", "bee"):
            (tmp_path / "data" / folder / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / "data" / folder / name / f"{number}.png"), pixels)

    def call(*more: str, out: str = "run") -> tuple[int, str, str]:
        flags = ("--data", tmp_path / "data", "--out", tmp_path / out, *TINY)
        return call_command(command, "train", "toy-resnet18", *flags, "--batch-size", "auto", *more)

    return call


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make steps fail above so many images, and take a share of the memory."""

    def limit(images: int, share: Callable[[int], float] = lambda _: 0.5) -> None:
        seen = [0]
        make = pretrain_train.classification_loss

        def limited_loss(*arguments: Any) -> Any:
            loss = make(*arguments)

            def with_limit(network: Any, batch: Any) -> Any:
                seen[0] = len(batch[0][0]) if len(batch) == 1 else len(batch[0])
                if seen[0] > images:
                    raise torch.cuda.OutOfMemoryError("made up")
                return loss(network, batch)

            return with_limit

        monkeypatch.setattr(pretrain_train, "classification_loss", limited_loss)
        monkeypatch.setattr(batch_size, "has_own_memory", lambda _: True)
        monkeypatch.setattr(batch_size, "share_used", lambda _: share(seen[0]))

    return limit


def chosen(run: Path) -> tuple[int, float]:
    optimization = read_json(run / "recipe.json")["recipe"]["optimization"]
    return optimization["batch_size"], optimization["lr"]


def test_a_training_takes_what_fits_and_keeps_it(
    train: Any, limited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(20)
    code, out, err = train("--optimization.optimizer", "sgd")
    assert code == 0, err
    assert "batch size 16, the largest that fits; learning rate 0.4 (the recipe: 4, 0.1)" in out
    assert "dry run" not in out and out.count("class folders in train") == 1
    assert chosen(tmp_path / "run") == (16, pytest.approx(0.4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]

    def nothing(*_: object) -> Any:
        raise AssertionError("searched again")

    monkeypatch.setattr(batch_size, "largest", nothing)
    code, out, err = train("--optimization.optimizer", "sgd")
    assert code == 0, err
    assert "batch size 16, as this run began with; learning rate 0.4" in out


def test_memory_that_is_nearly_full_and_a_set_that_is_small(
    train: Any, limited: Any, tmp_path: Path
) -> None:
    limited(1000, share=lambda images: images / 9)
    code, out, err = train("--optimization.optimizer", "adamw")
    assert code == 0, err
    assert "batch size 8, the largest that fits; learning rate 0.1414" in out  # by the root
    limited(1000)
    code, out, err = train("--optimization.optimizer", "adamw", out="all")
    assert code == 0, err
    assert chosen(tmp_path / "all")[0] == 32  # of 40 images


def test_a_cpu_has_no_such_limit(train: Any, tmp_path: Path) -> None:
    code, _, err = train()
    assert code == 2 and err.count("\n") == 1
    assert "trains on the CPU: give --optimization.batch-size" in err
    assert not (tmp_path / "run").exists()
