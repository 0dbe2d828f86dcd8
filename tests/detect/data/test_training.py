"""What a training reads: which images stay, and what is said of them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.splits import NO_SET
from detect.data.training import TrainingData, read_training

OBJECTS = {
    "clear": [(0, (1, 2, 9, 8))],
    "difficult": [(1, (1, 2, 9, 8))],
    "both": [(1, (1, 2, 9, 8)), (0, (3, 3, 9, 9))],
    "nothing": [],
    "outside": [(0, (41, 2, 50, 8))],  # of an image of 40 x 30
}


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    year = tmp_path / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / folder).mkdir(parents=True)
    (year / "ImageSets/Main/train.txt").write_text("\n".join(OBJECTS))
    for number, (name, objects) in enumerate(OBJECTS.items()):
        items = "".join(
            f"<object><name>dog</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for difficult, (x1, y1, x2, y2) in objects
        )
        size = "<size><width>40</width><height>30</height></size>"
        (year / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{items}</annotation>")
        pixels = np.full((30, 40, 3), 20 * number, np.uint8)
        cv2.imwrite(str(year / f"JPEGImages/{name}.jpg"), pixels)
    return tmp_path


def read(devkit: Path, *, difficult: bool, empty: bool) -> TrainingData:
    options = DataOptions(empty_images=empty)
    data = open_data(devkit, options)
    return read_training(data, options, "2007:train", NO_SET, difficult=difficult)


@pytest.mark.parametrize(
    ("difficult", "empty", "kept"),
    [
        (False, True, list(OBJECTS)),
        (True, True, list(OBJECTS)),
        (False, False, ["clear", "both"]),
        (True, False, ["clear", "difficult", "both"]),
    ],
)
def test_an_image_has_objects_if_the_training_uses_one(
    devkit: Path, difficult: bool, empty: bool, kept: list[str]
) -> None:
    found = read(devkit, difficult=difficult, empty=empty)
    assert [image.annotation.image_id for image in found.train] == kept
    assert found.val == []
    told = [line for line in found.said if "left out" in line]
    assert told == ([] if empty else [f"{5 - len(kept)} images without objects left out"])
