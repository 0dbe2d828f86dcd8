"""The README's Python blocks run as they stand, and what it names is there."""

import re
from pathlib import Path

import pytest
import torchvision.models as models

from common.backbones import save_backbone
from detect.recipes import RECIPES as DETECT
from pretrain.recipes import RECIPES as PRETRAIN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = models.resnet50(weights=None, num_classes=200).state_dict()
    save_backbone(weights, {"architecture": "resnet50"}, tmp_path / "runs" / "fd.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == 2


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_named_scripts_and_recipes_exist() -> None:
    for script in set(re.findall(r"(?<![\w/])(?:\./)?(scripts/[\w.]+)", README)):
        assert (ROOT / script).exists(), script
    for stage, known in (("pretrain", PRETRAIN), ("detect", DETECT)):
        named = re.findall(rf"-m {stage} train ([\w-]+)", README)
        assert named
        assert set(named) <= set(known)


def test_named_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README)
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).exists(), test
