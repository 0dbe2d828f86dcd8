"""Reading detectron2's pickles of weights without running what they hold."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

_ALLOWED = {
    (f"{package}.{module}", name)
    for package in ("numpy.core", "numpy._core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

_LARGEST_NUMBER = 8  # bytes; numpy's longdouble has more


class _ArraysOnly(pickle.Unpickler):
    """Finds what numpy arrays are rebuilt with, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return super().find_class(module, name)


def read_detectron2(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a pickle in detectron2's layout, {"model": {name: array}}.

    Raises:
        InputError: If it holds anything but arrays, of numbers that torch has, and plain values.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is not a pickle of arrays alone, export again: {reason}"
        ) from error
    model = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(model, dict) or not model:
        raise InputError(f'{path} is no file of detectron2: give one with {{"model": ...}}')
    arrays = {str(name): value for name, value in model.items()}
    other = next((name for name, value in arrays.items() if not _is_numeric(value)), None)
    if other is not None:
        kind = getattr(arrays[other], "dtype", type(arrays[other]).__name__)
        raise InputError(
            f"{path} holds {other!r} ({kind}), which is no array of numbers that torch has: "
            "give weights as detectron2 writes them"
        )
    return arrays


def _is_numeric(value: object) -> bool:
    if not isinstance(value, np.ndarray):
        return False
    return value.dtype.kind in "fiub" and value.dtype.itemsize <= _LARGEST_NUMBER
