"""What image headers show before any image is decoded: turned photos, and duplicates."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from common.errors import InputError
from common.images.orientation import exif_orientation, is_turned, upright_size
from common.storage import open_regular
from detect.data.dataset import LabelledImage
from detect.data.pixels import stands_upright

T = TypeVar("T")
_BYTES = 4096
_THREADS = 16


def read_heads(images: Sequence[LabelledImage]) -> list[tuple[int, bytes]]:
    """Read size in bytes and the first bytes of every file; of one that cannot be read (0, b"")."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_head, [image.path for image in images]))


def _head(path: Path) -> tuple[int, bytes]:
    try:
        with open_regular(path) as file:
            return path.stat().st_size, file.read(_BYTES)
    except OSError:
        return 0, b""


def head_digests(heads: Sequence[tuple[int, bytes]]) -> list[str]:
    """Digest each head, so that a file can be known again wherever it lies: 16 hex digits."""
    return [
        blake2b(size.to_bytes(8, "little") + head, digest_size=8).hexdigest()
        for size, head in heads
    ]


def refuse_misfits(images: Sequence[LabelledImage], heads: Sequence[tuple[int, bytes]]) -> None:
    """Refuse annotations of another size than their image, as far as the headers show.

    Raises:
        InputError: There are some; the message names the first.
    """
    found = []
    for image, (_, head) in zip(images, heads, strict=True):
        try:
            stands_upright(image, head)
        except InputError as error:
            found.append(str(error))
        except ValueError:
            continue  # the head does not tell
    if found:
        rest = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
        raise InputError(found[0] + rest)


def count_turned(images: Sequence[LabelledImage], heads: Sequence[tuple[int, bytes]]) -> int:
    """Count the photos that are turned upright, as their annotations are."""
    count = 0
    for image, (_, head) in zip(images, heads, strict=True):
        orientation = exif_orientation(head)
        if orientation == 1:
            continue
        stated = image.annotation.width, image.annotation.height
        try:
            count += not is_turned(orientation) or upright_size(image.path) == stated
        except InputError:
            continue  # told when it is read
    return count


def count_shared(
    train: Sequence[LabelledImage],
    train_heads: Sequence[tuple[int, bytes]],
    val: Sequence[LabelledImage],
    val_heads: Sequence[tuple[int, bytes]],
) -> int:
    """Count the validation images that are training images, too: the same file, or a copy."""
    paths = {image.path.resolve() for image in train}
    alike: dict[tuple[int, bytes], list[Path]] = {}
    for image, head in zip(train, train_heads, strict=True):
        alike.setdefault(head, []).append(image.path)
    digests: dict[tuple[int, bytes], set[bytes]] = {}  # each file is read once
    count = 0
    for image, head in zip(val, val_heads, strict=True):
        if image.path.resolve() in paths:
            count += 1
        elif head[0] and head in alike:
            if head not in digests:
                digests[head] = {_digest(path) for path in alike[head]}
            count += _digest(image.path) in digests[head]
    return count


def repeated(
    images: Sequence[LabelledImage], heads: Sequence[tuple[int, bytes]]
) -> list[tuple[Path, Path]]:
    """Return images whose picture an earlier image shows, each after that one.

    COCO's ids can name one file twice, and copies have names of their own.
    """
    alike = Counter(head for head in heads if head[0])

    def keys(path: Path, head: tuple[int, bytes]) -> list[Path | bytes]:
        return [path.resolve(), *([_digest(path)] if alike[head] > 1 else [])]

    paths = [image.path for image in images]
    return repeats((path, keys(path, head)) for path, head in zip(paths, heads, strict=True))


def repeats(keyed: Iterable[tuple[T, Sequence[Hashable]]]) -> list[tuple[T, T]]:
    """Pair each thing that shares a key with an earlier one with that one, which comes first."""
    first: dict[Hashable, T] = {}
    pairs = []
    for thing, keys in keyed:
        if known := [first[key] for key in keys if key in first]:
            pairs.append((known[0], thing))
        for key in keys:
            first.setdefault(key, thing)
    return pairs


def _digest(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()
