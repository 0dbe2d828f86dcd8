"""Where in a data set the images of a split lie: the forms in which people keep them.

Class folders, `train/<class>/...`, also below `ILSVRC/Data/CLS-LOC` or `train/images`; or all
images of a split in one folder, with a list of their classes beside it. A split has one of several
names, in any case: `train`, `Training`, `train_images`; `val`, `valid`, `validation`, `dev`;
`test`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from common.errors import InputError
from common.images.folder_trees import compare_trees
from common.images.hidden import children, is_hidden
from common.text import counted, in_line
from pretrain.data.label_tables import (
    SPLIT_NAMES,
    by_name,
    check_agreed,
    check_named,
    find_table,
    is_general,
    named_by_lists,
    read_table,
    splits_images,
    stated_splits,
    why_unusable,
)
from pretrain.data.listing import Findings, folder_names, holds_images, is_folder, is_image, scan
from pretrain.data.other_forms import (
    check_class_folders,
    detector_annotation,
    for_a_detector,
    held_instead,
    packed,
)

_INNER = ("tiny-imagenet-200", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
_NEUTRAL = {"set", "images", "image", "imgs", "img", "data", "seg", "split", "dataset"}
_NEUTRAL |= {"folder", "imagenet", "ilsvrc2012"}
_DEEPEST = 3
"""At most this many folders may stand around the splits."""
EXPECTED = """
    train/
      <class>/
        <any name>.jpg, .jpeg, .png, .bmp, .gif or .webp
    val/    (or valid/, validation/, test/; none: a share of train/)
      <class>/
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the images of a split are."""

    split: str
    """As it is called there: "train", "val" or "test"; "" where nothing is split."""
    folder: Path
    """Of the class folders, or of all images."""
    table: Path | None = None
    """What says the classes of images in one folder; None: they are in class folders."""
    images: tuple[str, ...] = ()
    """Their names, if they are in one folder."""
    elsewhere: tuple[str, ...] = ()
    """Images of another split in that folder, which the same list may name."""


def find_place(root: Path, split: str) -> Place | None:
    """Find the images of a split; None if there is no such split.

    Args:
        root: Of the data set, or a folder around it.
        split: "train", "val" or "test"; each of the latter stands in for the other.

    Raises:
        InputError: If a split is there, but nothing says the classes of its images.
    """
    if not root.is_dir():
        return None
    inner = data_folder(root)
    splits = split_folders(inner)
    wanted = ("train",) if split == "train" else ("val", "test")
    wanted = wanted[::-1] if split == "test" else wanted
    # Each is read once: long lists take their time.
    place_of = cache(lambda name: _place(root, inner, name, _unwrapped(splits[name])))
    if "train" in splits and "val" not in splits:
        apart = _split_by_column(place_of("train"), root, inner, wanted, splits)
        if apart:
            return apart
    problem = ""
    for name in (name for name in wanted if name in splits):
        found = place_of(name)
        if isinstance(found, Place):
            _check_column(found)
            return _with_others(found, splits)
        # Images to be classified, as competitions have them in test/, are no validation split.
        if name != "test":
            raise InputError(problem or found)
        problem = found if split == "test" else ""
    if problem:
        raise InputError(problem)
    if splits:
        return None
    found = _place(root, inner, "", _classes_alone(_unwrapped(inner)))
    return (
        _of_lists(found, wanted, _around(root, inner, found.folder))
        if isinstance(found, Place)
        else None
    )


def no_train(root: Path) -> InputError:
    """Make the error of a folder without training images."""
    tars = [path.name for path in children(root, "*.tar")]
    if any(name.startswith("ILSVRC2012_img_") for name in tars):
        return InputError(
            f"{root} holds ImageNet's archives as published: unpack them, python -c \"from "
            f"torchvision.datasets import ImageNet; [ImageNet({str(root)!r}, s) for s in "
            "('train', 'val')]\""
        )
    if any(map(split_in, tars)):
        return InputError(
            f"{root} holds tar files without an index: python scripts/make_shards.py --index {root}"
        )
    if tars:
        train = root / "train"
        return InputError(
            f"{root} holds tar files without an index: put those of one split into {train}, then "
            f"python scripts/make_shards.py --index {train}"
        )
    still = packed(root)
    if still:
        return InputError(f"{root} {still}")
    tree = compare_trees(root, EXPECTED)
    return InputError(f"{root} holds no train images in class folders\n{tree}")


def data_folder(root: Path) -> Path:
    """Return the folder that holds the splits: `root`, or one that an archive unpacked below it."""
    for folder in (root, *(root / inner for inner in _INNER)):
        if split_folders(folder):
            return folder
    inner = root
    for _ in range(_DEEPEST):
        folders = folder_names(inner)
        if len(folders) != 1:
            break
        inner = inner / folders[0]
        if split_folders(inner):
            return inner
    return root


def other_folders(root: Path) -> list[Path]:
    """Return folders of images beside those of the splits that are read.

    Empty where nothing is split: then they are the classes.
    """
    if not root.is_dir():
        return []
    inner = data_folder(root)
    splits = split_folders(inner).values()
    others = [inner / name for name in folder_names(inner) if splits]
    return [folder for folder in others if folder not in splits and holds_images(folder)]


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the splits in a folder, by "train", "val" and "test".

    Raises:
        InputError: If two have names of the same split.
    """
    found: dict[str, Path] = {}
    for name in folder_names(folder):
        split = _split_of(name)
        if split is None or (split in found and found[split].name == split):
            continue
        if split in found and name != split:
            raise InputError(
                f"{folder} has two folders of {split} images, {in_line(found[split].name)} and "
                f"{in_line(name)}: rename the one that is not meant"
            )
        found[split] = folder / name
    return found


