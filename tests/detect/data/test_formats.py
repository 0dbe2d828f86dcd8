"""Data as people have it: each format is found out, and all of them hold the same objects."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import formats
import numpy as np
import pytest
from formats import CLASSES, HEIGHT, WIDTH, WRITERS, Objects

from common.errors import InputError
from detect.data.dataset import DetectionData, LabelledImage, find_set
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.splits import training_sets


@pytest.fixture(scope="module")
def objects() -> Objects:
    return formats.draw_objects()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, objects: Objects) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("formats")
    return {name: write(root / name, objects) for name, write in WRITERS.items()}


@pytest.fixture
def copied(tmp_path: Path, written: dict[str, Path]) -> dict[str, Path]:
    """The same, to change."""
    return {n: Path(shutil.copytree(path, tmp_path / n)) for n, path in written.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_around_the_data_and_files_beside_it(
    written: dict[str, Path], tmp_path: Path, name: str
) -> None:
    shutil.copytree(written[name], tmp_path / "around" / "DATASET")
    for beside in ("around.zip", "README.dataset.txt", ".DS_Store"):
        (tmp_path / "around" / beside).touch()
    opened = [open_data(path) for path in (tmp_path / "around", written[name])]
    assert opened[0].kind == opened[1].kind and opened[0].sets == opened[1].sets != ()


def content(images: list[LabelledImage]) -> list[tuple[Any, ...]]:
    return [
        (
            image.path.name,
            image.annotation.width,
            image.annotation.height,
            image.annotation.boxes.tolist(),
            image.annotation.labels.tolist(),
            image.annotation.difficult.tolist(),
        )
        for image in images
    ]


def year(name: str, data: DetectionData) -> str:
    return f"2024:{name}" if data.has_years else name


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("part", ["train", "val"])
def test_every_format_gives_the_objects_that_were_written(
    written: dict[str, Path], objects: Objects, name: str, part: str
) -> None:
    data = open_data(written[name])
    assert data.classes == CLASSES
    expected = [
        (f"{stem}.jpg", WIDTH, HEIGHT, [list(b[1:]) for b in boxes], [b[0] for b in boxes])
        for stem, boxes in formats.sets(objects)[part].items()
    ]
    found = content(data.read(year(part, data)))
    assert [row[:5] for row in found] == expected
    assert not any(any(row[5]) for row in found)


def test_what_it_was_found_to_be(written: dict[str, Path]) -> None:
    kinds = {name: open_data(path).kind for name, path in written.items()}
    assert kinds == {
        "devkit": "a VOC devkit",
        "export": "VOC annotations without year folders",
        "roboflow": "VOC annotations without year folders",
        "coco": "COCO annotations",
        "yolo": "YOLO labels",
    }
    assert {open_data(written[n]).metric for n in ("coco", "yolo")} == {"coco"}
    assert open_data(written["coco"]).category_ids == (3, 5, 90)
    assert "gear, background have no objects" in open_data(written["coco"]).notes[0]


def test_a_folder_that_holds_nothing_known_says_what_is_known_and_what_is_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    with pytest.raises(InputError, match=r"neither a VOC devkit .* it holds cats/, dogs/$"):
        open_data(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_data(tmp_path / "none")


def test_an_archive_that_unpacks_into_a_folder_of_its_own(
    copied: dict[str, Path], tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    shutil.move(copied["coco"], outer / "my export")
    assert open_data(outer).kind == "COCO annotations"


# ---- sets ---------------------------------------------------------------------------------------


def test_words_for_the_same_set() -> None:
    assert find_set(("train2017", "val2017"), "train") == "train2017"
    assert find_set(("train", "valid", "test"), "val") == "valid"
    assert find_set(("train", "valid"), "Validation") == "valid"
    assert find_set(("trainval",), "train") is None
    assert find_set(("training_2", "train"), "train") == "train"


def test_a_set_that_is_not_there_names_those_that_are(written: dict[str, Path]) -> None:
    for name in ("export", "roboflow", "coco", "yolo"):
        with pytest.raises(InputError, match="has no set 'test': choose from train, val"):
            open_data(written[name]).read("test")


def test_the_sets_of_a_training(written: dict[str, Path]) -> None:
    of_recipe = "2007:trainval,2012:trainval", "2007:test"
    for name in ("export", "roboflow", "coco", "yolo"):
        assert training_sets(open_data(written[name]), *of_recipe) == ("train", "val")
    assert training_sets(open_data(written["yolo"]), "val", "none") == ("val", None)
    assert training_sets(open_data(written["devkit"]), *of_recipe) == of_recipe


def ids(images: list[LabelledImage]) -> list[str]:
    return [image.path.stem for image in images]


def test_a_share_is_kept_by_a_hash_of_the_names_in_every_format(
    tmp_path: Path, copied: dict[str, Path]
) -> None:
    many = formats.draw_objects(40)
    kept = {}
    for name, write in WRITERS.items():
        root = write(tmp_path / f"more-{name}", many)
        shutil.rmtree(root / "labels" / "val", ignore_errors=True)
        if name in ("export", "coco", "yolo"):
            (root / "ImageSets/Main/val.txt").unlink(missing_ok=True)
            (root / "annotations/instances_val.json").unlink(missing_ok=True)
            if name == "yolo":
                text = (root / "data.yaml").read_text().replace("val: images/val\n", "")
                (root / "data.yaml").write_text(text)
            data = open_data(root, DataOptions(split_by=0.25))
            train, val = ids(data.read("train")), ids(data.read("val"))
            assert data.sets == ("train", "val")
            assert sorted(train + val) == [f"img_{n:03}" for n in range(38)]
            assert 3 <= len(val) <= 17
            kept[name] = val
    assert kept["export"] == kept["coco"] == kept["yolo"]
    fewer = formats.write_export(tmp_path / "fewer", dict(list(many.items())[:20]))
    (fewer / "ImageSets/Main/val.txt").unlink()
    part = ids(open_data(fewer, DataOptions(split_by=0.25)).read("val"))
    assert part == [stem for stem in kept["export"] if stem < "img_018"]


def test_copies_that_roboflow_makes_of_an_image_stay_on_one_side(tmp_path: Path) -> None:
    stems = [f"a{n}_jpg.rf.{k:032x}" for n in range(12) for k in range(3)]
    root = formats.write_export(tmp_path / "export", {s: [(0, 1, 1, 9, 9)] for s in stems})
    (root / "ImageSets/Main/val.txt").unlink()
    (root / "ImageSets/Main/train.txt").write_text("\n".join(stems))
    data = open_data(root, DataOptions(split_by=0.4))
    sides = [{s.split("_jpg")[0] for s in ids(data.read(name))} for name in ("train", "val")]
    assert all(sides) and not sides[0] & sides[1]


@pytest.mark.parametrize("share", [0.001, 0.999])
@pytest.mark.parametrize("name", ["export", "devkit"])
def test_a_share_of_few_images_leaves_some_on_both_sides(
    copied: dict[str, Path], name: str, share: float
) -> None:
    next(copied[name].rglob("val.txt")).unlink()
    data = open_data(copied[name], DataOptions(split_by=share))
    train, val = ids(data.read("train")), ids(data.read("val"))
    assert sorted(train + val) == [f"img_{n:03}" for n in range(4)]
    assert len(val) == (1 if share < 0.5 else 3)


@pytest.mark.parametrize("name", ["devkit", "coco"])
def test_a_share_is_not_taken_from_data_that_have_their_own(
    written: dict[str, Path], name: str
) -> None:
    with pytest.raises(InputError, match="--split-by is for data without a validation set"):
        open_data(written[name], DataOptions(split_by=0.2))


# ---- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_some_of_the_classes_in_their_order(
    written: dict[str, Path], objects: Objects, name: str
) -> None:
    data = open_data(written[name], DataOptions(classes="head gear, helmet"))
    assert data.classes == ("head gear", "helmet")
    images = data.read(year("train", data))
    label_of = {2: 0, 0: 1}
    expected = [
        [label_of[b[0]] for b in boxes if b[0] in label_of]
        for boxes in formats.sets(objects)["train"].values()
    ]
    assert [image.annotation.labels.tolist() for image in images] == expected
    assert [] in expected  # images without an object of these stay


def test_a_class_that_is_not_there(written: dict[str, Path]) -> None:
    for wanted, told in (("boots", "which is not there"), ("vest,vest", "twice")):
        with pytest.raises(InputError, match=f"{told}.*helmet, vest, head gear"):
            open_data(written["coco"], DataOptions(classes=wanted))


def test_class_names_with_commas(copied: dict[str, Path]) -> None:
    for path in copied["devkit"].rglob("*.xml"):
        path.write_text(path.read_text().replace("head gear", "hat, cap"))
    (copied["devkit"] / "classes.txt").write_text("helmet\nvest\nhat, cap\n")
    data = open_data(copied["devkit"], DataOptions(classes="hat, cap,vest"))
    assert data.classes == ("hat, cap", "vest")


# ---- VOC in other folders -----------------------------------------------------------------------


def test_xml_beside_the_images_and_the_names_found(
    copied: dict[str, Path], tmp_path: Path, objects: Objects
) -> None:
    root = tmp_path / "labelimg"
    shutil.copytree(copied["export"] / "JPEGImages", root)
    shutil.copytree(copied["export"] / "Annotations", root, dirs_exist_ok=True)
    (root / "img_000.jpg").rename(root / "img_000.JPG")
    (root / "extra.png").write_bytes((root / "img_001.jpg").read_bytes())
    data = open_data(root)
    assert (data.sets, data.classes) == (("all",), ("head gear", "helmet", "vest"))
    assert len(data.read("all")) == len(objects)
    assert any("left out, having no annotation: 1 image of all" in note for note in data.notes)
    assert training_sets(data, "2007:trainval", "2007:test") == ("all", None)


def test_cvats_label_map(copied: dict[str, Path]) -> None:
    root = copied["export"]
    (root / "classes.txt").unlink()
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "vest:1,2,3::"]
    lines += ["helmet:4,5,6::", "head gear:7,8,9::"]
    (root / "labelmap.txt").write_text("\n".join(lines))
    (root / "ImageSets/Main/helmet_train.txt").write_text("img_000  1\nimg_001 -1\n")
    data = open_data(root)
    assert data.classes == ("vest", "helmet", "head gear")
    assert data.sets == ("train", "val")


def test_the_list_of_one_class_says_which_lists_hold_all(copied: dict[str, Path]) -> None:
    root = copied["devkit"]
    (root / "VOC2024/ImageSets/Main/train.txt").write_text("img_000  1\nimg_001 -1\n")
    told = "is an id and whether the class is there.*those of all images are val$"
    with pytest.raises(InputError, match=told):
        open_data(root).read("2024:train")


SCREENSHOT = "Screenshot at 3.45.12\u202fPM"  # as macOS calls them
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    "stem",
    ["photo (1)", "img_000_jpg.rf.0a1b2c3d", "été.1", "x 1", SCREENSHOT, FAMILY, "図\u3000面"],
)
def test_ids_with_dots_spaces_and_letters_of_any_language(
    copied: dict[str, Path], stem: str
) -> None:
    year = copied["devkit"] / "VOC2024"
    (year / "JPEGImages/img_000.jpg").rename(year / f"JPEGImages/{stem}.jpg")
    (year / "Annotations/img_000.xml").rename(year / f"Annotations/{stem}.xml")
    (year / "ImageSets/Main/train.txt").write_text(f"{stem}\n", encoding="utf-8")
    (image,) = open_data(copied["devkit"]).read("2024:train")
    assert (image.annotation.image_id, image.path.stem) == (stem, stem)


@pytest.mark.parametrize("name", [SCREENSHOT, FAMILY, "図\u3000面", "a\U000e0fffb"])
def test_names_with_odd_blanks_and_joiners(copied: dict[str, Path], name: str) -> None:
    file = copied["coco"] / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["images"][0] |= {"file_name": f"{name}.jpg", "id": name}
    for item in content["annotations"]:
        item["image_id"] = name if item["image_id"] == 7 else item["image_id"]
    content["categories"][1]["name"] = name
    file.write_text(json.dumps(content))
    (copied["coco"] / "annotations/instances_val.json").unlink()
    (copied["coco"] / "images/img_000.jpg").rename(copied["coco"] / f"images/{name}.jpg")
    data = open_data(copied["coco"])
    assert data.classes == (name, "vest", "head gear")
    found = data.read("train")[0]
    assert (found.annotation.image_id, found.path.stem) == (name, name)
    (copied["yolo"] / "data.yaml").write_text(
        f'train: images/train\nnames: ["{name}", vest, head gear]\n', encoding="utf-8"
    )
    assert open_data(copied["yolo"]).classes[0] == name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_lists_of_windows(copied: dict[str, Path], encoding: str) -> None:
    path = copied["devkit"] / "VOC2024/ImageSets/Main/train.txt"
    path.write_bytes("img_000\r\nimg_001\r\n".encode(encoding))
    assert ids(open_data(copied["devkit"]).read("2024:train")) == ["img_000", "img_001"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_descriptions_of_windows(copied: dict[str, Path], encoding: str) -> None:
    files = {
        "coco": copied["coco"] / "annotations/instances_train.json",
        "yolo": copied["yolo"] / "data.yaml",
    }
    for kind, path in files.items():
        expected = content(open_data(copied[kind]).read("train"))
        path.write_bytes(path.read_text().encode(encoding))
        assert content(open_data(copied[kind]).read("train")) == expected


def test_zero_bytes_are_no_list(copied: dict[str, Path]) -> None:
    path = copied["devkit"] / "VOC2024/ImageSets/Main/train.txt"
    path.write_bytes(bytes(9))  # as a machine that lost its power leaves it
    with pytest.raises(InputError, match=r"train\.txt holds zero bytes, so it is no text: fetch"):
        open_data(copied["devkit"]).read("2024:train")


@pytest.mark.parametrize("name", ["caf\u00c9", "cafe\u0301", "CAFE\u0301"])
def test_a_class_that_is_spelt_otherwise(copied: dict[str, Path], name: str) -> None:
    (copied["devkit"] / "classes.txt").write_text("caf\u00e9\nvest\nhead gear")
    path = copied["devkit"] / "VOC2024/Annotations/img_000.xml"
    path.write_text(path.read_text().replace("<name>helmet", f"<name>{name}"))
    told = r"unknown class; 'caf\\xe9' is one, not .*: write both in one way"
    with pytest.raises(InputError, match=told):
        open_data(copied["devkit"]).read("2024:train")


def test_lists_of_file_names(copied: dict[str, Path]) -> None:
    path = copied["devkit"] / "VOC2024/ImageSets/Main/train.txt"
    path.write_text("img_000.jpg\nimg_001\n")
    read = open_data(copied["devkit"]).read("2024:train")
    assert [image.annotation.image_id for image in read] == ["img_000", "img_001"]


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png", ".PNG", ".webp", ".bmp", ".gif"])
def test_pictures_of_every_suffix(copied: dict[str, Path], suffix: str) -> None:
    folder = copied["devkit"] / "VOC2024/JPEGImages"
    for path in folder.iterdir():
        path.rename(path.with_suffix(suffix))
    images = open_data(copied["devkit"]).read("2024:train")
    assert {image.path.suffix for image in images} == {suffix}


def test_of_two_pictures_the_annotation_says_which(copied: dict[str, Path]) -> None:
    year = copied["devkit"] / "VOC2024"
    shutil.copy(year / "JPEGImages/img_000.jpg", year / "JPEGImages/img_000.png")
    xml = year / "Annotations/img_000.xml"
    assert open_data(copied["devkit"]).read("2024:train")[0].path.suffix == ".jpg"
    xml.write_text(xml.read_text().replace("img_000.jpg", "C:\\photos\\img_000.png"))
    assert open_data(copied["devkit"]).read("2024:train")[0].path.suffix == ".png"
    xml.write_text(xml.read_text().replace("img_000.png", "gone.png"))
    with pytest.raises(InputError, match=r"holds img_000.jpg and img_000.png: keep one"):
        open_data(copied["devkit"]).read("2024:train")
    xml.write_text(xml.read_text().replace("gone.png", "img_001.jpg"))
    with pytest.raises(InputError, match="says that it is of 'img_001.jpg', which is there too"):
        open_data(copied["devkit"]).read("2024:train")


def test_own_classes_without_a_list_of_them(copied: dict[str, Path]) -> None:
    (copied["devkit"] / "classes.txt").unlink()
    told = r"'helmet' is an unknown class of VOC's twenty: write .*classes\.txt, one name per line"
    with pytest.raises(InputError, match=f"{told}; .* hold 'head gear', 'helmet', 'vest'$"):
        open_data(copied["devkit"]).read("2024:train")
    (copied["devkit"] / "VOC2024/classes.txt").write_text("#vest\nhelmet\nvest\nhead gear\n")
    assert open_data(copied["devkit"]).classes == ("#vest", "helmet", "vest", "head gear")


def test_coordinates_from_zero(copied: dict[str, Path]) -> None:
    data = open_data(copied["devkit"], DataOptions(coordinates="zero-based"))
    first = open_data(copied["devkit"]).read("2024:train")[0].annotation.boxes
    shifted = data.read("2024:train")[0].annotation.boxes
    assert (shifted - first).tolist() == [[1, 1, 0, 0]] * len(first)
    with pytest.raises(InputError, match="--coordinates is for VOC's XML"):
        open_data(copied["coco"], DataOptions(coordinates="zero-based"))


# ---- COCO ---------------------------------------------------------------------------------------


def changed(root: Path, **keys: Any) -> dict[str, Any]:
    """The training file with other values in its first annotation."""
    path = root / "annotations/instances_train.json"
    value = json.loads(path.read_text())
    value["annotations"][0] |= keys
    path.write_text(json.dumps(value))
    return value


def test_crowds_are_difficult_and_areas_are_kept(copied: dict[str, Path]) -> None:
    changed(copied["coco"], iscrowd=1, bbox=[0.25, 1.5, 10.125, 3.3], area=12.5)
    annotation = open_data(copied["coco"]).read("train")[0].annotation
    assert annotation.difficult.tolist()[0] is True
    assert annotation.boxes.tolist()[0] == [0.25, 1.5, 0.25 + 10.125, 1.5 + 3.3]
    assert annotation.areas is not None and annotation.areas[0] == 12.5


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"bbox": None}, "has no bbox: export boxes, too"),
        ({"bbox": [1, 2, 3]}, "is not four numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "is not four numbers"),
        ({"bbox": [1, 2, -3, 4]}, "has a negative side"),
        ({"category_id": 4}, "category_id 4 is none of the categories 3, 5, 90"),
        ({"image_id": 4444}, "image_id 4444 is none of its 4 images"),
    ],
)
def test_a_bad_annotation_is_named_by_its_number(
    copied: dict[str, Path], keys: dict[str, Any], told: str
) -> None:
    changed(copied["coco"], **keys)
    with pytest.raises(InputError, match=rf"instances_train\.json, annotation 1:? .*{told}"):
        open_data(copied["coco"]).read("train")


def test_corners_are_known_by_all_boxes_of_a_file(copied: dict[str, Path]) -> None:
    value = changed(copied["coco"], bbox=[30, 20, 60, 40])
    annotation = open_data(copied["coco"]).read("train")[0].annotation
    assert annotation.boxes.tolist()[0] == [30, 20, 90, 60]
    for item in value["annotations"]:
        item["bbox"] = [30, 20, 60, 40]
    (copied["coco"] / "annotations/instances_train.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"of its \d+ boxes, \d+ lie outside their images as \[x"):
        open_data(copied["coco"]).read("train")


@pytest.mark.parametrize("sides", [{}, {"width": None, "height": 0}, {"width": "64"}])
def test_a_size_that_is_not_stated_is_the_pictures(
    copied: dict[str, Path], sides: dict[str, Any]
) -> None:
    expected = content(open_data(copied["coco"]).read("train"))
    path = copied["coco"] / "annotations/instances_train.json"
    value = json.loads(path.read_text())
    for image in value["images"]:
        del image["width"], image["height"]
        image |= sides
    path.write_text(json.dumps(value))
    assert content(open_data(copied["coco"]).read("train")) == expected
    (copied["coco"] / "images/img_001.jpg").unlink()
    with pytest.raises(InputError, match="image 8 has no width and height .* its picture is not"):
        open_data(copied["coco"]).annotations("train")


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width/></size>"]
)
def test_a_voc_size_that_is_not_stated_is_the_pictures(copied: dict[str, Path], size: str) -> None:
    expected = content(open_data(copied["roboflow"]).read("train"))
    for path in (copied["roboflow"] / "train").glob("*.xml"):
        before, _, rest = path.read_text().partition("<size>")
        path.write_text(before + size + rest.partition("</size>")[2])
    assert content(open_data(copied["roboflow"]).read("train")) == expected
    (copied["roboflow"] / "train/img_001.jpg").unlink()
    with pytest.raises(InputError, match=r"img_001\.xml"):
        open_data(copied["roboflow"]).annotations("train")


def test_the_json_itself_with_its_images_elsewhere(copied: dict[str, Path], tmp_path: Path) -> None:
    path = copied["coco"] / "annotations/instances_train.json"
    value = json.loads(path.read_text())
    for image in value["images"]:
        image["file_name"] = f"/home/somebody/{image['file_name']}"
    (tmp_path / "mine.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())
    data = open_data(tmp_path / "mine.json", DataOptions(images=copied["coco"] / "images"))
    assert data.sets == ("mine",)
    assert ids(data.read("mine")) == [f"img_{n:03}" for n in range(4)]
    with pytest.raises(InputError, match="4 of the 4 files .* missing"):
        open_data(tmp_path / "mine.json").read("mine")


def test_roboflows_json_in_the_folder_of_each_set(copied: dict[str, Path], tmp_path: Path) -> None:
    for name, other in (("train", "train"), ("valid", "val")):
        shutil.copytree(copied["coco"] / "images", tmp_path / "robo" / name)
        source = copied["coco"] / f"annotations/instances_{other}.json"
        shutil.copy(source, tmp_path / "robo" / name / "_annotations.coco.json")
    data = open_data(tmp_path / "robo")
    assert (data.sets, data.classes) == (("train", "valid"), CLASSES)
    assert len(data.read("val")) == 2
    assert data.read("train")[0].path.parent.name == "train"


def test_a_supercategory_with_objects_of_its_own_is_a_class(copied: dict[str, Path]) -> None:
    changed(copied["coco"], category_id=0)
    assert open_data(copied["coco"]).classes == ("gear", *CLASSES)


# ---- YOLO ---------------------------------------------------------------------------------------

PATHS = {
    "roboflow's": (
        "train: ../train/images\nval: ../valid/images\nnames: [helmet, vest, head gear]\n"
    ),
    "another machine's": (
        "path: /home/me/sets/mine\ntrain: /content/mine/train/images\nval: [valid/images]\n"
        "nc: 3\nnames: ['helmet', 'vest', 'head gear']\n"
    ),
    "a list": "train: train.txt\nval: valid/images\nnames: {0: helmet, 1: vest, 2: head gear}\n",
}


@pytest.mark.parametrize("text", PATHS.values(), ids=PATHS)
def test_the_paths_of_a_data_yaml(
    copied: dict[str, Path], tmp_path: Path, text: str, objects: Objects
) -> None:
    root = tmp_path / "mine"
    for name, other in (("train", "train"), ("valid", "val")):
        for kind in ("images", "labels"):
            shutil.copytree(copied["yolo"] / kind / other, root / name / kind)
    (root / "data.yaml").write_text(text)
    stems = list(formats.sets(objects)["train"])
    (root / "train.txt").write_text("".join(f"./mine/train/images/{s}.jpg\r\n" for s in stems))
    for path in (root, root / "data.yaml"):
        data = open_data(path)
        assert data.classes == CLASSES
        assert ids(data.read("train")) == stems
        expected = content(open_data(copied["yolo"]).read("val"))
        assert content(data.read("val")) == expected


def test_yolo_without_a_data_yaml(copied: dict[str, Path], tmp_path: Path) -> None:
    expected = content(open_data(copied["yolo"]).read("train"))
    (copied["yolo"] / "data.yaml").unlink()
    with pytest.raises(InputError, match=r"neither data.yaml nor classes.txt .* write classes.txt"):
        open_data(copied["yolo"])
    (copied["yolo"] / "classes.txt").write_text("\n".join(CLASSES))
    assert content(open_data(copied["yolo"]).read("train")) == expected
    flat = tmp_path / "flat"
    for kind in ("images", "labels"):
        shutil.copytree(copied["yolo"] / kind / "train", flat, dirs_exist_ok=True)
    shutil.copy(copied["yolo"] / "classes.txt", flat)
    data = open_data(flat)
    assert data.sets == ("all",)
    assert content(data.read("all")) == expected
    (flat / "img_000.jpg").unlink()
    (flat / "list.txt").write_text("img_001.jpg\n")
    assert open_data(flat).notes[-1] == "label files without an image: 1, such as img_000.txt"


def test_a_list_of_images_that_were_not_exported(copied: dict[str, Path], tmp_path: Path) -> None:
    """As CVAT writes it without "Save images"."""
    root = tmp_path / "cvat"
    shutil.copytree(copied["yolo"] / "labels/train", root / "obj_train_data")
    (root / "obj.names").write_text("helmet\nvest\nhead gear\n")
    names = [f"data/obj_train_data/{path.stem}.jpg" for path in root.rglob("img_*")]
    (root / "train.txt").write_text("\n".join(names))
    told = r"train\.txt names 4 images, none of which is there, such as .*: export the images, too"
    with pytest.raises(InputError, match=told):
        open_data(root).annotations("train")


def test_polygons_become_boxes_and_images_without_labels_are_empty(copied: dict[str, Path]) -> None:
    labels = copied["yolo"] / "labels/train"
    (labels / "img_000.txt").write_text("1 0.5 0.25 0.75 0.5 0.25 0.75\n\n")
    (labels / "img_001.txt").unlink()
    data = open_data(copied["yolo"])
    first, second, *_ = data.read("train")
    assert first.annotation.boxes.tolist() == [[16, 12, 48, 36]]
    assert first.annotation.labels.tolist() == [1]
    assert second.annotation.boxes.shape == (0, 4)
    assert any(
        "without a label file, and so taken as empty: 1 of the 4 images of train" in note
        for note in data.notes
    )


def test_label_files_without_an_image_and_json_without_categories_are_told(
    copied: dict[str, Path],
) -> None:
    (copied["yolo"] / "labels/val/gone.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (copied["yolo"] / "labels/val/classes.txt").write_text("helmet\n")
    notes = open_data(copied["yolo"]).notes
    assert notes[-1] == "label files without an image: 1, such as gone.txt"
    (copied["coco"] / "annotations/instances_train.json").write_text("[1]")
    notes = open_data(copied["coco"]).notes
    assert notes[-1] == "passed over, no COCO annotations: instances_train.json"
    for name in ("yolo", "coco"):
        assert not any("._" in note for note in open_data(copied[name]).notes)


def test_what_macos_writes_beside_the_files_is_none_of_them(copied: dict[str, Path]) -> None:
    for name in ("roboflow", "yolo"):
        expected = content(open_data(copied[name]).read("train"))
        for path in [*copied[name].rglob("*.xml"), *copied[name].rglob("*.jpg")]:
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        assert content(open_data(copied[name]).read("train")) == expected


@pytest.mark.parametrize(
    "line", ["JPEGImages/{}.jpg", "JPEGImages/{}", "{}.xml", "a\\JPEGImages\\{}.jpg", "{}.jpg"]
)
def test_lists_of_paths_and_files(copied: dict[str, Path], line: str) -> None:
    expected = content(open_data(copied["export"]).read("train"))
    path = copied["export"] / "ImageSets/Main/train.txt"
    stems = path.read_text().split()
    path.write_text("".join(f"{line.format(stem)}\r\n" for stem in stems) + "\n  \n")
    assert content(open_data(copied["export"]).read("train")) == expected


def test_a_yolo_box_over_the_edge_is_as_annotated(copied: dict[str, Path]) -> None:
    (copied["yolo"] / "labels/train/img_000.txt").write_text("0 1.0 0.5 0.5 1.25\n")
    annotation = open_data(copied["yolo"]).read("train")[0].annotation
    assert annotation.boxes.tolist() == [[48, -6, 80, 54]]
    assert annotation.usable(difficult=False)[0].tolist() == [[48, 0, 64, 48]]


def test_classes_whose_numbers_have_gaps_are_named(copied: dict[str, Path]) -> None:
    path = copied["yolo"] / "data.yaml"
    path.write_text("train: images/train\nnames: {0: helmet, 2: vest, 5: head}\n")
    (copied["yolo"] / "labels/train/img_000.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match="class 1 is none of those that names has, 0, 2, 5: add"):
        open_data(copied["yolo"]).read("train")


@pytest.mark.parametrize("place", ["/", "//", "/..", "../" * 12])
def test_the_whole_disk_is_no_set(copied: dict[str, Path], place: str) -> None:
    path = copied["yolo"] / "data.yaml"
    path.write_text(f"train: images/train\nval: {place}\nnames: [helmet, vest, head]\n")
    with pytest.raises(InputError, match=f"val is '{place}', the whole disk: write where"):
        open_data(copied["yolo"])


@pytest.mark.parametrize("number", ["-1", "1000000", "9" * 5000])
def test_a_number_that_no_class_has(copied: dict[str, Path], number: str) -> None:
    path = copied["yolo"] / "data.yaml"
    path.write_text(f"train: images/train\nnames:\n  0: a\n  {number}: b\n")
    with pytest.raises(InputError, match=r"data\.yaml"):
        open_data(copied["yolo"]).read("train")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 32 24 10 10", "lies outside the image: write shares .* not pixels"),
        ("3 0.5 0.5 0.1 0.1", "class 3 is none of 0 to 2: add it .*, or count them from 0"),
        ("1 0.5 0.5 0.1", "is not 'class x y width height'"),
        ("1 0.5 0.5 0.1 nan", "is not 'class x y width height'"),
        ("1 0.5 0.5 0.1 0.1_5", "is not 'class x y width height'"),
        ("1.5 0.5 0.5 0.1 0.1", "is not 'class x y width height'"),
        ("helmet 0.5 0.5 0.1 0.1", "is not 'class x y width height'"),
        ("1 0.5 0.5 0.1 0.1 0.9", "5 numbers after the class are neither a box"),
        ("1 0.5 0.5 -0.1 0.1", "is negative"),
    ],
)
def test_a_bad_label_is_named_by_its_line(copied: dict[str, Path], line: str, told: str) -> None:
    (copied["yolo"] / "labels/train/img_000.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(InputError, match=rf"img_000\.txt, line 2: .*{told}"):
        open_data(copied["yolo"]).read("train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: images/train\n", "holds"),
        ("names: [cat, dog]\ntrain: images/train\nnames: [dog, cat]\n", "names comes twice"),
        ("names: {0: cat, 1: dog, 1: bird}\ntrain: images/train\n", "1 comes twice: remove one"),
        ("names: []\ntrain: images/train\n", "names no classes"),
        ("names: [a]\nnc: 2\ntrain: images/train\n", "nc is 2, but there are 1 names"),
        ("names: [a]\ntrain: nowhere\n", "train is 'nowhere', which is not there"),
        ("names: [a]\n", "names no images"),
        ("names: [a\n", "is not YAML"),
        ("names: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_bad_data_yaml(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=told):
        open_data(tmp_path)


def test_shares_are_of_the_upright_photo(copied: dict[str, Path]) -> None:
    path = copied["yolo"] / "images/train/img_000.jpg"
    pixels = np.zeros((40, 20, 3), np.uint8)
    path.write_bytes(formats.oriented(pixels, 6))
    annotation = open_data(copied["yolo"]).read("train")[0].annotation
    assert (annotation.width, annotation.height) == (40, 20)
    cv2.imwrite(str(path), pixels)
    annotation = open_data(copied["yolo"]).read("train")[0].annotation
    assert (annotation.width, annotation.height) == (20, 40)


@pytest.mark.parametrize("name", ["coco", "yolo", "roboflow"])
def test_a_link_that_leads_nowhere_is_refused(copied: dict[str, Path], name: str) -> None:
    path = next(copied[name].rglob("img_000.jpg"))
    path.unlink()
    path.symlink_to("nowhere.jpg")
    with pytest.raises(InputError, match=r"missing"):
        open_data(copied[name]).read("train")
