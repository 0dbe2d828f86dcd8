"""Images in tar shards, read by position: the order of a training is that of class folders.

A split is a folder of tar files as WebDataset keeps them, and an `index.json` that says where in
them each image lies; `scripts/make_shards.py` writes both. Of tar files of several splits in one
folder each split has an index of its own there, `index-train.json` and so on. Shards at a URL are
fetched whole when the first image of one is asked for (`shard_cache`).

```
index.json   {"format": 1, "made_from": hex digits or null, "pixels": text or null,
              "classes": [name, ...],
              "shards": [{"name": ..., "bytes": ..., "sha256": ...}, ...],
              "samples": {"name": [...], "class": [...], "shard": [...], "offset": [...],
                          "size": [...]}}      one entry per image, in the order of a training
```
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, os_reason, summary
from common.images.decoding import decode_image
from common.storage import open_regular, parse_json, write_text
from pretrain.data.file_paths import encode
from pretrain.data.shard_cache import CACHE, fetch_index, fetch_shard

INDEX = "index.json"
_FORMAT = 1
# It becomes part of paths and commands; file systems have 255 bytes for a name.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_PIXELS = re.compile(r"[A-Za-z0-9 ,.]{0,60}")  # it becomes part of tables
_MOST_NAME = 4096  # characters of a member's name, as paths may have
_OPEN_SHARDS = 512  # of the 1,024 files that a process may usually open


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file: its name in the folder of the index, and what to know it by."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _SHARD_NAME.fullmatch(self.name)):
            raise ValueError(
                f"a shard is called {self.name!r}: letters, digits, _, - and . only, 200 at most"
            )
        digits = isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256)
        if type(self.bytes) is not int or not 0 <= self.bytes < 2**63 or not digits:
            raise ValueError(f"shard {self.name} lacks bytes or sha256")


@dataclass(frozen=True, slots=True)
class ShardSet:
    """Images in shards."""

    folder: Path
    """Where the shards lie, or will lie once they are fetched."""
    source: str | None
    """Where they are fetched from, a URL in which {} stands for a file's name; None: no place."""
    shards: tuple[Shard, ...]
    """The tar files."""
    names: NDArray[np.bytes_]
    """(N,) name of the member that holds each image."""
    places: NDArray[np.int64]
    """(N, 3) shard, offset and size of each image; bytes."""
    labels: NDArray[np.int64]
    """(N,) index into the class names."""
    classes: tuple[str, ...]
    """Class names."""
    pixels: str | None = None
    """What was done to the images, such as "256 px, JPEG 95"; "": nothing; None: nobody said."""

    @property
    def described(self) -> str:
        """What results say they were trained on: another text where pixels may be others."""
        if self.pixels is None:
            digests = "".join(shard.sha256 for shard in self.shards)
            return f"shards {hashlib.sha256(digests.encode()).hexdigest()[:8]}"
        return f"shards of {self.pixels}" if self.pixels else "shards"

    def read(self, index: int) -> bytes:
        """Read an image's file as it was packed.

        Raises:
            InputError: If its shard is missing, cannot be fetched, or is not the one of the index.
        """
        number, offset, size = map(int, self.places[index])
        path = self.folder / self.shards[number].name
        try:
            opened = self._open(number)  # to be held while it is read
            content = os.pread(opened.descriptor, size, offset)
        except OSError as error:
            raise InputError(f"cannot read the shard {path}: {os_reason(error)}") from error
        if len(content) != size:
            raise InputError(f"the shard {path} was cut off while it was in use: fetch it again")
        return content

    def check(self, number: int) -> None:
        """Compare a shard with the digest that the index has of it.

        Raises:
            InputError: If it is missing, cannot be fetched, or is not the one of the index; the
                message follows its name.
        """
        shard = self.shards[number]
        try:
            self._open(number)
            with (self.folder / shard.name).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"unreadable: {os_reason(error)}") from error
        if sha256 != shard.sha256:
            raise InputError(
                f"damaged, or not the shard of its {INDEX} (its SHA-256 differs): delete it, "
                "then fetch or make it again"
            )

    def _open(self, number: int) -> "_Opened":
        """Open a shard, or fetch it first."""
        shard = self.shards[number]
        path = self.folder / shard.name
        try:
            return _open(path, shard.bytes)
        except FileNotFoundError:
            if self.source is None:
                raise
            url = self.source.replace("{}", shard.name)
            fetch_shard(url, path, shard.bytes, shard.sha256)
            return _open(path, shard.bytes)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode an image to pixels (H, W, 3), RGB.

        Raises:
            InputError: If it cannot be read or decoded; the message names shard and member.
        """
        content = self.read(index)
        try:
            return decode_image(content)
        except ValueError as error:
            path = self.folder / self.shards[self.places[index, 0]].name
            name = os.fsdecode(self.names[index])
            raise InputError(f"the image {name} in {path} is {error}") from error


class _Opened:
    """A file that is closed when nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(_OPEN_SHARDS)
