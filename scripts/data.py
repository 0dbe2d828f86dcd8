"""Fetch the data sets, and say what of them is there; see `--help`."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from downloads.data_sets import DATA_SETS, IMAGENET_STEPS, Counts, DataSet, ImageKind, Part
from downloads.fetching import Archive, fetch, part_of, require_room
from downloads.unpacking import staging_of, unpack

from common.command import cli
from common.errors import InputError
from common.recipe import NOT_NEGATIVE, check
from detect.data.pictures import check_image_id
from detect.data.verify import verify as verify_voc
from detect.data.voc import VOC_CLASSES, read_lines, split_lists
from detect.data.voc_xml import read_annotation
from pretrain.data.datasets import load
from pretrain.data.verify import verify as verify_images

PROGRAM = "python scripts/data.py"
OVERVIEW = f"""usage: {PROGRAM} COMMAND ...

Fetch the data sets, and say what of them is there.

  download NAME [NAME ...] --to DIR     fetch, check the digests, unpack; resumes where it left off
  tree NAME --data DIR                  the files that belong there, and those that are missing
  counts NAME --data DIR                images and objects beside the published numbers
  verify NAME --data DIR                read every file

NAME is voc2007, voc2012, cifar10, cifar100, tiny-imagenet or imagenet. What is downloaded to DIR is
found there by --data DIR of every command. {PROGRAM} COMMAND --help shows the flags.

