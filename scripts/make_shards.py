"""Pack class folders of images into tar shards, or index shards that are there; see `--help`."""

import hashlib
import json
import os
import re
import signal
import sys
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.command import cli
from common.errors import InputError, told
from common.images.decoding import decode_image, read_content
from common.images.headers import SUFFIXES
from common.images.loading import default_workers
from common.recipe import AT_LEAST_ONE, check
from common.storage import open_regular, write_atomically, write_text
from pretrain.data.datasets import class_folders
from pretrain.data.file_paths import Paths, encode
from pretrain.data.image_sets import FileSet
from pretrain.data.layout import split_in
from pretrain.data.shard_cache import locked
from pretrain.data.shards import (
    INDEX,
    Shard,
    ShardSet,
    member_stem,
    read_index,
    split_index,
    write_index,
)

PROGRAM = "python scripts/make_shards.py"
DESCRIPTION = f"""Pack images in class folders into tar shards for WebDataset and `pretrain train`.

Writes OUT/SPLIT/imagenet-SPLIT-000000.tar and so on, and OUT/SPLIT/index.json; OUT then serves as
--data of any recipe that reads ImageNet; or Tiny ImageNet, if DATA is that as it was published.
Images are shuffled over the shards by a fixed seed. The same images give the same shards; a call
that was interrupted is resumed.

example: {PROGRAM} --data imagenet --out shards --split train

With --index DIR: write DIR/index.json for the tar files that lie in DIR, with members KEY.jpg (or
another format that is read) and KEY.cls, the number of the class. Classes are called by their
numbers. Where the names of the files tell a split (imagenet1k-train-0000.tar, -validation-), each
has its own index, DIR/index-train.json and so on, and DIR serves as --data.

example: {PROGRAM} --index shards/train"""
JPEG_QUALITY = 95
_BLOCK = tarfile.BLOCKSIZE
_IMAGE = re.compile("|".join(suffix[1:] for suffix in SUFFIXES), re.IGNORECASE)
Argument = TypeVar("Argument")
Result = TypeVar("Result")


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


Sample = tuple[str, int, int, int]
"""Name, class, offset and size of an image."""
Packed = tuple[Shard, Sequence[Sample]]
"""A shard, and what lies where in it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A shard to write."""

    path: Path
    positions: NDArray[np.int64]
    """Of its images in the whole listing."""
    paths: Paths
    labels: NDArray[np.int64]
    resize: int | None
    made_from: str
    """Hash of all images and options."""


# ---- packing ----


def pack(flags: Flags, data: Path, out: Path) -> ShardSet:
    """Write the shards of a split, or those that are missing, and the index.

    Raises:
        InputError: If images cannot be read, files cannot be written, or the folder holds shards of
            other images or options, or a damaged index.
        OSError: If the folder cannot be made.
    """
    files, folder = class_folders(data, flags.split), out / flags.split
    jobs = plan(files, folder, flags)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        if (folder / INDEX).exists():
            found = read_index(folder)
            _check_same(jobs[0], json.loads((folder / INDEX).read_bytes()).get("made_from"))
            return found
        for stale in folder.glob(".*.tmp"):
            stale.unlink()
        packed = _in_processes(pack_shard, jobs, flags.workers, "packing")
        order = np.argsort(np.concatenate([job.positions for job in jobs]))
        found = _join(folder, packed, order, files.classes)
        shrunk = f"{flags.resize} px, JPEG {JPEG_QUALITY}" if flags.resize else ""
        found = replace(found, pixels=shrunk)
        write_index(found, jobs[0].made_from)
        for job in jobs:
            _part(job.path).unlink()
    return found


