"""Reading pickles of numpy arrays without running what they hold, not even numpy's own code.

numpy's own functions for that believe whatever a file states, and a false statement can kill the
process. So stand-ins only note the statements, which are checked before an array is made of them.
"""

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEEPS = ("PUT", "BINPUT", "LONG_BINPUT")
_KINDS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}
_ORDERS = ("<", ">", "|", "=")


class Kind:
    """The type of an array's numbers, as a pickle states it."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else str(code)[:20]
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1].decode() if isinstance(state[1], bytes) else state[1]

    def dtype(self) -> np.dtype[Any] | None:
        """Return numpy's type; None if torch has no such numbers."""
        code = self.code.lstrip("<>|=")
        if code not in _KINDS or self.order not in _ORDERS:
            return None
        order = self.code[0] if self.code[0] in _ORDERS else self.order
        return np.dtype(f"{order}{code}")


class Array:
    """An array, or a number, as a pickle states it."""

    def __init__(self, *_: object) -> None:
        self.kind: object = None
        self.shape: Any = ()
        self.columns_first = False
        self.content: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.columns_first, self.content = state

    def array(self) -> NDArray[Any] | None:
        """Make the array, in this machine's byte order; None if torch has no such numbers.

        Raises:
            ValueError: If its content does not fit its shape.
        """
        dtype = self.kind.dtype() if isinstance(self.kind, Kind) else None
        if dtype is None:
            return None
        shape = self.shape if isinstance(self.shape, tuple) else (self.shape,)
        content = self.content
        if isinstance(content, str):  # as Python 2 wrote it
            content = content.encode("latin1")
        whole = all(type(side) is int and side >= 0 for side in shape) and len(shape) <= 32
        if not whole or not isinstance(content, bytes | bytearray):
            raise ValueError("an array has no shape or no content")
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of {str(shape)[:60]} has {len(content)} bytes")
        flat = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if self.columns_first else "C")

    def __str__(self) -> str:
        return f"an array of {getattr(self.kind, 'code', 'nothing')}"


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C", *_: object) -> Array:
    made = Array()
    made.__setstate__((1, shape, kind, order == "F", content))
    return made


def _number(kind: Any, content: Any = b"") -> Array:
    made = Array()
    made.__setstate__((1, (), kind, False, content))
    return made


def _to_bytes(text: str, codec: str) -> bytes:
    """Encode as old pickles of bytes do; other codecs would double a text again and again."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"it encodes as {str(codec)[:20]!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    (f"{package}.{module}", name): stand_in
    for package in ("numpy.core", "numpy._core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", Array),
        ("multiarray", "scalar", _number),
        ("numeric", "_frombuffer", _from_buffer),
    )
}
_STAND_INS |= {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): _to_bytes,
}


class _ArraysOnly(pickle.Unpickler):
    """Finds the stand-ins, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array") from None


def _check(content: bytes) -> None:
    """Refuse a pickle that would take more memory than it has bytes.

    Python keeps a table as long as the largest number of a kept value, of which a file can state
    any, and makes room for a text before it looks whether there is one.

    Raises:
        pickle.UnpicklingError: If it numbers a value higher than it can have values.
        ValueError: If it is cut off, or no pickle.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in _KEEPS and not 0 <= int(argument or 0) <= count:
            raise pickle.UnpicklingError(f"its value {argument} is not there")


def load_arrays(content: bytes) -> Any:
    """Read a pickle; its arrays are `Array`.

    Raises:
        Exception: Of nearly any kind, if it is damaged or names anything but arrays.
    """
    _check(content)
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
