"""Archives of CIFAR that are not what was published: hostile, damaged, misnamed."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from pretrain.data.datasets import cifar10, cifar100


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").touch()  # of the other data set
    with pytest.raises(InputError, match=r"(?s)not hold CIFAR-100.*Found in.*cifar-10-python.tar"):
        cifar100(tmp_path, "train")
    renamed = tmp_path / "cifar.tgz"
    renamed.touch()
    for file in (renamed, tmp_path / "cifar-10-python.tar.gz"):
        with pytest.raises(InputError, match=r"(?s)put an archive there.*100-binary.*it is a file"):
            cifar100(file, "train")


Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", **fields: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write_entries(path: Path, entries: list[Entry]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in entries:
            if content:
                tar.addfile(info, io.BytesIO(content))
            else:  # a header alone, whatever size it states
                assert tar.fileobj
                tar.offset += tar.fileobj.write(info.tobuf(tar.format))


WANTED = "cifar-10-batches-bin/test_batch.bin"


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (entry("/" + WANTED, b"x"), f"it lacks {WANTED}"),
        (entry("../" + WANTED, b"x"), f"it lacks {WANTED}"),
        (entry("cifar-10-batches-bin/../" + WANTED, b"x"), f"it lacks {WANTED}"),
        (entry(WANTED, type=tarfile.SYMTYPE, linkname="/{secret}"), "is no regular file"),
        (entry(WANTED, type=tarfile.SYMTYPE, linkname="other.bin"), "is no regular file"),
        (entry(WANTED, type=tarfile.LNKTYPE, linkname="{secret}"), "is no regular file"),
        (entry(WANTED, type=tarfile.LNKTYPE, linkname=WANTED), "is no regular file"),
        (entry(WANTED, type=tarfile.FIFOTYPE), "is no regular file"),
        (entry(WANTED, type=tarfile.CHRTYPE, devmajor=1, devminor=5), "is no regular file"),
        (entry(WANTED, type=tarfile.DIRTYPE), "is no regular file"),
        (entry(WANTED, size=10**10), "has 10000000000 bytes"),
        (entry(WANTED, size=50_000), "unexpected end of data"),
        (entry("cifar-10-batches-bin/readme.html", b"x"), f"it lacks {WANTED}"),
    ],
)
def test_hostile_members(tmp_path: Path, hostile: Entry, message: str) -> None:
    """Nothing lands anywhere, no other file is read, and what is wrong is said in one sentence."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(3073))
    info, content = hostile
    info.linkname = info.linkname.format(secret=secret)
    archive = tmp_path / "root" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    write_entries(archive, [entry("cifar-10-batches-bin/other.bin", bytes(3073)), (info, content)])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as raised:
        cifar10(archive, "test", official=False)
    assert str(raised.value).startswith(f"cannot read {archive} (")
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_members_harm_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    outside = "../outside.bin"
    entries = [entry(outside, b"x"), entry("link", type=tarfile.SYMTYPE, linkname="/etc")]
    entries += [entry("link/x", b"x"), entry(WANTED, bytes([3]) * 3073)]
    write_entries(archive, entries)
    data = cifar10(archive, "test", official=False)
    assert data.labels.tolist() == [3]
    assert list(tmp_path.iterdir()) == [archive]
    assert not (tmp_path / outside).exists()


def test_cut_off_archive(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    noise = b"".join(bytes([7]) + np.random.default_rng(i).bytes(3072) for i in range(9))
    write_entries(archive, [entry("cifar-10-batches-bin/readme.html", noise), entry(WANTED, noise)])
    whole = archive.read_bytes()
    assert cifar10(archive, "test", official=False).labels.tolist() == [7] * 9
    for length in (0, 1, 9, 10, 11, 30, 500, len(whole) // 2 - 100, len(whole) // 2 + 900):
        archive.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cannot read .*cifar-10-binary.tar.gz \("):
            cifar10(archive, "test", official=False)


@pytest.mark.parametrize("damage", ["not compressed", "compressed text", "other gzip"])
def test_damaged_archive(tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_entries(archive, [entry(WANTED, bytes(3073))])
    content = archive.read_bytes()
    archive.write_bytes(
        {
            "not compressed": gzip.decompress(content),
            "compressed text": gzip.compress(b"<html>not found</html>" * 100),
            "other gzip": b"\x1f\x8b\x07" + content[3:],
        }[damage]
    )
    with pytest.raises(InputError, match=r"cannot read .*tar.gz \(.*fetch it again"):
        cifar10(archive, "test", official=False)
