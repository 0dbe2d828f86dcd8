"""All faults of an annotation at once: verify names them in one run, reading raises the first."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.errors import InputError
from detect.data.faults import MOST_TOLD, Together, bounded
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.verify import verify

PHOTO = cv2.imencode(".jpg", np.full((30, 40, 3), 90, np.uint8))[1].tobytes()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def voc(root: Path) -> tuple[Path, list[str]]:
    """An annotation with six faults, two of them in one object."""

    def item(name: str, box: tuple[Any, ...], more: str = "") -> str:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inside = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        return f"<object><name>{name}</name><bndbox>{inside}</bndbox>{more}</object>"

    objects = [
        item("dog", (1, 2, 9, 8)),
        item("unicorn", (1, 2, 9, 8)),
        item("unicorn", (1, 2, 9, 8)),  # told once
        item("dog", (9, 2, 1, 8), "<difficult>maybe</difficult>"),
        "<object><name>dog</name></object>",
        item("dog", ("ten", 2, 9, 8)),
    ]
    size = "<size><width>40.5</width><height>30</height></size>"
    write(root / "VOC2007/Annotations/1.xml", f"<annotation>{size}{''.join(objects)}</annotation>")
    write(root / "VOC2007/JPEGImages/1.jpg", PHOTO)
    write(root / "VOC2007/ImageSets/Main/train.txt", "1\n")
    write(root / "classes.txt", "dog\n")
    return root / "VOC2007/Annotations/1.xml", [
        "the image size 40.5 x 30 is not whole pixels: correct it",
        "object 2: 'unicorn' is an unknown class; the classes are dog: correct either",
        "object 4 (dog): the box xmin 9, ymin 2, xmax 1, ymax 8 is inverted: swap them",
        "object 4 (dog): <difficult> is 'maybe': write 0 or 1",
        "object 5 (dog): <bndbox> is missing: write it",
        "object 6 (dog): <xmin> is 'ten', not a number: correct it",
    ]


def yolo(root: Path) -> tuple[Path, list[str]]:
    lines = ["0 .5 .5 .2 .2", "7 .5 .5 .2 .2", "", "0 .5 .5 -.2 .2", "dog .5", "0 50 50 20 20"]
    write(root / "data.yaml", "names: [dog]\ntrain: images/train\n")
    write(root / "images/train/1.jpg", PHOTO[:-2])  # told beside them
    label = write(root / "labels/train/1.txt", "\n".join(lines))
    return label, [
        "line 2: class 7 is none of 0 to 0: add it to the classes, or count them from 0",
        "line 4: width -0.2 or height 0.2 is negative: correct it",
        "line 5: 'dog .5' is not 'class x y width height' in numbers: correct it",
        "line 6: the box lies outside the image: write shares of its width and height, from 0 to "
        "1, not pixels",
        f"cut off ({len(PHOTO) - 2} bytes): fetch it again",
    ]


def coco(root: Path) -> tuple[Path, list[str]]:
    """Two images, of which one is sound but for its objects, and what belongs to none."""
    images = [
        {"id": 1, "file_name": "1.jpg", "width": 40, "height": 30},
        {"id": 1, "file_name": "2.jpg", "width": 40, "height": 30},
        {"id": 3, "width": 40, "height": 30},
    ]
    objects = [
        {"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]},
        {"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]},  # that image is told already
        "none",
    ]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "dog"}]}
    write(root / "train/1.jpg", PHOTO)
    return write(root / "annotations/train.json", json.dumps(content)), [
        "image 2 has no id of its own: export it again",
        "image 3 has no file_name: export it again",
        "annotation 4: image_id 8 is none of its 2 images: export it again",
        "annotation 6: image_id None is none of its 2 images: export it again",
        "annotation 1: category_id 9 is none of the categories 1: export it again",
        "annotation 2: bbox [1, 2, -3, 4] has a negative side: give [x, y, width, height]",
        "annotation 3: bbox '[1, 2, 3]' is not four numbers: export it again",
    ]


@pytest.mark.parametrize("make", [voc, yolo, coco])
def test_every_fault_of_an_annotation_in_one_run(
    make: Callable[[Path], tuple[Path, list[str]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, reasons = make(tmp_path)
    with pytest.raises(InputError, match=f"^{len(reasons)} faults, listed above; 1 image checked"):
        verify(tmp_path, None, 0)
    lines = capsys.readouterr().out.splitlines()[1 : 1 + len(reasons)]
    picture = tmp_path / "images/train/1.jpg"
    assert lines == [f"{picture if 'cut' in told else file}: {told}" for told in reasons]
    with pytest.raises(InputError) as caught:
        data = open_data(tmp_path, DataOptions())
        data.read(data.sets[0])
    assert reasons[0] in str(caught.value)


def odd_boxes_voc(root: Path) -> Path:
    voc(root)
    file = root / "VOC2007/Annotations/1.xml"
    inside = "<bndbox><xmin>{}</xmin><ymin>3</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"
    boxes = [(2, 8), (2, 8), (2, 60), (5, 4.5), (3, 9)]
    names = ["dog", "dog", "dog", "dog", "unicorn"]
    items = [
        f"<object><name>{name}</name>{inside.format(*box)}</object>"
        for name, box in zip(["unicorn", *names], [(1, 2), *boxes], strict=True)
    ]
    size = "<size><width>40</width><height>30</height></size>"
    return write(file, f"<annotation>{size}{''.join(items)}</annotation>".replace("4.5", "4"))


def odd_boxes_yolo(root: Path) -> Path:
    yolo(root)
    write(root / "images/train/1.jpg", PHOTO)
    lines = ["7 .5 .5 .2 .2", "", *["0 .25 .5 .2 .2"] * 2, "0 .9 .5 1 .2", "0 .5 .5 0 .2"]
    return write(root / "labels/train/1.txt", "\n".join(lines))


def odd_boxes_coco(root: Path) -> Path:
    boxes = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 60, 4], [1, 2, 0, 4]]
    objects = [{"image_id": 5, "category_id": 1, "bbox": box} for box in boxes]
    content = {
        "images": [{"id": 5, "file_name": "1.jpg", "width": 40, "height": 30}],
        "annotations": [{"image_id": 5, "category_id": 9, "bbox": boxes[0]}, *objects],
        "categories": [{"id": 1, "name": "dog"}],
    }
    write(root / "train/1.jpg", PHOTO)
    return write(root / "annotations/train.json", json.dumps(content))


@pytest.mark.parametrize("make", [odd_boxes_voc, odd_boxes_yolo, odd_boxes_coco])
def test_odd_boxes_are_named_beside_what_cannot_be_read(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers count the objects that are wrong, or of classes left out, as well."""
    file = make(tmp_path)
    with pytest.raises(InputError, match="faults, listed above; 1 image checked"):
        verify(tmp_path, None, 0)
    told = "\n".join(x for x in capsys.readouterr().out.splitlines() if x.startswith(str(file)))
    assert "class" in told.splitlines()[0] or "category_id 9" in told.splitlines()[0]
    assert re.search("objects 2 and 3 of 1.* are the same: remove one", told)
    assert re.search("object 4 of 1.* lies up to [0-9.]+ pixels outside the image of 40 x 30", told)
    if make is not odd_boxes_voc:  # there it is inverted, a fault of its own
        assert re.search("image 1.*: boxes without an area: 1, remove them", told)


def test_objects_of_classes_that_are_left_out_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = odd_boxes_yolo(tmp_path)
    file.write_text(file.read_text().replace("7 ", "1 "))
    write(tmp_path / "data.yaml", "names: [dog, cat]\ntrain: images/train\n")
    with pytest.raises(InputError, match="3 faults, listed above"):
        verify(tmp_path, None, 0, DataOptions(classes="dog"))
    assert "objects 2 and 3 of 1 are the same: remove one" in capsys.readouterr().out


def test_of_very_many_faults_the_rest_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yolo(tmp_path)
    (tmp_path / "images/train/1.jpg").write_bytes(PHOTO)
    label = write(tmp_path / "labels/train/1.txt", "x\n" * 5000)
    with pytest.raises(InputError):
        verify(tmp_path, None, 0)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(label))]
    assert len(told) == MOST_TOLD + 1
    assert told[-1] == f"{label}: and {5000 - MOST_TOLD} more faults"
    each = [(Path(name), "x") for name in "ab" for _ in range(MOST_TOLD)]
    assert bounded(each) == each


def test_other_errors_are_not_collected() -> None:
    together = Together()
    with pytest.raises(KeyError), together:
        raise KeyError
    together.end()
