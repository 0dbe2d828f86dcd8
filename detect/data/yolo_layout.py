"""Where YOLO data keep their images, sets and class names.

data.yaml           path, train, val, test, names      ultralytics, Roboflow
images/  labels/    perhaps with a folder per set, and classes.txt
train/images/  train/labels/
*.txt beside their images, and classes.txt             labelImg
train/*.txt beside their images, and _darknet.labels   Roboflow
obj.names  train.txt  obj_train_data/                  CVAT, Darknet
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.images.hidden import children, descendants
from common.storage import decode_text
from detect.data.dataset import class_name, listed, quoted, shown
from detect.data.splits import ALL
from detect.data.voc import read_class_list, read_lines
from detect.data.voc_xml import read_bytes

_MAX_YAML_BYTES = 10_000_000
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
_WORDS = ("train", "training", "val", "valid", "validation", "test", "testing")
_SETS = ("train", "val", "valid", "test")
NOT_LABELS = ("classes.txt", "predefined_classes.txt", "readme")
"""How the names of other files among the label files begin."""
SUFFIXES = (".txt", ".TXT")
"""Of label files."""
_MOST_FOLDERS = 100  # in a path of a data.yaml
_MOST_CLASSES = 1_000_000
_MOST_KEY_POINTS = 10_000
Source = tuple[Path, ...]
"""Folders of images, or lists of them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What was found: where class names and sets are from, and whether labels hold key points."""

    root: Path
    names: dict[int, str]
    sets: dict[str, Source]
    key_points: tuple[int, int] | None = None
    """How many follow the box of an object, of how many numbers each; None: none."""
    notes: tuple[str, ...] = ()


# ---- data.yaml ----------------------------------------------------------------------------------


def find_yaml(path: Path) -> Path | None:
    """Return the file that describes YOLO data, given or in a folder; None where there is none."""
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    candidates = [path / "data.yaml", path / "data.yml", path / "dataset.yaml"]
    candidates += (p for p in children(path) if p.suffix.lower() in (".yaml", ".yml"))
    for file in candidates:
        if file.is_file():
            data = read_bytes(file, "data.yaml", _MAX_YAML_BYTES)
            if b"names" in data.replace(b"\0", b""):  # of UTF-16, too
                return file
    return None


class _Plain(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses aliases, of which a few, nested, can fill a disk, and keys that come twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"*{event.anchor} is an alias: write out what it stands for")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        times = Counter(str(key.value) for key, _ in node.value)
        if doubled := next((key for key, count in times.items() if count > 1), None):
            raise yaml.YAMLError(f"{doubled} comes twice: remove one")
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Layout:
    """Read a data.yaml.

    Raises:
        InputError: It is malformed, or a path of it leads nowhere.
    """
    text = decode_text(read_bytes(file, "data.yaml", _MAX_YAML_BYTES), file)
    try:
        content = yaml.load(text, _Plain)
    except Exception as error:  # odd dates, numbers and tags raise nearly anything
        raise InputError(
            f"{file} is not YAML: correct it ({' '.join(str(error).split())})"[:300]
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is no data.yaml: write what names: and train: are")
    names = _names(file, content)
    bases = _bases(file, content.get("path"))
    notes = [f"classes from {file.name}"]
    sets: dict[str, Source] = {}
    for key in _SETS:
        stated = content.get(key)
        places = [stated] if isinstance(stated, str) else stated or []
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise InputError(f"{file}: {key} is neither a path nor a list: write a path")
        try:
            found = tuple(_existing(file, bases, key, place) for place in places if place)
        except InputError:
            if key != "test" or not sets:  # Roboflow writes a test that it did not export
                raise
            notes.append(f"test is left out, for {listed(map(quoted, places))} is not there")
            continue
        if found:
            sets[key] = found
    if not sets:
        raise InputError(f"{file} names no images: write train: images/train, and val likewise")
    return Layout(file.parent, names, sets, _key_points(file, content), tuple(notes))


def _key_points(file: Path, content: Mapping[str, Any]) -> tuple[int, int] | None:
    stated = content.get("kpt_shape")
    if stated is None:
        return None
    whole = isinstance(stated, list) and all(type(number) is int for number in stated)
    if (
        not whole
        or len(stated) != 2
        or not 1 <= stated[0] <= _MOST_KEY_POINTS
        or stated[1] not in (2, 3)
    ):
        raise InputError(
            f"{file}: kpt_shape is {_cut(stated)}: write [key points, 2 or 3 numbers each]"
        )
    return stated[0], stated[1]


def _names(file: Path, content: Mapping[str, Any]) -> dict[int, str]:
    names: Any = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        found = {int(key): name for key, name in (names or {}).items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        found = {}
    if not found or min(found) < 0 or max(found) >= _MOST_CLASSES:
        raise InputError(f"{file} names no classes: write names: [helmet, vest], or one per line")
    if "nc" in content and content["nc"] != len(found):
        raise InputError(
            f"{file}: nc is {_cut(content['nc'])}, but there are {len(found)} names: correct it"
        )
    quote = "put it in quotes, for YAML reads yes, no, null and 1.0 as something else"
    named = {k: class_name(name, f"{file}: class {k}", quote) for k, name in found.items()}
    read_class_list(file, named.values())
    return named


def _cut(value: Any) -> str:
    try:
        return shown(repr(value))
    except ValueError:  # a number of thousands of digits
        return "no number"


def _bases(file: Path, stated: Any) -> list[Path]:
    """List the folders that paths of a data.yaml may begin at, the likeliest first."""
    bases = [file.parent]
    if isinstance(stated, str) and stated:
        path = Path(stated)
        bases = [path if path.is_absolute() else file.parent / path, path, file.parent]
    return bases


def _existing(file: Path, bases: Sequence[Path], key: str, place: str) -> Path:
    """Find a path of a data.yaml: as it says, without ../, or the end of another machine's."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    # The name of the set stays: of ../test/images, images/ alone would be every set's.
    last = max(
        (n for n, part in enumerate(parts) if part.lower() in _WORDS), default=len(parts) - 1
    )
    ends = (base.joinpath(*parts[cut:]) for cut in range(last + 1) for base in bases)
    candidates = chain((base / place for base in bases), ends)
    what = "which is not there"
    for candidate in candidates if len(parts) <= _MOST_FOLDERS else ():
        try:
            if candidate.exists():
                if candidate.resolve() != Path(candidate.resolve().anchor):
                    return candidate
                what = "the whole disk"
        except OSError:  # too long a name
            continue
    raise InputError(
        f"{file}: {key} is {quoted(place)}, {what}: write where the images are, from {file.parent}"
    )


