"""Checkpoints that are whole or absent.

Tensors and plain values only: everything loads with `weights_only=True`, so a checkpoint from
elsewhere cannot run code.
"""

import io
import pickle
import pickletools
import random
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.storage import open_regular, previous, write_atomically
from common.text import in_line, say

_LONGEST_NAME = 200  # characters of a module and a class


def save(state: dict[str, Any], path: Path, *, keep_previous: bool = False) -> None:
    """Write a checkpoint of tensors and plain values; the rest as `write_atomically`."""
    # Through memory: torch.save hides the OSError of a full disk behind a RuntimeError of its own.
    content = io.BytesIO()
    torch.save(state, content)
    data = content.getbuffer()
    write_atomically(
        path, lambda file: file.write(data), size=len(data), keep_previous=keep_previous
    )


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, tensors and plain values only.

    Raises:
        InputError: If the file is missing, damaged in a single bit, or holds anything else.
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give a finished run or a checkpoint file") from None
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is not a checkpoint that loads safely: give another ({reason[:120]})"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}: give a checkpoint of a run")
    return state


def check_archive(path: Path) -> None:
    """Compare a file of torch.save with its checksums, which torch.load ignores.

    Raises:
        OSError: If it cannot be read.
        zipfile.BadZipFile: If it is damaged, or unpacks to more than it is large.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type for entry in entries):
            raise zipfile.BadZipFile("it is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts are larger than the whole")
        if archive.testzip():
            raise zipfile.BadZipFile("a checksum does not fit, the file is damaged")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                check_names(archive.read(entry))


def check_names(content: bytes, pickles: int = 1) -> None:
    """Refuse the names of classes that are longer than any is.

    torch searches what it says of an unknown one with a pattern that takes the square of its
    length: seconds for 16 kB, hours for 1 MB.

    Args:
        content: Pickles, one after the other; what follows them is not looked at.
        pickles: Their number.

    Raises:
        pickle.UnpicklingError: If a name is too long.
        ValueError: If they are cut off or damaged.
    """
    file = io.BytesIO(content)
    for _ in range(pickles):
        for opcode, argument, _ in pickletools.genops(file):
            name = str(argument) if opcode.name in ("GLOBAL", "INST") else ""
            if len(name) > _LONGEST_NAME:
                raise pickle.UnpicklingError(f"it names {name[:40]}..., which is no class")


def load_to_resume(path: Path) -> dict[str, Any]:
    """Read the checkpoint that a training is to resume from.

    Raises:
        InputError: If it is something else; the message says what, and what serves.
    """
    serves = "--resume takes the last.pt of a run"
    if path.is_dir():
        raise InputError(f"--resume {path} is a folder: {serves}, such as {path / 'last.pt'}")
    if not path.exists():
        raise InputError(f"--resume {path} is missing: {serves}, and auto continues with --out")
    if path.suffix == ".safetensors":
        raise InputError(f"--resume {path} holds weights alone, no state of a training: {serves}")
    try:
        state = load(path)
    except InputError as error:
        raise InputError(f"{error}; {serves}") from error
    if {"model", "optimizer", "step"} <= set(state):
        return state
    if {"model", "epoch", "metrics"} <= set(state):
        raise InputError(
            f"--resume {path} holds the weights of an evaluation, such as best.pt, without the "
            f"optimizer: {serves}"
        )
    weights = any(isinstance(value, torch.Tensor) for value in state.values())
    held = "weights alone, no state of a training" if weights else "no checkpoint of this project"
    raise InputError(f"--resume {path} holds {held}: {serves}")


def load_last(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or the one before it where it is missing or damaged.

    A damaged one is renamed to `<stem>.damaged<suffix>`: the next save would keep it as the one
    before.

    Raises:
        InputError: If neither can be read.
    """
    try:
        return load(path)
    except InputError as error:
        if not previous(path).exists():
            raise
        problem = error if path.exists() else f"{path} is missing: its writing was cut short"
        say(f"{in_line(str(problem))}; resuming from {previous(path).name}")
        state = load(previous(path))
        if path.exists():
            path.replace(path.with_suffix(f".damaged{path.suffix}"))
        return state


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators that training draws from."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo what was drawn since `random_state`."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
