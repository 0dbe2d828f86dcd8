"""Settings for any file name: read back by Python's own parser and a YAML library."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pretrain.export.consumers import settings

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)
SPECIAL = [
    'a"b',
    "a'b",
    "a\\b",
    "a\\",
    "a\nb",
    "{a}",
    '"""',
    "# a: b",
    "gr\u00f6\u00dfe",
    "\U0001f41c",
]


def card(layout: str, architecture: str = "resnet18") -> dict[str, Any]:
    pixels = {"image_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
    return {
        "layout": layout,
        "architecture": architecture,
        "stem": "imagenet",
        "classes": ["ant", "bee"],
        "preprocessing": pixels,
    }


@pytest.mark.parametrize(
    ("layout", "ending"),
    [
        ("torchvision", ".safetensors"),
        ("torchvision", ".pth"),
        ("timm", ".pth"),
        ("mmdet", ".pth"),
        ("onnx", ".onnx"),
    ],
)
@given(name=names)
@example(name='a"b')
@example(name="a\\")
@example(name="\U0001f41c")
def test_any_name_in_python(layout: str, ending: str, name: str) -> None:
    code = ast.parse("\n".join(settings(card(layout), Path(name + ending))))
    texts = [node.value for node in ast.walk(code) if isinstance(node, ast.Constant)]
    assert texts.count(name + ending) == 1


@pytest.mark.parametrize("name", SPECIAL)
def test_names_in_yaml(name: str) -> None:
    found = yaml.safe_load("\n".join(settings(card("detectron2"), Path(f"{name}.pkl"))))
    assert found["MODEL"]["WEIGHTS"] == f"{name}.pkl"


def test_plain_names_stay_readable() -> None:
    """As given: the path that is printed, and of a card the name alone."""
    lines = settings(card("torchvision"), Path("runs/fd.safetensors"))
    assert 'model.load_state_dict(load_file("runs/fd.safetensors"))' in lines
