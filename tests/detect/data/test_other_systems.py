"""Names, folders, links and ids as other systems and tools write them."""

import json
import shutil
import unicodedata
from pathlib import Path

import formats
import pytest

from common.errors import InputError
from detect.data.opening import open_data

OBJECTS = {"été": [(0, 5, 6, 28, 30)], "b": [(1, 3, 4, 20, 30)]}
BOXES = {"été": [[5, 6, 28, 30]], "b": [[3, 4, 20, 30]]}


def boxes(root: Path, name: str = "all") -> dict[str, list[list[float]]]:
    read = open_data(root).read(name)
    return {im.annotation.image_id: im.annotation.boxes.round(4).tolist() for im in read}


def write_yolo(root: Path, *, folders: tuple[str, str] = ("images", "labels")) -> Path:
    """Pictures and labels in folders of some name."""
    pictures, labels = (root / folder for folder in folders)
    formats.draw_pictures(pictures, OBJECTS)
    labels.mkdir(parents=True, exist_ok=True)
    for stem, found in OBJECTS.items():
        (labels / f"{stem}.txt").write_text(formats.yolo_lines(found))
    (root / "classes.txt").write_text("cat\ndog\ncow\n")
    return root


def write_coco(root: Path) -> tuple[Path, dict[str, list[dict[str, object]]]]:
    formats.draw_pictures(root / "images", OBJECTS)
    content: dict[str, list[dict[str, object]]] = formats.coco_json(OBJECTS)  # type: ignore[assignment]
    return root / "all.json", content


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_accents_as_macos_writes_them(tmp_path: Path, kind: str) -> None:
    apart = unicodedata.normalize("NFD", "été")
    if kind == "coco":
        file, content = write_coco(tmp_path)
        file.write_text(json.dumps(content))
        picture = tmp_path / "images"
    elif kind == "yolo":
        picture = write_yolo(tmp_path) / "images"
    else:
        picture = tmp_path
        formats.draw_pictures(picture, OBJECTS)
        for stem, found in OBJECTS.items():
            (tmp_path / f"{stem}.xml").write_text(formats.voc_xml(stem, found))
    (picture / "été.jpg").rename(picture / f"{apart}.jpg")
    found = boxes(tmp_path)
    assert sorted(found.values()) == sorted(BOXES.values())


def test_folders_with_capitals(tmp_path: Path) -> None:
    assert boxes(write_yolo(tmp_path / "a", folders=("Images", "Labels"))) == BOXES
    root = write_yolo(tmp_path / "b", folders=("IMAGES/Train", "LABELS/Train"))
    (root / "classes.txt").rename(root / "Classes.txt")
    assert boxes(root, "train") == BOXES


def test_folders_that_are_links_are_searched(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set")
    shutil.move(root / "images", tmp_path / "elsewhere")
    (root / "images").mkdir()
    (root / "images" / "part").symlink_to(tmp_path / "elsewhere")
    (root / "images" / "loop").symlink_to(root / "images")
    shutil.move(root / "labels", root / "part")
    (root / "labels").mkdir()
    shutil.move(root / "part", root / "labels" / "part")
    assert boxes(root) == BOXES


def test_as_many_folders_in_an_id_as_it_takes(tmp_path: Path) -> None:
    for day in ("d1", "d2"):
        write_yolo(tmp_path, folders=(f"images/{day}/cam", f"labels/{day}/cam"))
    found = boxes(tmp_path)
    assert {name: found[name] for name in ("d1/cam/b", "d2/cam/b")} == dict.fromkeys(
        ("d1/cam/b", "d2/cam/b"), BOXES["b"]
    )
    assert len(found) == 4


def test_roboflows_names_of_darknets_classes(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, folders=("train", "train"))
    (root / "classes.txt").rename(root / "train" / "_darknet.labels")
    assert open_data(root).classes == ("cat", "dog", "cow")
    assert boxes(root, "train") == BOXES


def test_ids_that_are_numbers_here_and_texts_there(tmp_path: Path) -> None:
    file, content = write_coco(tmp_path)
    for text in ("annotations", "images"):
        for item in content["annotations"]:
            kind = str if text == "annotations" else int
            item["image_id"] = kind(str(item["image_id"]))
            item["category_id"] = kind(str(item["category_id"]))
        for image in content["images"]:
            image["id"] = int(str(image["id"])) if text == "annotations" else str(image["id"])
        file.write_text(json.dumps(content))
        assert list(boxes(tmp_path).values()) == list(BOXES.values())
        assert [im.annotation.labels.tolist() for im in open_data(tmp_path).read("all")] == [
            [0],
            [1],
        ]
    content["annotations"][0]["image_id"] = "9"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"annotation 1: image_id '9' is none of its 2 images"):
        boxes(tmp_path)


