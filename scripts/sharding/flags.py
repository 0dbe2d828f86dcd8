"""The flags of `scripts/make_shards.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from common.images.loading import default_workers
from common.recipe import AT_LEAST_ONE, check

PROGRAM = "python scripts/make_shards.py"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is packed, and how."""

    data: Path | None = None
    """Folder that holds SPLIT/<class>/*.jpg, or tiny-imagenet-200."""
    out: Path | None = None
    """Folder for SPLIT/imagenet-SPLIT-*.tar; made if it is not there."""
    split: Literal["train", "val"] = "train"
    """Which images."""
    size_mb: Annotated[int, AT_LEAST_ONE] = 200
    """Size of a shard, in millions of bytes, before any resizing."""
    resize: Annotated[int | None, AT_LEAST_ONE] = None
    """Shrink the short side to this many pixels, as JPEG of quality 95; None: files as they are.
    Results name the size: the pixels are others."""
    index: Path | None = None
    """Folder of tar files to index, instead of packing."""
    workers: Annotated[int, AT_LEAST_ONE] = field(default_factory=default_workers)
    """Processes."""

    def __post_init__(self) -> None:
        check(self)
        packs = self.data is not None and self.out is not None
        if packs == (self.index is not None) or (self.index and (self.data or self.out)):
            raise ValueError(f"give --data DIR --out DIR, or --index DIR; {PROGRAM} --help")
