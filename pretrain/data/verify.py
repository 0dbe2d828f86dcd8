"""`python -m pretrain verify`: every image and shard of a data set, and faults of its layout."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError
from common.images.checking import Check, Report, Result, check_image, check_path
from pretrain.data.datasets import load
from pretrain.data.image_sets import PixelSet
from pretrain.data.shards import INDEX, ShardSet

Kind = Literal["imagenet", "tiny-imagenet", "cifar10", "cifar100"]
Fault = tuple[Path, str]
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a split consists of.

    Attributes:
        paths: Images to check.
        shards: What they are in, where they are no files.
        read: Images that were read and compared with what was published.
        faults: Path and what is wrong there.
        error: What a training would stop with.
    """

    paths: Sequence[Path] = ()
    shards: ShardSet | None = None
    read: int = 0
    faults: Sequence[Fault] = ()
    error: InputError | None = None


def verify(kind: Kind, root: Path, workers: int | None) -> None:
    """Check the training and validation images of a data set; print each fault and a summary.

    Args:
        kind: As for `datasets.load`.
        root: Folder of the data set, or its archive.
        workers: Processes; 0 checks in this one; None: as many as cores.

    Raises:
        InputError: There are faults, or no data at all.
    """
    report, compared = Report(), 0
    splits = {split: read_layout(kind, root, split) for split in ("train", "val")}
    if splits["train"].error and not any(layout.paths or layout.read for layout in splits.values()):
        raise splits["train"].error
    for split, layout in splits.items():
        for path, reason in layout.faults:
            report.fault(path, reason)
        report.images += layout.read
        check: Check = partial(check_path, layout.paths)
        if layout.shards:
            # A bit that flipped changes pixels, and no decoder notices.
            files = [layout.shards.folder / shard.name for shard in layout.shards.shards]
            sums = partial(_check_shard, layout.shards)
            report.check(sums, files, workers, f"{split}, SHA-256", "shards")
            compared += len(files)
            check = partial(_check_member, layout.shards)
        report.check(check, layout.paths, workers, split)
    remarks = [f"{compared} shards compared with their SHA-256"] if compared else []
    report.end(*remarks)


def read_layout(kind: Kind, root: Path, split: str) -> Layout:
    """List the images of a split as a training does; where that refuses, find all the reasons."""
    try:
        data = load(kind, root, split)
    except (InputError, OSError) as problem:
        error = problem if isinstance(problem, InputError) else InputError(str(problem))
    else:
        if isinstance(data, PixelSet):
            return Layout(read=len(data.labels))
        if isinstance(data, ShardSet):
            return Layout(paths=_Members(data), shards=data)
        return Layout(paths=data.paths)
    folder = root / "tiny-imagenet-200"
    folder = folder if kind == "tiny-imagenet" and folder.is_dir() else root
    if kind == "tiny-imagenet" and split == "train":
        faults, paths = _classes(folder / "train", "images")
    elif kind == "tiny-imagenet":
        faults, paths = _annotated(folder)
    else:
        faults, paths = _class_folders(folder, split)
    # What has no reason of its own here, such as a wrong digest, keeps the one that was raised.
    faults = faults or [(root, f"{split}: {str(error).splitlines()[0]}")]
    return Layout(paths=paths, faults=faults, error=error)


class _Members(Sequence[Path]):
    """The images of shards by name, as if each shard were a folder."""

    def __init__(self, data: ShardSet) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data.labels)

    def __getitem__(self, index: Any) -> Any:
        shard = self._data.shards[self._data.places[index, 0]]
        return self._data.folder / shard.name / os.fsdecode(self._data.names[index])


def _check_shard(data: ShardSet, number: int) -> Result:
    try:
        data.check(number)
    except InputError as error:
        return Result(faults=[(data.folder / data.shards[number].name, str(error))])
    return Result()


def _check_member(data: ShardSet, index: int) -> Result:
    return check_image(_Members(data)[index], partial(data.read, index))


def _class_folders(root: Path, split: str) -> tuple[list[Fault], list[Path]]:
    names = ("train",) if split == "train" else ("val", "test")
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        return [], []
    others = ("val", "test") if split == "train" else ("train",)
    other = next((root / name for name in others if (root / name).is_dir()), None)
    faults, paths = _classes(folder)
    if other is not None and not (other / INDEX).is_file():
        there = set(_names(other))
        faults += [
            (folder / name, f"{other} has no such class")
            for name in _names(folder)
            if (folder / name).is_dir() and name not in there
        ]
    return faults, paths


def _classes(folder: Path, inner: str = "") -> tuple[list[Fault], list[Path]]:
    """List folders of images, one per class, of which some may be empty."""
    faults, paths = [], []
    for name in _names(folder):
        if not (folder / name).is_dir():
            continue
        images = _images(folder / name / inner)
        paths += images
        if not images:
            faults.append((folder / name / inner, "holds no .jpg, .jpeg or .png images"))
    return faults, paths


def _annotated(folder: Path) -> tuple[list[Fault], list[Path]]:
    """Find what Tiny ImageNet's validation images and their list lack of each other."""
    listing, images = folder / "val" / "val_annotations.txt", _images(folder / "val" / "images")
    if not listing.is_file():
        return [(listing, "is missing")], images
    present, classes = {path.name for path in images}, set(_names(folder / "train"))
    seen: set[str] = set()
    used: set[str] = set()
    faults = []
    lines = listing.read_text(encoding="ascii", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        name, wnid, *_ = *line.split("\t"), ""
        if name not in present:
            faults.append((listing, f"line {number}: there is no image {name!r}"))
        if name in seen:
            faults.append((listing, f"line {number}: {name!r} came before"))
        if wnid not in classes:
            faults.append((listing, f"line {number}: train/ has no class {wnid!r}"))
        seen.add(name)
        used.add(wnid)
    faults += [(path, f"{listing} does not name it") for path in images if path.name not in seen]
    faults += [(listing, f"names no image of class {wnid}") for wnid in sorted(classes - used)]
    return faults, images


def _images(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder) if name.lower().endswith(_SUFFIXES)]


def _names(folder: Path) -> Iterator[str]:
    """Names in a folder, sorted, without the hidden ones; none if it cannot be listed."""
    try:
        yield from sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return
