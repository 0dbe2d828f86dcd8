"""What distinguishes the data of a run, part by part, so that a resume can say what changed.

```python
Task(..., data={
    "class list": shown(classes),             # in words: a message can show both
    "training images": digest(ids),           # many: a message names the part
    "objects of the training images": digest(...),
})
```
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

Parts = Mapping[str, str]
"""Name of a part, as a message calls it, to its words or its digest."""
IMAGES = "training images"
"""The part that checkpoints of older versions have alone."""
FILES = "files of the training images, by their sizes"
"""The part that a run lacks whose images are packed, or whose version did not look at it yet."""
_MOST_FILES = 2000
_DIGEST = re.compile("[0-9a-f]{16,}")
_MOST_SHOWN = 100  # characters of one part in a message


def digest(pieces: Iterable[str | bytes]) -> str:
    """Digest a part of many pieces; their order counts, and so do the bounds between them."""
    state = blake2b(digest_size=16)
    for piece in pieces:
        data = piece.encode(errors="surrogatepass") if isinstance(piece, str) else piece
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


def file_sizes(paths: Sequence[Path]) -> dict[str, str]:
    """Return a part that tells other pictures under the same names: the sizes of their files.

    Of 2,000 files at most, spread evenly: a set of millions may lie on a slow disk.
    """
    step = max(1, -(-len(paths) // _MOST_FILES))
    sizes = (str(_size(paths[number])) for number in range(0, len(paths), step))
    return {FILES: digest(sizes)}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # told when it is to be read
        return -1


def changes(before: Parts | str, now: Parts) -> list[str]:
    """Say what differs between the data of a checkpoint and those of today, a phrase a part.

    Args:
        before: Of the checkpoint; a text of an older version, which is compared with `IMAGES`.
        now: Of today.

    Returns:
        Nothing if they are the same.
    """
    if isinstance(before, str):
        before, now = {IMAGES: before}, {IMAGES: now.get(IMAGES, "")}
    names = [*now, *(name for name in before if name not in now)]
    changed = [
        name
        for name in names
        if before.get(name) != now.get(name)
        and not (name == FILES and (name not in before or name not in now))
    ]
    # Other images have other names, sizes and annotations: that goes without saying.
    own = [name for name in changed if not any(f" of the {whole}" in name for whole in changed)]
    return [_phrase(name, before.get(name), now.get(name)) for name in own]


def _phrase(name: str, before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return f"the {name}, which one of them lacks"
    if _DIGEST.fullmatch(before) or _DIGEST.fullmatch(now):
        return f"the {name}"
    return f"the {name}: {_cut(before)} then, {_cut(now)} now"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
