"""`detect verify` finds every planted fault, and none where a training would read on."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import detect.__main__ as command
from common.errors import InputError
from detect.data.verify import verify
from detect.data.voc import VOC_CLASSES, read_split

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
    """The lines of a check, below the year's folder, and the summary."""
    with pytest.raises(InputError) as caught:
        verify(devkit, split, 0)
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix(f"{devkit}/VOC2007/") for line in lines], str(caught.value)


def test_a_good_devkit(devkit: Path, call_command: Call) -> None:
    jpeg(devkit, "4")
    xml(devkit, "5")
    xml(devkit, "6")
    listed(devkit, "6 -1", name="dog_val")
    code, out, err = call_command(
        command, "verify", "--data", devkit, "--split", "2007:trainval", "--workers", "0"
    )
    assert (code, err) == (0, "")
    assert out.startswith("no faults; 3 images checked in ")
    assert out.endswith("VOC2007 holds 1 images and 1 annotations that none of its lists names\n")


def test_a_bad_one_by_the_command_and_its_processes(devkit: Path, call_command: Call) -> None:
    jpeg(devkit, "2", b"")
    arguments = ("verify", "--data", devkit, "--split", "2007:trainval")
    code, out, err = call_command(command, *arguments, "--workers", "1")
    assert code == 2
    path = devkit / "VOC2007/JPEGImages/2.jpg"
    assert out == f"{path}: empty (0 bytes): fetch it again or remove it\n"
    assert err.startswith("error: 1 faults, listed above; 3 images checked in ")
    assert err.count("\n") == 1
    assert call_command(command, *arguments, "--workers", "-1")[0] == 2


FILES = {
    "DOCTYPE": ("<!DOCTYPE a>" + XML, "holds '<!DOCTYPE'"),
    "ENTITY": ("<!ENTITY a>" + XML, "holds '<!ENTITY'"),
    "NUL": (XML + "\0", "holds '\\x00'"),
    "oversized": (XML + " " * 1_000_000, "is over 1000000 bytes"),
    "cut": (XML[:-9], "is not well-formed XML"),
    "class": (XML.replace("dog", "unicorn"), "object 1: 'unicorn' is an unknown class"),
    "box": (XML.replace(">9<", ">99<"), "object 1 (dog): the box"),
    "size": (XML.replace(">40<", ">41<"), "has 40 x 30 pixels, its annotation says 41 x 30"),
    "turned": (XML.replace(">40<", ">30<", 1).replace("ht>30<", "ht>40<"), "says 30 x 40"),
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
    listed(devkit, "3", "2", name="test")
    (devkit / "VOC2007/Annotations/3.xml").unlink()
    lines, summary = faults(capsys, devkit, "2007:trainval,2007:test")
    told = [line.removeprefix("ImageSets/Main/") for line in lines]
    assert told == [
        "trainval.txt: line 2: '../../secret' is no image id: name a file in the folder of images",
        "trainval.txt: line 3: '/etc/passwd' is no image id: name a file in the folder of images",
        "trainval.txt: line 4 is blank: write one image id per line",
        "trainval.txt: line 6: the image id 1 came before, in line 1 of VOC2007 trainval",
        "trainval.txt: line 7: 'a\\x00b' is no image id: name a file in the folder of images",
        "test.txt: line 2: the image id 2 came before, in line 5 of VOC2007 trainval",
        "JPEGImages/gone.jpg: unreadable: No such file or directory",
        "Annotations/gone.xml: is no readable VOC annotation: No such file or directory",
        "Annotations/3.xml: is no readable VOC annotation: No such file or directory",
    ]
    assert summary.startswith("9 faults, listed above; 4 images")


def test_an_empty_list_and_one_that_is_no_text(
    devkit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(devkit, name="val")
    (devkit / "VOC2007/ImageSets/Main/test.txt").write_bytes(b"\xff\xfe1")
    lines, _ = faults(capsys, devkit, "2007:val,2007:test,2007:trainval")
    assert lines == [
        "ImageSets/Main/val.txt: lists no images",
        "ImageSets/Main/test.txt: is not a text file: save it as UTF-8",
    ]


@pytest.mark.parametrize("split", ["2007:nothing", "2008:trainval", "x"])
def test_a_set_that_is_not_there_is_the_usual_error(devkit: Path, split: str) -> None:
    with pytest.raises(InputError) as usual:
        read_split(devkit, split, VOC_CLASSES)
    with pytest.raises(InputError) as caught:
        verify(devkit, split, 0)
    assert str(caught.value) == str(usual.value)
