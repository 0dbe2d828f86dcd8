"""What detection reads: annotations of every format, lists, detections, kept matches."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detect.data.checks import coordinates_look, count, duplicates
from detect.data.dataset import Annotation
from detect.data.opening import open_data
from detect.data.options import Coordinates, DataOptions
from detect.data.voc_xml import class_names, read_voc
from detect.scoring.detections import Detections, GroundTruth, ground_truth
from detect.scoring.formats.hints import hints
from detect.scoring.formats.reading import read_detections
from detect.scoring.matches import match
from detect.scoring.matches_file import Scored, read_scored, truth_digest, write_scored
from detect.scoring.voc import score_voc
from fuzzing.mutations import GZIP, zip_member
from fuzzing.running import Parser, Read

_CLASSES = ("helmet", "vest", "head gear")
_WIDTH, _HEIGHT = 64, 48
_MOST = 20  # images of a set that are read


def _jpeg() -> bytes:
    pixels = np.arange(_WIDTH * _HEIGHT * 3, dtype=np.uint8).reshape(_HEIGHT, _WIDTH, 3)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def _use(annotations: Sequence[Annotation], classes: Sequence[str]) -> GroundTruth:
    """Do what comes after reading: counts, looks, the tables that are scored."""
    count(annotations, classes)
    for annotation in annotations:
        annotation.usable(difficult=True)
        duplicates(annotation)
        coordinates_look(annotation.boxes, "voc")
    truth = ground_truth(annotations, classes)
    truth_digest(truth)
    return truth


def _read_all(path: Path, options: DataOptions | None = None) -> None:
    """Open data and read the first images of each set."""
    data = open_data(path, options)
    for name in data.sets:
        entries = data.entries(name, None)[:_MOST]
        images = [entry.load() for entry in entries]
        _use([image.annotation for image in images], data.classes)
        for entry in entries:
            entry.unlabelled()


def _write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _xml(objects: str, size: str = "<width>64</width><height>48</height>") -> bytes:
    return (
        '<?xml version="1.0"?>\n<annotation><folder>a</folder><filename>a.jpg</filename>'
        f"<size>{size}<depth>3</depth></size>{objects}</annotation>\n"
    ).encode()


def _object(name: str = "helmet", more: str = "", corners: str = "1 2 30 40") -> str:
    pairs = zip(("xmin", "ymin", "xmax", "ymax"), corners.split(), strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in pairs)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


# ---- annotations --------------------------------------------------------------------------------


def _voc_xml(folder: Path) -> Read:
    path = folder / "a.xml"
    labels = {"helmet": 0, "vest": 1, "head gear": None}

    def read(data: bytes) -> None:
        path.write_bytes(data)
        class_names(path)
        way: Coordinates = "voc" if len(data) % 2 else "zero-based"
        _use([read_voc(path, "a", labels, way).annotation], _CLASSES)

    return read


def _voc_xml_seeds() -> list[bytes]:
    hard = "<difficult>1</difficult><part><name>head</name></part>"
    return [
        _xml(""),
        _xml(_object()),
        _xml(_object() + _object("vest", hard, "1.5 2 64 48") + _object("head gear")),
        _xml(_object()).replace(b"1.0", b'1.0" encoding="latin-1'),
        b"\xef\xbb\xbf" + _xml(_object(corners="0 0 64 48")),
    ]


def _voc_folder(folder: Path) -> Path:
    year = folder / "data" / "VOC2024"
    for name in ("a", "b", "c d", "e.f"):
        _write(year / "Annotations" / f"{name}.xml", _xml(_object()).replace(b"a.jpg", b""))
        _write(year / "JPEGImages" / f"{name}.jpg", _jpeg())
    _write(year / "ImageSets" / "Main" / "train.txt", "a\nb\nc d\ne.f\n")
    _write(year.parent / "classes.txt", "\n".join(_CLASSES))
    return year


def _of_file(build: Callable[[Path], tuple[Path, Path]]) -> Callable[[Path], Read]:
    """Read data of which one file is the input: `build` returns the data's path and that file."""

    def prepare(folder: Path) -> Read:
        root, file = build(folder)
        file.parent.mkdir(parents=True, exist_ok=True)

        def read(data: bytes) -> None:
            file.write_bytes(data)
            _read_all(root)

        return read

    return prepare


def _id_list(folder: Path) -> tuple[Path, Path]:
    year = _voc_folder(folder)
    return year.parent, year / "ImageSets" / "Main" / "train.txt"


def _class_list(folder: Path) -> tuple[Path, Path]:
    year = _voc_folder(folder)
    return year.parent, year.parent / "classes.txt"