def split_in(name: str) -> str | None:
    """Return the split that the name of a file states, as `imagenet1k-validation-03.tar` does."""
    splits = {
        SPLIT_NAMES[word] for word in re.split(r"[\W_\d]+", name.lower()) if word in SPLIT_NAMES
    }
    return splits.pop() if len(splits) == 1 else None


def _split_of(name: str) -> str | None:
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    others = {word for word in words if word not in SPLIT_NAMES} - _NEUTRAL
    return splits.pop() if len(splits) == 1 and not others else None


def _unwrapped(folder: Path) -> Path:
    """Go into the only folder of a folder, if it is called `images` or as the one around it."""
    while True:
        folders = folder_names(folder)
        if len(folders) != 1 or folders[0].lower() not in ("images", folder.name.lower()):
            return folder
        if any(is_image(entry.name) for entry in scan(folder)):
            return folder
        folder = folder / folders[0]


def _classes_alone(folder: Path) -> Path:
    """Go into the only folder of a folder, if that holds several and no images: the classes."""
    folders = folder_names(folder)
    inner = folder / folders[0] if len(folders) == 1 else folder
    images = any(is_image(entry.name) for entry in (*scan(folder), *scan(inner)))
    return inner if len(folder_names(inner)) > 1 and not images else folder


def _place(root: Path, inner: Path, split: str, folder: Path) -> Place | str:
    """Return where a split's images are, or a text that says why their classes are not known."""
    entries = [entry for entry in scan(folder) if not is_hidden(entry.name)]
    if any(is_folder(e) or (e.is_symlink() and not is_image(e.name)) for e in entries):
        check_class_folders(folder)
        return Place(split, folder)
    names = sorted(entry.name for entry in entries if is_image(entry.name))
    if not names:
        return f"{folder} holds {held_instead(folder, entries)}"
    table, other = find_table(split or "train", _around(root, inner, folder), by_name(names))
    held = f"{folder} holds {counted(len(names), 'image')} in no class folder"
    if table is None and (annotation := detector_annotation(folder)):
        raise InputError(for_a_detector(folder, annotation))
    if table is None and other is not None:
        problem = f"{held}, and {in_line(why_unusable(other, by_name(names)))}"
        if not split:
            raise InputError(problem)
        return problem
    if table is None:
        kaggle = f"LOC_{split}_solution.csv, " if names[0].startswith("ILSVRC2012") else ""
        return (
            f"{held}, and no list of classes is beside it: put {kaggle}"
            f"{split or 'train'}.csv there (lines of file name,class)"
        )
    check_agreed(table, _around(root, inner, folder), by_name(names))
    return Place(split, folder, table, tuple(names))


def _of_lists(whole: Place, wanted: Sequence[str], folders: Sequence[Path]) -> Place | None:
    """Keep of images that no folder splits those that belong to a split by the lists beside them.

    Args:
        whole: Of all images.
        wanted: The split's names.
        folders: Where the lists may lie.
    """
    if whole.table is None:
        _check_no_lists(whole.folder, folders)
        return whole if "train" in wanted else None
    images = by_name(whole.images)
    tables = {}
    for split in ("train", "val", "test"):
        tables[split], unusable = find_table(split, folders, images, general=False)
        # A list of test images, as competitions have it, may be of images that are not there.
        useless = unusable and not named_by_lists(split, folders, images)
        if unusable and useless and split != "test":
            raise InputError(why_unusable(unusable, images))
        if table := tables[split]:
            check_agreed(table, folders, images)
        if split != "test":
            check_named(split, folders, images)
    stated = stated_splits(whole.table, folders, images)
    named = {
        split: named_by_lists(split, folders, images) | stated.get(split, set()) for split in tables
    }
    if "train" in wanted:
        others = (named["val"] | named["test"]) - named["train"]
        by_names = named["train"] and tables["train"] is None  # what another list says the class of
        return _part(whole, named["train"] if by_names else set(whole.images) - others)
    labelled = {row.image for row in read_table(whole.table, images) if row.label}
    for split in wanted:
        table = tables[split]
        # A list of test images without classes that are trained on is no list of validation images.
        apart = split == "val" or named[split].isdisjoint(named["train"])
        if table is None and named[split] and named[split] <= labelled and apart:
            table = whole.table
        if table:
            return replace(_part(whole, named[split]), split=split, table=table)
    return None


