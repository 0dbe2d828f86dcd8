"""Files that systems leave in every folder are of no data set: not an image, a label, a list."""

import json
import shutil
from pathlib import Path
from typing import Any

import formats
import pytest
from formats import WRITERS
from litter import RESOURCE_FORK, litter

from detect.data.opening import open_data
from detect.data.verify import verify
from detect.scoring.detections import ground_truth
from detect.scoring.formats.reading import read_detections


def content(root: Path) -> dict[str, Any]:
    data = open_data(root)
    images = {name: data.read(name) for name in data.sets}
    boxes = {n: [(i.path, i.annotation.boxes.tolist()) for i in of] for n, of in images.items()}
    return {"kind": data.kind, "classes": data.classes, "notes": data.notes, "boxes": boxes}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = WRITERS[name](tmp_path / "data", formats.draw_objects())
    clean = content(root)
    litter(root)
    assert content(root) == clean
    capsys.readouterr()
    verify(root, None, 0)
    assert "._" not in (said := capsys.readouterr().out)
    assert "no faults; 6 images checked" in said


def test_darknet(tmp_path: Path) -> None:
    """Label files beside their images, and no folder says what they are."""
    made = formats.write_yolo(tmp_path / "made", formats.draw_objects())
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in made.rglob("img_*"):
        shutil.copy(file, flat)
    (flat / "classes.txt").write_text("\n".join(formats.CLASSES))
    clean = content(flat)
    litter(flat)
    assert content(flat) == clean


def test_detections_of_every_form(tmp_path: Path) -> None:
    data = open_data(formats.write_voc(tmp_path / "data", formats.draw_objects()))
    truth = ground_truth(data.annotations("2024:val"), data.classes)
    first = truth.image_ids[0]
    files = {
        **{f"comp4_det_test_{name}.txt": f"{first} 0.5 1 1 9 9" for name in ("helmet", "vest")},
        "comp4_det_test_head gear.txt": "",
    }
    image = {f"{first}.txt": "0 0.5 0.5 0.1 0.1 0.9\n"}
    box = {"image_id": first, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    for number, form in enumerate((files, image, {"results.json": json.dumps([box])})):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in form.items():
            (folder / name).write_text(text)
            (folder / f"._{name}").write_bytes(RESOURCE_FORK)
        (folder / ".DS_Store").write_bytes(RESOURCE_FORK)
        assert len(read_detections(folder, truth).score) == (2 if number == 0 else 1)
