"""Reading classification data sets: which images there are, with which labels.

Classes are numbered in the order of their names. A split is "train" or "val"; "test" is another
name for the latter where a data set calls it so.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from common.errors import InputError
from common.images.folder_trees import compare_trees
from pretrain.data import cifar
from pretrain.data.file_paths import Paths, encode
from pretrain.data.image_sets import FileSet, PixelSet, select_classes
from pretrain.data.shards import INDEX, ShardSet, open_shards

_SUFFIXES = (".jpg", ".jpeg", ".png")


def load(
    kind: Literal["cifar10", "cifar100", "tiny-imagenet", "imagenet"],
    root: Path,
    split: str,
    num_classes: int | None = None,
) -> FileSet | PixelSet | ShardSet:
    """Read a split of a data set, or what it holds of its first classes.

    Args:
        kind: "imagenet" stands for any class folders; it and "tiny-imagenet" may be in shards.
        root: Folder of the data set, or its archive, or the URL of shards.
        split: "train", "val" or "test".
        num_classes: How many classes, in the order of their names; None for all.

    Raises:
        InputError: If data is missing, inconsistent or damaged.
    """
    readers: dict[str, Callable[[Path, str], FileSet | PixelSet | ShardSet]] = {
        "cifar10": cifar10,
        "cifar100": cifar100,
        "tiny-imagenet": tiny_imagenet,
        "imagenet": imagenet,
    }
    return select_classes(readers[kind](root, split), num_classes)


def imagenet(root: Path, split: str) -> FileSet | ShardSet:
    """Open a split in shards if there is an index of them, else in class folders."""
    return open_shards(root, _split_names(split)) or class_folders(root, split)


def class_folders(root: Path, split: str) -> FileSet:
    """List ROOT/{train,val}/<class>/*.{jpg,jpeg,png}, as ImageNet is kept.

    Raises:
        InputError: If the split is missing, has a class without images, or if train and val have
            different classes.
    """
    folder = _split_folder(root, split)
    if folder is None:
        expected = """
            train/
              <class>/
                <any name>.jpg, .jpeg or .png
            val/    (or test/)
              <class>/
        """
        tree = compare_trees(root, expected)
        raise InputError(f"{root} holds no {split} images in class folders\n{tree}")
    classes = _subfolders(folder)
    other = _split_folder(root, "val" if _is_train(split) else "train")
    if other is not None and not (other / INDEX).is_file():
        _check_same_classes(folder, classes, other, _subfolders(other))
    return _list_images(classes, [folder / name for name in classes])


def tiny_imagenet(root: Path, split: str) -> FileSet | ShardSet:
    """Open Tiny ImageNet in shards if there is an index of them, else as it was published."""
    return open_shards(root, _split_names(split)) or tiny_imagenet_files(root, split)


def is_tiny_imagenet(root: Path) -> bool:
    """Tell whether `root` is, or holds, `tiny-imagenet-200` as it was published."""
    names = ("", "tiny-imagenet-200")
    return any((root / name / "val" / "val_annotations.txt").is_file() for name in names)


def tiny_imagenet_files(root: Path, split: str) -> FileSet:
    """List Tiny ImageNet as it was published; `root` is `tiny-imagenet-200` or holds it.

    The published test split has no labels, so "test" is the validation split too.

    Raises:
        InputError: If files are missing, or annotations and images do not fit each other.
    """
    folder = root / "tiny-imagenet-200"
    folder = folder if folder.is_dir() else root
    is_train = _is_train(split)
    annotations = folder / "val" / "val_annotations.txt"
    if not (folder / "train").is_dir() or not (is_train or annotations.is_file()):
        expected = """
            train/
              <wnid>/
                images/
                  <wnid>_<number>.JPEG
            val/
              images/
                val_<number>.JPEG
              val_annotations.txt
        """
        tree = compare_trees(folder, expected)
        raise InputError(f"{folder} does not hold Tiny ImageNet's {split} images\n{tree}")
    classes = _subfolders(folder / "train")
    if is_train:
        return _list_images(classes, [folder / "train" / name / "images" for name in classes])
    return _annotated_images(annotations, classes)


def cifar10(root: Path, split: str, *, official: bool = True) -> PixelSet | FileSet:
    """Read CIFAR-10 from its archive, from what that unpacks to, or from class folders.

    Args:
        root: `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`, or what holds one of them, or
            `cifar-10-batches-bin` or `cifar-10-batches-py`, or what holds one of them, or holds
            `{train,test}/<class>/*.{jpg,jpeg,png}`.
        split: "train", "val" or "test".
        official: Demand the published digests (archives, Python) and numbers of images (binary).

    Raises:
        InputError: If files are missing or not the published ones.
    """
    return _cifar(cifar.CIFAR10, root, split, official=official)


def cifar100(root: Path, split: str, *, official: bool = True) -> PixelSet | FileSet:
    """Read CIFAR-100 with its fine labels; the rest as `cifar10`.

    Args:
        root: As for `cifar10`, with `cifar-100-binary` and `cifar-100-python`, packed or not.
        split: "train", "val" or "test".
        official: As for `cifar10`.

    Raises:
        InputError: If files are missing or not the published ones.
    """
    return _cifar(cifar.CIFAR100, root, split, official=official)


def _cifar(
    published: cifar.Published, root: Path, split: str, *, official: bool
) -> PixelSet | FileSet:
    batches = published.train if _is_train(split) else published.test
    images = cifar.read_unpacked(published, root, batches, official=official)
    if images is None and _split_folder(root, split) is not None:
        return class_folders(root, split)
    if images is None:
        images = cifar.read_archive(published, root, batches, official=official)
    if images is not None:
        return PixelSet(*images, published.classes)
    binary, python = published.versions
    expected = f"""
        {binary.archive}    (or {python.archive})
        or unpacked
        {binary.folder}/    (or {python.folder}/)
        or class folders
        train/
          <class>/
            <any name>.jpg, .jpeg or .png
        test/
          <class>/
    """
    tree = compare_trees(root, expected)
    raise InputError(f"{root} does not hold {published.name}: put an archive there\n{tree}")


def _is_train(split: str) -> bool:
    if split not in ("train", "val", "test"):
        raise InputError(f"unknown split {split!r}: use train, val or test")
    return split == "train"


def _split_names(split: str) -> tuple[str, ...]:
    """Return what the folder of a split may be called; "val" and "test" stand in for each other."""
    return ("train",) if _is_train(split) else (split, "val", "test")


def _split_folder(root: Path, split: str) -> Path | None:
    folders = (root / name for name in _split_names(split))
    return next((folder for folder in folders if folder.is_dir()), None)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder without its hidden entries; ImageNet has 1.3 million, so none is looked at."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror}") from error


def _subfolders(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in _scan(folder) if entry.is_dir())
    if not names:
        hint = f"; tar files need an index: python scripts/make_shards.py --index {folder}"
        raise InputError(f"{folder} holds no class folders{hint * any(folder.glob('*.tar'))}")
    return tuple(names)


def _image_names(folder: Path) -> list[str]:
    return sorted(e.name for e in _scan(folder) if e.name.lower().endswith(_SUFFIXES))


def _check_same_classes(
    folder: Path, classes: tuple[str, ...], other: Path, other_classes: tuple[str, ...]
) -> None:
    for here, there, missing in (
        (folder, other, set(classes) - set(other_classes)),
        (other, folder, set(other_classes) - set(classes)),
    ):
        if missing:
            raise InputError(
                f"class {min(missing)} is in {here} but not in {there} "
                f"({len(missing)} such in all): give both splits the same class folders"
            )


def _list_images(classes: tuple[str, ...], folders: list[Path]) -> FileSet:
    """List one folder of images per class."""
    names = [encode(_image_names(folder)) for folder in folders]
    for folder, found in zip(folders, names, strict=True):
        if not len(found):
            raise InputError(f"the class folder {folder} holds no .jpg, .jpeg or .png images")
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in names])
    return FileSet(Paths.in_folders(folders, names), labels, classes)


def _annotated_images(annotations: Path, classes: tuple[str, ...]) -> FileSet:
    """List Tiny ImageNet's validation images: lines of file name, wnid and box, tab-separated."""
    folder = annotations.parent / "images"
    unseen = set(_image_names(folder))
    numbers = {wnid: number for number, wnid in enumerate(classes)}
    names, labels = [], []
    lines = annotations.read_text(encoding="ascii", errors="replace").splitlines()
    for line_number, line in enumerate(lines, start=1):
        name, wnid, *_ = *line.split("\t"), ""
        place = f"{annotations}, line {line_number},"
        if name not in unseen:
            raise InputError(f"{place} names {name!r}, which {folder} lacks or which came before")
        if wnid not in numbers:
            raise InputError(f"{place} gives {name} the class {wnid!r}, which train/ does not have")
        unseen.remove(name)
        names.append(name)
        labels.append(numbers[wnid])
    if unseen:
        raise InputError(f"{annotations} does not name {min(unseen)}, which is in {folder}")
    absent = set(numbers) - {classes[label] for label in labels}
    if absent:
        raise InputError(f"{annotations} names no image of class {min(absent)}, which train/ has")
    paths = Paths.in_folders([folder], [encode(names)])
    return FileSet(paths, np.array(labels, np.int64), classes)