def _split_by_column(
    whole: Place | str,
    root: Path,
    inner: Path,
    wanted: Sequence[str],
    splits: Mapping[str, Path],
) -> Place | None:
    """Return the part of the images in `train/` that a column gives a split, if it does.

    Args:
        whole: Of the images in `train/`; there is no `val/`.
        root: Of the data set.
        inner: What holds the splits.
        wanted: The split's names.
        splits: Their folders.
    """
    if not isinstance(whole, Place) or whole.table is None:
        return None
    folders = _around(root, inner, whole.folder)
    stated = stated_splits(whole.table, (), by_name(whole.images))
    if "val" not in stated:
        return None
    return _of_lists(_with_others(whole, splits), wanted, folders)


def _check_column(place: Place) -> None:
    """See that no column of the list puts images that a folder splits into another split.

    Raises:
        InputError: If there is one; "val" and "test" stand in for each other.
    """
    if place.table is None:
        return
    stated = stated_splits(place.table, (), by_name(place.images))
    for split, images in stated.items():
        if (split == "train") != (place.split == "train"):
            raise InputError(
                f"{place.table} has the split {split} for {in_line(min(images))}, which is in "
                f"{place.folder}: correct the line, or move the image"
            )


def _with_others(place: Place, splits: Mapping[str, Path]) -> Place:
    """Add the images of the other splits' folders, which one list of all images names, too."""
    if place.table is None or not is_general(place.table):
        return place
    others = (_unwrapped(folder) for split, folder in splits.items() if split != place.split)
    names = {e.name for folder in others for e in scan(folder) if is_image(e.name)}
    return replace(place, elsewhere=tuple(sorted(names.difference(place.images))))


def _check_no_lists(folder: Path, folders: Sequence[Path]) -> None:
    """See that no list splits the images of class folders.

    Raises:
        InputError: If there is one: which image it means, nobody knows by a name alone.
    """
    if not splits_images(folders):
        return
    names = [name for _, _, files in os.walk(folder) for name in files if is_image(name)]
    images = by_name(names)
    stated = set(stated_splits(None, folders, images))
    split = next(
        (s for s in ("val", "test") if s in stated or named_by_lists(s, folders, images)), None
    )
    if split:
        raise InputError(
            f"{folder} holds class folders, and a list beside them says which images are {split} "
            f"images, which is not read: move these into {split}/CLASS/ and the others into "
            "train/CLASS/, or remove the list"
        )


def _part(whole: Place, images: set[str]) -> Place:
    """Keep some of the images of a place."""
    others = (name for name in whole.images if name not in images)
    elsewhere = (*whole.elsewhere, *others)
    kept = tuple(name for name in whole.images if name in images)
    return replace(whole, images=kept, elsewhere=elsewhere)


def _around(root: Path, inner: Path, folder: Path) -> list[Path]:
    """Return where the lists of the images in a folder may lie; the first counts most."""
    around = [folder, folder.parent, inner, root, *_above_kaggle(inner)]
    places = list(dict.fromkeys(path for path in around if path == root or root in path.parents))
    return places + [path for path in _above_kaggle(inner) if path not in places]


def _above_kaggle(inner: Path) -> list[Path]:
    """Return where Kaggle keeps the lists of ILSVRC/Data/CLS-LOC."""
    if inner.parts[-2:] == ("Data", "CLS-LOC"):
        return [inner.parent, inner.parents[1], inner.parents[2]]
    return []


def describe(place: Place, findings: Findings) -> str:
    """Tell in a few words how a split is kept."""
    name = place.folder.relative_to(findings.root) if findings.root != place.folder else Path()
    where = f" in {in_line(str(name))}" if str(name) != "." else ""
    if place.table is None:
        return f"class folders{where}"
    return f"images{where}, their classes in {in_line(place.table.name)}"
