"""Indexing: what tar files made elsewhere hold, and that hostile ones are refused."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from sharding.indexing import index, scan

from common.errors import InputError
from pretrain.data.datasets import load
from pretrain.data.shards import ShardSet, read_index

Member = tuple[str, bytes]


def write_tar(path: Path, *members: Member | tarfile.TarInfo, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mtime = len(member[1]), 1.5  # a fraction asks for a PAX header
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def test_shards_made_elsewhere(tmp_path: Path) -> None:
    long = "folder/" + "x" * 150
    write_tar(
        tmp_path / "b.tar",
        ("2.cls", b"1\n"),
        ("2.json", b"{}"),
        ("2.jpeg", b"two"),
        (f"{long}.png", b"long"),
        (f"{long}.cls", b"0"),
    )
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    write_tar(tmp_path / "a.tar", folder, ("1.jpg", b"one"), ("1.cls", b"0"), ("1.txt", b"text"))
    index(tmp_path, workers=1)
    data = read_index(tmp_path)
    assert data.classes == ("0", "1")
    assert data.labels.tolist() == [0, 0, 1]
    assert [data.read(i) for i in range(3)] == [b"one", b"long", b"two"]
    assert [shard.name for shard in data.shards] == ["a.tar", "b.tar"]
    assert json.loads((tmp_path / "index.json").read_text())["samples"]["name"][1] == f"{long}.png"


def test_tar_files_of_two_splits_in_one_folder(tmp_path: Path) -> None:
    """As timm's sets are kept on the hub: no index holds images of both."""
    for name, content in (
        ("imagenet1k-train-0000", b"t"),
        ("imagenet1k-train-0001", b"u"),
        ("imagenet1k-validation-00", b"v"),
    ):
        members = [
            (f"{name[-1]}{n}.{kind}", text)
            for n in "01"
            for kind, text in (("webp", content), ("cls", n.encode()))
        ]
        write_tar(tmp_path / f"{name}.tar", *members)
    message = f"make_shards.py --index {tmp_path}"
    with pytest.raises(InputError, match=re.escape(message)):
        load("folders", tmp_path, "train")
    (tmp_path / "index.json").write_text("{}")  # of a version that put them into one
    index(tmp_path, workers=1)
    train, val = (load("folders", tmp_path, split, split_by=0.2) for split in ("train", "val"))
    assert isinstance(train, ShardSet) and isinstance(val, ShardSet)
    assert sorted(train.read(i) for i in range(4)) == [b"t", b"t", b"u", b"u"]
    assert [val.read(i) for i in range(2)] == [b"v", b"v"] and len(val.labels) == 2
    assert train.classes == val.classes == ("0", "1")
    (tmp_path / "more.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"more\.tar says no split by its name"):
        index(tmp_path, workers=1)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def claiming(size: int) -> bytes:
    """Return a header of a file of any size."""
    info = tarfile.TarInfo("0.jpg")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(**values: str) -> bytes:
    info = tarfile.TarInfo("0.jpg")
    info.pax_headers = values
    return info.tobuf(tarfile.PAX_FORMAT)


IMAGE, LABEL = ("0.jpg", b"image"), ("0.cls", b"0")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((IMAGE, LABEL, special("1.jpg", tarfile.SYMTYPE, "/etc/passwd")), "'1.jpg' is a link"),
        ((IMAGE, LABEL, special("1.jpg", tarfile.LNKTYPE, "0.jpg")), "'1.jpg' is a link"),
        ((IMAGE, LABEL, special("1.jpg", tarfile.CHRTYPE)), "'1.jpg' is a link or no plain file"),
        ((IMAGE, LABEL, special("1.jpg", tarfile.FIFOTYPE)), "'1.jpg' is a link or no plain file"),
        ((IMAGE, LABEL, special("1.jpg", b"Z")), "'1.jpg' is a link or no plain file"),
        ((("/0.jpg", b"image"), LABEL), "'/0.jpg' lies outside"),
        ((("../0.jpg", b"image"), LABEL), "'../0.jpg' lies outside"),
        ((("a/../../0.jpg", b"image"), LABEL), "lies outside"),
        ((IMAGE,), "holds an image but no .cls of the key 0"),
        ((LABEL,), "holds .cls but no an image of the key 0"),
        ((IMAGE, ("0.png", b"other"), LABEL), "two images have the key '0'"),
        ((IMAGE, ("0.cls", b"cat")), "'0.cls' is no class number"),
        ((IMAGE, ("0.cls", b"-1")), "'0.cls' is no class number"),
        ((IMAGE, ("0.cls", b"")), "'0.cls' is no class number"),
        ((IMAGE, ("0.cls", b"9" * 20)), "'0.cls' is no class number"),
        ((IMAGE, ("0.cls", b"999999999")), "holds no image of class 0"),
        ((), "hold no images"),
    ],
)
def test_hostile_or_wrong_members(
    tmp_path: Path, members: tuple[Member, ...], message: str
) -> None:
    write_tar(tmp_path / "x.tar", *members)
    with pytest.raises(InputError, match=message):
        index(tmp_path, workers=1)
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (claiming(10**12) + bytes(1024), "'0.jpg' is cut off"),
        (claiming(513) + bytes(512), "'0.jpg' is cut off"),
        (claiming(-512) + bytes(1024), "'0.jpg' is cut off"),
        (claiming(-1024) + bytes(1024), "'0.jpg' is cut off"),
        (pax(size="-1536") + bytes(1024), "'0.jpg' is cut off"),
        (pax(size="99999999") + bytes(1024), "'0.jpg' is cut off"),
        (pax(**{"GNU.sparse.size": "9", "GNU.sparse.map": "0,9"}) + bytes(1024), "no plain file"),
        (claiming(0) + b"garbage " * 128, "no member begins at byte 512"),
        (b"garbage " * 128, "no tar file"),
        (b"", "no tar file"),
        (pax(comment="x")[:1024] * 2000, "no tar file"),  # headers in headers
    ],
    ids=range(11),
)
def test_hostile_tar_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        scan(tmp_path / "x.tar")
    assert str(tmp_path / "x.tar") in str(caught.value)


def test_names_that_commands_could_misread(tmp_path: Path) -> None:
    write_tar(tmp_path / "$(x).tar", IMAGE, LABEL)
    with pytest.raises(InputError, match=r"letters, digits"):
        index(tmp_path, workers=1)


def test_a_tar_without_its_end_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", IMAGE, LABEL, format=tarfile.USTAR_FORMAT)
    os.truncate(path, 2048)
    index(tmp_path, workers=1)
    assert read_index(tmp_path).read(0) == b"image"
