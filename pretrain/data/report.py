"""What data were found to be, in the lines that a training prints before it begins."""

import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from common.images.decoding import read_content
from common.images.hidden import children
from common.text import alike, counted, in_line, say
from pretrain.data.image_sets import FileSet
from pretrain.data.splits import Split
from pretrain.recipes import Images

WORDNET_ID = re.compile(r"n\d{8}")
_SHOWN = 10
_MOST_COMPARED = 50_000  # images whose sizes are asked for; `verify` compares all


def report(images: Images, train: Split, val: Split) -> None:
    """Print classes, images, what was skipped, and what is likely not as it was meant."""
    for line in lines(images, train, val):
        say(line if len(line) <= 80 else line.replace("; ", "\n      "))


def scored_on(images: Images, val: Split, *, split_off: bool) -> str:
    """Say in a line what an evaluation scores on.

    Args:
        images: The recipe.
        val: What is scored.
        split_off: Whether the data have no validation images of their own.
    """
    form = _split_off(images) if split_off else _form(val)
    number = counted(val.num_images, "validation image")
    return f"data: {_named(val.classes)}; {number}, {form}"


def lines(images: Images, train: Split, val: Split) -> list[str]:
    """Return the lines of `report`."""
    notes = [
        f"data: {_named(train.classes)}; "
        f"train {counted(train.num_images, 'image')}, {_form(train)}; val {val.num_images:,}, "
        f"{_validation_form(images, train, val)}"
    ]
    passed = {str(one): None for split in (train, val) for one in _passed_over(split)}
    if passed:
        notes.append(f"skipped: {', '.join(passed)}")
    if images.dataset == "imagenet" and not all(map(WORDNET_ID.fullmatch, train.classes)):
        notes.append(
            "these are not ImageNet's classes; they are trained on all the same, but "
            "--images.dataset folders would describe them rightly, in the model card too"
        )
    notes += alike(train.classes)
    for split, kind in ((train, "training"), (val, "validation")):
        labels = [] if split.images is None else split.images.labels.tolist()
        notes += unseen(train.classes, labels, kind)
    shared = shared_files(train.images, val.images)
    if shared:
        first, second = (in_line(str(path)) for path in shared[0])
        notes.append(
            f"warning: of {val.num_images:,} validation images {len(shared)} also in train "
            f"({second} is {first}), which inflates the score: remove them from one"
        )
    return notes


def why_one_class(root: Path, name: str) -> str:
    """Say that all images are of one class, which may be a folder of all, and what to do."""
    matlab = next(iter(children(root, "*.mat")), None)  # as Oxford's flowers and cars have it
    unread = f" ({in_line(matlab.name)} is not read)" if matlab else ""
    return (
        f"holds images of one class only, {in_line(name)}: there is nothing to tell apart; put "
        "each class into a folder of its own, or call that folder train and write labels.csv "
        f"beside it{unread}"
    )


def unseen(classes: Sequence[str], labels: Sequence[int], kind: str) -> list[str]:
    """Warn of classes without an image of a kind, "training" or "validation"."""
    absent = sorted(set(range(len(classes))) - set(labels))
    if not absent:
        return []
    first = in_line(classes[absent[0]])
    return [f"warning: {counted(len(absent), 'class')} without a {kind} image, such as {first}"]


def _form(split: Split) -> str:
    return split.images.form if isinstance(split.images, FileSet) else split.source


def _validation_form(images: Images, train: Split, val: Split) -> str:
    if images.held_out:
        return "held out of the training images"
    if isinstance(val.images, FileSet) and _form(train) == _form(val):
        return _split_off(images)
    return _form(val)


def _split_off(images: Images) -> str:
    return f"split off by a hash of the file names (--images.split-by {images.split_by:g})"


def _named(classes: Sequence[str]) -> str:
    shown = ", ".join(map(in_line, classes[:_SHOWN]))
    more = ", ..." if len(classes) > _SHOWN else ""
    return f"{counted(len(classes), 'class')} ({shown}{more})"


def _passed_over(split: Split) -> Sequence[object]:
    return split.images.passed_over if isinstance(split.images, FileSet) else ()


def shared_files(train: object, val: object) -> list[tuple[Path, Path]]:
    """Find validation images whose file has the content of a training image's; pairs of both.

    Only of files, and of no more than can be asked for their sizes at the start of a training.
    """
    if not (isinstance(train, FileSet) and isinstance(val, FileSet)):
        return []
    if len(train.paths) + len(val.paths) > _MOST_COMPARED:
        return []
    by_size: dict[int, list[Path]] = {}
    for path in train.paths:
        by_size.setdefault(_size(path), []).append(path)
    digests: dict[int, dict[bytes, Path]] = {}
    pairs = []
    for path in val.paths:
        size = _size(path)
        if size and size in by_size:
            if size not in digests:
                digests[size] = {_digest(other): other for other in reversed(by_size[size])}
            other = digests[size].get(_digest(path))
            if other is not None:
                pairs.append((other, path))
    return pairs


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # told when the image is to be read
        return 0


def _digest(path: Path) -> bytes:
    try:
        return blake2b(read_content(path), digest_size=16).digest()
    except ValueError:  # likewise; equal to none
        return os.urandom(16)