def _open(path: Path, size: int) -> _Opened:
    opened = _Opened(path)
    _check_size(path, os.fstat(opened.descriptor).st_size, size)
    return opened


def _check_size(path: Path, size: int, expected: int) -> None:
    if size != expected:
        raise InputError(
            f"the shard {path} has {size} bytes, its {INDEX} says {expected}: fetch it again, "
            f"or rebuild the index with scripts/make_shards.py --index {path.parent}"
        )


def member_stem(stem: str) -> str:
    """Return how an image is called in a shard, by the name of its file without suffix.

    WebDataset takes all after the first dot for the kind of a member.
    """
    return re.sub("[^A-Za-z0-9_-]", "_", stem)[:60]


# ---- the index ----


def open_shards(root: Path, splits: Sequence[str]) -> ShardSet | None:
    """Open the first of some splits that lies in shards, as ROOT/SPLIT/index.json and tar files.

    Args:
        root: A folder, or a URL, or "pipe:COMMAND"; in it {} stands for SPLIT/FILE, without it
            /SPLIT/FILE follows. At a URL only the first split counts.
        splits: Names of the split.

    Returns:
        The images, or None if ROOT is a folder without such an index.

    Raises:
        InputError: If the index cannot be fetched, is damaged or points outside a shard, or a shard
            is missing.
    """
    url = _url(root)
    if url is None:
        path = index_of(root, splits)
        return None if path is None else read_index(path.parent, name=path.name)
    if CACHE not in os.environ:
        raise InputError(f"set {CACHE} to a folder of this machine where shards of {url} are kept")
    source = url.replace("{}", f"{splits[0]}/{{}}") if "{}" in url else f"{url}/{splits[0]}/{{}}"
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = Path(os.environ[CACHE]) / f"{splits[0]}-{digest}"

    def known_by(content: bytes) -> dict[str, str]:
        return {shard.name: shard.sha256 for shard in _parse(content, folder, source).shards}

    if fetch_index(source.replace("{}", INDEX), folder / INDEX, known_by):
        _open.cache_clear()  # shards of an older set
    return read_index(folder, source)


def index_of(root: Path, splits: Sequence[str]) -> Path | None:
    """Find the index of the first of some splits in a folder; None if there is none."""
    places = [root / split / INDEX for split in splits]
    places += [root / split_index(split) for split in splits]
    return next((path for path in places if path.is_file()), None)


def split_index(split: str) -> str:
    """Name the index of a split among tar files of several."""
    return f"index-{split}.json"


def is_url(root: Path) -> bool:
    """Tell whether data are to be fetched from elsewhere."""
    return _url(root) is not None


def _url(root: Path) -> str | None:
    """Return the URL that a Path was made of, which cost it a slash, or None."""
    if not re.match(r"[a-z][a-z0-9]+:", str(root)) or root.exists():
        return None
    return re.sub(r"\b(?!pipe|file)([a-z][a-z0-9]+):/(?!/)", r"\1://", str(root))


