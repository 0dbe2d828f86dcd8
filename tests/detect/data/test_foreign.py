"""Formats that annotation tools keep for themselves are told by name, wherever they lie."""

import json
from pathlib import Path

import pytest

from common.errors import InputError
from detect.data.opening import open_data

LABELME = {
    "version": "5.4.1",
    "shapes": [{"label": "cat", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}],
    "imagePath": "a.jpg",
}
BOX = {"original_width": 30, "value": {"x": 1.5, "rectanglelabels": ["cat"]}}
LABEL_STUDIO = [{"annotations": [{"result": [BOX]}], "data": {"image": "/data/upload/a.jpg"}}]
CREATE_ML = [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 5}}]}]
VIA = {"a.jpg1": {"regions": [{"shape_attributes": {"name": "rect"}}]}}
CVAT = '<annotations><version>1.1</version><image id="0" name="a.jpg"></image></annotations>'
DATUMARO = {"categories": {"label": {"labels": [{"name": "cat"}]}}, "items": [{"id": "a"}]}
SUPERVISELY = {"objects": [{"classTitle": "cat", "points": {"exterior": [[1, 2], [9, 8]]}}]}
SEGMENTS = {"segments_info": [{"id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]}], "image_id": 1}
PANOPTIC = {"images": [], "annotations": [SEGMENTS], "categories": []}
KITTI = "Car 0.00 0 -1.57 5.00 6.00 28.00 30.00 1.5 1.6 3.7 1.0 1.7 20.0 -1.5\n"
FIFTY_ONE = {"classes": ["cat"], "labels": {"a": [{"label": "cat", "bounding_box": [0.1, 0.2]}]}}
LINE = "write a line of class number, x, y, width and height"
FILES = {
    "a.json": (json.dumps(LABELME), r"LabelMe's own JSON, .*: convert them to COCO or YOLO"),
    "project-1.json": (json.dumps(LABEL_STUDIO), r"Label Studio's own JSON, .*: export COCO"),
    "_annotations.createml.json": (json.dumps(CREATE_ML), r"CreateML's JSON, .*: export COCO"),
    "via_region_data.json": (json.dumps(VIA), r"VIA's own JSON, .*: export COCO"),
    "annotations.xml": (CVAT, r"CVAT's own XML, .*: export COCO, YOLO or Pascal VOC there"),
    "_annotations.csv": ("filename,class,xmin\na.jpg,cat,1\n", r"a table of boxes, .*: convert"),
    "default.json": (json.dumps(DATUMARO), r"Datumaro's own JSON, .*: export COCO"),
    "a.jpg.json": (json.dumps(SUPERVISELY), r"Supervisely's own JSON, .*: export COCO"),
    "panoptic_val.json": (
        json.dumps(PANOPTIC),
        r"COCO's panoptic segments, .*: give the",
    ),
    "train.csv": ('image_id,bbox\na,"[1, 2, 3, 4]"\n', r"a table of boxes, .*: convert"),
    "b.csv": ("a.jpg,5,6,28,30,cat\n", r"a table of boxes, .*: convert"),
    "export.zip": ("PK\3\4", r"an archive, .*: unpack it, and give the folder"),
    "cats.tfrecord-00000-of-00001": ("x", r"TensorFlow's records, .*: convert"),
    "train-00000.parquet": ("PAR1", r"a table of Hugging Face's, .*: convert"),
}
DOUBTFUL = {
    "x.csv": ("path,x1,y1,x2,y2\n", r"a table, .*: if it holds the boxes, convert it"),
    "metadata.jsonl": ('{"file_name": "a.jpg"}\n', r"JSON by lines, .*: convert it"),
    "labels.json": (json.dumps(FIFTY_ONE), r"another tool's JSON, .*: convert it"),
    "000001.txt": (KITTI, rf"KITTI's label \('Car 0.*'\), .*: {LINE}"),
    "gt.txt": ("1,1,5,6,23,24,1,1,1.0\n", rf"no label of YOLO's \('1,1,.*'\), .*: {LINE}"),
    "_annotations.txt": ("a.jpg 5,6,28,30,0\n", rf"no label of YOLO's \('a.jpg .*'\), .*: {LINE}"),
    "P1.txt": ("gsd:0.1\n1.0 2.0 3.0 2.0 3.0 4.0 1.0 4.0 ship 0\n", r"no label of YOLO's \('1.0 2"),
    "a.txt": ("0 0.5 0.5 0.1 0.1\n", r"a label of YOLO's in no folder called labels, .*: put the"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_format_that_is_not_read(name: str, tmp_path: Path) -> None:
    content, message = FILES[name]
    for place in ("beside", "over/images", "sets/train"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "a.jpg").touch()
        file = (folder.parent if place == "over/images" else folder) / name
        file.write_text(content)
        data = folder if place == "beside" else folder.parent
        with pytest.raises(InputError, match=rf"{place.split('/')[0]}.*{name} is {message}"):
            open_data(data)
    if file.suffix == ".json":
        with pytest.raises(InputError, match=f"{name} is {message}"):
            open_data(file)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_table_or_a_text_where_nothing_is_known(name: str, tmp_path: Path) -> None:
    content, message = DOUBTFUL[name]
    folder = tmp_path / "set" / "boxes"
    folder.mkdir(parents=True)
    (tmp_path / "set" / "pictures").mkdir()
    (tmp_path / "set" / "pictures" / "a.jpg").touch()
    (folder / "readme.txt").write_text("1 2 3 4 5 6")
    (folder / name).write_text(content)
    for data in (tmp_path, tmp_path / "set"):
        with pytest.raises(InputError, match=rf"/boxes/{name} is {message}"):
            open_data(data)


def test_such_a_file_beside_what_is_read_is_passed_by(tmp_path: Path) -> None:
    inside = tmp_path / "export"
    (inside / "labels").mkdir(parents=True)
    (inside / "images").mkdir()
    (inside / "classes.txt").write_text("cat\n")
    (inside / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for folder in (tmp_path, inside):
        for name, (content, _) in (FILES | DOUBTFUL).items():
            if folder == tmp_path or name.endswith(("json", "csv")):
                (folder / name).write_text(content)
    assert open_data(inside).classes == ("cat",)
