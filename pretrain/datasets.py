"""Reading classification data sets: which images there are, with which labels.

Classes are numbered in the order of their names. A split is "train" or "val"; "test" is another
name for the latter where a data set calls it so.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import InputError
from common.images import read_image
from common.trees import compare_trees
from pretrain import cifar
from pretrain.paths import Paths, encode
from pretrain.shards import INDEX, ShardSet, open_shards

_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class FileSet:
    """Images in files.

    Attributes:
        paths: One file per image.
        labels: (N,) index into the class names.
        classes: Class names.
    """

    paths: Sequence[Path]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode an image to pixels (H, W, 3), RGB; InputError names one that is damaged."""
        return read_image(self.paths[index])


@dataclass(frozen=True, slots=True)
class PixelSet:
    """Images of one size in memory.

    Attributes:
        pixels: (N, H, W, 3) RGB.
        labels: (N,) index into the class names.
        classes: Class names.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


Data = TypeVar("Data", bound=FileSet | PixelSet | ShardSet)


def load(
    kind: Literal["cifar10", "cifar100", "tiny-imagenet", "imagenet"],
    root: Path,
    split: str,
    num_classes: int | None = None,
) -> FileSet | PixelSet | ShardSet:
    """Read a split of a data set, or what it holds of its first classes.

    Args:
        kind: "imagenet" stands for any class folders, and for shards.
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


def tiny_imagenet(root: Path, split: str) -> FileSet:
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


def select_classes(data: Data, num_classes: int | None) -> Data:
    """Keep the images of the first classes; None keeps all.

    Raises:
        InputError: If there are not that many classes.
    """
    if num_classes is None:
        return data
    if not 1 <= num_classes <= len(data.classes):
        raise InputError(f"cannot take {num_classes} of the data's {len(data.classes)} classes")
    chosen = _take(data, np.flatnonzero(data.labels < num_classes))
    return replace(chosen, classes=data.classes[:num_classes])


def hold_out(data: Data, count: int, seed: int) -> tuple[Data, Data]:
    """Split a training set in two, with the same share of every class in both.

    Where shares are no whole images the largest remainders are rounded up. What is chosen is a
    function of the labels, `count` and `seed`.

    Args:
        data: The images.
        count: How many are held out.
        seed: Seed of the choice.

    Returns:
        The kept and the held-out images, each in their old order.

    Raises:
        InputError: If `count` is not in 1..N-1, or would take all images of a class.
    """
    total = len(data.labels)
    if not 1 <= count < total:
        raise InputError(f"cannot hold out {count} of {total} images: choose 1 to {total - 1}")
    sizes = np.bincount(data.labels, minlength=len(data.classes))
    quotas, remainders = np.divmod(count * sizes, total)
    rounded_up = np.argsort(-remainders, kind="stable")[: count - quotas.sum()]
    quotas[rounded_up] += 1
    emptied = np.flatnonzero((quotas == sizes) & (sizes > 0))
    if len(emptied):
        name = data.classes[emptied[0]]
        raise InputError(f"holding out {count} images leaves class {name} without any: take fewer")
    key = blake2b(f"{seed} {count}".encode(), digest_size=8, person=b"hold out").digest()
    # One raw number per image: these, unlike numpy's shuffles, never change with its version.
    raw = np.random.Philox(key=int.from_bytes(key, "big")).random_raw(total)
    by_class = np.lexsort((raw, data.labels))
    rank_in_class = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held_out = np.zeros(total, bool)
    held_out[by_class] = rank_in_class < np.repeat(quotas, sizes)
    return _take(data, np.flatnonzero(~held_out)), _take(data, np.flatnonzero(held_out))


def _take(data: Data, chosen: NDArray[np.int64]) -> Data:
    """Keep the images at some positions, in that order."""
    labels = data.labels[chosen]
    if isinstance(data, FileSet):
        return replace(data, paths=Paths.of(data.paths).take(chosen), labels=labels)
    if isinstance(data, ShardSet):
        return replace(data, names=data.names[chosen], places=data.places[chosen], labels=labels)
    return replace(data, pixels=data.pixels[chosen], labels=labels)


def decode(files: FileSet | ShardSet, size: int) -> PixelSet:
    """Read all images into memory, each as its central square of `size` x `size` pixels.

    Raises:
        InputError: If images are damaged; the message names the first few.
    """
    pixels = np.empty((len(files.labels), size, size, 3), np.uint8)
    damaged: list[str] = []
    with ThreadPoolExecutor() as pool:
        squares = pool.map(partial(_square, files, size), range(len(pixels)))
        # disable=None: no bar where nobody watches.
        bar = tqdm(squares, "decoding", len(pixels), unit=" images", leave=False, disable=None)
        try:
            for image, square in enumerate(bar):
                if isinstance(square, InputError):
                    damaged.append(str(square))
                else:
                    pixels[image] = square
        except BaseException:  # a signal; do not wait for the other images
            pool.shutdown(cancel_futures=True)
            raise
    if damaged:
        more = f"; and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise InputError("; ".join(damaged[:5]) + more)
    return PixelSet(pixels, files.labels, files.classes)


def central_square(image: NDArray[np.uint8], short_side: int, size: int) -> NDArray[np.uint8]:
    """Resize an image to a short side, antialiased, and cut out its centre.

    Args:
        image: (H, W, 3).
        short_side: Length of the shorter side after resizing; the ratio of the sides stays.
        size: Side of the square that is cut out, at most `short_side`.

    Returns:
        Pixels (size, size, 3).
    """
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale != 1:
        height, width = round(height * scale), round(width * scale)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def _square(files: FileSet | ShardSet, size: int, index: int) -> NDArray[np.uint8] | InputError:
    try:
        return central_square(files.image(index), size, size)
    except InputError as error:
        return error


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
