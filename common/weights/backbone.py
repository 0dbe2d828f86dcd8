"""Backbone files: ResNet weights under torchvision's names, and a card that says what they are.

A backbone is a file of weights, `NAME.safetensors` or `NAME.pth`, and a JSON card beside it,
`NAME.json`. The keys are torchvision's, classifier included, so the file loads strictly into
torchvision and timm; `common.weights.layouts` has the other layouts.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO

import torch
from torch import Tensor

from common.errors import InputError
from common.processes import launcher
from common.storage import read_json, write_atomically, write_json
from common.text import in_line, say, shown
from common.weights.finding import split_part
from common.weights.layouts import Layout, check_ending, encode, torchvision_name
from common.weights.reading import check_finite, read_weights
from common.weights.resnets import TORCHVISION, is_body, recognise


def card_path(path: Path) -> Path:
    """Name the card of a backbone file."""
    return path.with_suffix(".json")


def save_backbone(
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any],
    path: Path,
    layout: Layout = "torchvision",
) -> dict[str, Any]:
    """Write weights and card.

    Args:
        weights: State dict of a torchvision ResNet.
        card: What the weights are; plain JSON values.
        path: Target; its ending chooses the container.
        layout: Who will read it.

    Returns:
        The card as written: with the file's name and its SHA-256.

    Raises:
        InputError: If the name has another ending, the card would replace that of another backbone
            or a file that is no card, or the disk is full.
    """
    check_ending(path, layout)
    return write_backbone(encode(weights, layout, path.suffix), card, path)


def write_backbone(content: bytes, card: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write the content of a backbone file, and the card; the rest as `save_backbone`."""
    check_card_is_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    complete = {**card, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}

    def write(file: BinaryIO) -> None:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a full disk shows here, before the old card goes
        # The card comes before the weights: if this is cut off in between, the card has the digest
        # of weights that are not there, and such a pair is refused.
        write_json(card_path(path), complete)

    write_atomically(path, write)
    return complete


def check_card_is_free(path: Path) -> None:
    """Check that a file's card would replace no other file's, before work is put into it.

    Raises:
        InputError: If NAME.json is there and is not the card of this file.
    """
    if not card_path(path).exists():
        return
    card = read_json(card_path(path))
    if "sha256" not in card:
        raise InputError(f"{card_path(path)} is no card and would be overwritten: rename {path}")
    if card.get("file", path.name) != path.name:
        raise InputError(
            f"{card_path(path)} is the card of {card['file']}, which would lose it: choose another "
            f"name than {path.name}"
        )


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
        InputError: If it is not there, or a folder.
    """
    path, _ = split_part(path)
    if path.is_dir():
        out = f"{path.resolve().name}.safetensors"
        raise InputError(
            f"{path} is a folder, not a file of weights: of a pretraining run, export them with "
            f"`python -m pretrain export --run {quote(str(path))} --out {quote(out)}`"
        )
    if path.parts[:1] in (("http:",), ("https:",)):
        raise InputError(f"{path} is an address: download it first, and give the file")
    if not path.is_file():
        raise InputError(f"{path} is not there: export a backbone with `python -m pretrain export`")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_backbone(path: Path, architecture: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a backbone file of ours, or the weights of a torchvision or timm ResNet.

    Containers and prefixes of training scripts (DDP, torch.compile, Lightning, MoCo) are taken off;
    of a network and its average the average is taken; of a detector, the body. A line says so. Of
    several networks `FILE#NAME` names one.

    Args:
        path: A .safetensors file, or a torch file of tensors and plain values.
        architecture: What the caller is about to build.

    Returns:
        The weights, on the CPU, and the card (empty where there is none).

    Raises:
        InputError: If the file is missing, damaged, not what its card describes, or (by the card)
            of another architecture, or holds several networks, or NaN or infinite numbers.
    """
    sha256 = fingerprint(path)
    weights = read_weights(path)
    card = read_card(path, sha256)
    found = str(card.get("architecture", architecture))
    if found != architecture:
        remedy = f"add --body {found}, or give" if found in TORCHVISION else "give"
        raise InputError(
            f"{path} holds a {shown(found)}, but the recipe builds a {architecture}: {remedy} "
            "another file"
        )
    check_finite(weights.tensors, path)
    tensors, taken = weights.tensors, weights.describe()
    if "stem.conv1.weight" in tensors:
        tensors = {torchvision_name(name): value for name, value in tensors.items()}
        note = (
            "translated detectron2's names (of its model zoo, R-50.pkl and R-101.pkl are for BGR)"
        )
        taken = "; ".join(filter(None, (taken, note)))
    card = card or _pixels_of_run(path)
    if taken and launcher.is_main():
        say(f"{in_line(str(path))}: {taken}")
    return tensors, card


def _pixels_of_run(checkpoint: Path) -> dict[str, Any]:
    """Return the preprocessing of the run that a checkpoint lies in; empty where it is in none."""
    environment = checkpoint.parent / "environment.json"
    pixels = read_json(environment).get("pixels") if environment.is_file() else None
    return {"preprocessing": pixels} if pixels else {}


def read_card(path: Path, sha256: str) -> dict[str, Any]:
    """Read the card of a backbone file; empty where there is none.

    Args:
        path: The backbone file.
        sha256: Its fingerprint.

    Raises:
        InputError: If the card is no JSON, or that of other weights.
    """
    card = read_json(card_path(path)) if card_path(path).is_file() else {}
    if card.get("sha256", sha256) != sha256:
        raise InputError(f"{card_path(path)} is the card of other weights: export {path} again")
    return card


def load_body(body: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load backbone weights into a ResNet without classifier; every key must find its place.

    Args:
        body: A torchvision ResNet, or its layers up to layer4 under the same names.
        weights: As `load_backbone` returns them.
        path: Where they came from, for the message.

    Raises:
        InputError: If a key is missing, unexpected, or of another shape.
    """
    wanted = {name: value.shape for name, value in body.state_dict().items() if is_body(name)}
    given = {name: value for name, value in weights.items() if is_body(name)}
    if given and not wanted.keys() & given.keys():
        raise InputError(
            f"{path} is the backbone of another architecture: of its {len(given)} weights, "
            f"{next(iter(given))} and so on, none is called as in torchvision's ResNets: give "
            "another file"
        )
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    if problems:
        name = recognise(weights)
        what = f"a {name}" if name else "the backbone of another architecture"
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        other = f"add --body {name}, or " if name in TORCHVISION else ""
        raise InputError(
            f"{path} is {what} ({'; '.join(problems[:3])}{more}): {other}give another file"
        )
    body.load_state_dict(given, strict=False)
