"""The guide of the README, line by line, from somebody's images to the classes of a photo."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from guides import follow, lines_of

from pretrain import __main__ as command
from pretrain.recipes import RECIPES, Recipe


def tiny() -> Recipe:
    """The recipe of the guide for images of 32 pixels."""
    recipe = RECIPES["folders-resnet50"]()
    settings = replace(recipe.optimization, batch_size=8, epochs=1, warmup_steps=0)
    images = replace(recipe.images, size=32)
    focus = replace(recipe.focus, after="layer3", weight_decay=1e-3)
    return replace(recipe, network="resnet18", images=images, optimization=settings, focus=focus)


def test_every_line_of_the_guide(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_command: Callable[..., tuple[int, str, str]],
) -> None:
    small = tiny()
    monkeypatch.setitem(RECIPES, "folders-resnet50-fd", lambda: small)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "emu"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            cv2.imwrite(f"photos/{name}/{number}.jpg", pixels)
    commands = [words[0] for words in lines_of("pretrain", "Your own images")]
    assert commands == ["verify", "train", "train", "evaluate", "export", "predict"]
    printed = follow("pretrain", "Your own images", command, call_command, monkeypatch)
    assert "3 classes (cat, dog, emu)" in printed["train"] and "no faults" in printed["verify"]
    told = "data: 3 classes (cat, dog, emu); 6 validation images, split off by a hash"
    assert told in printed["evaluate"]
    assert Path("photos.classes.txt").read_text().split() == ["cat", "dog", "emu"]
    with Path("seen/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 3 and {row["class"] for row in rows} == {"cat", "dog", "emu"}
