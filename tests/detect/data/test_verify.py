"""`detect verify` finds every planted fault, and none where a training would read on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import formats
import numpy as np
import pytest

import detect.__main__ as command
from common.errors import InputError
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.verify import verify

GOOD = cv2.imencode(".jpg", np.full((30, 40, 3), 90, np.uint8))[1].tobytes()
XML = (
    "<annotation><size><width>40</width><height>30</height></size><object><name>dog</name>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
    "</annotation>"
)
Call = Callable[..., tuple[int, str, str]]


def xml(devkit: Path, image_id: str, text: str = XML) -> None:
    (devkit / f"VOC2007/Annotations/{image_id}.xml").write_bytes(text.encode())


def jpeg(devkit: Path, image_id: str, content: bytes = GOOD) -> None:
    (devkit / f"VOC2007/JPEGImages/{image_id}.jpg").write_bytes(content)


def listed(devkit: Path, *lines: str, name: str = "trainval") -> None:
    path = devkit / f"VOC2007/ImageSets/Main/{name}.txt"
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / "VOC2007" / folder).mkdir(parents=True)
    for image_id in ("1", "2", "3"):
        xml(tmp_path, image_id)
        jpeg(tmp_path, image_id)
    listed(tmp_path, "1", "2", "3")
    return tmp_path


def faults(capsys: pytest.CaptureFixture[str], devkit: Path, split: str) -> tuple[list[str], str]:
    """The faults of a check, below the year's folder, and the summary."""
    with pytest.raises(InputError) as caught:
        verify(devkit, split, 0)
    (first, *lines) = capsys.readouterr().out.splitlines()
    assert first == f"{devkit}: a VOC devkit, 20 classes"
    table = next((number for number, line in enumerate(lines) if line.startswith("   ")), None)
    found = [line.removeprefix(f"{devkit}/VOC2007/") for line in lines[:table]]
    return found, str(caught.value)


def test_a_good_devkit(devkit: Path, call_command: Call) -> None:
    jpeg(devkit, "4")
    xml(devkit, "5")
    xml(devkit, "6")
    listed(devkit, "6 -1", name="dog_val")
    code, out, err = call_command(
        command, "verify", "--data", devkit, "--split", "2007:trainval", "--workers", "0"
    )
    assert (code, err) == (0, "")
    assert "\nno faults; 3 images checked in " in out
    assert "of one class" not in out  # one set was asked for
    assert out.endswith("VOC2007 holds 1 image and 1 annotation that none of its lists names\n")


