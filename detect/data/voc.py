"""Reading the splits and annotations of a PASCAL VOC devkit.

DEVKIT/VOC<year>/Annotations/<id>.xml
DEVKIT/VOC<year>/ImageSets/Main/<set>.txt     one image id per line
DEVKIT/VOC<year>/JPEGImages/<id>.jpg          or another suffix
DEVKIT/classes.txt                            optional: one class name per line
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path

from common.errors import InputError
from common.images.folder_trees import compare_trees
from common.images.hidden import children, descendants
from common.storage import decode_text
from common.text import no_name, respelt
from detect.data.dataset import (
    Annotation,
    Entry,
    MissingFileError,
    listed,
    quoted,
    why_not_shown,
)
from detect.data.faults import Faults, reason_of
from detect.data.options import Coordinates
from detect.data.pictures import Pictures, check_image_id, is_picture
from detect.data.voc_xml import (
    Labels,
    UnknownClassError,
    class_names,
    read_bytes,
    read_voc,
)

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

_MAX_LIST_BYTES = 100_000_000
_MOST_SEARCHED = 5000
"""How many annotation files are searched for unknown class names."""
_SPLIT = re.compile(r"([0-9]{4}):([\w.-]+)", re.ASCII)
_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")
"""A line of a list of one class: an id, and whether the image holds such an object."""


# ---- lists --------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list, without the blanks around them.

    Raises:
        InputError: The file cannot be read, is too large or not text.
    """
    data = read_bytes(path, "list", _MAX_LIST_BYTES)
    if data.startswith(b"\0\0"):  # as a machine that loses its power leaves a file
        raise InputError(f"{path} holds zero bytes, so it is no text: fetch or save it again")
    return [line.strip() for line in decode_text(data, path).splitlines()]


def read_class_list(path: Path, lines: Iterable[str] | None = None) -> tuple[str, ...]:
    """Read class names, one per line; any printable text is one.

    Args:
        path: The file.
        lines: Its names, where the file holds more than those.

    Raises:
        InputError: The file is empty or not text, or a name is repeated or not printable.
    """
    names = tuple(line for line in (read_lines(path) if lines is None else lines) if line)
    if not names:
        raise InputError(f"{path} names no class: write one name per line")
    times = Counter(names)
    for name in names:
        if no_name(name):
            raise InputError(
                f"{path}: a class is called {quoted(name)}, {why_not_shown(name)}: take it out"
            )
        if times[name] > 1:
            raise InputError(f"{path} names the class {quoted(name)} twice: remove one")
    return names


def read_ids(path: Path, faults: Faults | None = None) -> list[str]:
    """Read the image ids of a list.

    Args:
        path: The list.
        faults: Where to put the lines that are no ids; None: the first is raised.

    Raises:
        InputError: It is empty, or a line is no image id.
    """
    ids = []
    annotations = path.parents[2] / "Annotations"
    try:
        lines = read_lines(path)
        while lines and not lines[-1]:
            lines.pop()
        if not lines:
            raise InputError(f"{path} lists no images: write one image id per line")
        flagged = is_flagged(path, lines)
        for number, line in enumerate(lines, start=1):
            try:
                check_line(path, number, line, flagged=flagged)
            except InputError as error:
                if faults is None or flagged:
                    raise
                faults.append((path, reason_of(error, path)))
                continue
            ids.append(without_suffix(annotations, line))
    except InputError as error:
        if faults is None:
            raise
        faults.append((path, reason_of(error, path)))
    return ids


def without_suffix(annotations: Path, line: str) -> str:
    """Return the id of a line that is a file name or a path, as some tools write lists."""
    if (annotations / f"{line}.xml").exists():
        return line
    stem = line.rpartition(".")[0] if is_picture(line) or line.endswith(".xml") else line
    candidates = (stem, stem.replace("\\", "/").rpartition("/")[2])
    return next((name for name in candidates if (annotations / f"{name}.xml").exists()), line)


def check_line(path: Path, number: int, line: str, *, flagged: bool) -> None:
    """Refuse a line of a list that is no image id.

    Args:
        path: The list.
        number: Of the line.
        line: Its text.
        flagged: As `is_flagged` says of the list.

    Raises:
        InputError: It is none.
    """
    where = f"{path}, line {number}"
    check_image_id(line, where)
    if flagged:
        whole = [other.stem for other in children(path.parent, "*.txt") if not is_flagged(other)]
        known = f"those of all images are {', '.join(whole)}" if whole else "keep the first column"
        raise InputError(
            f"{where}: {quoted(line)} is an id and whether the class is there, so this is the list "
            f"of one class: take another; {known}"
        )


def is_flagged(path: Path, lines: Iterable[str] | None = None) -> bool:
    """Tell the list of one class, an id and -1, 0 or 1 a line; other lists hold ids alone.

    Args:
        path: The list.
        lines: What it holds; None: it is read.
    """
    try:
        lines = [line for line in (read_lines(path) if lines is None else lines) if line]
    except InputError:
        return False
    if not lines or not all(map(_FLAGGED.fullmatch, lines)):
        return False
    try:
        check_image_id(lines[0], str(path))
    except InputError:
        return True
    return not (path.parents[2] / "Annotations" / f"{lines[0]}.xml").exists()


# ---- a devkit -----------------------------------------------------------------------------------


def devkit_root(devkit: Path) -> Path:
    """Find the folder of VOC<year>: the one given, or a VOCdevkit inside it, as archives unpack."""
    inner = devkit / "VOCdevkit"
    return inner if inner.is_dir() else devkit