def test_names_of_a_server(tmp_path: Path) -> None:
    file, content = write_coco(tmp_path)
    (tmp_path / "images/b.jpg").rename(tmp_path / "images/photo 1.jpg")
    content["images"][1]["file_name"] = "/data/upload/1/photo%201.jpg"
    file.write_text(json.dumps(content))
    assert list(boxes(tmp_path).values()) == list(BOXES.values())


@pytest.mark.parametrize("folders", [("Annotations", "JPEGImages"), ("", "")])
def test_xml_in_folders_below(tmp_path: Path, folders: tuple[str, str]) -> None:
    for day in ("d1", "d2"):
        annotations, pictures = (tmp_path / folder / day for folder in folders)
        annotations.mkdir(parents=True)
        formats.draw_pictures(pictures, OBJECTS)
        for stem, found in OBJECTS.items():
            (annotations / f"{stem}.XML").write_text(formats.voc_xml(stem, found))
    (tmp_path / ".idea").mkdir()
    (tmp_path / ".idea" / "x.xml").write_text("<project/>")
    assert boxes(tmp_path) == {
        f"{day}/{stem}": BOXES[stem] for day in ("d1", "d2") for stem in BOXES
    }
    top = tmp_path / folders[0] / "c.xml"
    top.write_text(formats.voc_xml("c", OBJECTS["b"]))
    formats.draw_pictures(tmp_path / folders[1], {"c": OBJECTS["b"]})
    assert len(boxes(tmp_path)) == 5


@pytest.mark.parametrize(
    ("said", "difficult"),
    [("Unspecified", False), ("", False), ("False", False), ("true", True), ("2", None)],
)
def test_difficult_in_words(tmp_path: Path, said: str, difficult: bool | None) -> None:
    formats.draw_pictures(tmp_path, OBJECTS)
    text = formats.voc_xml("b", OBJECTS["b"])
    text = text.replace("<bndbox>", f"<difficult>{said}</difficult><bndbox>")
    (tmp_path / "b.xml").write_text(text)
    if difficult is None:
        with pytest.raises(InputError, match="<difficult> is '2': write 0 or 1"):
            boxes(tmp_path)
    else:
        (image,) = open_data(tmp_path).read("all")
        assert image.annotation.difficult.tolist() == [difficult]


def test_what_is_no_upright_box(tmp_path: Path) -> None:
    formats.draw_pictures(tmp_path, OBJECTS)
    text = formats.voc_xml("b", OBJECTS["b"]).replace("bndbox", "robndbox")
    (tmp_path / "b.xml").write_text(text)
    with pytest.raises(
        InputError, match="1 .vest. is a <robndbox>, not a <bndbox>: export upright"
    ):
        boxes(tmp_path)


def test_annotations_of_which_none_can_be_read(tmp_path: Path) -> None:
    formats.draw_pictures(tmp_path, OBJECTS)
    text = formats.voc_xml("b", OBJECTS["b"]).replace("vest", "Käse")
    (tmp_path / "b.xml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="b.xml is not well-formed XML, write it again"):
        open_data(tmp_path)