def test_lists_of_one_class_are_counted_and_named(
    devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (devkit / "classes.txt").write_text("dog")
    for name in ("dog_train", "dog_val"):
        listed(devkit, "1 -1", "2  1", name=name)
    told = "not checked: 2 lists of one class each in {}, such as dog_train\n"
    verify(devkit, None, 0)
    main = devkit / "VOC2007/ImageSets/Main"
    assert told.format(main) in capsys.readouterr().out
    verify(devkit / "VOC2007", None, 0)
    assert told.format(main) in capsys.readouterr().out


def test_data_without_any_set_are_a_fault(devkit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(devkit, "1 -1", "2  1")
    with pytest.raises(InputError, match="1 fault, listed above; 0 images"):
        verify(devkit, None, 0)
    assert f"{devkit}: has no set of images: add lists, such as" in capsys.readouterr().out


def test_a_bad_one_by_the_command_and_its_processes(devkit: Path, call_command: Call) -> None:
    jpeg(devkit, "2", b"")
    arguments = ("verify", "--data", devkit, "--split", "2007:trainval")
    code, out, err = call_command(command, *arguments, "--workers", "1")
    assert code == 2
    path = devkit / "VOC2007/JPEGImages/2.jpg"
    assert out.splitlines()[1] == f"{path}: empty (0 bytes): fetch it again or remove it"
    assert err.startswith("error: 1 fault, listed above; 3 images checked in ")
    assert err.count("\n") == 1
    assert call_command(command, *arguments, "--workers", "-1")[0] == 2


FILES = {
    "DOCTYPE": ("<!DOCTYPE a>" + XML, "holds '<!DOCTYPE'"),
    "ENTITY": ("<!ENTITY a>" + XML, "holds '<!ENTITY'"),
    "NUL": (XML + "\0", "holds '\\x00'"),
    "oversized": (XML + " " * 1_000_000, "is over 1000000 bytes"),
    "cut": (XML[:-9], "is not well-formed XML"),
    "class": (XML.replace("dog", "unicorn"), "object 1: 'unicorn' is an unknown class"),
    "box": (
        XML.replace(">9<", ">99<"),
        "object 1 of box lies up to 59 pixels outside the image of 40 x 30",
    ),
    "size": (XML.replace(">40<", ">41<"), "has 40x30 pixels, but its annotation says 41x30"),
    "turned": (XML.replace(">40<", ">30<", 1).replace("ht>30<", "ht>40<"), "says 30x40"),
}


def test_every_kind_of_bad_annotation_in_one_pass(
    devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (text, _) in FILES.items():
        xml(devkit, name, text)
        jpeg(devkit, name)
    listed(devkit, "1", *FILES, "2")
    lines, summary = faults(capsys, devkit, "2007:trainval")
    assert len(lines) == len(FILES)
    for line, (name, (_, reason)) in zip(lines, FILES.items(), strict=True):
        place, _, told = line.partition(": ")
        size = name in ("size", "turned")
        assert place == (f"JPEGImages/{name}.jpg" if size else f"Annotations/{name}.xml")
        assert reason in told
    assert summary.startswith(f"{len(FILES)} faults, listed above; {len(FILES) + 2} images")


def test_ids(devkit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (devkit / "secret.jpg").write_bytes(b"")
    listed(devkit, "1", "../../secret", "/etc/passwd", "", "2", "1", "a\0b", "gone")
    listed(devkit, "3", "3", name="test")
    (devkit / "VOC2007/Annotations/3.xml").unlink()
    lines, summary = faults(capsys, devkit, "2007:trainval,2007:test")
    told = [line.removeprefix("ImageSets/Main/") for line in lines]
    assert told == [
        "trainval.txt: line 2: '../../secret' is no image id: name a file in the folder of images",
        "trainval.txt: line 3: '/etc/passwd' is no image id: name a file in the folder of images",
        "trainval.txt: line 4 is blank: write one image id per line",
        "trainval.txt: line 7: 'a\\x00b' is no image id: name a file in the folder of images",
        "trainval.txt: the image id 1 occurs twice: remove one",
        "Annotations/gone.xml: is missing: unpack the archive again",
        f"Annotations/gone.xml: {devkit}/VOC2007/JPEGImages/gone.jpg is missing: unpack the "
        "archive again",
        "test.txt: the image id 3 occurs twice: remove one",
        "Annotations/3.xml: is missing: unpack the archive again",
    ]
    assert summary.startswith("9 faults, listed above; 4 images")


def test_an_empty_list_and_one_that_is_no_text(
    devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(devkit, name="val")
    (devkit / "VOC2007/ImageSets/Main/test.txt").write_bytes(b"\xff\xfe1")
    lines, _ = faults(capsys, devkit, "2007:val,2007:test,2007:trainval")
    assert lines == [
        "ImageSets/Main/val.txt: lists no images: write one image id per line",
        "ImageSets/Main/test.txt: is no text in UTF-8 or UTF-16 (byte 2): save it as UTF-8",
    ]


HELMETS = """<annotation><filename>{stem}.jpg</filename><size><width>40</width><height>30</height>
</size>{objects}</annotation>"""


def helmet(xmin: float, ymin: float, xmax: float, ymax: float, name: str = "helmet") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (xmin, ymin, xmax, ymax), strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


@pytest.fixture
def helmets(devkit: Path) -> Path:
    (devkit / "classes.txt").write_text("helmet\nvest\n")
    for number in ("1", "2", "3"):
        objects = helmet(2, 2, 11, 12) + helmet(1, 5, 30, 20, "vest")
        xml(devkit, number, HELMETS.format(stem=number, objects=objects))
    listed(devkit, "1", "2", name="train")
    listed(devkit, "3", name="val")
    (devkit / "VOC2007/ImageSets/Main/trainval.txt").unlink()
    return devkit


def table(devkit: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    """What a check without faults prints."""
    verify(devkit, None, 0, DataOptions(**options))
    return capsys.readouterr().out.splitlines()


def test_the_table_counts_what_the_sets_hold(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xml(helmets, "2", HELMETS.format(stem=2, objects=""))
    marked = helmet(2, 2, 11, 12).replace("<name>", "<difficult>1</difficult><name>")
    xml(helmets, "1", HELMETS.format(stem=1, objects=marked + helmet(1, 5, 30, 20)))
    cv2.imwrite(str(helmets / "VOC2007/JPEGImages/2.png"), np.zeros((30, 40, 3), np.uint8))
    (helmets / "VOC2007/JPEGImages/2.jpg").unlink()
    lines = table(helmets, capsys)
    rows = dict(line.rsplit(None, 2)[0].rstrip() and _row(line) for line in lines[2:8])
    assert rows == {
        "images": ["2", "1"],
        "without objects": ["1", "0"],
        "objects": ["2", "2"],
        "of them difficult": ["1", "0"],
        "helmet": ["2", "1"],
        "vest": ["0", "1"],
    }
    assert lines[8].split() == ["formats", "1", "JPEG,", "1", "PNG", "1", "JPEG"]
    assert lines[9].split() == ["sizes", "2", "of", "40x30", "1", "of", "40x30"]
    assert "warning: 2007:train has no object of vest" in lines


def _row(line: str) -> tuple[str, list[str]]:
    *words, first, second = line.split()
    return " ".join(words), [first, second]


def faults_of(devkit: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(InputError, match="faults?, listed above"):
        verify(devkit, None, 0)
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines[1:] if line.startswith(str(devkit))]


def test_a_set_without_a_usable_object_is_a_fault(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xml(helmets, "3", HELMETS.format(stem=3, objects=""))
    (fault,) = faults_of(helmets, capsys)
    assert "2007:val offers nothing to learn: none of its images has an object" in fault
    marked = helmet(2, 2, 11, 12).replace("<name>", "<difficult>1</difficult><name>")
    xml(helmets, "3", HELMETS.format(stem=3, objects=marked))
    (fault,) = faults_of(helmets, capsys)
    assert "all of its objects (1) are marked difficult: unmark them, or train with --diff" in fault


@pytest.mark.parametrize("tag", ["Object", "objects", "OBJECT"])
def test_another_tag_than_object_is_a_fault(
    helmets: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    text = HELMETS.format(stem=3, objects=helmet(2, 2, 11, 12) + helmet(1, 5, 30, 20))
    xml(helmets, "3", text.replace("object>", f"{tag}>", 2))  # one object in two
    (fault,) = faults_of(helmets, capsys)
    assert f"holds <{tag}>, which is not <object>" in fault


def test_an_object_listed_twice_is_a_fault(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = helmet(2, 2, 11, 12)
    others = helmet(2, 2, 11, 12, "vest") + helmet(2, 2, 11, 13)
    xml(helmets, "3", HELMETS.format(stem=3, objects=same + others + same))
    (fault,) = faults_of(helmets, capsys)
    assert "3.xml: objects 1 and 4 of 3 are the same: remove one" in fault


def test_images_of_two_sets_are_counted_copies_too(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("1", "2"):  # of their own; 3 stays a copy of none
        jpeg(helmets, number, cv2.imencode(".jpg", np.full((30, 40, 3), 9 * int(number)))[1])
    assert not any("s both in" in line for line in table(helmets, capsys))
    jpeg(helmets, "3", (helmets / "VOC2007/JPEGImages/1.jpg").read_bytes())
    assert "warning: images both in 2007:train and in 2007:val: 1" in table(helmets, capsys)
    listed(helmets, "2", name="val")
    assert "warning: images both in 2007:train and in 2007:val: 1" in table(helmets, capsys)
    listed(helmets, "1", "2", "3", name="trainval")
    lines = table(helmets, capsys)
    assert [line for line in lines if "s both in" in line] == [
        "warning: images both in 2007:train and in 2007:val: 1"
    ]


@pytest.mark.parametrize(
    ("box", "options", "words"),
    [
        ((0, 2, 11, 12), {}, "3 of 3 boxes begin at 0 and 0 have decimals"),
        ((2.5, 2, 11, 12), {}, "0 of 3 boxes begin at 0 and 3 have decimals"),
        ((2, 2, 11, 12), {}, None),
        ((0, 2.5, 11, 12), {"coordinates": "zero-based"}, None),
        ((1, 2, 11, 12), {"coordinates": "zero-based"}, "3 of 3 boxes begin at 1, none at 0"),
    ],
)
def test_what_the_coordinates_look_like(
    helmets: Path,
    capsys: pytest.CaptureFixture[str],
    box: tuple[float, ...],
    options: dict[str, Any],
    words: str | None,
) -> None:
    for number in ("1", "2", "3"):
        xml(helmets, number, HELMETS.format(stem=number, objects=helmet(*box)))
    told = [line for line in table(helmets, capsys, **options) if "boxes begin" in line]
    assert len(told) == (words is not None)
    if words:
        assert words in told[0] and "--coordinates zero-based" in told[0]


def test_turned_photos_are_counted_and_misfits_named(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lying = np.zeros((40, 30, 3), np.uint8)  # upright it is 40 x 30, as its annotation says
    jpeg(helmets, "3", formats.oriented(lying, 6))
    (told,) = [line for line in table(helmets, capsys) if line.startswith("orientation")]
    assert "1 of 2007:val have EXIF orientation 6 (on its side" in told
    assert "turned upright, as their annotations are" in told
    jpeg(helmets, "3", formats.oriented(np.zeros((30, 40, 3), np.uint8), 6))
    (told,) = [line for line in table(helmets, capsys) if line.startswith("orientation")]
    assert "read as stored" in told
    jpeg(helmets, "3", formats.oriented(np.zeros((33, 44, 3), np.uint8), 8))
    (fault,) = faults_of(helmets, capsys)
    assert "has 44x33 pixels (EXIF orientation 8: on its side" in fault
    assert "but its annotation says 40x30" in fault


def test_links_that_lead_nowhere_and_other_formats(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = helmets / "VOC2007/JPEGImages/3.jpg"
    path.unlink()
    path.symlink_to("nowhere.jpg")
    (fault,) = faults_of(helmets, capsys)
    assert "JPEGImages/3.jpg is missing" in fault
    path.unlink()
    jpeg(helmets, "3")
    (helmets / "VOC2007/JPEGImages/4.tif").touch()
    assert "1 file of " in table(helmets, capsys)[-1]
    assert "of no format that is read: 4.tif" in table(helmets, capsys)[-1]


@pytest.mark.parametrize("split", ["2007:nothing", "2008:trainval", "x"])
def test_a_set_that_is_not_there_is_the_usual_error(devkit: Path, split: str) -> None:
    with pytest.raises(InputError) as usual:
        open_data(devkit).read(split)
    with pytest.raises(InputError) as caught:
        verify(devkit, split, 0)
    assert str(caught.value) == str(usual.value)


def test_annotations_that_are_not_there_are_one_fault_a_set(
    helmets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val"):  # of one image, a fault of its own is as short
        (helmets / f"VOC2007/ImageSets/Main/{name}.txt").write_text("1\n2\n3\n")
    for path in (helmets / "VOC2007/Annotations").iterdir():
        path.unlink()
    faults = faults_of(helmets, capsys)
    assert len(faults) == 2 and all("has none of the annotations of 2007:" in f for f in faults)


@pytest.mark.parametrize("name", [None, 12])
def test_a_coco_image_without_a_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: object
) -> None:
    root = formats.write_coco(tmp_path, formats.draw_objects())
    path = root / "annotations/instances_train.json"
    value = json.loads(path.read_text())
    value["images"][0]["file_name"] = name
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"^1 fault, listed above"):
        verify(root, None, 0)
    assert f"{path}: image 1 has no file_name: export it again" in capsys.readouterr().out


def test_images_that_lists_name_by_their_paths_are_named(
    devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (devkit / "classes.txt").write_text("dog\n")
    listed(devkit, "JPEGImages/1.jpg", "Annotations/2.xml", "3")
    verify(devkit, None, 0)
    assert "none of its lists" not in capsys.readouterr().out


def test_classes_spelt_alike_are_told(
    devkit: Path, call_command: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    (devkit / "classes.txt").write_text("dog\ncat\nDog")
    line = "warning: classes spelt alike: 1, such as 'dog' and 'Dog': if they are one, rename one"
    assert line in table(devkit, capsys)
    flags = ("--train-split", "2007:trainval", "--val-split", "none", "--out", devkit / "run")
    given = ("train", "toy-retinanet", "--data", devkit, *flags)
    code, out, err = call_command(command, *given, "--backbone", "scratch", "--dry-run")
    assert (err, code) == ("", 0)
    assert line in out.splitlines()
