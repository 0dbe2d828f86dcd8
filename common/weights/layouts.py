"""The layouts in which other projects read a backbone: names, containers, endings."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from common.errors import InputError

Layout = Literal["torchvision", "timm", "detectron2", "mmdet"]

ENDINGS: dict[str, tuple[str, ...]] = {
    "torchvision": (".safetensors", ".pth"),
    "timm": (".safetensors", ".pth"),
    "detectron2": (".pkl", ".pth"),
    "mmdet": (".pth",),
    "onnx": (".onnx",),
}
"""Files that each consumer reads; mmengine knows no safetensors."""


def check_ending(path: Path, layout: str) -> None:
    """Check the name of a target.

    Raises:
        InputError: If a file of that ending is not what the consumer reads.
    """
    if path.suffix not in ENDINGS[layout]:
        raise InputError(
            f"{path}: the name of a backbone file for {layout} must end in "
            f"{' or '.join(ENDINGS[layout])}"
        )


def encode(weights: Mapping[str, Tensor], layout: Layout, ending: str) -> bytes:
    """Return the content of a backbone file.

    Args:
        weights: State dict of a torchvision ResNet.
        layout: Who will read it.
        ending: One of those that `ENDINGS` has for it.
    """
    # Copies, on the CPU: torch.save would write all of a storage that a tensor is only a view of,
    # and safetensors refuses channels_last.
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    if layout == "detectron2":
        return _detectron2(plain, ending)
    if ending == ".safetensors":
        content: bytes = save(plain, {"format": "pt"})  # others ask for this entry
        return content
    return _torch_file(plain)


def _torch_file(content: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _detectron2(weights: Mapping[str, Tensor], ending: str) -> bytes:
    """Write detectron2's own container, which it reads from a pickle and from a torch file.

    Source: detectron2/checkpoint/detection_checkpoint.py.
    """
    renamed = {detectron2_name(name): value for name, value in weights.items()}
    about = {"__author__": "focused-dropout", "matching_heuristics": True}
    if ending == ".pth":
        return _torch_file({"model": renamed, **about})
    arrays = {name: value.numpy() for name, value in renamed.items()}
    return pickle.dumps({"model": arrays, **about})


def detectron2_name(name: str) -> str:
    """Translate a torchvision ResNet key to detectron2's (its convert-torchvision-to-d2 rules)."""
    if "layer" not in name:
        name = f"stem.{name}"
    for stage in range(1, 5):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for number in range(1, 4):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def torchvision_name(name: str) -> str:
    """Translate a detectron2 ResNet key to torchvision's, the reverse of `detectron2_name`."""
    for number in range(1, 4):
        name = name.replace(f"conv{number}.norm", f"bn{number}")
    for stage in range(1, 5):
        name = name.replace(f"res{stage + 1}.", f"layer{stage}.")
    name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    return name.removeprefix("stem.")
