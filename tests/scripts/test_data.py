"""`scripts/data.py`: small sets from a server of this machine, counted, shown and verified."""

import hashlib
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import cv2
import data as script
import numpy as np
import pytest
import torchvision.datasets as published

XML = """<annotation><size><width>8</width><height>8</height></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>"""
Call = Callable[..., tuple[int, str, str]]


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))


def draw_voc(year: Path, name: str, images: dict[str, list[tuple[str, int]]]) -> None:
    """Add a set: class and difficulty of the objects of each image."""
    for image_id, objects in images.items():
        draw(year / "JPEGImages" / f"{image_id}.jpg")
        text = "".join(OBJECT.format(name=kind, difficult=hard) for kind, hard in objects)
        (year / "Annotations").mkdir(exist_ok=True)
        (year / "Annotations" / f"{image_id}.xml").write_text(XML.format(objects=text))
    (year / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (year / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(images))


def draw_classes(root: Path, names: tuple[str, ...], inner: str, number: int) -> None:
    for name in names:
        for image in range(number):
            draw(root / name / inner / f"{name}_{image}.JPEG")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small sets as they are when unpacked."""
    root = tmp_path_factory.mktemp("sources")
    trainval = {"000005": [("dog", 0), ("cat", 1)], "000007": [("dog", 0)], "000009": []}
    draw_voc(root / "trainval/VOCdevkit/VOC2007", "trainval", trainval)
    draw_voc(root / "test/VOCdevkit/VOC2007", "test", {"000001": [("cow", 1), ("cow", 0)]})
    tiny = root / "tiny/tiny-imagenet-200"
    draw_classes(tiny / "train", ("n01", "n02"), "images", 3)
    draw(tiny / "val/images/val_0.JPEG")
    draw(tiny / "val/images/val_1.JPEG")
    lines = ("val_0.JPEG\tn02\t0\t0\t1\t1", "val_1.JPEG\tn01\t0\t0\t1\t1")
    (tiny / "val/val_annotations.txt").write_text("\n".join(lines))
    return root


class Mirror:
    """A server of archives: its address, its folder, and what was asked of it."""

    def __init__(self, url: str, folder: Path, asked: list[str]) -> None:
        self.url, self.folder, self.asked = url, folder, asked


class Handler(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serve the archives of small sets, and put these into the table."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, part in (
        ("VOCtrainval_06-Nov-2007.tar", "trainval"),
        ("VOCtest_06-Nov-2007.tar", "test"),
    ):
        with tarfile.open(folder / name, "w") as tar:
            tar.add(sources / part / "VOCdevkit", "VOCdevkit")
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        for path in sorted((sources / "tiny").rglob("*")):
            archive.write(path, path.relative_to(sources / "tiny"))
    (folder / "cifar-10-python.tar.gz").write_bytes(b"nearly CIFAR")
    counts = {
        "2007:trainval": {"images": 3, "objects": 3, "objects not difficult": 2},
        "2007:test": {"images": 1, "objects": 2, "objects not difficult": 1},
        "": {
            "classes": 2,
            "train images": 6,
            "train images, fewest of a class": 3,
            "train images, most of a class": 3,
            "val images": 2,
        },
    }
    for name, data_set in script.DATA_SETS.items():
        parts = []
        for part in data_set.parts:
            archive = part.archive
            if archive and (folder / archive.name).exists():
                content = (folder / archive.name).read_bytes()
                md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
                archive = replace(archive, size=len(content), md5=md5, sha256=sha256)
            parts.append(
                replace(
                    part,
                    archive=archive,
                    published=counts.get(part.split, part.published),
                    unpacked=100_000 if part.unpacked else 0,
                )
            )
        monkeypatch.setitem(script.DATA_SETS, name, replace(data_set, parts=tuple(parts)))
    monkeypatch.setenv("no_proxy", "*")
    Handler.asked.clear()
    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield Mirror(f"http://127.0.0.1:{server.server_port}", folder, Handler.asked)
        server.shutdown()
        thread.join()


@pytest.fixture
def call(call_command: Call) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        code, out, err = call_command(script, *arguments)
        # One line, whatever went wrong.
        assert err == "" if code == 0 else err.startswith("error: ") and err.count("\n") == 1
        return code, out, err

    return run


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- the table ----------------------------------------------------------------------------------


def test_digests_are_those_of_torchvision() -> None:
    ours = {
        part.archive.name: part.archive.md5
        for data_set in script.DATA_SETS.values()
        for part in data_set.parts
        if part.archive
    }
    voc = [published.voc.DATASET_YEAR_DICT[key] for key in ("2007", "2007-test", "2012")]
    theirs = {facts["filename"]: facts["md5"] for facts in voc} | {
        kind.filename: kind.tgz_md5 for kind in (published.CIFAR10, published.CIFAR100)
    }
    assert len(theirs) == 5
    assert ours == theirs | {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"}
    # torchvision 0.26 names the host from before it moved
    moved = ("http://host.robots.ox.ac.uk/", "https://thor.robots.ox.ac.uk/")
    assert {facts["url"].replace(*moved) for facts in voc} < {
        url
        for name in ("voc2007", "voc2012")
        for part in script.DATA_SETS[name].parts
        for url in part.archive.urls
    }


# ---- download -----------------------------------------------------------------------------------


def test_what_is_downloaded_is_complete(
    call: Call, mirror: Mirror, sources: Path, tmp_path: Path
) -> None:
    to = tmp_path / "new" / "data"
    names = ("voc2007", "tiny-imagenet")
    code, out, _ = call("download", *names, "--to", to, "--mirror", f"{mirror.url}/")
    assert code == 0, out
    for name in mirror.folder.glob("*00*"):
        assert (to / name.name).read_bytes() == name.read_bytes()
        (to / name.name).unlink()  # as the command says one may
    expected: dict[str, bytes] = {}
    for part in ("trainval", "test", "tiny"):  # of which the first two fill one folder
        expected |= content(sources / part)
    assert content(to) == expected
    for name in names:
        for command in ("counts", "tree"):
            code, out, _ = call(command, name, "--data", to)
            assert code == 0 and "MISSING" not in out and "differs" not in out
    asked = list(mirror.asked)
    code, out, _ = call("download", *names, *names, "--to", to, "--mirror", mirror.url)
    assert code == 0 and out.splitlines() == [
        f"voc2007 2007:trainval: complete in {to}",
        f"voc2007 2007:test: complete in {to}",
        f"tiny-imagenet: complete in {to}",
    ]
    assert mirror.asked == asked and len(asked) == 3
    (to / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG").unlink()
    assert call("download", *names, "--to", to, "--mirror", mirror.url)[0] == 0
    (to / "tiny-imagenet-200.zip").unlink()
    assert content(to) == expected


def test_only_what_is_missing_is_fetched(
    call: Call, mirror: Mirror, sources: Path, tmp_path: Path
) -> None:
    shutil.copytree(sources / "trainval", tmp_path / "data")
    code, out, _ = call("download", "voc2007", "--to", tmp_path / "data", "--mirror", mirror.url)
    assert code == 0
    assert "2007:trainval: complete" in out and "2007:test: fetching" in out
    assert mirror.asked == ["/VOCtest_06-Nov-2007.tar"]
    assert call("counts", "voc2007", "--data", tmp_path / "data")[0] == 0


def test_interrupted_unpacking_is_repeated(
    call: Call, mirror: Mirror, sources: Path, tmp_path: Path
) -> None:
    to = tmp_path / "data"
    shutil.copytree(sources / "tiny", to)
    (to / ".tiny-imagenet-200.zip.unpacking").mkdir()
    code, out, _ = call("download", "tiny-imagenet", "--to", to, "--mirror", mirror.url)
    assert code == 0 and "unpacking" in out
    (to / "tiny-imagenet-200.zip").unlink()
    assert content(to) == content(sources / "tiny")


def test_archives_of_cifar_stay_packed(call: Call, mirror: Mirror, tmp_path: Path) -> None:
    to = tmp_path / "data"
    for _ in range(2):
        code, out, _ = call("download", "cifar10", "--to", to, "--mirror", mirror.url)
        assert code == 0 and out.endswith("has the published digests, and is read as it is\n")
        assert content(to) == {"cifar-10-python.tar.gz": b"nearly CIFAR"}
    assert len(mirror.asked) == 1


def test_a_mirror_without_it(call: Call, mirror: Mirror, tmp_path: Path) -> None:
    (mirror.folder / "tiny-imagenet-200.zip").unlink()
    code, _, err = call(
        "download", "tiny-imagenet", "--to", tmp_path / "x", "--mirror", f"{mirror.url}/"
    )
    assert code == 2
    assert err == (
        f"error: tiny-imagenet-200.zip could not be fetched: {mirror.url}/tiny-imagenet-200.zip "
        "answers 404 File not found; call again later\n"
    )


def test_a_mirror_with_something_else(call: Call, mirror: Mirror, tmp_path: Path) -> None:
    archive = mirror.folder / "tiny-imagenet-200.zip"
    archive.write_bytes(bytes(archive.stat().st_size))
    code, _, err = call("download", "tiny-imagenet", "--to", tmp_path / "x", "--mirror", mirror.url)
    assert code == 2 and "came with another content than was published (MD5 " in err
    assert list((tmp_path / "x").iterdir()) == []


def test_room_is_asked_for_all_at_once(
    call: Call, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("download", "voc2007", "cifar10", "--to", tmp_path / "x", "--mirror", mirror.url)
    archives = (*mirror.folder.glob("VOC*"), mirror.folder / "cifar-10-python.tar.gz")
    needed = sum(path.stat().st_size for path in archives) + 200_000 - 1_000
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "VOCtest_06-Nov-2007.tar.part").write_bytes(archives[0].read_bytes()[:1_000])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    code, _, err = call(*arguments)
    assert (
        code == 2 and f"no room for the data: {needed:,} bytes needed, {needed - 1:,} free" in err
    )
    assert mirror.asked == []


def test_imagenet_is_told(
    call: Call, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "data"
    command = ("download", "imagenet", "cifar10", "--to", to, "--mirror", mirror.url)
    code, out, err = call(*command)
    assert code == 2 and "follow the steps above" in err
    for name, md5 in published.imagenet.ARCHIVE_META.values():
        (line,) = (line for line in out.splitlines() if name in line)
        assert line.endswith(f"MD5 {md5}")
    assert f"ImageNet('{to}/imagenet', 'val')" in out
    assert (to / "cifar-10-python.tar.gz").exists()
    for split, number in (("train", 3), ("val", 1)):
        draw_classes(to / "imagenet" / split, ("n01", "n02"), "", number)
    code, out, err = call(*command)
    assert code == 0 and f"imagenet: complete in {to}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("download", "voc2008", "--to", "x"), "unknown data set 'voc2008'; nearest: voc2007"),
        (("download", "--to", "x"), "name at least one data set: voc2007, voc2012, cifar10"),
        (("download", "voc2007"), "missing --to"),
        (
            ("download", "voc2007", "--to", "x", "--mirror", "/srv"),
            "/srv is no http:// or https://",
        ),
        (("counts", "voc", "--data", "x"), "unknown data set 'voc'"),
        (("verify", "voc2007", "--data", "x", "--workers", "-1"), "workers"),
        (("tree", "voc2007", "--data", "/no/such"), "/no/such is no folder: name the one that"),
    ],
)
def test_wrong_arguments(call: Call, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2 and message in err
    assert not Path("x").exists()


# ---- counts, tree, verify -----------------------------------------------------------------------


def test_counts_of_a_part(call: Call, mirror: Mirror, sources: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sources / "trainval", tmp_path / "data")
    year = data / "VOCdevkit" / "VOC2007"
    (year / "JPEGImages" / "000007.jpg").unlink()
    (year / "Annotations" / "000009.xml").write_text("<")
    code, out, err = call("counts", "voc2007", "--data", data / "VOCdevkit")
    assert code == 2 and "does not hold voc2007 as it was published: fetch it again" in err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1:4] == [
        "2007:trainval images 2 3 differs",
        "2007:trainval objects 3 3",
        "2007:trainval objects not difficult 2 2",
    ]
    assert lines[4] == "2007:test images - 1 differs"
    assert [line.split()[:2] for line in lines[7:]] == [["not", "counted:"]] * 2
    assert "000009.xml is not well-formed" in lines[7] and "no set 2007:test" in lines[8]


def test_counts_of_classes(call: Call, mirror: Mirror, sources: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sources / "tiny", tmp_path / "data")
    draw(data / "tiny-imagenet-200/train/n02/images/another.JPEG")
    (data / "tiny-imagenet-200/val/images/val_0.JPEG").unlink()
    code, out, _ = call("counts", "tiny-imagenet", "--data", data)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 2 and lines[1:6] == [
        "classes 2 2",
        "train images 7 6 differs",
        "train images, fewest of a class 3 3",
        "train images, most of a class 4 3 differs",
        "val images - 2 differs",
    ]
    assert "val_annotations.txt: line 1: the image 'val_0.JPEG' is not in" in lines[6]


def test_counts_of_too_much_and_of_damage(call: Call, mirror: Mirror, sources: Path) -> None:
    data = mirror.folder
    for part in ("trainval", "test", "tiny"):
        shutil.copytree(sources / part, data, dirs_exist_ok=True)
    draw(data / "tiny-imagenet-200/train/n02/images/another.JPEG")
    code, out, _ = call("counts", "tiny-imagenet", "--data", data)
    assert code == 2 and "differs" in out and "not counted" not in out
    (data / "VOCdevkit" / "VOC2007" / "Annotations" / "000009.xml").write_text("<")  # no objects
    code, out, _ = call("counts", "voc2007", "--data", data)
    assert code == 2 and "differs" not in out and "not counted" in out


def test_counts_of_nothing(call: Call, tmp_path: Path) -> None:
    code, out, err = call("counts", "cifar100", "--data", tmp_path)
    assert code == 2 and "holds nothing of cifar100" in err
    assert out.splitlines()[2].split() == ["train", "images", "-", "50,000", "differs"]


def test_the_tree_marks_what_is_missing(call: Call, sources: Path, tmp_path: Path) -> None:
    data = shutil.copytree(sources / "trainval", tmp_path / "data")
    (data / "VOCdevkit" / "notes.txt").touch()
    code, out, err = call("tree", "voc2007", "--data", data)
    assert code == 2 and "lacks VOC2007/ImageSets/Main/test.txt of voc2007" in err
    assert [line.rstrip() for line in out.splitlines()] == [
        f"{f'expected in {data}/VOCdevkit':45} found",
        "  VOC2007/",
        f"{'    Annotations/'}",
        f"{'      *.xml':45} 3 files",
        "    ImageSets/",
        "      Main/",
        f"{'        trainval.txt':45} 1 file",
        f"{'        test.txt':45} MISSING",
        "    JPEGImages/",
        f"{'      *.jpg':45} 3 files",
        "also there: notes.txt",
    ]


def test_the_nearest_tree_is_shown(call: Call, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for number in range(1, 6):
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{number}").touch()
    code, out, err = call("tree", "cifar10", "--data", tmp_path)
    assert code == 2 and "lacks cifar-10-batches-py/test_batch of cifar10" in err
    assert out.count("1 file\n") == 5 and out.count("MISSING") == 1
    assert "or cifar-10-python.tar.gz\n" in out and "or train/*/*, test/*/*\n" in out


def test_verify_hands_over(call: Call, sources: Path, tmp_path: Path) -> None:
    for part in ("trainval", "tiny"):
        shutil.copytree(sources / part, tmp_path, dirs_exist_ok=True)
    code, out, _ = call("verify", "voc2007", "--data", tmp_path, "--workers", 0)
    assert (
        code == 0
        and out.startswith("2007:test is not there\n")
        and "\nno faults; 3 images checked" in out
    )
    code, out, _ = call("verify", "tiny-imagenet", "--data", tmp_path, "--workers", 0)
    assert code == 0 and "no faults; 8 images checked" in out
    for broken in (
        "VOCdevkit/VOC2007/JPEGImages/000005.jpg",
        "tiny-imagenet-200/val/images/val_1.JPEG",
    ):
        (tmp_path / broken).write_bytes(b"no image")
        name = "voc2007" if "VOC" in broken else "tiny-imagenet"
        code, out, err = call("verify", name, "--data", tmp_path, "--workers", 0)
        assert code == 2 and f"{tmp_path / broken}: " in out and "1 fault," in err
    code, _, err = call("verify", "voc2012", "--data", tmp_path)
    assert code == 2 and "has no set 2012:trainval" in err
