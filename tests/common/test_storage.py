"""A file is whole or absent, whatever goes wrong while it is written."""

import errno
import os
import resource
import shutil
import signal
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from common.errors import InputError
from common.storage import previous, read_text, write_atomically


def write(path: Path, content: bytes, **options: Any) -> None:
    write_atomically(path, lambda file: file.write(content), **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_replaces_and_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for content in (b"one", b"two", b"three"):
        write(path, content, keep_previous=True)
    assert previous(path) == tmp_path / "last.previous.pt"
    assert contents(tmp_path) == {"last.pt": b"three", "last.previous.pt": b"two"}
    write(path, b"four")
    assert contents(tmp_path) == {"last.pt": b"four", "last.previous.pt": b"two"}


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def half(file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError("crash")

    write(tmp_path / "last.pt", b"old")
    with pytest.raises(RuntimeError, match="crash"):
        write_atomically(tmp_path / "last.pt", half, keep_previous=True)
    assert contents(tmp_path) == {"last.pt": b"old"}


@pytest.mark.parametrize("when", ["os.fsync", "pathlib.Path.open"])
def test_no_space_left(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "last.pt", b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(when, full)
        with pytest.raises(InputError, match=r"last\.pt could not be written \(No space left"):
            write(tmp_path / "last.pt", b"new")
    assert contents(tmp_path) == {"last.pt": b"old"}


def test_a_write_that_cannot_fit_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has path, bytes needed and bytes free; one byte less fits."""
    path = tmp_path / "last.pt"
    write(path, b"old")
    asked: list[Path] = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=1233)

    def begun(file: BinaryIO) -> None:
        raise AssertionError

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(InputError) as caught:
        write_atomically(path, begun, size=1234, keep_previous=True)
    assert str(caught.value) == (
        f"{path} could not be written (No space left on device): free space, or choose "
        "another folder (1,234 bytes needed, 1,233 free); what was there before stays"
    )
    assert contents(tmp_path) == {"last.pt": b"old"}
    assert set(asked) == {tmp_path}
    write(path, b"x" * 1233, size=1233)
    assert len(path.read_bytes()) == 1233


def test_a_quota_that_nobody_tells_of(tmp_path: Path) -> None:
    """The system itself refuses to let the file grow, in the midst of the write."""
    path = tmp_path / "last.pt"
    write(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    message = r"\(File too large\): free space, .* \(400,000 bytes needed, [0-9,]+ free\)"
    try:
        with pytest.raises(InputError, match=message):
            write(path, bytes(400_000), size=400_000, keep_previous=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path) == {"last.pt": b"old"}


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"could not be written \(Not a directory\)"):
        write(tmp_path / "file" / "last.pt", b"x")
    with pytest.raises(InputError, match=r"\(No such file or directory\).*\(1 bytes needed\)"):
        write(tmp_path / "absent" / "last.pt", b"x", size=1)


def test_content_and_names_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content before its name, the names of the folder last."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append(f"sync {kind}")
        fsync(descriptor)

    def renamed(source: str, target: str) -> None:
        events.append(f"rename to {Path(target).name}")
        replace(source, target)

    write(tmp_path / "last.pt", b"old")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write(tmp_path / "last.pt", b"new", keep_previous=True)
    assert events == [
        "sync file",
        "rename to last.previous.pt",
        "rename to last.pt",
        "sync folder",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_of_other_programs(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(f"id,name{end}1,caf\u00e9{end}".encode(encoding))
    assert read_text(path).splitlines() == ["id,name", "1,caf\u00e9"]


def test_text_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"a,b\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"list\.txt is no text .*\(byte 7\): save it as UTF-8"):
        read_text(path)
    with pytest.raises(InputError, match="cannot read .*none.txt: No such file"):
        read_text(tmp_path / "none.txt")
    path.write_bytes(b"")
    assert read_text(path) == ""
