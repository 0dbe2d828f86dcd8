"""What `verify` counts in a data set, and the table that it prints."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.images.checking import Result
from common.text import alike, in_line
from pretrain.data.image_sets import FileSet, ImageSet, PixelSet
from pretrain.data.report import unseen
from pretrain.data.shards import ShardSet

_UPRIGHT = 1


class Members(Sequence[Path]):
    """The images of shards by name, as if each shard were a folder."""

    def __init__(self, data: ShardSet) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data.labels)

    def __getitem__(self, index: Any) -> Any:
        shard = self._data.shards[self._data.places[index, 0]]
        return self._data.folder / shard.name / os.fsdecode(self._data.names[index])


class Contents:
    """The images of a split, counted while they are checked.

    Args:
        split: "train" or "val".
        data: The images.
    """

    def __init__(self, split: str, data: ImageSet) -> None:
        self.split, self.data = split, data
        self.names: Sequence[Path] = ()
        if not isinstance(data, PixelSet):
            self.names = data.paths if isinstance(data, FileSet) else Members(data)
        self.formats: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.turned = 0
        self.digests = np.zeros(len(self.names), np.uint64)
        """Of the files; 0 where one could not be read."""

    def add(self, position: int, result: Result) -> None:
        """Count an image."""
        if result.size is None:
            return
        self.formats[result.format] += 1
        self.sizes[result.size] += 1
        self.turned += result.orientation != _UPRIGHT
        self.digests[position] = int.from_bytes(result.digest[:8], "little")


def table(splits: Sequence[Contents]) -> list[str]:
    """Return the lines of a table, one column per split."""
    rows = [("", [one.split for one in splits])]
    for title, cell in (
        ("images", lambda one: f"{len(one.data.labels):,}"),
        ("classes", lambda one: f"{len(one.data.classes):,}"),
        ("images per class: min, median, max", _a_class),
        ("kept as", _form),
        ("formats", lambda one: _counted(one.formats)),
        ("sizes", _sizes),
        ("not upright by EXIF, read as stored", lambda one: f"{one.turned:,}"),
        ("identical files within", lambda one: f"{_repeated(one.digests):,}"),
    ):
        rows.append((title, [cell(one) for one in splits]))
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(splits))]
    width = max(len(title) for title, _ in rows)
    lines = []
    for title, cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{title:{width}}  {'  '.join(padded)}".rstrip())
    passed = {str(one): None for split in splits for one in getattr(split.data, "passed_over", ())}
    return [*lines, f"{'skipped':{width}}  {', '.join(passed) or 'nothing'}"]


def warnings(splits: Sequence[Contents]) -> list[str]:
    """Return lines about images that are in both splits, or in two classes, by their content."""
    lines = alike(splits[0].data.classes)
    for one in splits:
        pairs = _contradictions(one)
        if pairs:
            first, second = (in_line(str(one.names[position])) for position in pairs[0])
            lines.append(
                f"warning: in {one.split}, {len(pairs)} with the same content as one of another "
                f"class ({second} is {first}): one of the labels is wrong"
            )
    if len(splits) == 2:
        train, val = splits
        for one, kind in ((train, "training"), (val, "validation")):
            lines += unseen(train.data.classes, one.data.labels.tolist(), kind)
        known = _positions(train.digests)
        pairs = [(known[d], at) for at, d in enumerate(val.digests.tolist()) if d and d in known]
        if pairs:
            first, second = str(train.names[pairs[0][0]]), str(val.names[pairs[0][1]])
            lines.append(
                f"warning: of {len(val.names):,} validation images {len(pairs)} also in train "
                f"({in_line(second)} is {in_line(first)}), which inflates the score: "
                "remove them from one"
            )
    return lines


def _a_class(one: Contents) -> str:
    counts = np.bincount(one.data.labels, minlength=len(one.data.classes))
    if not len(counts):
        return "-"
    return f"{counts.min():,}, {np.median(counts):g}, {counts.max():,}"


def _form(one: Contents) -> str:
    if isinstance(one.data, FileSet):
        return one.data.form
    return one.data.described


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "-"


def _sizes(one: Contents) -> str:
    if not one.sizes:
        return "-"
    by_area = sorted(one.sizes, key=lambda size: (size[0] * size[1], size))
    least, most = (f"{width}x{height}" for width, height in (by_area[0], by_area[-1]))
    return least if len(by_area) == 1 else f"{least} to {most}, {len(by_area):,} different"


def _repeated(digests: np.ndarray[Any, np.dtype[np.uint64]]) -> int:
    known = digests[digests != 0]
    return len(known) - len(np.unique(known))


def _positions(digests: np.ndarray[Any, np.dtype[np.uint64]]) -> dict[int, int]:
    """Return the first image of each content."""
    return {d: at for at, d in reversed(list(enumerate(digests.tolist()))) if d}


def _contradictions(one: Contents) -> list[tuple[int, int]]:
    """Return images whose content an earlier one of another class has, each with that one."""
    first, labels = _positions(one.digests), one.data.labels
    pairs = ((first[d], at) for at, d in enumerate(one.digests.tolist()) if d)
    return [(before, at) for before, at in pairs if labels[before] != labels[at]]
