"""The guide of the README, line by line, from somebody's data to a report and a drawn photo."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import formats
import pytest
from guides import follow, lines_of

from detect import __main__ as command
from detect import recipes
from detect.recipes import Recipe

pytestmark = pytest.mark.usefixtures("narrow_bodies")


def tiny() -> Recipe:
    """The recipe of the guide for images of 64 pixels."""
    recipe = recipes.voc_retinanet_small()
    detector = replace(
        recipe.detector, fpn_channels=16, train_sizes=(64,), test_size=64, max_size=64
    )
    settings = replace(recipe.optimization, batch_size=2, epochs=1, milestones=())
    return replace(recipe, body="resnet18", detector=detector, optimization=settings)


def test_every_line_of_the_guide(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_command: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "voc-retinanet-small", tiny)
    monkeypatch.chdir(tmp_path)
    formats.write_coco(tmp_path / "helmets", formats.draw_objects())
    commands = [words[0] for words in lines_of("detect", "Your own data")]
    assert commands == ["verify", "train", "evaluate", "report", "predict", "export"]
    printed = follow("detect", "Your own data", command, call_command, monkeypatch)
    assert "COCO annotations" in printed["train"] and "no faults" in printed["verify"]
    assert Path("report.html").stat().st_size > 10_000
    pictures = sorted(Path("found/pictures").iterdir())
    assert [picture.name for picture in pictures] == [f"img_{n:03}.jpg" for n in range(6)]
    assert cv2.imread(str(pictures[0])).shape[:2] >= (formats.HEIGHT, formats.WIDTH)
    assert isinstance(json.loads(Path("found/predictions.json").read_text()), list)
    assert Path("helmets.safetensors").exists() and Path("helmets.json").exists()