def _label_map(folder: Path) -> tuple[Path, Path]:
    year = _voc_folder(folder)
    return year, year / "labelmap.txt"


def _coco(folder: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        _write(folder / "data" / "train" / f"{name}.jpg", _jpeg())
    return folder / "data", folder / "data" / "annotations" / "instances_train.json"


def _coco_seeds() -> list[bytes]:
    image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
    item = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30.5, 40], "area": 1220.0}
    full: dict[str, Any] = {
        "info": {},
        "images": [image, {**image, "id": 2, "file_name": "./sub/b.jpg"}],
        "annotations": [
            {**item, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]},
            {**item, "id": 2, "image_id": 2, "category_id": 2, "iscrowd": 1},
        ],
        "categories": [
            {"id": 0, "name": "gear", "supercategory": "none"},
            {"id": 1, "name": "helmet", "supercategory": "gear"},
            {"id": 2, "name": "vest", "supercategory": "gear"},
        ],
    }
    texts = {**full, "images": [{**image, "id": "x"}], "annotations": [{**item, "image_id": "x"}]}
    empty = {"images": [image], "annotations": [], "categories": full["categories"][1:]}
    return [json.dumps(content).encode() for content in (full, texts, empty)]


def _yolo_folder(folder: Path) -> Path:
    root = folder / "data"
    for part in ("train", "val"):
        _write(root / "images" / part / "a.jpg", _jpeg())
        _write(root / "labels" / part / "a.txt", "0 0.5 0.5 0.25 0.5\n")
    _write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [helmet, vest]\n")
    return root


def _yolo_yaml(folder: Path) -> tuple[Path, Path]:
    root = _yolo_folder(folder)
    return root, root / "data.yaml"


def _yolo_labels(folder: Path) -> tuple[Path, Path]:
    root = _yolo_folder(folder)
    return root, root / "labels" / "train" / "a.txt"


def _yolo_list(folder: Path) -> tuple[Path, Path]:
    root = _yolo_folder(folder)
    _write(root / "data.yaml", "train: train.txt\nnames: [helmet, vest]\n")
    return root, root / "train.txt"


_YAML_SEEDS = (
    b"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: ['helmet', 'vest']\n",
    b"train: [images/train]\nval: ../valid/images\nnames:\n  0: helmet\n  1: vest\n",
    b'# c\ntrain: ./images/train # x\nkpt_shape: [17, 3]\nnames: {0: a b, 7: "x"}\ntest:\n',
)
_YAML_WORDS = [
    *(b"&a ", b"*a", b"<<: *a", b"!!", b"? ", b"- ", b"|\n", b"---\n", b"%YAML 1.1\n"),
    *(b"!!timestamp ", b"!!int ", b"!!float ", b"!!binary ", b"!!set ", b"!!omap ", b"!!bool "),
    *(b"!!python/object:os.system", b"2001-99-99", b"1:99:99", b"0b1", b"0o7", b"0x" + b"f" * 5000),
    *(b"names:", b"train:", b"nc:", b"/dev/zero"),
]
_LABEL_SEEDS = (
    b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.2\n",
    b"1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n",
    b"\n",
)

# ---- detections ---------------------------------------------------------------------------------


def _truth() -> GroundTruth:
    ids = ("000001", "2008_000002", "img 3")
    boxes = np.array([[0.0, 1, 30, 40], [5, 5, 20, 20]])
    return ground_truth(
        [
            Annotation(name, _WIDTH, _HEIGHT, boxes, np.array([0, 1]), np.array([False, True]))
            for name in ids[:2]
        ]
        + [Annotation(ids[2], 9, 9, boxes[:0], np.empty(0, np.int64), np.empty(0, np.bool_))],
        _CLASSES,
    )


def _score(truth: GroundTruth, detections: Detections) -> None:
    matches = match(truth, detections)
    hints(truth, detections, matches)
    score_voc(truth, detections, iou=0.5, matches=matches)


def _detections(name: str, given: str, *others: str) -> Callable[[Path], Read]:
    """Read detections, a folder or a file, of which the file `name` is the input."""

    def prepare(folder: Path) -> Read:
        truth = _truth()
        for other in others:
            _write(folder / "found" / other, b"")
        file = _write(folder / "found" / name, b"")

        def read(data: bytes) -> None:
            file.write_bytes(data)
            _score(truth, read_detections(folder / "found" / given, truth))

        return read

    return prepare


_VOC_TEXT_SEEDS = (
    b"000001 0.9 1 2 30 40\n2008_000002 0.25 3 4 50 48\n",
    b"img 3 0.9 1 2 8 9\n",
    b"000001,0.9,1,2,30,40\n",
    b"",
)
_IMAGE_TEXT_SEEDS = (
    b"0 0.5 0.5 0.25 0.5 0.9\n1 0.1 0.1 0.2 0.2 0.1\n",
    b"helmet 0.9 1 2 30 40\n",
    b"vest 1 2 30 40 0.5\n",
    b"",
)


