"""Lists that say the classes of images: `trainLabels.csv`, `LOC_val_solution.csv` and their kind.

A line has the name of an image, with or without its folder and suffix, and its class; commas,
semicolons, tabs or blanks between them; a first line may name the columns.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError
from common.images.hidden import children
from common.storage import read_text
from common.text import in_line, shown
from pretrain.data.listing import is_image

_KINDS = "labels?|annotations?|solution|images?|map|list|data|metadata|ground_?truth|splits?"
_GENERAL = re.compile(rf"_?({_KINDS})|_classes", re.IGNORECASE)  # the latter is Roboflow's
_SUFFIXES = (".csv", ".tsv", ".txt")
_IMAGE_COLUMNS = (
    "filename file_name file image_path path image_name image img image_id imageid id name".split()
)
_CLASS_COLUMNS = (
    "label class category breed species target class_name classname predictionstring wnid tag y"
).split()
_SPLIT_COLUMNS = "split subset partition set".split()
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validationset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
_TRIED = 100  # lines in which an image must be named, if a file is a list of these images


class Row(NamedTuple):
    """A line of a list: its number, an image, what the list calls its class, and its split."""

    number: int
    image: str
    label: str
    split: str = ""


def find_table(
    split: str, folders: Sequence[Path], images: Mapping[str, str], *, general: bool = True
) -> tuple[Path | None, Path | None]:
    """Find the list of a split's classes: one named after the split, else `labels.csv` or so.

    Args:
        split: "train", "val" or "test".
        folders: Where it may lie; the first counts most.
        images: Image by name with and without suffix, as `by_name` returns.
        general: Take one that is named after no split, too.

    Returns:
        The list, or one of that name that says the class of none of these images.
    """
    other = None
    for kind in (_of_split(split), _GENERAL)[: 1 + general]:
        for path in _lists(kind, folders):
            if any(row.label for row in _known(path, images)):
                return path, None
            other = other or path
    return None, other


def named_by_lists(split: str, folders: Sequence[Path], images: Mapping[str, str]) -> set[str]:
    """Return the images that the lists of a split name, whether with their classes or without.

    Lines that state another split in a column are left out.

    Args:
        split: "train", "val" or "test".
        folders: As for `find_table`.
        images: As for `find_table`.
    """
    lists = _lists(_of_split(split), folders)
    rows = (row for path in lists for row in _known(path, images, None))
    return {images[row.image] for row in rows if SPLIT_NAMES.get(row.split.lower(), split) == split}


def why_unusable(path: Path, images: Mapping[str, str]) -> str:
    """Say what is wrong with a list that says no image's class, and what to do."""
    try:
        rows = _rows(path)
    except InputError as error:
        return str(error)
    if any(row.image in images for row in rows):
        return f"{path} says the class of none of them: add a column label, or labels.csv beside it"
    what = "names none of the images" if rows else "is empty"
    return f"{path} {what}: correct it (one line per image: file name,class), or remove it"


def stated_splits(
    table: Path | None, folders: Sequence[Path], images: Mapping[str, str]
) -> dict[str, set[str]]:
    """Return the images by "train", "val" and "test", as a column of a list splits them.

    Args:
        table: The list of the classes, if there is one; it counts most.
        folders: As for `find_table`, where another list may be.
        images: As for `find_table`.

    Returns:
        Nothing, where there is no such column.

    Raises:
        InputError: If the column states something else of an image.
    """
    for path in (*([table] if table else []), *_lists(_GENERAL, folders)):
        rows = list(_known(path, images, None))
        if not any(row.split for row in rows):
            continue
        found: dict[str, set[str]] = {}
        for row in rows:
            split = SPLIT_NAMES.get(row.split.lower())
            if split is None:
                raise InputError(
                    f"{path}, line {row.number}, has the split {shown(row.split)!r}: write train, "
                    "val or test, or call the column something else"
                )
            found.setdefault(split, set()).add(images[row.image])
        unsaid: set[str] = set()
        if path != table:
            lists = (named_by_lists(split, folders, images) for split in ("train", "val", "test"))
            unsaid = set(images.values()).difference(*found.values(), *lists)
        if unsaid:
            raise InputError(
                f"{path} does not say the split of {len(unsaid)} images, such as "
                f"{in_line(min(unsaid))}: add a line for each"
            )
        return found
    return {}


