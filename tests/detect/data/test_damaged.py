"""Data that tools or people left incomplete: read where that is right, else named in a sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import formats
import pytest

from common.errors import InputError
from detect.data.dataset import MissingFileError
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.training import read_training
from detect.data.verify import verify


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
        (None, "has a name that is no text, 'None'"),
        (True, "has a name that is no text, 'True'"),
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


def test_no_categories_at_all(coco: Path) -> None:
    for name in ("train", "val"):
        file, content = load(coco, name)
        file.write_text(json.dumps(content | {"categories": []}))
    with pytest.raises(InputError, match="its list of categories is empty: export it again with"):
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
        ("[a, yes]", "class 1 has a name that is no text, 'True': put it in quotes"),
        ("{0: a, 1: null}", "class 1 has a name that is no text, 'None': put it in quotes"),
        ("{0: a, 1: }", "class 1 has a name that is no text, 'None'"),
        ("[a, '']", "class 1 has an empty name"),
        ("[a, 2.10]", "class 1 has a name that is no text, '2.1'"),
        ("[a, 'b\n\n  c']", "class 1 is called .*line break"),
    ],
)
def test_a_name_that_is_none_in_a_data_yaml(yolo: Path, names: str, told: str) -> None:
    (yolo / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    with pytest.raises(InputError, match=rf"data\.yaml: {told}"):
        open_data(yolo)
    (yolo / "data.yaml").write_text("train: images/train\nnames: [a, 'no', 7]\n")
    assert open_data(yolo).classes == ("a", "no", "7")


def test_key_points_are_no_polygon(yolo: Path) -> None:
    label = yolo / "labels/train/img_000.txt"
    text = (yolo / "data.yaml").read_text()
    box, points = "1 0.5 0.5 0.25 0.5", " 0.9 0.9 2 0 0 0 0.1 0.2 1"
    label.write_text(f"{box}{points}\n")
    with pytest.raises(InputError, match=r"line 1: these are key points .* kpt_shape: \[3, 3\]"):
        open_data(yolo).read("train")
    for stem in formats.draw_objects():
        file = next(yolo.rglob(f"{stem}.txt"))
        file.write_text(f"{box}{points}\n")
    (yolo / "data.yaml").write_text(f"{text}kpt_shape: [3, 3]\n")
    assert open_data(yolo).read("train")[0].annotation.boxes.tolist() == [[24, 12, 40, 36]]
    for line in (box, f"{box} 0.9 0.9 2"):
        label.write_text(line)
        with pytest.raises(InputError, match=r"line 1: \d numbers .*\[3, 3\] .* 4 .* and 9"):
            open_data(yolo).read("train")
    for shape in ("3", "[3, 4]", "[0, 3]", "[3.0, 2]", "{}"):
        (yolo / "data.yaml").write_text(f"{text}kpt_shape: {shape}\n")
        with pytest.raises(InputError, match="kpt_shape is .*: write"):
            open_data(yolo)


POSES = {
    "seen": (["0.2 0.25 1", "0.3 0.25 0"], r"2 key points .* kpt_shape: \[2, 3\] into"),
    "odd": (["0.2 0.25 1", "0 0 0", "0.3 0.3 1"], r"3 key points .* kpt_shape: \[3, 3\] into"),
    "floats": (["0.2 0.25 2.0", "0.3 0.25 0.0"], r"2 key points .* kpt_shape: \[2, 3\] into"),
}


@pytest.mark.parametrize(("points", "told"), POSES.values(), ids=POSES)
def test_key_points_of_a_whole_set_are_known_by_their_visibility(
    yolo: Path, points: list[str], told: str
) -> None:
    for stem in formats.draw_objects():
        next(yolo.rglob(f"{stem}.txt")).write_text(f"1 0.25 0.25 0.3 0.3 {' '.join(points)}\n")
    with pytest.raises(InputError, match=f"^{yolo}: the labels are boxes with {told}"):
        open_data(yolo)
    # One row of them alone may be a polygon that touches the edges.
    next(yolo.rglob("img_001.txt")).write_text("0 0.5 0.5 1 1 1 0.5\n")
    assert open_data(yolo).sets == ("train", "val")


def test_pairs_behind_a_box_are_pointed_out(yolo: Path) -> None:
    def notes(line: str) -> str:
        for number, stem in enumerate(formats.draw_objects()):
            x = 0.25 + number / 20
            text = f"1 {line.format(x, x + 0.05, x - 0.05)}\n"
            next(yolo.rglob(f"{stem}.txt")).write_text(text * 2)
        return " ".join(open_data(yolo).notes)

    told = "all labels have 10 numbers after the class, read as polygons; if they are boxes with"
    assert f"{told} key points, write kpt_shape: [3, 2] into" in notes("{0} {0} .2 .2" + " {1}" * 6)
    assert "kpt_shape" not in notes("{0} {0} .2 .2" + " {1}" * 4)  # boxes that are turned
    assert "kpt_shape" not in notes("{0} {0} .2 .2")
    assert "kpt_shape" not in notes("{0} {0} .2 .2 0.9 {1} {1} {2}" + " {1}" * 2)  # outside the box
    assert "kpt_shape" not in notes("{1} {1} .9 .9" + " {1}" * 6)  # no box in the image


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_a_blank_line_among_numbered_classes(yolo: Path, name: str) -> None:
    (yolo / "data.yaml").unlink()
    for text in ("helmet\n\nvest\nhead gear\n", "helmet\n \t\nvest\n\nhead gear"):
        (yolo / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}, line 2 is blank.* name for class 1$"):
            open_data(yolo)
    (yolo / name).write_text("helmet\nvest\nhead gear\n\n  \n")
    assert open_data(yolo).classes == formats.CLASSES


def test_pictures_of_other_formats_are_named(yolo: Path) -> None:
    image = yolo / "images/train/img_000.jpg"
    image.rename(image.with_suffix(".TIF"))
    notes = open_data(yolo).notes
    told = "passed over, of no format that is read: 1 image of train, such as img_000.TIF: convert"
    assert any(note.startswith(told) for note in notes)
    error = MissingFileError(image.parent, image.name)
    told = "img_000.jpg is missing, but img_000.TIF is there, of no format that is read: convert to"
    assert told in str(error)


def test_a_test_that_was_not_exported_is_left_out(yolo: Path) -> None:
    text = (yolo / "data.yaml").read_text()
    (yolo / "data.yaml").write_text(f"{text}test: ../test/images\n")
    data = open_data(yolo)
    assert data.sets == ("train", "val")
    assert "test is left out, for '../test/images' is not there" in data.notes
    with pytest.raises(InputError, match="no set 'test': choose from train, val"):
        data.read("test")
    (yolo / "data.yaml").write_text(text.replace("images/val", "images/nowhere"))
    with pytest.raises(InputError, match="val is 'images/nowhere', which is not there"):
        open_data(yolo)


@pytest.mark.parametrize("described", [True, False])
def test_label_files_in_capital_letters(yolo: Path, *, described: bool) -> None:
    expected = [i.annotation.boxes.tolist() for i in open_data(yolo).read("train")]
    for file in list(yolo.rglob("labels/*/*.txt")):
        file.rename(file.with_suffix(".TXT"))
    if not described:
        (yolo / "data.yaml").unlink()
        (yolo / "classes.txt").write_text("\n".join(formats.CLASSES))
    data = open_data(yolo)
    assert [i.annotation.boxes.tolist() for i in data.read("train")] == expected
    (yolo / "images/train/img_000.jpg").unlink()
    assert "label files without an image: 1, such as img_000.TXT" in open_data(yolo).notes
    if described:  # its images are taken as empty
        shutil.rmtree(yolo / "labels/val")
        assert len(open_data(yolo).read("val")) == 2


# ---- VOC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="utf-16"?>\n'])
def test_xml_in_utf_16(tmp_path: Path, encoding: str, declared: str) -> None:
    root = formats.write_export(tmp_path / "voc", formats.draw_objects())
    expected = [i.annotation.boxes.tolist() for i in open_data(root).read("train")]
    file = root / "Annotations/img_000.xml"
    text = file.read_text()
    file.write_bytes(f"{declared}{text}".encode(encoding))
    assert [i.annotation.boxes.tolist() for i in open_data(root).read("train")] == expected
    file.write_bytes(f"<!DOCTYPE a>{text}".encode(encoding))
    with pytest.raises(InputError, match="'<!DOCTYPE', which no VOC annotation needs"):
        open_data(root).read("train")


# ---- what is not used ---------------------------------------------------------------------------


def test_sets_of_any_name_that_are_not_trained_on_are_told(coco: Path) -> None:
    recipe = "2007:trainval,2012:trainval", "2007:test"
    told = read_training(open_data(coco), DataOptions(), *recipe, difficult=False).said
    assert "not used" not in str(told)
    for name, new in (("train", "a"), ("val", "b")):
        load(coco, name)[0].rename(coco / f"annotations/{new}.json")
    told = read_training(open_data(coco), DataOptions(), *recipe, difficult=False).said
    assert "not used: b; --train-split and --val-split name other sets" in told


@pytest.mark.parametrize("val", ["val", "valid", "val,test", "validation, test"])
def test_sets_that_validate_under_another_word_or_together_are_not_called_unused(
    coco: Path, val: str
) -> None:
    shutil.copy(load(coco, "val")[0], coco / "annotations/instances_test.json")
    file, content = load(coco, "test")
    images = {image["id"] for image in content["images"]}
    for key, name in (("images", "id"), ("annotations", "image_id")):
        for item in content[key]:
            item[name] += max(images)
    file.write_text(json.dumps(content))
    recipe = "2007:trainval,2012:trainval", val
    told = str(read_training(open_data(coco), DataOptions(), *recipe, difficult=False).said)
    assert ("not used: test;" in told) == ("test" not in val)
    assert ("not used" in told) == ("test" not in val)


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_set_without_images_is_named(coco: Path, name: str) -> None:
    file, content = load(coco, name)
    file.write_text(json.dumps({**content, "images": [], "annotations": []}))
    with pytest.raises(InputError, match=rf"coco: the set '{name}' lists no images: add some"):
        read_training(open_data(coco), DataOptions(), "train", "val", difficult=False)


@pytest.mark.parametrize("difficult", [True, False])
def test_crowds_are_never_trained_on(coco: Path, difficult: bool) -> None:
    """A crowd is one box around many: what is in it is neither demanded nor learnt."""
    file, content = load(coco)
    crowd, ignored, *_ = content["annotations"]
    crowd["iscrowd"], ignored["ignore"] = 1, 1
    file.write_text(json.dumps(content))
    data = open_data(coco)
    images = data.read("train")
    total = len(content["annotations"])
    assert sum(image.annotation.difficult.sum() for image in images) == 2
    learnt = sum(len(image.annotation.usable(difficult)[1]) for image in images)
    assert learnt == (total - 1 if difficult else total - 2)
    said = read_training(data, DataOptions(), "train", "val", difficult=difficult).said
    assert "2 of them difficult" in str(said) and "without an area" not in str(said)
    for item in content["annotations"]:
        item["iscrowd"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="that have an area are crowds: label single objects"):
        read_training(open_data(coco), DataOptions(), "train", "val", difficult=difficult)


@pytest.mark.parametrize("name", ["iscrowd", "ignore"])
def test_flags_of_an_annotation_are_0_or_1(coco: Path, name: str) -> None:
    file, content = load(coco)
    one, *_ = content["annotations"]
    for stated, crowds in ((0, 0), ("0", 0), (False, 0), (None, 0), (1, 1), ("1", 1), (True, 1)):
        one[name] = stated
        file.write_text(json.dumps(content))
        images = open_data(coco).read("train")
        assert sum(image.annotation.difficult.sum() for image in images) == crowds, stated
    for wrong in (2, "no", "", [1]):
        one[name] = wrong
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=rf"annotation \S+: {name} is .*: write 0 or 1"):
            open_data(coco).read("train")


# ---- what verify says ---------------------------------------------------------------------------


def told_by_verify(root: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    with pytest.raises(InputError):
        verify(root, "train", 0, DataOptions(**options))
    return capsys.readouterr().out


def test_verify_names_the_image_of_a_coco_id(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, content = load(coco)
    for item in content["annotations"]:
        if item["image_id"] == 8:
            item["bbox"] = [0, 0, 64, 99]
            content["annotations"].append({**item, "id": 9999})
            break
    file.write_text(json.dumps(content))
    told = told_by_verify(coco, capsys)
    assert f"{file}: objects 1 and 2 of img_001.jpg (image id 8) are the same: remove one" in told
    assert f"{file}: object 1 of img_001.jpg (image id 8) lies up to 51 pixels outside" in told
    content["annotations"][0]["image_id"] = 99
    file.write_text(json.dumps(content))
    assert f"{file}: annotation 1: image_id 99 is none" in told_by_verify(coco, capsys)


def test_a_missing_picture_says_what_is_there(
    coco: Path, yolo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, content = load(coco)
    for image, name in zip(
        content["images"], ("IMG_000.JPG", "img_001.png", "x.jpg"), strict=False
    ):
        image["file_name"] = name
    file.write_text(json.dumps(content))
    folder = coco / "images"
    told = told_by_verify(coco, capsys)
    for name, other in (("IMG_000.JPG", "img_000.jpg"), ("img_001.png", "img_001.jpg")):
        assert f"{folder / name} is missing, but {other} is there: give both the same name" in told
    assert f"{folder}/x.jpg is missing: correct its file_name, or give the folder of the" in told
    nowhere = coco / "nowhere"
    told = told_by_verify(coco, capsys, images=nowhere)
    assert f"{nowhere}/IMG_000.JPG is missing, and so is its folder: correct" in told
    with pytest.raises(InputError, match=r"the first is IMG_000.JPG, but img_000.jpg is there"):
        open_data(coco).read("train")