def read_index(folder: Path, source: str | None = None, name: str = INDEX) -> ShardSet:
    """Read the index of a folder of shards, and see that it fits the shards that are there.

    Args:
        folder: Holds the index and, without a source, all shards.
        source: Where missing shards are fetched from.
        name: Of the index.

    Raises:
        InputError: If the index is damaged or points outside a shard, or a shard is missing.
    """
    path = folder / name
    try:
        with open_regular(path) as file:
            content = file.read()
        data = _parse(content, folder, source)
    except OSError as error:
        raise InputError(f"cannot read {path}: {os_reason(error)}") from error
    except InputError as error:
        raise InputError(
            f"{path} {error}: rebuild it with scripts/make_shards.py --index {folder}"
        ) from error
    for shard in data.shards:
        try:
            _check_size(folder / shard.name, (folder / shard.name).stat().st_size, shard.bytes)
        except OSError as error:
            if source is None or not isinstance(error, FileNotFoundError):
                raise InputError(
                    f"cannot read the shard {folder / shard.name}: {os_reason(error)}"
                ) from error
    return data


def _parse(content: bytes, folder: Path, source: str | None) -> ShardSet:
    """Read the content of an index; the message of an InputError follows its name."""
    try:
        index = parse_json(content)
        if not isinstance(index, dict) or index.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        return _parse_json(index, folder, source)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        missing = "no " if isinstance(error, KeyError) else ""
        reason = missing + summary(error)
        raise InputError(f"is no index of shards ({reason})") from error


def _parse_json(index: Mapping[str, Any], folder: Path, source: str | None) -> ShardSet:
    shards = tuple(Shard(e["name"], e["bytes"], e["sha256"]) for e in index["shards"])
    classes = tuple(index["classes"])
    samples, pixels = index["samples"], index.get("pixels")
    columns = [np.array(samples[name]) for name in ("class", "shard", "offset", "size")]
    if max(map(len, samples["name"]), default=0) > _MOST_NAME:  # each takes as much as the longest
        raise ValueError(f"a name has over {_MOST_NAME} characters")
    names = encode(samples["name"])
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("a class name is no text")
    if pixels is not None and not (isinstance(pixels, str) and _PIXELS.fullmatch(pixels)):
        raise ValueError("it does not say in a few plain words what was done to the pixels")
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError("two shards have the same name")
    if not len(names) or any(c.dtype != np.int64 or c.shape != names.shape for c in columns):
        raise ValueError("samples need a name and four whole numbers each")
    labels, shard_of, offsets, sizes = columns
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"a class is not in 0..{len(classes) - 1}")
    if shard_of.min() < 0 or shard_of.max() >= len(shards):
        raise ValueError(f"a shard is not in 0..{len(shards) - 1}")
    room = np.array([shard.bytes for shard in shards])[shard_of]
    inside = (offsets >= 0) & (sizes >= 0) & (sizes <= room)
    inside &= offsets <= room - sizes  # the sum of both could overflow
    outside = np.flatnonzero(~inside)
    if len(outside):
        first = outside[0]
        name = shards[shard_of[first]].name
        raise ValueError(f"{samples['name'][first]} would lie outside its shard {name}")
    places = np.stack(columns[1:], 1)
    return ShardSet(folder, source, shards, names, places, labels, classes, pixels)


def write_index(data: ShardSet, made_from: str | None, name: str = INDEX) -> None:
    """Write the index of shards into their folder.

    Args:
        data: The images.
        made_from: What identifies the files and options that the shards were made from.
        name: Of the index.

    Raises:
        InputError: If it cannot be written.
    """
    columns = dict(zip(("shard", "offset", "size"), data.places.T.tolist(), strict=True))
    names = [os.fsdecode(name) for name in data.names.tolist()]
    index = {
        "format": _FORMAT,
        "made_from": made_from,
        "pixels": data.pixels,
        "classes": data.classes,
        "shards": [asdict(shard) for shard in data.shards],
        "samples": {"name": names, "class": data.labels.tolist(), **columns},
    }
    text = json.dumps(index, separators=(",", ":"))
    write_text(data.folder / name, text)
