"""Data that tools or people left incomplete: read where that is right, else named in a sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import formats
import pytest

from common.errors import InputError
from detect.data.opening import open_data


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return formats.write_coco(tmp_path / "coco", formats.draw_objects())


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    return formats.write_yolo(tmp_path / "yolo", formats.draw_objects())


def load(root: Path, name: str = "train") -> tuple[Path, Any]:
    file = root / f"annotations/instances_{name}.json"
    return file, json.loads(file.read_text())


# ---- COCO ---------------------------------------------------------------------------------------


def test_a_json_beside_yolos_labels_that_holds_categories_alone(yolo: Path, tmp_path: Path) -> None:
    root = tmp_path / "studio"
    shutil.copytree(yolo / "images/train", root / "images")
    shutil.copytree(yolo / "labels/train", root / "labels")
    (root / "classes.txt").write_text("\n".join(formats.CLASSES))
    notes = {"categories": [{"id": 0, "name": "helmet"}], "info": {"year": 2024}}
    (root / "notes.json").write_text(json.dumps(notes))
    data = open_data(root)
    assert data.kind == "YOLO labels" and len(data.read(data.sets[0])) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ('{"images": [], "annotations": [], "categ', "is not JSON .*damaged"),
        ("[]", "is a JSON list, no COCO"),
        ("7", "is no COCO annotation file"),
        ('{"info": 1}', "has no list 'images'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, null]}',
            "category 2 of its list is 'null', not an id and a name",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1.5, "name": "a"}]}',
            "category 1 of its list has the id '1.5', neither a whole number nor a text",
        ),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_damaged_json_is_named(coco: Path, text: str, told: str, *, alone: bool) -> None:
    file, _ = load(coco)
    file.write_text(text)
    if alone:
        load(coco, "val")[0].unlink()
    elif text in ("[]", "7", '{"info": 1}'):  # beside others it may be something else
        assert open_data(coco).notes[-1].endswith("no COCO annotations: instances_train.json")
        return
    with pytest.raises(InputError, match=rf"^{file}.*{told}"):
        open_data(coco)
    with pytest.raises(InputError, match=rf"^{file}.*{told}"):
        open_data(file)


def test_whole_ids_of_a_tables_program_are_whole(coco: Path) -> None:
    expected = open_data(coco).read("train")
    file, content = load(coco)
    for category in content["categories"]:
        category["id"] = float(category["id"])
    for image in content["images"]:
        image["id"] = float(image["id"])
    for item in content["annotations"]:
        item |= {"image_id": float(item["image_id"]), "category_id": float(item["category_id"])}
    file.write_text(json.dumps(content))
    data = open_data(coco)
    assert data.category_ids == (3, 5, 90) and all(type(n) is int for n in data.category_ids)
    for found, before in zip(data.read("train"), expected, strict=True):
        assert found.annotation.image_id == before.annotation.image_id
        assert found.annotation.labels.tolist() == before.annotation.labels.tolist()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "has an empty name: write one"),
        (" ", "has an empty name: write one"),
        (None, "has no text for a name but 'None'"),
        (True, "has no text for a name but 'True'"),
        ("a\nb", r"is called 'a\\nb', which holds a line break: take it out"),
        ("a\0b", r"is called 'a\\x00b', which holds '\\x00', a character that cannot be shown"),
    ],
)
def test_a_name_that_is_none_in_a_json(coco: Path, name: object, told: str) -> None:
    file, content = load(coco)
    content["categories"][1]["name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"^{file}: category 3 {told}"):
        open_data(coco)


def test_two_names_of_one_category(coco: Path) -> None:
    file, content = load(coco)
    content["categories"].append({"id": 3, "name": "boot"})
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="category 3 is both 'helmet' and 'boot': give each an id"):
        open_data(coco)
    content["categories"] = [{"id": 3, "name": "boot"}]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="category 3 is 'helmet', elsewhere 'boot': export the"):
        open_data(coco)


# ---- YOLO ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("[a, yes]", "class 1 has no text for a name but 'True': put it in quotes"),
        ("{0: a, 1: null}", "class 1 has no text for a name but 'None': put it in quotes"),
        ("{0: a, 1: }", "class 1 has no text for a name but 'None'"),
        ("[a, '']", "class 1 has an empty name"),
        ("[a, 2.10]", "class 1 has no text for a name but '2.1'"),
        ("[a, 'b\n\n  c']", "class 1 is called .*line break"),
    ],
)
def test_a_name_that_is_none_in_a_data_yaml(yolo: Path, names: str, told: str) -> None:
    (yolo / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    with pytest.raises(InputError, match=rf"data\.yaml: {told}"):
        open_data(yolo)
    (yolo / "data.yaml").write_text("train: images/train\nnames: [a, 'no', 7]\n")
    assert open_data(yolo).classes == ("a", "no", "7")
