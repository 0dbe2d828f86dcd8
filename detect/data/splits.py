"""Which images train and which validate: sets by their usual names, or a hash of file names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import PurePosixPath

from common.errors import InputError
from common.text import counted
from detect.data.dataset import DetectionData, Entry, LabelledImage, find_set, shown
from detect.data.faults import Faults

ALL = "all"
"""The set of data that have no sets."""
NO_SET = "none"
"""What --val-split says for a training without validation."""
_TRAIN = ("train", "training", "trainval", "default", ALL)
_VAL = ("val", "valid", "validation", "dev", "test", "testing")
_ANY = "0000:any"
"""In place of what a recipe names: the data's own sets are meant."""
_OF_A_YEAR = re.compile(r"[0-9]{4}:[\w.-]+(,[0-9]{4}:[\w.-]+)*", re.ASCII)
_AUGMENTED = re.compile(r"\.rf\.[0-9A-Za-z]{8,}$")  # Roboflow's copies of one image


def is_of_a_year(split: str) -> bool:
    """Tell whether this names sets of a devkit, as the recipes do."""
    return _OF_A_YEAR.fullmatch(split) is not None


def training_sets(data: DetectionData, train: str, val: str) -> tuple[str, str | None]:
    """Return the sets to train and to validate on; none to validate where there is none.

    Args:
        data: Where they are.
        train: As the recipe has it; for data without years, a set of a year means their own sets.
        val: The same, or `NO_SET`.
    """
    if data.has_years:
        return train, None if val == NO_SET else val
    if is_of_a_year(train):
        own = [found for word in _TRAIN if (found := find_set(data.sets, word))]
        train = (own or list(data.sets))[0]
    if val == NO_SET:
        return train, None
    if is_of_a_year(val):
        own = [found for word in _VAL if (found := find_set(data.sets, word))]
        own = [name for name in own if name not in train.split(",")]
        return train, own[0] if own else None
    return train, val


def scored_set(data: DetectionData, split: str | None) -> str:
    """Return the set to evaluate on, where none is named the one that would validate.

    Raises:
        InputError: None is named, and there are several.
    """
    if split is not None:
        return split
    own = [found for word in _VAL if (found := find_set(data.sets, word))]
    if own and not data.has_years:
        return own[0]
    if len(data.sets) == 1:
        return data.sets[0]
    raise InputError(
        f"{data.path} has several sets: choose one with --split, from {', '.join(data.sets)}"
    )


def limit_images(
    images: Sequence[LabelledImage], most: int | None, num_classes: int
) -> list[LabelledImage]:
    """Keep at most this many images, of every class at least one where they suffice.

    Which ones, a hash of their ids says: always the same.
    """
    if most is None or most >= len(images):
        return list(images)
    key = [
        blake2b(i.annotation.image_id.encode(errors="surrogatepass"), digest_size=8).digest()
        for i in images
    ]
    order = sorted(range(len(images)), key=key.__getitem__)
    first: list[int] = []
    held = [set(image.annotation.usable(difficult=False)[1].tolist()) for image in images]
    for label in range(num_classes):
        if not any(label in held[n] for n in first):
            first += [n for n in order if label in held[n]][:1]
    chosen = list(dict.fromkeys([*first, *order]))[:most]
    return [images[n] for n in sorted(chosen)]


def split_by(data: DetectionData, share: float) -> DetectionData:
    """Keep a share of the training images for validation.

    Raises:
        InputError: The data have a validation set, or one of the two would be empty.
    """
    train, val = training_sets(data, _ANY, _ANY)
    if data.has_years and len(data.sets) == 1:
        train, val = data.sets[0], None
    if val is not None:
        raise InputError(
            f"--split-by is for data without a validation set, but {data.path}, {data.kind}, has "
            f"{', '.join(map(shown, data.sets))}: leave it out"
        )
    entries = data.entries(train, None)
    if len(entries) < 2:
        raise InputError(
            f"--split-by needs two images, but {data.path} has {len(entries)}: leave it out"
        )
    kept = _kept(entries, share)
    images = counted(len(entries), "image")
    note = f"--split-by {share:g} keeps {len(kept)} of {images} of {train} for val"
    return replace(
        data,
        sets=("train", "val"),
        entries=partial(_part_of, data, train, share),
        has_years=False,
        notes=(*data.notes, note),
    )


def _part_of(
    data: DetectionData, train: str, share: float, name: str, faults: Faults | None
) -> list[Entry]:
    entries = data.entries(train, faults)
    kept = _kept(entries, share)
    return [entry for entry in entries if (entry.image_id in kept) == (name == "val")]


def _kept(entries: Sequence[Entry], share: float) -> set[str]:
    """Return the ids of the images to keep; at least one, and not all."""
    places = {entry.image_id: _place(entry) for entry in entries}
    kept = {image_id for image_id, place in places.items() if place < share}
    least, most = min(places.values(), default=0.0), max(places.values(), default=0.0)
    if not kept:
        return {image_id for image_id, place in places.items() if place == least}
    if len(kept) == len(places):
        return {image_id for image_id, place in places.items() if place < most}
    return kept


def _place(entry: Entry) -> float:
    """Return a number in [0, 1) from the file name without suffix and folder.

    Roboflow's copies of an image have the same.
    """
    stem = _AUGMENTED.sub("", PurePosixPath(entry.name.replace("\\", "/")).name)
    data = stem.encode(errors="surrogatepass")
    digest = blake2b(data, digest_size=8, person=b"split by").digest()
    return int.from_bytes(digest) / 2**64
