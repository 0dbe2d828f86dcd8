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
FILES = {
    "a.json": (json.dumps(LABELME), r"LabelMe's own JSON, .*: convert them to COCO or YOLO"),
    "project-1.json": (json.dumps(LABEL_STUDIO), r"Label Studio's own JSON, .*: export COCO"),
    "_annotations.createml.json": (json.dumps(CREATE_ML), r"CreateML's JSON, .*: export COCO"),
    "via_region_data.json": (json.dumps(VIA), r"VIA's own JSON, .*: export COCO"),
    "annotations.xml": (CVAT, r"CVAT's own XML, .*: export COCO, YOLO or Pascal VOC there"),
    "_annotations.csv": ("filename,class,xmin\na.jpg,cat,1\n", r"a table of boxes, .*: convert"),
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


def test_such_a_file_beside_what_is_read_is_passed_by(tmp_path: Path) -> None:
    inside = tmp_path / "export"
    (inside / "labels").mkdir(parents=True)
    (inside / "images").mkdir()
    (inside / "classes.txt").write_text("cat\n")
    (inside / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for folder in (tmp_path, inside):
        for name, (content, _) in FILES.items():
            if folder == tmp_path or name.endswith(("json", "csv")):
                (folder / name).write_text(content)
    assert open_data(inside).classes == ("cat",)