def check_named(split: str, folders: Sequence[Path], images: Mapping[str, str]) -> None:
    """See that the images of a split's lists without classes are there.

    Raises:
        InputError: If one is not.
    """
    for path in _lists(_of_split(split), folders):
        if not any(_known(path, images)):
            continue
        rows = read_table(path, images)
        absent = next((row for row in rows if row.image not in images), None)
        if absent and not any(row.label for row in rows):
            raise InputError(
                f"{path}: line {absent.number}: the image {shown(absent.image)!r} is not there: "
                "correct the line"
            )


def splits_images(folders: Sequence[Path]) -> bool:
    """Tell whether a list in one of the folders may name images that are not for training."""
    if any(path for split in ("val", "test") for path in _lists(_of_split(split), folders)):
        return True
    for path in _lists(_GENERAL, folders):
        try:
            if any(row.split for row in _rows(path)):
                return True
        except InputError:  # no table
            continue
    return False


def check_agreed(table: Path, folders: Sequence[Path], images: Mapping[str, str]) -> None:
    """See that no other list has another one of the same classes for an image.

    Raises:
        InputError: If one has.
    """
    said = {row.image: row.label for row in read_table(table, images)}
    classes = set(said.values())
    for path in _lists(_GENERAL, folders):
        for row in _known(path, images, None) if path != table else ():
            image = images[row.image]
            if row.label in classes - {"", said.get(image, row.label)}:
                raise InputError(
                    f"{path}, line {row.number}, has the class {shown(row.label)!r} for "
                    f"{in_line(image)}, but {table} {shown(said[image])!r}: correct either, or "
                    "remove one of the lists"
                )


def is_general(path: Path) -> bool:
    """Tell a list that is named after no split, as `labels.csv` is."""
    return _GENERAL.fullmatch(path.stem) is not None


def _of_split(split: str) -> re.Pattern[str]:
    words = "|".join(word for word, meant in SPLIT_NAMES.items() if meant == split)
    return re.compile(rf"(loc_)?({words})([_-]?({_KINDS}))?", re.IGNORECASE)