# ---- folders ------------------------------------------------------------------------------------


def find_folders(root: Path) -> Layout | None:
    """Return the layout of YOLO data without a data.yaml; None where there is none."""
    sets: dict[str, Source] = {}
    for name in ("train", "training", "val", "valid", "validation", "test"):
        of_set = _inside(root, name)
        for images, labels in (
            (_inside(root, "images", name), _inside(root, "labels", name)),
            (_inside(of_set, "images"), _inside(of_set, "labels")),
            (of_set, of_set),
        ):
            if images.is_dir() and labels.is_dir() and _has_labels(labels):
                sets[name] = (images,)
                break
    lists = {name: root / f"{name}.txt" for name in ("train", "valid", "val", "test")}
    if not sets and (root / "obj.names").is_file():
        sets = {name: (file,) for name, file in lists.items() if file.is_file()}
        sets = sets or {ALL: (root / "obj_train_data",)}
    if not sets:
        for images, labels in ((_inside(root, "images"), _inside(root, "labels")), (root, root)):
            if images.is_dir() and labels.is_dir() and _has_labels(labels):
                sets[ALL] = (images,)
                break
    if not sets:
        return None
    beside = [place / "_darknet.labels" for source in sets.values() for place in source]
    for file in [*(_inside(root, name) for name in _CLASS_FILES), *beside]:
        if file.is_file():
            names = dict(enumerate(read_class_list(file, _numbered(file))))
            return Layout(root, names, sets, notes=(f"classes from {file.name}",))
    raise InputError(
        f"{root} has YOLO labels, but neither data.yaml nor classes.txt says what they are called: "
        "write classes.txt, one name per line, in the order of the numbers"
    )


def _inside(folder: Path, *names: str) -> Path:
    """Return a path in a folder, with capital letters where it is so written: Images, IMAGES."""
    for name in names:
        ways = (folder / way for way in (name, name.capitalize(), name.upper()))
        folder = next((path for path in ways if path.exists()), folder / name)
    return folder


def _numbered(file: Path) -> list[str]:
    """Read class names whose numbers are their lines.

    Raises:
        InputError: A blank line stands between them: programs differ in whether it has a number.
    """
    lines = read_lines(file)
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        blank = lines.index("") + 1
        raise InputError(
            f"{file}, line {blank} is blank, but a class's number is its line: remove it, or, if "
            f"the labels count it, write a name for class {blank - 1}"
        )
    return lines


def label_files(folder: Path) -> list[Path]:
    """List the files of a folder that end as labels do, in .txt or .TXT."""
    return [file for file in children(folder) if file.suffix in SUFFIXES]


def _has_labels(folder: Path) -> bool:
    """Tell whether a folder holds a label file, by the first lines of some."""
    named = folder.name.lower() == "labels"
    inside = descendants(folder) if named else children(folder)
    files = [file for file in inside if file.suffix in SUFFIXES]
    files = [file for file in files if not file.name.lower().startswith(NOT_LABELS)]
    told = (found for found in map(is_label, files[:20]) if found is not None)
    return next(told, bool(files) and named)


def is_label(file: Path) -> bool | None:
    """Tell a label file by its first lines; None: it is empty, or cannot be read."""
    try:
        fields = [line.split() for line in read_lines(file) if line]
    except InputError:
        return None
    if not fields:
        return None
    return all(len(line) >= 5 and all(map(_is_number, line)) for line in fields[:5])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
