"""Which images train and which validate: sets by their usual names, or a hash of file names."""

import re
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import PurePosixPath

from common.errors import InputError
from detect.data.dataset import DetectionData, Entry, Faults, find_set, shown

ALL = "all"
"""The set of data that have no sets."""
NO_SET = "none"
"""What --val-split says for a training without validation."""
_TRAIN = ("train", "training", "trainval", "default", ALL)
_VAL = ("val", "valid", "validation", "dev", "test", "testing")
_OF_A_YEAR = re.compile(r"[0-9]{4}:[\w.-]+(,[0-9]{4}:[\w.-]+)*", re.ASCII)
_AUGMENTED = re.compile(r"\.rf\.[0-9A-Za-z]{8,}$")  # Roboflow's copies of one image


def training_sets(data: DetectionData, train: str, val: str) -> tuple[str, str | None]:
    """Return the sets to train and to validate on; none to validate where there is none.

    Args:
        data: Where they are.
        train: As the recipe has it; for data without years, a set of a year means their own sets.
        val: The same, or `NO_SET`.
    """
    if data.has_years:
        return train, None if val == NO_SET else val
    if _OF_A_YEAR.fullmatch(train):
        own = [found for word in _TRAIN if (found := find_set(data.sets, word))]
        train = (own or list(data.sets))[0]
    if val == NO_SET:
        return train, None
    if _OF_A_YEAR.fullmatch(val):
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
        f"{data.path} has several sets: give one with --split, of {', '.join(data.sets)}"
    )


def split_by(data: DetectionData, share: float) -> DetectionData:
    """Keep a share of the training images for validation.

    Raises:
        InputError: The data have a validation set, or one of the two would be empty.
    """
    train, val = training_sets(data, "0000:any", "0000:any")
    if val is not None or data.has_years:
        own = f"they have {', '.join(map(shown, data.sets))}"
        raise InputError(
            f"--split-by is for data without a validation set, but {data.path} is {data.kind}: "
            f"{own}; leave it out"
        )
    entries = data.entries(train, None)
    kept = {entry.image_id for entry in entries if _of_val(entry, share)}
    if not kept or len(kept) == len(entries):
        part = "validation" if not kept else "training"
        raise InputError(
            f"--split-by {share:g} leaves none of the {len(entries)} images of {data.path} for "
            f"{part}: choose another share"
        )
    note = f"--split-by {share:g} keeps {len(kept)} of {len(entries)} images of {train} for val"
    return replace(
        data,
        sets=("train", "val"),
        entries=partial(_part_of, data, train, share),
        notes=(*data.notes, note),
    )


def _part_of(
    data: DetectionData, train: str, share: float, name: str, faults: Faults | None
) -> list[Entry]:
    return [
        entry for entry in data.entries(train, faults) if _of_val(entry, share) == (name == "val")
    ]


def _of_val(entry: Entry, share: float) -> bool:
    """Tell by the file name without suffix and folder; Roboflow's copies of an image stay one."""
    stem = _AUGMENTED.sub("", PurePosixPath(entry.name.replace("\\", "/")).name)
    digest = blake2b(
        stem.encode(errors="surrogatepass"), digest_size=8, person=b"split by"
    ).digest()
    return int.from_bytes(digest) < share * 2**64
