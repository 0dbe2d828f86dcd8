"""Packing class folders of images into tar shards."""

import hashlib
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, os_reason
from common.images.decoding import decode_image, read_content
from common.images.headers import SUFFIXES
from common.storage import write_atomically, write_text
from pretrain.data.datasets import class_folders
from pretrain.data.file_paths import Paths
from pretrain.data.image_sets import FileSet
from pretrain.data.shard_cache import locked
from pretrain.data.shards import INDEX, Shard, ShardSet, member_stem, read_index, write_index
from sharding.flags import Flags
from sharding.joining import Packed, Sample, in_processes, join

JPEG_QUALITY = 95
_BLOCK = tarfile.BLOCKSIZE


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
        packed = in_processes(pack_shard, jobs, flags.workers, "packing")
        order = np.argsort(np.concatenate([job.positions for job in jobs]))
        found = join(folder, packed, order, files.classes)
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
        raise InputError(f"cannot read the image {path}: {os_reason(error)}") from error
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
