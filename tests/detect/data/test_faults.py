"""All faults of an annotation at once: verify names them in one run, reading raises the first."""

import json
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
        "object 2: 'unicorn' is an unknown class; the classes are dog",
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
        "line 2: class 7 is none of 0 to 0: add it to the classes",
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