def _lists(kind: re.Pattern[str], folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in children(folder):
            fits = kind.fullmatch(path.stem) and path.suffix.lower() in _SUFFIXES
            if fits and path.is_file():
                yield path


def by_name(names: Sequence[str]) -> dict[str, str]:
    """Return images by their names and, where those are single, by names without suffix."""
    stems: dict[str, str] = {}
    for name in names:
        stem = name.rpartition(".")[0]
        stems[stem] = "" if stem in stems else name
    return {**{stem: name for stem, name in stems.items() if name}, **{n: n for n in names}}


def _known(path: Path, images: Mapping[str, str], lines: int | None = _TRIED) -> Iterator[Row]:
    try:
        rows = _rows(path)
    except InputError:
        return
    yield from (row for row in rows[:lines] if row.image in images)


def read_table(path: Path, images: Mapping[str, str]) -> list[Row]:
    """Read a list of images and their classes.

    Args:
        path: The list.
        images: As for `find_table`.

    Returns:
        A row for each line, its image by full name where it is one of `images`.

    Raises:
        InputError: If it is no such list.
    """
    rows = _rows(path)
    if rows and rows[0].image not in images and not is_image(rows[0].image):
        title, others = rows[0].label, {row.label for row in rows[1:]}
        if title.lower() in _CLASS_COLUMNS or not title or title not in others:
            del rows[0]  # what the columns are called
    return [row._replace(image=images.get(row.image, row.image)) for row in rows]


def _rows(path: Path) -> list[Row]:
    lines = read_text(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    if delimiter:
        try:
            cells: list[list[str]] = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error as error:
            raise InputError(
                f"{path} is no table of images and classes, correct it: {error}"
            ) from error
    else:  # under one word stands one column, names with blanks among them
        cells = [line.split() if len(first.split()) > 1 else [line] for line in lines]
    filled = [line for line in cells if any(map(str.strip, line))]
    titles = [title.strip().lower() for title in filled[0]] if filled else []
    image = _column(titles, _IMAGE_COLUMNS)
    label = _column(titles, _CLASS_COLUMNS)
    split = _column(titles, _SPLIT_COLUMNS)
    if label is None and (named := _from_columns(cells, image or 0)) is not None:
        return named
    titled = image is not None or _is_title(filled)
    if split is None:
        split = _column_of_splits(filled, (image, label))
    width = max(map(len, cells), default=0)
    rest = [at for at in range(width) if at not in (image, label, split)]
    if image is None:
        image = rest.pop(0) if rest else 0
    if label is None and rest and (len(rest) == 1 or not titled):
        label = rest[0]  # of several columns with other titles none is known to be the class
    boxes = label is not None and titles[label : label + 1] == ["predictionstring"]
    # With boxes a cell is: class, box, class, box ...
    rows = []
    for number, line in enumerate(cells, start=1):
        if not any(cell.strip() for cell in line):
            continue
        found = line[label].strip() if label is not None and label < len(line) else ""
        name = re.split(r"[/\\]", line[image].strip())[-1] if image < len(line) else ""
        part = line[split].strip() if split is not None and split < len(line) else ""
        rows.append(Row(number, name, found.split()[0] if boxes and found else found, part))
    return rows


def _from_columns(cells: Sequence[Sequence[str]], image: int) -> list[Row] | None:
    """Read a table with a column per class, of which each line marks one with 1.

    Returns:
        None where the columns are not of 0 and 1 alone.
    """
    titles = [title.strip() for title in cells[0]] if cells else []
    lines = [(at, line) for at, line in enumerate(cells[1:], start=2) if any(map(str.strip, line))]
    rows = []
    for number, line in lines:
        marks = [cell.strip() for at, cell in enumerate(line) if at != image]
        ones = [mark in ("1", "1.0") for mark in marks]
        if len(line) != len(titles) or len(marks) < 2 or set(marks) - {"0", "1", "0.0", "1.0"}:
            return None
        names = [title for at, title in enumerate(titles) if at != image]
        name = re.split(r"[/\\]", line[image].strip())[-1]
        # Of none or of several classes: whoever checks the labels refuses it.
        rows.append(Row(number, name, names[ones.index(True)] if sum(ones) == 1 else ""))
    return rows if rows else None


def _is_title(cells: Sequence[Sequence[str]]) -> bool:
    """Tell a first line that names the columns: those below begin with the name of an image."""
    firsts = [line[0].strip() for line in cells[:2] if line]
    return len(firsts) > 1 and is_image(firsts[1]) and not is_image(firsts[0])


def _column_of_splits(cells: Sequence[Sequence[str]], others: Sequence[int | None]) -> int | None:
    """Return the column that holds names of several splits and nothing else, if there is one."""
    for at in range(1, len(cells[0]) if cells else 0):
        first, *below = (line[at].strip().lower() for line in cells if at < len(line))
        values = {*below, first} if first in SPLIT_NAMES else set(below)  # below a title
        if at not in others and len(values) > 1 and values <= SPLIT_NAMES.keys():
            return at
    return None


def _column(titles: Sequence[str], known: Sequence[str]) -> int | None:
    return next((titles.index(name) for name in known if name in titles), None)


def check_labels(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """See that the classes of a list are those of the training images.

    Raises:
        InputError: If there is a number where they have names.
    """
    known = set(classes)
    unknown = next((row for row in rows if row.label not in known), None)
    if unknown and all(row.label.isdigit() for row in rows):
        raise InputError(
            f"{path} has numbers ({in_line(unknown.label)}) where the training images have class "
            f"names ({in_line(classes[0])}): write the names, as nothing says which number "
            "is which"
        )
