"""The names that Hugging Face's transformers gives to the layers of a ResNet.

Its ResNet is torchvision's under other names (transformers/models/resnet/modeling_resnet.py).
"""

import re
from collections.abc import Mapping

from torch import Tensor

_FIRST = "embedder.embedder.convolution.weight"
_BLOCK = re.compile(
    r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(?:shortcut|layer\.(\d+))\.(\w+)\.(\w+)"
)
_STEM = re.compile(r"embedder\.embedder\.(\w+)\.(\w+)")
_HEAD = re.compile(r"classifier\.1\.(weight|bias)")


def under_torchvisions_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the layers of transformers' ResNet as torchvision calls them.

    Any other state dict is returned as it is.
    """
    first = next((name for name in tensors if name.endswith(_FIRST)), None)
    if first is None:
        return dict(tensors)
    root = first.removesuffix(_FIRST)
    outer = root.removesuffix("resnet.")
    return {_renamed(name, root, outer): value for name, value in tensors.items()}


def _renamed(name: str, root: str, outer: str) -> str:
    inside = name.removeprefix(root)
    if head := _HEAD.fullmatch(name.removeprefix(outer)):
        return f"fc.{head[1]}"
    if stem := _STEM.fullmatch(inside):
        return f"{_layer('1', stem[1])}.{stem[2]}"
    if block := _BLOCK.fullmatch(inside):
        stage, number, place, kind, leaf = block.groups()
        if place is None:
            layer = f"downsample.{0 if kind == 'convolution' else 1}"
        else:
            layer = _layer(str(int(place) + 1), kind)
        return f"layer{int(stage) + 1}.{number}.{layer}.{leaf}"
    return name


def _layer(number: str, kind: str) -> str:
    return f"{'conv' if kind == 'convolution' else 'bn'}{number}"