example: {PROGRAM} download voc2007 voc2012 --to data"""

_MAX_REASONS = 3


# ---- what is there ------------------------------------------------------------------------------


def count(data_set: DataSet, part: Part, root: Path) -> tuple[Counts, list[str]]:
    """Count what a folder holds of a part.

    Returns:
        Numbers of images and the like, of what could be read; what could not, one sentence each.
    """
    if data_set.kind == "voc":
        return _count_voc(root, part.split)
    return _count_classes(data_set.kind, data_set.home(root))


def _count_voc(root: Path, split: str) -> tuple[Counts, list[str]]:
    try:
        (path,) = split_lists(root, split)
        ids = dict.fromkeys(line for line in read_lines(path) if line)
    except InputError as error:
        return {}, [_first_line(error)]
    year = path.parents[2]
    jpegs = {jpeg.name for jpeg in (year / "JPEGImages").iterdir()}
    label_of = {name: label for label, name in enumerate(VOC_CLASSES)}
    objects, difficult, reasons = 0, 0, []
    for image_id in ids:
        try:
            check_image_id(image_id, str(path))
            found = read_annotation(year / "Annotations" / f"{image_id}.xml", image_id, label_of)
        except InputError as error:
            reasons.append(_first_line(error))
            continue
        objects += len(found.labels)
        difficult += int(found.difficult.sum())
    counts = {
        "images": sum(f"{image_id}.jpg" in jpegs for image_id in ids),
        "objects": objects,
        "objects not difficult": objects - difficult,
    }
    return counts, reasons


def _count_classes(kind: ImageKind, home: Path) -> tuple[Counts, list[str]]:
    counts: Counts = {}
    reasons = []
    for split in ("train", "val"):
        try:
            data = load(kind, home, split)
        except InputError as error:
            reasons.append(_first_line(error))
            continue
        images = np.bincount(data.labels, minlength=len(data.classes))
        if split == "train":
            counts["classes"] = len(images)
            counts["train images, fewest of a class"] = int(images.min())
            counts["train images, most of a class"] = int(images.max())
        counts[f"{split} images"] = int(images.sum())
    return counts, reasons


def _first_line(error: InputError) -> str:
    return str(error).splitlines()[0]


def is_complete(data_set: DataSet, part: Part, root: Path) -> bool:
    """Tell whether a part is there, fetched by this program or not."""
    if part.archive and staging_of(root / part.archive.name, root).exists():
        return False  # unpacking was interrupted
    counts, _ = count(data_set, part, root)
    return all(counts.get(name) == number for name, number in part.published.items())


def show_counts(name: str, root: Path) -> None:
    """Print what is found beside what was published.

    Raises:
        InputError: If the numbers differ.
    """
    data_set = DATA_SETS[name]
    print(f"{f'{name} in {root}':45} {'found':>10} {'published':>10}")
    reasons, differing, counted = [], 0, False
    for part in data_set.parts:
        counts, unread = count(data_set, part, root)
        reasons += unread
        counted = counted or bool(counts)
        for row in {**part.published, **counts}:
            found, published = counts.get(row), part.published.get(row)
            differs = published is not None and found != published
            differing += differs
            cells = (f"{'-' if cell is None else f'{cell:,}':>10}" for cell in (found, published))
            line = f"{f'{part.split} {row}'.strip():45} {' '.join(cells)}{'  differs' * differs}"
            print(line)
    for reason in reasons[:_MAX_REASONS]:
        print(f"not counted: {reason}")
    if len(reasons) > _MAX_REASONS:
        print(f"not counted: {len(reasons) - _MAX_REASONS:,} more; {PROGRAM} verify lists them all")
    if not counted:
        raise InputError(f"{root} holds nothing of {name}: {PROGRAM} tree {name} shows its files")
    if differing or reasons:
        raise InputError(
            f"{root} does not hold {name} as it was published: fetch it again; it can be "
            "trained on, but its scores compare with no published ones"
        )


def show_tree(name: str, root: Path) -> None:
    """Print the files that belong to a data set, with their number or MISSING.

    Raises:
        InputError: If some are missing.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder: name the one that holds {name}")
    data_set = DATA_SETS[name]
    home = data_set.home(root)
    trees = [
        {pattern: sum(1 for _ in home.glob(pattern)) for pattern in tree} for tree in data_set.trees
    ]
    best = max(trees, key=lambda tree: sum(map(bool, tree.values())) / len(tree))
    print(f"{f'expected in {home}':45} found")
    shown: tuple[str, ...] = ()
    for pattern, number in best.items():
        *folders, file = pattern.split("/")
        for depth, folder in enumerate(folders):
            if tuple(folders[: depth + 1]) != shown[: depth + 1]:
                print(f"  {'  ' * depth}{folder}/")
        shown = tuple(folders)
        files = f"{number:,} file{'s' * (number != 1)}" if number else "MISSING"
        print(f"  {'  ' * len(folders) + file:43} {files}")
    for tree in data_set.trees:
        if tree != tuple(best):
            folder = os.path.commonpath(tree)
            print(f"or {f'{folder}/' if folder and len(tree) > 1 else ', '.join(tree)}")
    expected = {pattern.split("/")[0] for tree in data_set.trees for pattern in tree}
    if rest := sorted({path.name for path in home.iterdir()} - expected):
        print(f"also there: {', '.join(rest[:8])}{', ...' * (len(rest) > 8)}")
    missing = [pattern for pattern, number in best.items() if not number]
    if missing:
        raise InputError(
            f"{home} lacks {', '.join(missing)} of {name}: {PROGRAM} download {name} --to DIR "
            "fetches it"
        )


def verify(name: str, root: Path, workers: int | None) -> None:
    """Read every file, as `verify` of the stage does.

    Raises:
        InputError: If there are faults, or nothing is there.
    """
    data_set = DATA_SETS[name]
    if data_set.kind != "voc":
        verify_images(data_set.kind, data_set.home(root), workers)
        return
    splits = [part.split for part in data_set.parts]
    there = [split for split in splits if _is_there(root, split)]
    for split in splits:
        if there and split not in there:
            print(f"{split} is not there")
    verify_voc(root, ",".join(there or splits), workers)


def _is_there(root: Path, split: str) -> bool:
    try:
        return bool(split_lists(root, split))
    except InputError:
        return False