def plan(files: FileSet, folder: Path, flags: Flags) -> list[Job]:
    """Shuffle the images and cut them into shards, by the sizes of their files.

    Raises:
        InputError: If an image is missing.
    """
    with ThreadPoolExecutor(16) as pool:  # most of the time goes to the file system
        status = list(pool.map(_status, files.paths))
    # Raw numbers, unlike numpy's shuffles, never change with its version.
    order = np.argsort(np.random.Philox(key=0).random_raw(len(status)), kind="stable")
    sizes = np.array([size for size, _ in status])[order]
    ends = np.cumsum(-(-sizes // _BLOCK) * _BLOCK + 3 * _BLOCK)  # two headers, a block for .cls
    cuts = np.flatnonzero(np.diff((ends - 1) // (flags.size_mb * 10**6))) + 1
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{files.classes} {flags.split} {flags.size_mb} {flags.resize}".encode())
    for path, label, fact in zip(files.paths, files.labels.tolist(), status, strict=True):
        digest.update(os.fsencode(path.name) + f"\0{label} {fact}\0".encode())
    made_from, paths = digest.hexdigest(), Paths.of(files.paths)
    return [
        Job(
            folder / f"imagenet-{flags.split}-{number:06d}.tar",
            positions,
            paths.take(positions),
            files.labels[positions],
            flags.resize,
            made_from,
        )
        for number, positions in enumerate(np.split(order, cuts))
    ]


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read the image {path}: {told(error)}") from error
    return status.st_size, status.st_mtime_ns


def _check_same(job: Job, made_from: str | None) -> None:
    if made_from != job.made_from:
        raise InputError(
            f"{job.path.parent} holds shards of other images or options: choose another --out"
        )


def _part(path: Path) -> Path:
    """Name the file that says that a shard is whole, until the index does."""
    return path.with_name(f".{path.name}.json")


def pack_shard(job: Job) -> Packed:
    """Write a shard, or find it written."""
    part = _part(job.path)
    if part.exists():
        made_from, shard, samples = json.loads(part.read_bytes())
        _check_same(job, made_from)
        if job.path.exists() and job.path.stat().st_size == shard["bytes"]:
            return Shard(**shard), samples
    written: list[Packed] = []
    write_atomically(job.path, lambda file: written.append(_write_tar(job, file)))
    found, samples = written[0]
    text = json.dumps([job.made_from, asdict(found), samples])
    write_text(part, text)
    return found, samples


def _write_tar(job: Job, file: BinaryIO) -> Packed:
    digest, end = hashlib.sha256(), 0
    samples: list[Sample] = []

    def write(block: bytes) -> None:
        nonlocal end
        file.write(block)
        digest.update(block)
        end += len(block)

    members = zip(job.positions.tolist(), job.paths, job.labels.tolist(), strict=True)
    for position, path, label in members:
        content, kind = read_shrunk(path, job.resize)
        key = f"{position:07d}_{member_stem(path.stem)}"
        samples.append((f"{key}.{kind}", label, end + _BLOCK, len(content)))
        write(_member(f"{key}.{kind}", content))
        write(_member(f"{key}.cls", str(label).encode()))
    write(bytes(2 * _BLOCK))
    return Shard(job.path.name, end, digest.hexdigest()), samples


def read_shrunk(path: Path, resize: int | None) -> tuple[bytes, str]:
    """Read an image file, shrunk if its short side is longer than that; with its kind, such as jpg.

    Raises:
        InputError: If it cannot be read or decoded.
    """
    kind = {"JPEG": "jpg"}.get(form := SUFFIXES[path.suffix.lower()], form.lower())
    try:
        content = read_content(path)
        if resize is None:
            return content, kind
        pixels = decode_image(content)
    except ValueError as error:
        raise InputError(f"the image {path} is {error}") from error
    height, width = pixels.shape[:2]
    if min(height, width) <= resize:
        return content, kind
    scale = resize / min(height, width)
    size = (round(width * scale), round(height * scale))
    small = cv2.resize(pixels[..., ::-1], size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes(), "jpg"


def _member(name: str, content: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    padding = bytes(-len(content) % _BLOCK)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + padding


# ---- indexing ----


def index(folder: Path, workers: int) -> list[ShardSet]:
    """Write the index of tar files that are there: one of each split that their names state.

    Raises:
        InputError: If a tar file is damaged or hostile, or lacks an image or a class.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise InputError(f"{folder} holds no .tar files: name the folder of the shards")
    of_split: dict[str | None, list[Path]] = {}
    for path in paths:
        of_split.setdefault(split_in(path.name), []).append(path)
    if len(of_split) == 1 and (
        None in of_split or folder.resolve().name in ("train", "val", "test")
    ):
        return [_index(folder, paths, INDEX, workers)]
    if None in of_split:
        raise InputError(
            f"{of_split[None][0]} says no split by its name, others here do: put it elsewhere, or "
            "rename it to train-... or val-..."
        )
    return [
        _index(folder, tars, split_index(split), workers)
        for split, tars in of_split.items()
        if split is not None
    ]


def _index(folder: Path, paths: Sequence[Path], name: str, workers: int) -> ShardSet:
    packed = _in_processes(scan, paths, workers, "indexing")
    labels = np.array([label for _, samples in packed for _, label, _, _ in samples], np.int64)
    names = encode(name for _, samples in packed for name, _, _, _ in samples)
    if not len(labels):
        raise InputError(f"{folder}: the tar files hold no images: give others")
    present = np.unique(labels)
    absent = np.flatnonzero(present != np.arange(len(present)))
    if len(absent):
        raise InputError(
            f"{folder} holds no image of class {absent[0]}, but some of class {present[-1]}: "
            "number the classes from 0 without a gap"
        )
    digits = len(str(len(present) - 1))
    classes = tuple(f"{number:0{digits}d}" for number in range(len(present)))
    found = _join(folder, packed, np.lexsort((names, labels)), classes)
    write_index(found, None, name)
    return found


def scan(path: Path) -> Packed:
    """Find the images and classes of a tar file.

    Raises:
        InputError: If the file is damaged; holds links, names outside a folder or sizes beyond its
            end; or an image lacks its class.
    """
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                images, labels = _scan_members(tar, size)
                file.seek(tar.offset)  # where tarfile saw no more members
                if any(file.read(_BLOCK)):
                    raise ValueError(f"no member begins at byte {tar.offset}")
    except OSError as error:
        raise InputError(f"cannot read the shard {path}: {told(error)}") from error
    # A hostile header can raise nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is no tar file of images and classes, remove it: {reason}"
        ) from error
    unpaired = sorted(images.keys() ^ labels.keys())
    if unpaired:
        has, lacks = ("an image", ".cls") if unpaired[0] in images else (".cls", "an image")
        raise InputError(
            f"{path} holds {has} but no {lacks} of the key {unpaired[0]}: make it again"
        )
    try:
        shard = Shard(path.name, size, sha256)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return shard, [
        (name, labels[key], offset, length) for key, (name, offset, length) in images.items()
    ]


def _scan_members(
    tar: tarfile.TarFile, size: int
) -> tuple[dict[str, tuple[str, int, int]], dict[str, int]]:
    """Return name, offset and size of each key's image, and each key's class."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    for member in tar:
        name = member.name
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"the member {name!r} lies outside of any folder")
        if member.isdir():
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise ValueError(f"the member {name!r} is a link or no plain file")
        if not 0 <= member.size <= size - member.offset_data:
            raise ValueError(f"the member {name!r} is cut off")
        folder, slash, file = name.rpartition("/")
        stem, _, kind = file.partition(".")
        key = folder + slash + stem
        if _IMAGE.fullmatch(kind):
            if key in images:
                raise ValueError(f"two images have the key {key!r}")
            images[key] = name, member.offset_data, member.size
        elif kind == "cls":
            reader = tar.extractfile(member)
            text = reader.read(16) if reader else b""
            if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
                raise ValueError(f"the member {name!r} is no class number")
            labels[key] = int(text)
    return images, labels


# ---- both ----


def _join(
    folder: Path, packed: Sequence[Packed], order: NDArray[np.int64], classes: tuple[str, ...]
) -> ShardSet:
    """Put the images of all shards in one order."""
    rows = [
        (label, number, offset, size)
        for number, (_, samples) in enumerate(packed)
        for _, label, offset, size in samples
    ]
    names = encode(name for _, samples in packed for name, _, _, _ in samples)
    labels, places = np.split(np.array(rows)[order], [1], axis=1)
    shards = tuple(shard for shard, _ in packed)
    return ShardSet(folder, None, shards, names[order], places, labels[:, 0], classes)


def _in_processes(
    work: Callable[[Argument], Result], jobs: Sequence[Argument], workers: int, what: str
) -> list[Result]:
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        return list(tqdm(pool.map(work, jobs), what, len(jobs), unit=" shards", disable=None))
    except BrokenProcessPool:
        raise InputError("a process was killed, perhaps for its memory: lower --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the work
    cv2.setNumThreads(0)


def run(argv: list[str]) -> None:
    """Pack or index, and say what there is now."""
    flags = cli.parse(Flags, argv, PROGRAM, DESCRIPTION)
    made: list[ShardSet] = []
    if flags.data and flags.out:
        made = [pack(flags, flags.data, flags.out)]
    elif flags.index:
        made = index(flags.index, flags.workers)
    for found in made:
        size = sum(shard.bytes for shard in found.shards)
        print(
            f"{found.folder}: {len(found.labels):,} images of {len(found.classes)} classes in "
            f"{len(found.shards)} shards from {found.shards[0].name} on, {size:,} bytes"
        )


def main() -> int:
    """Run the command."""
    return cli.dispatch(PROGRAM, {"make": run}, DESCRIPTION, ["make", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