def _coco_results() -> list[bytes]:
    entry = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10.5, 20], "score": 0.5}
    named = {"file_name": "a/000001.jpg", "category_id": "vest", "bbox": [1, 2, 60, 40], "score": 1}
    contents = [[entry], [entry, {**entry, "image_id": 2008000002, "category_id": 3}], [named], []]
    return [json.dumps(c).encode() for c in (*contents, {"annotations": [entry]})]


def _matches_npz(folder: Path) -> Read:
    truth, file = _truth(), folder / "matches.npz"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        found = read_scored(folder, truth, None, 0.5)
        if found:
            score_voc(truth, found.detections, iou=0.5, matches=found.matches)

    return read


def _matches_seeds() -> list[bytes]:
    import tempfile

    truth = _truth()
    found = Detections(np.array([0]), np.array([1]), np.array([0.5]), np.array([[0.0, 1, 9, 9]]))
    with tempfile.TemporaryDirectory() as name:
        scored = Scored(found, match(truth, found), np.zeros((3, 3, 2)))
        write_scored(Path(name), scored, truth, None, 0.5)
        return [(Path(name) / "matches.npz").read_bytes()]


PARSERS = {
    "voc-xml": Parser(
        "annotations in VOC's XML",
        _voc_xml_seeds,
        _voc_xml,
        [
            *b"<object> </object> <name> <bndbox> <!-- <![CDATA[ &#0; &lt; <?x?> <!DOCTYPE".split(),
            *(b" xmlns='a'", b" encoding='utf-7'", b" encoding='utf-16'"),
        ],
    ),
    "id-list": Parser(
        "lists of image ids",
        lambda: (b"a\nb\n", b"c d\ne.f\n", b"a -1\nb 1\n", b"\xef\xbb\xbfa\r\n"),
        _of_file(_id_list),
        (b"a", b" -1", b" 1", b"../a", b"x" * 256),
    ),
    "class-list": Parser(
        "lists of class names",
        lambda: (b"helmet\nvest\nhead gear\n", b"\xef\xbb\xbfhelmet\r\n\r\nvest"),
        _of_file(_class_list),
        (b"helmet", b"vest", b"x" * 256),
    ),
    "label-map": Parser(
        "CVAT's labelmap.txt",
        lambda: (b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nhelmet:1,2,3::\n",),
        _of_file(_label_map),
        (b"helmet", b"# label:", b"background"),
    ),
    "coco": Parser("COCO's annotations", _coco_seeds, _of_file(_coco), (b'"categories": [',)),
    "yolo-yaml": Parser("YOLO's data.yaml", lambda: _YAML_SEEDS, _of_file(_yolo_yaml), _YAML_WORDS),
    "yolo-labels": Parser("YOLO's label files", lambda: _LABEL_SEEDS, _of_file(_yolo_labels)),
    "yolo-list": Parser(
        "YOLO's lists of images",
        lambda: (b"images/train/a.jpg\n", b"/home/x/images/val/a.jpg\n./images/train/a.jpg\n"),
        _of_file(_yolo_list),
        (b"images/train/", b"a.jpg", b"/" * 200, b"x" * 256),
    ),
    "detections-voc": Parser(
        "detections as VOC's text, a file a class",
        lambda: _VOC_TEXT_SEEDS,
        _detections(
            "comp4_det_test_vest.txt",
            ".",
            "comp4_det_test_helmet.txt",
            "comp4_det_test_head gear.txt",
        ),
        (b"000001", b"img 3", b","),
    ),
    "detections-texts": Parser(
        "detections as text, a file an image",
        lambda: _IMAGE_TEXT_SEEDS,
        _detections("000001.txt", ".", "img 3.txt"),
        (b"helmet", b"head gear", b","),
    ),
    "detections-coco": Parser(
        "detections as COCO's results",
        lambda: [*_coco_results(), *(gzip.compress(d, mtime=0) for d in _coco_results()[:2])],
        _detections("found.json", "found.json"),
        (b'"image_id"', b'"bbox"', b'"score"'),
        (GZIP,),
    ),
    "matches": Parser(
        "matches.npz, kept by a scoring",
        _matches_seeds,
        _matches_npz,
        (b"\x93NUMPY", b"'descr': '|O'", b"'fortran_order': True", b"'shape': (9999999999,)"),
        tuple(map(zip_member, ("of.npy", "matches_overlap.npy", "detections_box.npy"))),
    ),
}