def class_file(devkit: Path) -> Path | None:
    """Return the devkit's classes.txt, or that of its only year that has one."""
    root = devkit_root(devkit)
    found = [root / "classes.txt", *sorted(root.glob("VOC[0-9][0-9][0-9][0-9]/classes.txt"))]
    found = [path for path in found if path.exists()]
    if len(found) > 1 and found[0].parent != root:
        raise InputError(
            f"{found[0]} and {found[1]} may differ: put one classes.txt into {root} instead"
        )
    return found[0] if found else None


def read_classes(devkit: Path) -> tuple[str, ...]:
    """Read the class names: the lines of the devkit's classes.txt, without one VOC's twenty.

    Raises:
        InputError: The file is empty or not text, or a name is repeated or not printable.
    """
    path = class_file(devkit)
    return read_class_list(path) if path else VOC_CLASSES


def sets_of(main: Path) -> list[str]:
    """Return the sets that a folder of lists has, without the lists of one class."""
    return [path.stem for path in children(main, "*.txt") if not is_flagged(path)]


def lists_of_one_class(main: Path) -> list[str]:
    """Return the lists that `sets_of` leaves out."""
    return [path.stem for path in children(main, "*.txt") if is_flagged(path)]


def devkit_sets(devkit: Path) -> list[str]:
    """Return the YEAR:SET that a devkit has, without the lists of one class."""
    years = sorted(devkit_root(devkit).glob("VOC[0-9][0-9][0-9][0-9]"))
    return [f"{y.name[3:]}:{name}" for y in years for name in sets_of(y / "ImageSets/Main")]


def _list_path(root: Path, year: str, name: str) -> Path:
    folder = root / f"VOC{year}"
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        broken = folder.is_dir() and not (folder / "ImageSets" / "Main").is_dir()
        if (found := devkit_sets(root)) and not broken:
            raise InputError(f"{root} has no set {year}:{name}: choose from {', '.join(found)}")
        expected = f"""
            VOC{year}/
              Annotations/
              ImageSets/
                Main/
                  {name}.txt
              JPEGImages/
        """
        tree = compare_trees(root, expected)
        raise InputError(f"{root} does not hold the VOC set {year}:{name}\n{tree}")
    return path


def split_lists(devkit: Path, split: str) -> list[Path]:
    """Find the lists of one or more sets: `ImageSets/Main/<set>.txt` of each.

    Args:
        devkit: The VOCdevkit folder, or the folder that holds it.
        split: YEAR:SET, comma-separated for more: "2007:trainval,2012:trainval".

    Raises:
        InputError: The split is malformed, or a set is missing.
    """
    root = devkit_root(devkit)
    paths = []
    for part in split.split(","):
        match = _SPLIT.fullmatch(part.strip())
        if match is None:
            raise InputError(f"the split {part!r} is not YEAR:SET: write it as 2007:trainval")
        paths.append(_list_path(root, *match.groups()))
    return paths


def voc_entries(
    listed: Path,
    ids: Iterable[str],
    annotations: Path,
    pictures: Pictures,
    label_of: Labels,
    coordinates: Coordinates,
) -> list[Entry]:
    """Return the entries of images whose annotations are XML files in one folder."""
    return [
        Entry(
            image_id,
            image_id,
            listed,
            path,
            partial(_annotate, annotations, path, image_id, label_of, coordinates, pictures),
            partial(pictures.find, image_id),
        )
        for image_id in ids
        for path in [_xml_of(annotations, image_id)]
    ]


def _xml_of(folder: Path, image_id: str) -> Path:
    """Return the annotation of an image, which may end in .XML."""
    path = folder / f"{image_id}.xml"
    if os.path.lexists(path):
        return path
    upper = folder / f"{image_id}.XML"
    return upper if upper.exists() else path


def _annotate(
    folder: Path,
    path: Path,
    image_id: str,
    label_of: Labels,
    coordinates: Coordinates,
    pictures: Pictures,
) -> tuple[Annotation, str]:
    if not os.path.lexists(path):
        raise MissingFileError(folder, path.name)
    try:
        picture = partial(pictures.find, image_id)
        found = read_voc(path, image_id, label_of, coordinates, picture)
    except UnknownClassError as error:
        if tuple(label_of) != VOC_CLASSES or respelt(error.name, label_of):
            raise
        offer = UnknownClassError(_offer_classes(folder, error), error.name)
        offer.others, offer.sound = error.others, error.sound
        raise offer from None
    return found.annotation, found.filename


def _offer_classes(annotations: Path, error: UnknownClassError) -> str:
    """Say how to name one's own classes, with those that the annotations hold."""
    where, _, _ = str(error).partition("; ")
    root = annotations.parents[1]
    return (
        f"{where} of VOC's twenty: write {root / 'classes.txt'}, one name per line; the "
        f"annotations hold {listed(map(quoted, _classes_of(annotations)))}"
    )


@lru_cache(maxsize=1)
def _classes_of(annotations: Path) -> list[str]:
    files = descendants(annotations, "*.xml")[:_MOST_SEARCHED]
    return sorted(set().union(*map(class_names, files)))


def devkit_entries(
    devkit: Path, label_of: Labels, coordinates: Coordinates, split: str, faults: Faults | None
) -> list[Entry]:
    """Return the entries of one or more sets of a devkit, in the order of their lists."""
    entries = []
    for path in split_lists(devkit, split):
        year = path.parents[2]
        annotations, pictures = year / "Annotations", Pictures(year / "JPEGImages")
        ids = read_ids(path, faults)
        entries += voc_entries(path, ids, annotations, pictures, label_of, coordinates)
    return entries
