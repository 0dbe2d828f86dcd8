"""What a training reads, looked over before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.storage import write_text
from common.text import alike, counted, in_line
from detect.data.checks import (
    all_boxes,
    coordinates_look,
    count,
    duplicates,
    look_normalised,
    refuse_useless,
    unseen,
)
from detect.data.dataset import DetectionData, LabelledImage, listed, shown
from detect.data.heads import (
    count_shared,
    count_turned,
    head_digests,
    read_heads,
    refuse_misfits,
    repeated,
)
from detect.data.options import DataOptions
from detect.data.splits import NO_SET, is_of_a_year, limit_images, training_sets

_RECORD = "training_images.txt"
"""In the folder of a run: the digest of each training image's head, and its name."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Images to train and to validate on, and what should be said of them."""

    train: list[LabelledImage]
    """At least one object among them."""
    val: list[LabelledImage]
    """Empty where there is no validation."""
    said: tuple[str, ...]
    """Lines for the user."""


def read_training(
    data: DetectionData,
    options: DataOptions,
    train: str,
    val: str,
    *,
    difficult: bool,
    limit: int | None = None,
) -> TrainingData:
    """Read the sets of a training.

    Args:
        data: As opened.
        options: As it was opened with.
        train: Sets to train on, as the recipe names them.
        val: Sets to validate on, or `splits.NO_SET`.
        difficult: Whether difficult objects are trained on.
        limit: At most this many images of each, see `limit_images`.

    Raises:
        InputError: A set cannot be read, or there is nothing to learn.
    """
    by_itself = is_of_a_year(train) and not data.has_years
    train, chosen = training_sets(data, train, val)
    images = data.read(train)
    left_out = 0
    if not options.empty_images:
        with_objects = [i for i in images if len(i.annotation.usable(difficult)[1])]
        left_out, images = len(images) - len(with_objects), with_objects
    images = limit_images(images, limit, len(data.classes))
    counts = count([image.annotation for image in images], data.classes)
    refuse_useless(f"{data.path}, {train},", counts, difficult=difficult)
    annotations = [image.annotation for image in images]
    if look_normalised(annotations):
        raise InputError(
            f"{data.path}, {train}: all boxes lie between 0 and 1, so they are shares: give pixels"
        )
    val_images = limit_images(data.read(chosen) if chosen else [], limit, len(data.classes))
    no_val = "the data have no set for it (--split-by 0.2 would keep some images)"
    if val == NO_SET:
        no_val = "none was asked for"
    said = [
        f"{data.path}: {data.kind}, {counted(len(data.classes), 'class')}",
        f"training on {counted(counts.images, 'image')} of {train} ({counts.empty} without objects)"
        f": {counts.describe(data.classes)}",
        f"validating on {counted(len(val_images), 'image')} of {chosen}"
        if chosen
        else f"no validation: {no_val}",
    ]
    used = [data.set_called(name.strip()) for name in f"{train},{chosen or train}".split(",")]
    unused = [name for name in data.sets if name not in used]
    if unused and by_itself:
        said.append(f"not used: {listed(unused)}; --train-split and --val-split name other sets")
    said += [*data.notes, *alike(data.classes)]
    if left_out:
        said.append(f"{counted(left_out, 'image')} without objects left out")
    if counts.outside:
        said.append(
            f"warning: objects that reach over the edge of their image, cut there: {counts.outside}"
            "; verify names them"
        )
    if counts.flat:
        said.append(f"warning: objects without an area, not trained on: {counts.flat}")
    never = unseen(data.classes, counts)
    if never:
        names = ", ".join(map(shown, never))
        said.append(f"warning: no training image has an object of {names}: none can be found")
    return TrainingData(images, val_images, tuple(map(in_line, said)))


def look_over(
    data: DetectionData, options: DataOptions, found: TrainingData
) -> tuple[tuple[str, ...], list[str]]:
    """Look over the boxes and the heads of the files.

    Args:
        data: As opened.
        options: As it was opened with.
        found: What `read_training` returned.

    Returns:
        Lines for the user, and the digests of the training images' heads.

    Raises:
        InputError: An image has another size than its annotation says.
    """
    train, val = found.train, found.val
    warnings = []
    if data.metric == "voc":
        annotations = [image.annotation for image in train]
        if look := coordinates_look(all_boxes(annotations), options.xml_coordinates):
            warnings.append(look)
    twice = sum(len(duplicates(image.annotation)) for image in train)
    if twice:
        warnings.append(f"objects that occur twice: {twice}; verify names them")
    heads, val_heads = read_heads(train), read_heads(val)
    refuse_misfits([*train, *val], [*heads, *val_heads])
    shared = count_shared(train, heads, val, val_heads)
    if shared:
        warnings.append(
            f"training images among the {len(val)} validation images: {shared}; what is measured "
            "on them says nothing about others"
        )
    if pairs := repeated(train, heads):
        warnings.append(
            f"training images that share their picture with another: {len(pairs)}, such as "
            f"{pairs[0][1].name} and {pairs[0][0].name}; keep one, with all objects"
        )
    turned = count_turned(train, heads) + count_turned(val, val_heads)
    if turned:
        warnings.append(
            f"photos turned upright, by their EXIF orientation and as they were annotated: {turned}"
        )
    return tuple(in_line(f"warning: {text}") for text in warnings), head_digests(heads)


def record_images(folder: Path, images: Sequence[LabelledImage], digests: Sequence[str]) -> None:
    """Write which images a run is trained on, so that they are known where it is evaluated."""
    lines = zip(digests, images, strict=True)
    text = "".join(f"{digest}  {shown(image.path.name)}\n" for digest, image in lines)
    write_text(folder / _RECORD, text)


def count_trained_on(folder: Path, images: Sequence[LabelledImage]) -> int:
    """Count the images that a run was trained on; 0 if the run has no record of its images."""
    try:
        lines = (folder / _RECORD).read_text(errors="replace").splitlines()
    except OSError:  # of an older version, or left behind when the folder was copied
        return 0
    known = {line.partition(" ")[0] for line in lines}
    return sum(digest in known for digest in head_digests(read_heads(images)))
