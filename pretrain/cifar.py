"""Reading the published files of CIFAR-10, the binary and the Python version.

A binary record is one byte of label and 3072 of pixels: 1024 red, 1024 green, 1024 blue, each row
by row (https://www.cs.toronto.edu/~kriz/cifar.html). A Python batch is a pickle, which may run any
code when it is read as such: here its digest is checked first, and what reads it can build plain
values and one kind of array, nothing else.
"""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCHES = ("test_batch",)
BATCH_IMAGES = 10_000

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_MD5 = {  # of the Python version
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_binary(file: Path, *, official: bool = True) -> Batch:
    """Read a batch of the binary version.

    Args:
        file: For example `cifar-10-batches-bin/data_batch_1.bin`.
        official: Demand the number of images of the published file.

    Returns:
        Pixels (N, 32, 32, 3), RGB, and labels (N,).

    Raises:
        InputError: If the file is missing, of a wrong size, or holds an impossible label.
    """
    data = _read(file)
    size = 1 + _PIXELS
    if (official and len(data) != BATCH_IMAGES * size) or len(data) % size:
        raise InputError(
            f"{file} has {len(data)} bytes where {BATCH_IMAGES} records of {size} belong: "
            "unpack cifar-10-binary.tar.gz anew"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    return _batch(file, records[:, 1:], records[:, 0].astype(np.int64))


def read_python(file: Path, *, official: bool = True) -> Batch:
    """Read a batch of the Python version, without running what it may hold.

    Args:
        file: For example `cifar-10-batches-py/data_batch_1`.
        official: Demand the digest of the published file.

    Returns:
        Pixels (N, 32, 32, 3), RGB, and labels (N,).

    Raises:
        InputError: If the file is missing, is not the published one, or holds anything else than
            numbers, text and arrays of bytes.
    """
    data = _read(file)
    again = "unpack cifar-10-python.tar.gz anew"
    if official and hashlib.md5(data, usedforsecurity=False).hexdigest() != _MD5[file.name]:
        raise InputError(f"{file} differs from the published file (MD5): {again}")
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        rows = np.asarray(batch[b"data"], np.uint8).reshape(-1, _PIXELS)
        labels = np.asarray(batch[b"labels"], np.int64).reshape(-1)
    except Exception as error:  # hostile bytes can raise nearly anything
        raise InputError(f"{file} is no batch of CIFAR-10 ({error}): {again}") from error
    return _batch(file, rows, labels)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _batch(file: Path, rows: NDArray[np.uint8], labels: NDArray[np.int64]) -> Batch:
    """Check labels and bring rows of three colour planes into the order of an image."""
    if len(rows) != len(labels):
        raise InputError(f"{file} holds {len(rows)} images but {len(labels)} labels")
    wrong = (labels < 0) | (labels >= len(CLASSES))
    if wrong.any():
        record = int(wrong.argmax())
        raise InputError(f"{file} has label {labels[record]} in record {record}, not 0 to 9")
    return rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels


def _byte_type(code: bytes | str, *_: object) -> np.dtype[np.uint8]:
    if code not in (b"u1", "u1"):
        raise pickle.UnpicklingError(f"an array of {code!r}")
    return np.dtype(np.uint8)


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # numpy 1 wrote this name
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _byte_type,
}


class _BatchUnpickler(pickle.Unpickler):
    """Builds plain values and arrays of bytes, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            admitted: Callable[..., Any] = _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
        return admitted
