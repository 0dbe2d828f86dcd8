"""Backbone files: ResNet weights under torchvision's names, and a card that says what they are.

A backbone is a safetensors file, `NAME.safetensors`, and a JSON card beside it, `NAME.json`. The
keys are torchvision's, classifier included, so the file loads strictly into torchvision and timm,
and into mmdetection's ResNet with style='pytorch'.
"""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from common.checkpoints import load as load_checkpoint
from common.errors import InputError
from common.files import write_atomically
from common.run_folder import read_json, to_json

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101")
"""torchvision ResNets that both stages can build."""

_WRAPPERS = ("module.", "_orig_mod.")
_HEAD = "fc."


def card_path(path: Path) -> Path:
    """Name the card of a backbone file."""
    return path.with_suffix(".json")


def save_backbone(weights: Mapping[str, Tensor], card: Mapping[str, Any], path: Path) -> None:
    """Write weights and card; the card gains the file's SHA-256.

    Args:
        weights: State dict of a torchvision ResNet.
        card: What the weights are; plain JSON values.
        path: Target, ending in .safetensors.

    Raises:
        InputError: If the name ends otherwise, or the disk is full.
    """
    _check_target(path, ".safetensors")
    # safetensors refuses channels_last weights; contiguous copies of the same values it takes.
    content = save({name: value.contiguous().cpu() for name, value in weights.items()})
    write_atomically(path, lambda file: file.write(content))
    _write_card(card, content, path)


def _check_target(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise InputError(f"{path}: the name of such a backbone file must end in {suffix}")
    if card_path(path).exists() and "sha256" not in read_json(card_path(path)):
        raise InputError(f"{card_path(path)} is no card and would be overwritten: rename {path}")
    path.parent.mkdir(parents=True, exist_ok=True)


def _write_card(card: Mapping[str, Any], content: bytes, path: Path) -> None:
    complete = {**card, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(card_path(path), lambda file: file.write(to_json(complete).encode()))


def preprocessing(image_size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Return what a user of the weights must do to an image; mean and std per RGB channel."""
    return {
        "image_size": image_size,
        "channel_order": "RGB",
        "input_range": [0.0, 1.0],
        "mean": list(mean),
        "std": list(std),
    }


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: If it is not there.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there: export a backbone with `python -m pretrain export`")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_backbone(path: Path, architecture: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a backbone file of ours, or the weights of a torchvision or timm ResNet.

    Prefixes that DDP and torch.compile add are taken off.

    Args:
        path: A .safetensors file, or a .pt or .pth file of tensors only.
        architecture: What the caller is about to build.

    Returns:
        The weights, on the CPU, and the card (empty where there is none).

    Raises:
        InputError: If the file is missing, damaged, not what its card describes, or (by the card)
            of another architecture.
    """
    sha256 = fingerprint(path)
    weights: dict[str, Any]
    if path.suffix == ".safetensors":
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    else:
        weights = load_checkpoint(path)
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(
            f"{path} holds no plain state dict of tensors: export the run with "
            "`python -m pretrain export`"
        )
    weights = {_unwrapped(name): value for name, value in weights.items()}
    card = read_json(card_path(path)) if card_path(path).is_file() else {}
    if card.get("sha256", sha256) != sha256:
        raise InputError(f"{card_path(path)} is the card of other weights: export {path} again")
    found = card.get("architecture", architecture)
    if found != architecture:
        raise InputError(
            f"{path} holds a {found}, but the recipe builds a {architecture}: "
            f"add --body {found}, or give another file"
        )
    return weights, card


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def load_body(body: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load backbone weights into a ResNet without classifier; every key must find its place.

    Args:
        body: A torchvision ResNet, or its layers up to layer4 under the same names.
        weights: As `load_backbone` returns them.
        path: Where they came from, for the message.

    Raises:
        InputError: If a key is missing, unexpected, or of another shape.
    """
    wanted = {name: value.shape for name, value in body.state_dict().items() if _is_body(name)}
    given = {name: value for name, value in weights.items() if _is_body(name)}
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{path} is the backbone of another architecture: {'; '.join(problems[:3])}{more}"
        )
    body.load_state_dict(given, strict=False)


def _is_body(name: str) -> bool:
    # FrozenBatchNorm2d has no num_batches_tracked; the classifier is nobody's backbone.
    return not name.startswith(_HEAD) and not name.endswith("num_batches_tracked")


def save_detectron2(weights: Mapping[str, Tensor], card: Mapping[str, Any], path: Path) -> None:
    """Write weights in detectron2's own names and container, and the card.

    The detectron2 configuration must set PIXEL_MEAN [123.675, 116.28, 103.53], PIXEL_STD
    [58.395, 57.12, 57.375], INPUT.FORMAT "RGB" and RESNETS.STRIDE_IN_1X1 False.

    Raises:
        InputError: If the name does not end in .pkl, or the disk is full.
    """
    _check_target(path, ".pkl")
    model = {
        detectron2_name(name): value.contiguous().cpu().numpy() for name, value in weights.items()
    }
    content = pickle.dumps(
        {"model": model, "__author__": "focused-dropout", "matching_heuristics": True}
    )
    write_atomically(path, lambda file: file.write(content))
    _write_card(card, content, path)


def detectron2_name(name: str) -> str:
    """Translate a torchvision ResNet key to detectron2's (its convert-torchvision-to-d2 rules)."""
    if "layer" not in name:
        name = f"stem.{name}"
    for stage in range(1, 5):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for number in range(1, 4):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