# ---- commands -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DownloadFlags:
    """Flags of download."""

    names: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [...]")]]
    """Data sets: voc2007, voc2012, cifar10, cifar100, tiny-imagenet, imagenet."""
    to: Path
    """Folder for the archives and what they unpack to; made if it is not there."""
    mirror: str | None = None
    """Fetch URL/<name of the archive> instead, such as from a server of your own."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"name at least one data set: {', '.join(DATA_SETS)}")
        if self.mirror is not None and not self.mirror.startswith(("http://", "https://")):
            raise ValueError(f"--mirror {self.mirror} is no http:// or https:// address")


@dataclass(frozen=True, kw_only=True)
class LookFlags:
    """Flags of tree and counts."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """Data set: voc2007, voc2012, cifar10, cifar100, tiny-imagenet or imagenet."""
    data: Path
    """Its folder, or the one that was given to download."""


@dataclass(frozen=True, kw_only=True)
class VerifyFlags(LookFlags):
    """Flags of verify."""

    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""

    def __post_init__(self) -> None:
        check(self)


def _download(argv: list[str]) -> None:
    flags = cli.parse(
        DownloadFlags,
        argv,
        f"{PROGRAM} download",
        "Fetch archives, compare their published digests, and unpack them (those of CIFAR are\n"
        "read as they are). What is there already stays as it is; a call that was interrupted\n"
        "is resumed. The archives remain, and may be deleted once they are unpacked.\n\n"
        f"example: {PROGRAM} download voc2007 voc2012 --to data",
    )
    todo: list[tuple[str, Part, Archive]] = []
    by_hand = False
    for name in dict.fromkeys(map(_known, flags.names)):
        for part in DATA_SETS[name].parts:
            if is_complete(DATA_SETS[name], part, flags.to):
                print(f"{_title(name, part)}: complete in {flags.to}")
            elif part.archive is None:
                by_hand = True
            else:
                todo.append((name, part, part.archive))
    if todo:
        flags.to.mkdir(parents=True, exist_ok=True)
        needed = sum(_needed(part, archive, flags.to) for _, part, archive in todo)
        require_room(flags.to, needed, "the data")
    for name, part, archive in todo:
        _get(_title(name, part), part, archive, flags)
    if by_hand:
        print(IMAGENET_STEPS.format(folder=flags.to / "imagenet", program=PROGRAM))
        raise InputError("imagenet cannot be fetched by a program: follow the steps above")


def _get(title: str, part: Part, archive: Archive, flags: DownloadFlags) -> None:
    if flags.mirror is not None:
        archive = replace(archive, urls=(f"{flags.mirror.rstrip('/')}/{archive.name}",))
    print(f"{title}: fetching {archive.name}, {archive.size:,} bytes", flush=True)
    path = fetch(archive, flags.to)
    if part.unpacked:
        print(f"{title}: unpacking", flush=True)
        unpack(path, flags.to, part.unpacked)
    end = "and may be deleted: it is unpacked" if part.unpacked else "and is read as it is"
    print(f"{title}: {path} has the published digests, {end}")


def _title(name: str, part: Part) -> str:
    return f"{name} {part.split}".strip()


def _needed(part: Part, archive: Archive, to: Path) -> int:
    """Return the bytes that are still to be written."""
    target = to / archive.name
    came = next((p.stat().st_size for p in (target, part_of(target)) if p.exists()), 0)
    return max(archive.size - came, 0) + part.unpacked


def _tree(argv: list[str]) -> None:
    program = f"{PROGRAM} tree"
    text = "Print the files that belong to a data set, and what is missing; then exit code 2."
    flags = cli.parse(LookFlags, argv, program, f"{text}\n\nexample: {program} voc2007 --data data")
    show_tree(_known(flags.name), flags.data)


def _counts(argv: list[str]) -> None:
    program = f"{PROGRAM} counts"
    text = "Print images and objects beside the published numbers; exit code 2 if they differ."
    flags = cli.parse(LookFlags, argv, program, f"{text}\n\nexample: {program} voc2007 --data data")
    show_counts(_known(flags.name), flags.data)


def _verify(argv: list[str]) -> None:
    program = f"{PROGRAM} verify"
    text = (
        "Read every file, as `verify` of the stages; print each fault on a line, then a summary.\n"
        "Exit code 2 if there are faults."
    )
    flags = cli.parse(
        VerifyFlags, argv, program, f"{text}\n\nexample: {program} voc2007 --data data"
    )
    verify(_known(flags.name), flags.data, flags.workers)


def _known(name: str) -> str:
    return cli.choose(name, DATA_SETS, "data set", f"{PROGRAM} --help")


def main() -> int:
    """Run the command line; return the exit code."""
    commands = {"download": _download, "tree": _tree, "counts": _counts, "verify": _verify}
    return cli.dispatch(PROGRAM, commands, OVERVIEW, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
