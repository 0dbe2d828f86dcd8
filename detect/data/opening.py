"""Opening whatever --data names: its format is detected, and it becomes one internal set."""

from functools import partial
from pathlib import Path

from common.errors import InputError
from common.images.hidden import children
from detect.data import coco, coco_files, foreign, voc_export, yolo, yolo_layout
from detect.data.dataset import DetectionData, label_map, shown
from detect.data.options import DataOptions
from detect.data.splits import split_by
from detect.data.voc import class_file, devkit_entries, devkit_root, devkit_sets, read_classes

_MOST_SHOWN = 8  # names of a folder in a message


class _UnknownDataError(InputError):
    """Nothing in the data is of a known kind."""


def open_data(path: Path, options: DataOptions | None = None) -> DetectionData:
    """Find out what data are, and open them; what they hold is read later, set by set.

    Args:
        path: A VOC devkit, an export of VOC annotations, COCO or YOLO data: a folder, or the file
            that describes it.
        options: How to read them.

    Raises:
        InputError: They are of no known kind, their description is wrong, or an option does not
            suit them.
    """
    options = options or DataOptions()
    data = _open(path, options)
    if options.images and data.metric != "coco":
        raise InputError(f"--images is for COCO's JSON, but {path} is {data.kind}: leave it out")
    if options.coordinates == "zero-based" and data.metric != "voc":
        raise InputError(
            f"--coordinates is for VOC's XML, but {path} is {data.kind}, which count edges from 0: "
            "leave it out"
        )
    return split_by(data, options.split_by) if options.split_by is not None else data


def _open(path: Path, options: DataOptions) -> DetectionData:
    if not path.exists():
        raise InputError(f"{path} does not exist: give the folder of the data")
    if path.is_dir() and _has_years(path):
        return _open_devkit(path, options)
    if path.is_file():
        foreign.refuse(path)
    if file := yolo_layout.find_yaml(path):
        return yolo.open_yolo(path, yolo_layout.read_yaml(file), options)
    if files := coco_files.find_json(path):
        return coco.open_coco(path, files, options)
    if path.is_dir():
        if parts := voc_export.find_parts(path):
            return voc_export.open_export(path, path, parts, options)
        if layout := yolo_layout.find_folders(path):
            return yolo.open_yolo(path, layout, options)
        inside = list(filter(Path.is_dir, children(path)))
        if len(inside) == 1:  # as archives unpack, beside them or beside a note
            try:
                return _open(inside[0], options)
            except InputError as error:
                foreign.refuse(path)
                if isinstance(error, _UnknownDataError):
                    foreign.refuse_doubtful(path)
                raise
        foreign.refuse(path)
        coco_files.refuse_damaged(path)
        if parts := voc_export.find_parts(path, deep=True):
            return voc_export.open_export(path, path, parts, options)
    if path.suffix.lower() != ".json":
        foreign.refuse_doubtful(path)
    raise _UnknownDataError(
        f"{path} is neither a VOC devkit (VOC2007/ and so on), VOC annotations (.xml), COCO "
        f"(annotations/*.json) nor YOLO data (data.yaml, or images/ and labels/): "
        f"give one of these; {_holds(path)}"
    )


def _holds(path: Path) -> str:
    if path.is_file():
        return "it is a file"
    names = [f"{child.name}/" if child.is_dir() else child.name for child in children(path)]
    cut = ["..."] if len(names) > _MOST_SHOWN else []
    return f"it holds {', '.join([*map(shown, names[:_MOST_SHOWN]), *cut]) or 'nothing'}"


def _has_years(path: Path) -> bool:
    return any(devkit_root(path).glob("VOC[0-9][0-9][0-9][0-9]"))


def _open_devkit(path: Path, options: DataOptions) -> DetectionData:
    file = class_file(path)
    classes, label_of = label_map(read_classes(path), options.classes, path)
    return DetectionData(
        path=path,
        kind="a VOC devkit",
        classes=classes,
        sets=tuple(devkit_sets(path)),
        entries=partial(devkit_entries, path, label_of, options.xml_coordinates),
        has_years=True,
        notes=(f"classes from {file.name}" if file else "VOC's twenty classes",),
    )
