"""VOC's annotation files in other folders than a devkit's: exports of annotation tools.

ImageSets/Main/*.txt  Annotations/*.xml  JPEGImages/     CVAT, or one year of a devkit
Annotations/*.xml     images/                            without lists
train/  valid/  test/      *.xml beside their images     Roboflow
*.xml beside their images                                labelImg, LabelMe
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.images.hidden import children, descendants
from common.text import counted
from detect.data import foreign
from detect.data.dataset import DetectionData, Entry, label_map, shown
from detect.data.faults import Faults
from detect.data.options import DataOptions
from detect.data.pictures import Pictures
from detect.data.splits import ALL
from detect.data.voc import read_class_list, read_ids, read_lines, sets_of, voc_entries
from detect.data.voc_xml import Labels, class_names, parse

_ANNOTATIONS = ("annotations", "annotation", "xmls", "xml")
_PICTURES = ("jpegimages", "images", "image", "imgs", "img")
_SPLITS = ("train", "training", "trainval", "val", "valid", "validation", "test", "testing")
_NO_CLASS = ("background", "__ignore__", "_background_")
_CLASS_FILES = ("classes.txt", "labelmap.txt", "labels.txt")


@dataclass(frozen=True, slots=True)
class _Part:
    """A set: annotations, pictures, and the list that names its images, if there is one."""

    annotations: Path
    pictures: Pictures
    listed: Path | None = None


def find_parts(root: Path, *, deep: bool = False) -> dict[str, _Part]:
    """Return the sets of an export by name; none where it is no such export.

    Args:
        root: Its folder.
        deep: Whether folders of any name may hold pictures with XML beside them.
    """
    main = root / "ImageSets" / "Main"
    annotations, pictures = _child(root, _ANNOTATIONS), _child(root, _PICTURES)
    if main.is_dir() and sets_of(main):
        files = Pictures(pictures or root)
        lists = {name: main / f"{name}.txt" for name in sets_of(main)}
        return {n: _Part(annotations or root / "Annotations", files, p) for n, p in lists.items()}
    parts: dict[str, _Part] = {}
    for folder in _folders(root):
        if folder.name.lower() in _SPLITS and (part := _pair(folder)):
            parts[folder.name] = part
    if not parts and annotations:
        for folder in _folders(annotations):
            if folder.name.lower() in _SPLITS and _xml_in(folder):
                beside = pictures / folder.name if pictures else folder
                parts[folder.name] = _Part(folder, Pictures(_existing(beside, pictures or folder)))
    if not parts and (part := _pair(root, deep=deep)):
        parts[ALL] = part
    return parts


def _pair(folder: Path, *, deep: bool = False) -> _Part | None:
    """Find a folder's annotations and pictures, in folders of their own or side by side."""
    annotations = _child(folder, _ANNOTATIONS) or folder
    if not (_xml_in(annotations) or ((deep or annotations != folder) and _ids_in(annotations))):
        return None
    return _Part(annotations, Pictures(_child(folder, _PICTURES) or folder))


def _folders(folder: Path) -> list[Path]:
    return list(filter(Path.is_dir, children(folder)))


def _child(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Find the folder inside with one of these names, in any case."""
    inside = {path.name.lower(): path for path in _folders(folder)}
    return next((inside[name] for name in names if name in inside), None)


def _existing(folder: Path, other: Path) -> Path:
    return folder if folder.is_dir() else other


def _xml_in(folder: Path) -> bool:
    return any(map(_is_xml, children(folder)))


def _ids_in(folder: Path) -> list[str]:
    """Return the ids of all annotations in a folder and in those below it, in order."""
    inside = (path.relative_to(folder) for path in filter(_is_xml, descendants(folder)))
    return sorted(path.as_posix()[: -len(".xml")] for path in inside)


def _is_xml(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def open_export(
    path: Path, root: Path, parts: dict[str, _Part], options: DataOptions
) -> DetectionData:
    """Open an export.

    Args:
        path: What the user named.
        root: The folder of the export.
        parts: What `find_parts` found.
        options: How to read it.

    Raises:
        InputError: A class file or a list is wrong.
    """
    found, origin = _classes(root, parts)
    classes, label_of = label_map(found, options.classes, path)
    return DetectionData(
        path=path,
        kind="VOC annotations without year folders",
        classes=classes,
        sets=tuple(parts),
        entries=partial(_entries, parts, label_of, options),
        notes=(origin, *_passed_over(parts)),
    )


def _entries(
    parts: dict[str, _Part],
    label_of: Labels,
    options: DataOptions,
    name: str,
    faults: Faults | None,
) -> list[Entry]:
    part = parts[name]
    return voc_entries(
        part.listed or part.annotations,
        _ids(part, faults),
        part.annotations,
        part.pictures,
        label_of,
        options.xml_coordinates,
    )


def _ids(part: _Part, faults: Faults | None = None) -> list[str]:
    if part.listed:
        return read_ids(part.listed, faults)
    return _ids_in(part.annotations)


def _classes(root: Path, parts: dict[str, _Part]) -> tuple[tuple[str, ...], str]:
    """Return the class names, and a sentence that says where they are from."""
    for name in _CLASS_FILES:
        path = root / name
        if path.is_file():
            lines = [line for line in read_lines(path) if line]
            if name == "labelmap.txt":  # name:colour:parts:actions
                lines = [line.split(":")[0] for line in lines if not line.startswith("# label:")]
            names = read_class_list(path, [line for line in lines if line not in _NO_CLASS])
            return names, f"classes from {name}"
    folders = {part.annotations for part in parts.values()}
    files = [p for folder in sorted(folders) for p in filter(_is_xml, descendants(folder))]
    found = sorted(set().union(*map(class_names, files)))
    if not found:
        foreign.refuse(root)
        for file in files:
            parse(file)  # what cannot be read has no objects either
        raise InputError(
            f"{root}: none of its annotations ({len(files)}) holds an <object>, and there is no "
            "classes.txt: label the images first"
        )
    return tuple(found), "classes from the annotations, sorted; a classes.txt would give the order"


def _passed_over(parts: dict[str, _Part]) -> list[str]:
    """Say which pictures have no annotation, where no list leaves them out."""
    notes = []
    for name, part in parts.items():
        rest = sorted(set(part.pictures.names()) - set(_ids(part))) if not part.listed else []
        if rest:
            notes.append(
                f"left out, having no annotation: {counted(len(rest), 'image')} of "
                f"{shown(name)}, such as {shown(rest[0])}"
            )
    return notes
