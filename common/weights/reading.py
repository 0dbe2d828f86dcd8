"""Reading weights that anyone wrote: safetensors or torch files, wrapped or averaged.

Nothing that a file holds is run: torch files are read with `weights_only=True`.
"""

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import InputError
from common.runs.checkpoints import check_archive, check_names
from common.text import counted, in_line
from common.weights.detectron2 import read_detectron2
from common.weights.finding import (
    containers,
    find_container,
    find_prefix,
    is_state_dict,
    split_part,
)
from common.weights.kinds import EXPECTED, is_archive, refuse_foreign
from common.weights.transformers import under_torchvisions_names

_AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel
_CHECKPOINT = {"model", "step", "epoch", "metrics"}

_MOST_PICKLED = 16_000_000  # bytes, the tensors' content left out


@dataclass(frozen=True, slots=True)
class Weights:
    """A state dict, on the CPU, and how it lay in its file."""

    tensors: dict[str, Tensor]
    part: str | None = None
    """Key of the container that it was taken from."""
    prefix: str = ""
    """What DDP, torch.compile, Lightning or a detector had put before the names."""
    averaged: bool = False
    """Whether torch's AveragedModel wrote it."""
    left: int = 0
    """Tensors that have another prefix: heads, decoders, other networks."""

    def describe(self) -> str:
        """Say what was taken; empty for a plain state dict."""
        taken = [f"took its {self.part!r}"] if self.part else []
        taken += ["took the averages of an AveragedModel"] if self.averaged else []
        taken += [f"took the prefix {self.prefix!r} off"] if self.prefix else []
        taken += [f"left {counted(self.left, 'tensor')} without it"] if self.left else []
        return "; ".join(taken)


def read_weights(path: Path) -> Weights:
    """Read the weights of a file.

    Of a container that holds weights and their average, the average is taken, as timm does.
    Of several networks `FILE#NAME` names one.

    Raises:
        InputError: If the file is missing, damaged, or holds anything but weights; the message
            says what.
    """
    path, part = split_part(path)
    if path.suffix == ".pkl":
        return Weights({name: torch.from_numpy(a) for name, a in read_detectron2(path).items()})
    return weights_of(read_content(path), path, part)


def read_content(path: Path) -> dict[str, Any]:
    """Read what a safetensors or torch file holds, checkpoints included.

    Raises:
        InputError: If the file is missing, damaged, of another kind, or holds no dictionary.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there: check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: copy it again")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            refuse_foreign(path)
            raise InputError(
                f"{path} is not a readable safetensors file, copy it again: {str(error)[:200]}"
            ) from error
    refuse_foreign(path)
    try:
        if is_archive(path):
            check_archive(path)
        elif _start(path, 4) != b"PK\x03\x04":  # that is a cut archive, as torch will say
            # Magic number, version, machine, content, names of storages.
            check_names(_start(path, _MOST_PICKLED), 5)
        # timm's and torchvision's training scripts keep their arguments: a class without code.
        # So are numpy's numbers, as which an accuracy is kept.
        with (
            torch.serialization.safe_globals([argparse.Namespace, *_numbers()]),
            warnings.catch_warnings(action="ignore"),  # of sparse tensors, which are refused
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        if "central directory" in str(error):
            raise InputError(f"{path} is cut off or damaged: copy it again") from error
        raise InputError(
            f"{path} does not load safely: save tensors alone ({_reason(error)})"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}: give {EXPECTED}")
    return content


def _start(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _numbers() -> list[Any]:
    """Return what numpy rebuilds a number with, which runs no code."""
    rebuild = np.float64(0).__reduce__()[0]
    names = (f"numpy.{package}.multiarray.scalar" for package in ("core", "_core"))
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}
    return [*((rebuild, name) for name in names), np.dtype, *kinds]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    refused = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", text)
    if refused:
        return (
            f"it names {refused[1][:80]}, which is no tensor and no plain value: save the "
            "state_dict() alone where the file was made"
        )
    if re.search("weights_only|opcode|operand", text) or not text:  # torch's long advice
        return "it is no torch file, or a damaged one"
    return text[:200]


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Return whether this is a checkpoint of a training of ours, last.pt or best.pt."""
    return (
        set(content) >= _CHECKPOINT
        and is_state_dict(content["model"])
        and is_state_dict(content.get("average", content["model"]))
        and isinstance(content["metrics"], Mapping)
    )


def is_detector(weights: Mapping[Any, Any]) -> bool:
    """Return whether a dictionary is the state of a detector of ours, or of torchvision."""
    return any(isinstance(name, str) and name.startswith("backbone.body.") for name in weights)


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with NaN or infinity; None: all are finite."""
    return next((name for name, value in tensors.items() if not _finite(value)), None)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are numbers.

    Raises:
        InputError: If one is NaN or infinite, or a convolution has whole numbers, as quantised ones
            have; the message names the first tensor.
    """
    whole = next((n for n, value in tensors.items() if value.ndim == 4 and _is_whole(value)), None)
    if whole:
        raise InputError(
            f"{path} holds whole numbers ({str(tensors[whole].dtype)[6:]}), first in "
            f"{in_line(whole)}: give the weights as they were before they were quantised"
        )
    bad = first_not_finite(tensors)
    if bad:
        raise InputError(
            f"{path} holds NaN or infinite numbers, first in {in_line(bad)}: give an earlier "
            "checkpoint of that training"
        )


def _is_whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def _finite(value: Tensor) -> bool:
    if value.is_meta or not value.is_floating_point():
        return True
    value = value.float() if value.itemsize == 1 else value  # isfinite knows no 8-bit floats
    return bool(value.isfinite().all())


def weights_of(content: Mapping[str, Any], path: Path, part: str | None = None) -> Weights:
    """Find the weights in what a file holds, under their own names.

    Args:
        content: As `read_content` returns it.
        path: Where it came from, for the message.
        part: The one of several networks that is meant: its container, or its prefix.

    Raises:
        InputError: If there are none, or several, or this is a checkpoint of a classifier of ours.
    """
    if is_checkpoint(content):
        state: Any = content.get("average", content["model"])
        if not is_detector(state):
            raise InputError(
                f"{path} is a checkpoint of epoch {content['epoch']}: export it with "
                "`python -m pretrain export --run RUN --out NAME.safetensors`"
            )
        container = None
    else:
        container = find_container(content, path, part)
        state = containers(content)[container] if container else content
    if not is_state_dict(state):
        raise InputError(
            f"{path} holds {_summary(content)}, no plain state dict of tensors: give {EXPECTED}; "
            "of a run, `python -m pretrain export` writes it"
        )
    tensors = under_torchvisions_names(
        {name: value for name, value in state.items() if name != _AVERAGED}
    )
    sparse = next((n for n, value in tensors.items() if value.layout != torch.strided), None)
    if sparse is not None:
        raise InputError(
            f"{path} holds a sparse tensor, {in_line(sparse)}: save it by to_dense() instead"
        )
    prefix = find_prefix(tensors, path, part)
    found = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    return Weights(found, container, prefix, _AVERAGED in state, len(tensors) - len(found))


def _summary(content: Mapping[str, Any]) -> str:
    if not content:
        return "nothing"
    shown = [f"{str(key)[:40]!r} ({type(value).__name__})" for key, value in content.items()]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more
