"""Folders of images that are kept for something else: what they are, and what can be done."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from common.errors import InputError
from common.images.hidden import children
from common.text import in_line
from pretrain.data.listing import folder_names, holds_images, is_image

_OF_IMAGES = {"images", "image", "imgs", "img", "jpg", "jpegs", "jpegimages", "photos", "pictures"}
"""What a folder of all images is called, and no class."""
_OF_ANNOTATIONS = {"annotations", "labels"}
_HEAD = 65_536  # bytes
_MOST_FILES = 20
_YOLO = re.compile(rb"\s*\d+( [-+.\deE]+){4,}\s*[\r\n]")
_UNPACKED = {
    ".zip": "unzip",
    ".tar.gz": "tar xf",
    ".tgz": "tar xf",
    ".tar.xz": "tar xf",
    ".7z": "7z x",
    ".rar": "unrar x",
}
"""Archives, and what unpacks them."""
_CIFAR = re.compile(r"cifar-(10|100)-python\.tar\.gz")


def check_class_folders(folder: Path) -> None:
    """See that folders are classes, not the images, the lists and the annotations of a data set.

    Raises:
        InputError: If they are not.
    """
    names = folder_names(folder)
    known = {name.lower() for name in names}
    if known.isdisjoint(_OF_IMAGES | _OF_ANNOTATIONS):
        return
    if annotation := detector_annotation(folder):
        raise for_a_detector(folder, annotation)
    holding = [name for name in names if holds_images(folder / name)]
    if len(names) == 1 or len(holding) != 1 or holding[0].lower() not in _OF_IMAGES:
        return
    images = folder / holding[0]
    other = next(name for name in names if name != holding[0])
    inside = children(images)
    if any(is_image(path.name) for path in inside):
        raise InputError(
            f"{images} holds images in no class folder, and {in_line(other)}/ beside it is not "
            f"read: put {images / 'train.csv'} there (lines of file name,class) and give --data "
            f"{images}"
        )
    raise InputError(
        f"{folder} holds class folders in {holding[0]}/, and {in_line(other)}/ beside it is not "
        f"read: move the images of each split into {folder / 'train'}/CLASS/ and "
        f"{folder / 'test'}/CLASS/, or give --data {images}, of which a share validates"
    )


def packed(root: Path) -> str | None:
    """Say of a folder, or a file, that its images are still packed, and what to do."""
    files = [root]
    if root.is_dir():
        files = sorted(p for folder in (root, root / "data") for p in children(folder, "*.*"))
    if table := next((path for path in files if path.suffix in (".parquet", ".arrow")), None):
        return (
            f"holds {in_line(table.name)}, a Hugging Face table with images in it: save each "
            f"row's as train/CLASS/NUMBER.jpg (datasets.load_dataset, image.save)"
        )
    if published := _CIFAR.match(root.name if root.is_file() else ""):
        name = f"cifar{published[1]}"
        return f"can be read as it is: verify --dataset {name}, or train --images.dataset {name}"
    for ending, command in _UNPACKED.items():
        if archive := next((path for path in files if path.name.lower().endswith(ending)), None):
            return (
                f"holds {in_line(archive.name)}, an archive: unpack it first, cd "
                f"{shlex.quote(str(archive.parent))} && {command} {shlex.quote(archive.name)}"
            )
    return None


def held_instead(folder: Path, entries: Sequence[object]) -> str:
    """Return what a split without images and class folders holds instead, and what to do."""
    tars = children(folder, "*.tar")
    if tars and all(re.fullmatch(r"n\d{8}", tar.stem) for tar in tars):
        return (
            f"one tar file for each class: cd {folder} && for f in *.tar; do mkdir ${{f%.tar}} && "
            "tar xf $f -C ${f%.tar}; done"
        )
    if tars:
        return (
            "no class folders; tar files need an index: python scripts/make_shards.py --index "
            f"{folder}"
        )
    still = packed(folder)
    if still:
        return still.removeprefix("holds ")
    what = "no images and no class folders" if entries else "nothing"
    return f"{what}: fill it, or remove it"


def for_a_detector(folder: Path, annotation: Path) -> InputError:
    """Make the error of images with boxes instead of classes."""
    return InputError(
        f"{folder} holds boxes for a detector ({in_line(str(annotation.relative_to(folder)))}): "
        "python -m detect trains on it; here, put the images into train/CLASS/"
    )


def detector_annotation(folder: Path) -> Path | None:
    """Return a file that says where objects are in the images of a folder, if there is one."""
    inner = [folder / name for name in folder_names(folder) if name.lower() in _OF_ANNOTATIONS]
    return next((path for path in (*_some_files(folder), *_below(inner)) if _has_boxes(path)), None)


def _below(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from _some_files(folder)
        for name in folder_names(folder):
            yield from _some_files(folder / name)


def _some_files(folder: Path) -> Iterator[Path]:
    for suffix in (".json", ".xml", ".txt"):
        files = (path for path in children(folder, f"*{suffix}") if path.is_file())
        yield from islice(files, _MOST_FILES)


def _has_boxes(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:  # it is not what was asked for
        return False
    if path.suffix == ".xml":
        return b"<bndbox>" in head
    if path.suffix == ".txt":
        return _YOLO.match(head + b"\n") is not None
    return b'"images"' in head or b'"bbox"' in head
