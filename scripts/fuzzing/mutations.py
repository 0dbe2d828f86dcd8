"""Changes of an input: of its bytes, its numbers, its words, its JSON, and of what is packed in it.

Everything is drawn from one generator, so a seed and a corpus say every input.
"""

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 20_000
_LONG = 5000  # digits: more than Python turns into a number
_NUMBERS = [
    *b"0 -0 1 -1 2 0.5 -0.5 1.5 255 256 65535 65536 2147483647 2147483648 4294967296".split(),
    *b"9223372036854775807 9223372036854775808 -9223372036854775809 18446744073709551616".split(),
    *b"1e9 1e30 1e300 1e308 -1e308 1e309 1e-300 1e-400 nan NaN inf Infinity -Infinity".split(),
    *b"1_0 0x10 1,5 +1 .5 001 true null".split(),
    b"9" * _LONG,
    b"1" + b"0" * 400,
    b"1." + b"0" * _LONG,
    "٣".encode(),
]
_WORDS = [
    *(bytes([code]) for code in b"\0\n\r\t /\\\"'~,:[]{}<>&#-%\xff"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"../", b"C:", b"%s", b"{}"),
    *(b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xf0\x9f\x90\x95"),
]
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(0.5, 1e300, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", "0", "a", "\0", "\ud800", "../a", "/", "x" * 300, "9" * _LONG),
    *([], [[]], [0], {}, {"": None}),
)


@dataclass(frozen=True)
class Layer:
    """Something packed: how to take out what is in it, and put it back."""

    unpack: Callable[[bytes], bytes]
    pack: Callable[[bytes, bytes], bytes]
    """Given the whole as it was, and the new inside."""


def mutate(
    data: bytes,
    rng: random.Random,
    others: Sequence[bytes] = (),
    words: Sequence[bytes] = (),
    layers: Sequence[Layer] = (),
) -> bytes:
    """Change an input in one to five places.

    Args:
        data: The input.
        rng: What is drawn from.
        others: Inputs to take pieces of.
        words: What means something in the format.
        layers: What it may be packed in.
    """
    if layers and rng.random() < 0.7:
        layer = rng.choice(layers)
        try:
            inner = layer.unpack(data)
            return layer.pack(data, mutate(inner, rng, words=words))[:MOST_BYTES]
        except Exception:  # it is no longer packed so
            pass
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if data[:1] in (b"{", b"[") and rng.random() < 0.5:
            data = _mutate_json(data, rng)
        else:
            data = _mutate_bytes(data, rng, others, words)
    return data[:MOST_BYTES]


def _mutate_bytes(
    data: bytes, rng: random.Random, others: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 16, 64, 512)))
    kind = rng.randrange(10)
    if kind == 0 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        times = rng.choice((2, 2, 3, 20, 1000))
        return data[:at] + (data[at:end] * times)[:MOST_BYTES] + data[end:]
    if kind == 4:
        word = rng.choice((*words, *_WORDS))
        return data[:at] + word * rng.choice((1, 1, 1, 2, 300)) + data[rng.choice((at, end)) :]
    if kind == 5:
        size = rng.choice(("B", "H", "I", "Q"))
        value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, -1, -2, rng.getrandbits(64)))
        bits = 8 * struct.calcsize(size)
        number = struct.pack(rng.choice("<>") + size, value & (1 << bits) - 1)
        return data[:at] + number + data[at + len(number) :]
    if kind == 6 and others:
        other = rng.choice(others)
        start = rng.randrange(len(other) + 1)
        return data[:at] + other[start : start + rng.choice((4, 64, MOST_BYTES))]
    if kind == 7:
        return data[:at]
    found = list(_NUMBER.finditer(data[:MOST_BYTES]))
    if found:
        old = rng.choice(found)
        return data[: old.start()] + rng.choice(_NUMBERS) + data[old.end() :]
    return data


def _mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change a value of a JSON text, or the key that it has."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return data
    holder: Any = root
    key: Any = 0
    while True:
        value = holder[key]
        if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
            break
        keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
        holder, key = value, rng.choice(keys)
    kind = rng.randrange(7)
    if kind == 0 and holder is not root:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(rng.choice(("", "id", "0", key + "s", "\ud800")))] = holder.pop(key)
    elif kind == 2:
        holder[key] = [value] * rng.choice((1, 2, 50))
    elif kind == 3:
        holder[key] = {"a": value}
    elif kind == 4 and isinstance(value, int | float):
        as_float = float(value) if abs(value) < 10**300 else -value  # or it would overflow
        holder[key] = rng.choice((-value, value + 1, value * 1000, str(value), as_float))
    else:
        holder[key] = rng.choice(_VALUES)
    text = json.dumps(root[0]).encode()
    if rng.random() < 0.01:
        return text.replace(b"0", b"[" * 5000 + b"]" * 5000, 1)
    return text


# ---- what is packed -----------------------------------------------------------------------------


def _gzip_inside(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data, MOST_BYTES * 5)


GZIP = Layer(_gzip_inside, lambda _, inner: gzip.compress(inner, 1, mtime=0))


def _header(data: bytes) -> bytes:
    (size,) = struct.unpack_from("<Q", data)
    return data[8 : 8 + size]


def _with_header(data: bytes, header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data[8 + len(_header(data)) :]


SAFETENSORS = Layer(_header, _with_header)
"""The JSON that a safetensors file begins with."""


def zip_member(ending: str) -> Layer:
    """Return the layer of a member of a ZIP archive, by the end of its name."""

    def unpack(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return next(archive.read(n) for n in archive.namelist() if n.endswith(ending))

    def pack(data: bytes, inner: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
            for entry in old.infolist():
                content = inner if entry.filename.endswith(ending) else old.read(entry)
                new.writestr(zipfile.ZipInfo(entry.filename), content)
        return file.getvalue()

    return Layer(unpack, pack)
