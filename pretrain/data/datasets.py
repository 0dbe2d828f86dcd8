"""Reading classification data sets: which images there are, with which labels.

Classes are numbered in the order of their names. A split is "train" or "val"; "test" is another
name for the latter where a data set calls it so. How images may be kept is in `layout`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images.folder_trees import compare_trees
from common.text import in_line, respelt, shown
from pretrain.data import cifar
from pretrain.data.file_paths import Paths, encode
from pretrain.data.image_sets import FileSet, ImageSet, PixelSet, select_classes, split_by_name
from pretrain.data.label_tables import Row, by_name, check_labels, read_table
from pretrain.data.layout import Place, describe, find_place, no_train, other_folders
from pretrain.data.listing import READ, Findings, class_names, images_below
from pretrain.data.other_forms import packed
from pretrain.data.shards import index_of, is_url, open_shards
from pretrain.recipes import Dataset


def load(
    kind: Dataset,
    root: Path,
    split: str,
    num_classes: int | None = None,
    split_by: float | None = None,
    findings: Findings | None = None,
) -> ImageSet:
    """Read a split of a data set, or what it holds of its first classes.

    Args:
        kind: CIFAR also comes as archives; the others in the folders of `layout`, or in shards.
        root: Folder of the data set, or its archive, or the URL of shards.
        split: "train", "val" or "test".
        num_classes: How many classes, in the order of their names; None for all.
        split_by: Share of the training images that is the validation split where there is none,
            chosen by a hash of their names; None: there must be one.
        findings: Takes note of what is skipped, and of faults.

    Raises:
        InputError: If data is missing, inconsistent or damaged.
    """
    inner = root / "tiny-imagenet-200"
    root = inner if kind == "tiny-imagenet" and inner.is_dir() else root
    findings = findings or Findings(root)
    readers: dict[str, Callable[[Path, str, Findings], ImageSet]] = {
        "cifar10": cifar10,
        "cifar100": cifar100,
    }
    read = readers.get(kind, folders_or_shards)
    if split_by is None or has_validation(kind, root):
        return select_classes(read(root, split, findings), num_classes)
    kept, validation = split_by_name(read(root, "train", findings), split_by)
    return select_classes(kept if split == "train" else validation, num_classes)


def has_validation(kind: Dataset, root: Path) -> bool:
    """Tell whether a data set has validation images of its own.

    Raises:
        InputError: If there is such a folder of images, but nothing says their classes.
    """
    if is_url(root) or index_of(root, ("val", "test")):
        return True
    if kind in ("cifar10", "cifar100") and not _in_folders(root, "train"):
        return True
    return find_place(root, "val") is not None


def folders_or_shards(root: Path, split: str, findings: Findings | None = None) -> ImageSet:
    """Open a split in shards if there is an index of them, else in folders."""
    return open_shards(root, _split_names(split)) or class_folders(root, split, findings)


def class_folders(
    root: Path, split: str, findings: Findings | None = None, known: tuple[str, ...] = ()
) -> FileSet:
    """List the images of a split, as `layout` finds them.

    Args:
        root: Folder of the data set.
        split: "train", "val" or "test".
        findings: Takes note of what is skipped, and of faults.
        known: Class names of which a list beside the images may use a part only.

    Raises:
        InputError: If the split is missing, has a class without images, or if it is not for
            training and has other classes than the training images.
    """
    names = _split_names(split)
    findings = findings or Findings(root)
    place = find_place(root, split)
    if place is None:
        if split == "train" or find_place(root, "train") is None:
            raise no_train(root)
        raise InputError(
            f"{root} holds no validation images: make a folder {names[0]}/ of them, or choose some "
            "of the training images with --images.held-out N"
        )
    for other in other_folders(root):
        findings.pass_over("folder", other, " beside the splits that are read")
    trained = None if split == "train" else _trained_classes(root)
    if place.table:
        return _in_one_folder(place, trained, findings, known)
    classes = class_names(place.folder, findings)
    if not classes and not findings.faults:
        raise InputError(f"{place.folder} holds no class folders: give another --data")
    if trained:
        _check_same_classes(place.folder, classes, trained, findings)
    return _in_class_folders(place, classes, findings)


def _in_class_folders(place: Place, classes: tuple[str, ...], findings: Findings) -> FileSet:
    found, counts = [], []
    for name in classes:
        below = list(images_below(place.folder / name, findings))
        counts.append(sum(len(names) for _, names in below))
        if not counts[-1]:
            folder = place.folder / name
            findings.fault(
                folder,
                packed(folder)
                or f"a class folder that holds no {READ} images: fill it, or remove it from every "
                "split",
            )
        found += [(folder, encode(names)) for folder, names in below if names]
    paths = Paths.in_folders([folder for folder, _ in found], [names for _, names in found])
    labels = np.repeat(np.arange(len(classes)), counts)
    return FileSet(paths, labels, classes, describe(place, findings), findings.passed_over)


def _in_one_folder(
    place: Place,
    trained: tuple[tuple[str, ...], Path] | None,
    findings: Findings,
    known: tuple[str, ...],
) -> FileSet:
    """List images of which a list says the classes."""
    assert place.table is not None
    rows = _rows_of(place, place.table)
    if trained:
        check_labels(place.table, rows, trained[0])
    named = {row.label for row in rows} - {""}
    classes = trained[0] if trained else tuple(sorted(named))
    all_known = named <= set(known)
    classes = known if all_known else classes
    unseen = set(place.images)
    numbers = {name: number for number, name in enumerate(classes)}
    taken: list[Row] = []
    for row in rows:
        line, image = f"line {row.number}", shown(row.image)
        if row.image not in unseen:
            there = row.image in place.images
            reason = "came before" if there else f"is not in {place.folder}"
            findings.fault(place.table, f"{line}: the image {image!r} {reason}: correct the line")
        elif row.label not in numbers:
            label = shown(row.label)
            where = f"{trained[1]} does not have" if trained else "is none"
            reason = f"{line}: {image} has the class {label!r}, which {where}: correct the line"
            findings.fault(place.table, reason)
        else:
            taken.append(row)
        unseen.discard(row.image)
    for name in sorted(unseen):
        findings.fault(place.folder / name, f"{place.table} does not say its class: add a line")
    labels = np.array([numbers[row.label] for row in taken], np.int64)
    absent = set() if all_known else set(range(len(classes))) - set(labels.tolist())
    for number in sorted(absent):
        reason = f"names no image of the class {in_line(classes[number])}: add a line for one"
        findings.fault(place.table, reason)
    paths = Paths.in_folders([place.folder], [encode(row.image for row in taken)])
    return FileSet(paths, labels, classes, describe(place, findings), findings.passed_over)


def _rows_of(place: Place, table: Path) -> list[Row]:
    """Read what a list says of the images of a place, and of such as are nowhere."""
    elsewhere = set(place.elsewhere)
    rows = read_table(table, by_name((*place.images, *place.elsewhere)))
    return [row for row in rows if row.image not in elsewhere]


def _trained_classes(root: Path) -> tuple[tuple[str, ...], Path] | None:
    """Return the classes of the training images and where they are, if they are in folders."""
    try:
        place = find_place(root, "train")
    except InputError:  # shards, or faults that reading the training images reports
        return None
    if place is None:
        return None
    unheard = Findings(root, keep_faults=True)
    if place.table:
        rows = _rows_of(place, place.table)
        return tuple(sorted({row.label for row in rows} - {""})), place.table
    return class_names(place.folder, unheard), place.folder


def _check_same_classes(
    folder: Path,
    classes: tuple[str, ...],
    trained: tuple[tuple[str, ...], Path],
    findings: Findings,
) -> None:
    others, other = trained
    for here, there, missing, known in (
        (folder, other, sorted(set(classes) - set(others)), others),
        (other, folder, sorted(set(others) - set(classes)), classes),
    ):
        if missing and not findings.keep_faults:
            raise InputError(
                f"class {in_line(missing[0])} is in {here} but not in {there}"
                f"{_near(missing[0], known)} ({len(missing)} such in all): "
                "give both splits the same class folders"
            )
        for name in missing:
            remedy = "add it there, or rename or remove it here"
            findings.fault(here / name, f"{there} has no such class{_near(name, known)}: {remedy}")


def _near(name: str, known: Sequence[str]) -> str:
    """Say which class has the same name, spelt in another way."""
    other = respelt(name, known)
    return f", but {other!a} for {name!a}" if other else ""


def cifar10(
    root: Path, split: str, findings: Findings | None = None, *, official: bool = True
) -> PixelSet | FileSet:
    """Read CIFAR-10 from its archive, from what that unpacks to, or from class folders.

    Args:
        root: `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`, or what holds one of them, or
            `cifar-10-batches-bin` or `cifar-10-batches-py`, or what holds one of them, or holds
            images as in `class_folders`.
        split: "train", "val" or "test".
        findings: As for `class_folders`.
        official: Demand the published digests (archives, Python) and numbers of images (binary).

    Raises:
        InputError: If files are missing or not the published ones.
    """
    return _cifar(cifar.CIFAR10, root, split, findings, official=official)


def cifar100(
    root: Path, split: str, findings: Findings | None = None, *, official: bool = True
) -> PixelSet | FileSet:
    """Read CIFAR-100 with its fine labels; the rest as `cifar10`.

    Args:
        root: As for `cifar10`, with `cifar-100-binary` and `cifar-100-python`, packed or not.
        split: "train", "val" or "test".
        findings: As for `class_folders`.
        official: As for `cifar10`.

    Raises:
        InputError: If files are missing or not the published ones.
    """
    return _cifar(cifar.CIFAR100, root, split, findings, official=official)


def _cifar(
    published: cifar.Published,
    root: Path,
    split: str,
    findings: Findings | None,
    *,
    official: bool,
) -> PixelSet | FileSet:
    batches = published.train if _is_train(split) else published.test
    images = cifar.read_unpacked(published, root, batches, official=official)
    if images is None and _in_folders(root, split):
        return class_folders(root, split, findings, published.classes)
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
            <any name>.png, .jpg or so
        test/
          <class>/
    """
    tree = compare_trees(root, expected)
    raise InputError(f"{root} does not hold {published.name}: put an archive there\n{tree}")


def _in_folders(root: Path, split: str) -> bool:
    """Tell whether a split has a folder: those of an archive are no classes."""
    place = find_place(root, split)
    return place is not None and place.split != ""


def _is_train(split: str) -> bool:
    if split not in ("train", "val", "test"):
        raise InputError(f"unknown split {split!r}: use train, val or test")
    return split == "train"


def _split_names(split: str) -> tuple[str, ...]:
    """Return what the folder of a split may be called; "val" and "test" stand in for each other."""
    return ("train",) if _is_train(split) else (split, "val", "test")
