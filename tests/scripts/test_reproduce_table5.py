"""The plan of Table 5 and its rendering; that its commands train is seen by running them."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from common import cli
from detect.__main__ import TrainFlags as DetectFlags
from detect.recipes import RECIPES as DETECT
from detect.results import Row
from pretrain.__main__ import TrainFlags as PretrainFlags
from pretrain.recipes import RECIPES as PRETRAIN

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce_table5.py"
ROW = Row(
    recipe="voc-retinanet-small",
    changes="",
    backbone="tiny-imagenet-resnet18",
    backbone_seed=0,
    backbone_accuracy=0.4,
    backbone_sha256="ab",
    data="2012:train -> 2012:val, last",
    train_images=80,
    scored_images=20,
    seed=0,
    epochs=6,
    started="2026-01-02T03:04:05+00:00",
    commit="0123456789ab",
    hardware="a processor",
    torch="2.15.0",
    seconds=1800.0,
    map_11point=0.5,
    map_area=0.4,
    coco_ap=0.1,
    coco_ap50=0.2,
    coco_ap75=0.1,
    detections=42,
    participating_steps=None,
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce_table5", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("scale", ["full", "small", "mini"])
def test_the_commands_are_those_of_the_stages(
    script: ModuleType, tmp_path: Path, scale: str
) -> None:
    """Three detectors on two backbones and one on none; every flag is one that a stage takes."""
    flags = script.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", scale=scale)
    counts = []
    for ending in ("", "-fd", None):
        commands = script._commands(flags, ending, 7, "cpu")
        counts.append([tuple(command[2:4]) for command in commands])
        for command in commands:
            stage, what, name, *rest = command[2:]
            if what != "train":
                continue
            recipe = (PRETRAIN if stage == "pretrain" else DETECT)[name]()
            kind = PretrainFlags if stage == "pretrain" else DetectFlags
            parsed = cli.parse(kind, rest, "", "", default=_needing(kind, recipe))
            assert parsed.seed == 7
    train, evaluate = ("detect", "train"), ("detect", "evaluate")
    backbone = [("pretrain", "train"), ("pretrain", "export")]
    assert counts == [
        [*backbone, train, evaluate, train, evaluate],
        [*backbone, train, evaluate],
        [train, evaluate],
    ]


def _needing(kind: type, recipe: object) -> object:
    """Return the defaults of a command, all needed flags filled in."""
    needed = {"data": Path(), "out": Path(), "recipe": recipe}
    return kind(**needed, **({"backbone": Path()} if kind is DetectFlags else {}))


def test_what_is_done_is_not_repeated(script: ModuleType, tmp_path: Path) -> None:
    flags = script.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", scale="mini")
    backbone = script._classifier(flags, "", 0) / "backbone.safetensors"
    done = script._detector(flags, "baseline", 0) / "evaluated" / "evaluation.json"
    for file in (backbone, done):
        file.parent.mkdir(parents=True)
        file.touch()
    commands = script._commands(flags, "", 0, "cpu")
    assert [command[2:4] for command in commands] == [["detect", "train"], ["detect", "evaluate"]]
    assert "--focused-dropout" in commands[0]


def test_the_table_by_hand(script: ModuleType, tmp_path: Path) -> None:
    flags = script.Flags(data=tmp_path, voc=tmp_path, scale="mini", seeds=(0, 1))
    rows = {
        ("baseline", 0): ROW,
        ("baseline", 1): replace(ROW, map_11point=0.52),
        ("fd", 0): replace(ROW, map_11point=0.51),
        ("fd", 1): replace(ROW, map_11point=0.55),
    }
    lines = script.render(flags, rows).splitlines()
    # Differences 1 and 3: mean 2, deviation 1.414, t(0.975, 1) = 12.706, so +- 12.71.
    assert (
        "| FocusedDropout in pretraining | 71.05 | 40.00 ± 0.00 | 53.00 ± 2.83 | "
        "+2.00 [-10.71, +14.71] | 40.00 ± 0.00 | 2 |"
    ) in lines
    assert "| baseline | 70.14 | 40.00 ± 0.00 | 51.00 ± 1.41 |  | 40.00 ± 0.00 | 2 |" in lines
    assert "| from random weights | - | | not run | | | 0 |" in lines
    assert "**Not the paper's training: smaller.**" in lines
    assert lines[-1].endswith("commit 0123456789ab; 2.0 h.")
