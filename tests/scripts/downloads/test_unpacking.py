"""Unpacking: all or nothing of good archives, nothing of hostile ones."""

import fcntl
import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from downloads.unpacking import staging_of, unpack

from common.errors import InputError

FILES = {"set/a.txt": b"a", "set/sub/b.bin": bytes(9_000), "set/sub/empty": b"", "c": b"at the top"}


def tar_of(path: Path, files: Mapping[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("set")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o6777
            tar.addfile(info, io.BytesIO(content))
        for info in odd:
            tar.addfile(info)
    return path


def zip_of(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("set")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def odd(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def content(folder: Path) -> dict[str, bytes]:
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "around" / "target"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(params=["a.tar", "a.zip"])
def good(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    return tar_of(path, FILES) if path.suffix == ".tar" else zip_of(path, FILES)


def test_all_files_appear(good: Path, target: Path) -> None:
    unpack(good, target, 10_000)
    assert content(target) == FILES
    assert not (target / "c").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IWOTH)
    (target / "c").unlink()
    (target / "set" / "other").write_bytes(b"of the user")
    inode = (target / "set" / "a.txt").stat().st_ino
    unpack(good, target, 10_000)
    assert content(target) == {**FILES, "set/other": b"of the user"}
    assert (target / "set" / "a.txt").stat().st_ino == inode


def test_two_archives_fill_one_folder(tmp_path: Path, target: Path) -> None:
    unpack(tar_of(tmp_path / "a.tar", FILES), target, 10_000)
    more = {"set/sub/d": b"d", "set/new/e": b"e", "c": FILES["c"]}
    unpack(tar_of(tmp_path / "b.tar", more), target, 10_000)
    assert content(target) == FILES | more


def test_other_files_are_not_replaced(good: Path, target: Path) -> None:
    (target / "set" / "sub").mkdir(parents=True)
    mine = target / "set" / "sub" / "b.bin"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"set/sub/b.bin is there already and differs"):
        unpack(good, target, 10_000)
    assert [path for path in target.rglob("*") if path.is_file()] == [mine]
    mine.unlink()
    mine.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"set/sub/b.bin is there already and differs"):
        unpack(good, target, 10_000)


HOSTILE = {
    "absolute": {"/{around}/evil": b""},
    "parent": {"../evil": b""},
    "inner parent": {"set/../../evil": b""},
    "backslash": {"..\\evil": b""},
}
HOSTILE_TAR = {
    "symbolic link": [odd("link", tarfile.SYMTYPE, "/etc")],
    "hard link": [odd("link", tarfile.LNKTYPE, "../../secret")],
    "device": [odd("dev", tarfile.CHRTYPE)],
    "pipe": [odd("pipe", tarfile.FIFOTYPE)],
    "parent folder": [odd("../evil", tarfile.DIRTYPE)],
}


def refused(archive: Path, target: Path, match: str, most: int = 10_000) -> None:
    around = target.parent.parent
    (around / "secret").write_bytes(b"secret")
    before = content(around)
    with pytest.raises(InputError, match=match) as raised:
        unpack(archive, target, most)
    assert "\n" not in str(raised.value)
    assert content(around) == before
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_outside_are_refused(
    make: Callable[..., Path], kind: str, tmp_path: Path, target: Path
) -> None:
    hostile = {name.format(around=tmp_path): content for name, content in HOSTILE[kind].items()}
    path = make(tmp_path / f"a.{make.__name__[:3]}", FILES | hostile)
    refused(path, target, r"evil' lies outside of its folder\): delete it")


@pytest.mark.parametrize("kind", HOSTILE_TAR)
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path, target: Path) -> None:
    path = tar_of(tmp_path / "a.tar", FILES, *HOSTILE_TAR[kind])
    refused(path, target, "is a link or no plain file|lies outside")


def test_a_link_in_a_zip_is_refused(tmp_path: Path, target: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    refused(tmp_path / "a.zip", target, "'link' is a link")


def test_a_bomb_is_refused(good: Path, target: Path) -> None:
    refused(good, target, r"it unpacks to 9,011 bytes, over 9,010", most=9_010)
    unpack(good, target, 9_011)


def test_a_full_disk_is_noticed_first(
    good: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target)
    # a.txt and c take a block each, b.bin three.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 4096 - 1))
    refused(good, target, r"no room for what a\.\w+ unpacks to: 20,480 bytes needed, 20,479 free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 4096))
    unpack(good, target, 10_000)


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.9])
def test_cut_archives_are_refused(good: Path, target: Path, share: float) -> None:
    whole = good.read_bytes()
    if good.suffix == ".tar":  # which ends in zeros
        whole = whole.rstrip(b"\0")
    good.write_bytes(whole[: int(share * len(whole))])
    refused(good, target, "is no sound archive")


def test_a_changed_zip_is_refused(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c", b"content of a file")
    path.write_bytes(path.read_bytes().replace(b"content of a file", b"content of a fill", 1))
    refused(path, target, r"Bad CRC-32 .*'c'")


def test_rests_of_a_killed_call_are_dropped(good: Path, target: Path) -> None:
    rest = staging_of(good, target)
    (rest / "set").mkdir(parents=True)
    (rest / "set" / "half").write_bytes(b"ha")
    unpack(good, target, 10_000)
    assert content(target) == FILES


def test_an_interrupted_unpacking_is_repeated(
    good: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfileobj
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            unpack(good, target, 10_000)
    assert list(target.iterdir()) == [] and shutil.copyfileobj is copy
    rename = Path.rename

    def once(path: Path, there: Path) -> Path:
        if any(name.name in ("c", "set") for name in target.iterdir()):
            raise OSError(5, "Input/output error")
        return rename(path, there)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", once)
        with pytest.raises(InputError, match=r"could not be unpacked in .*Input/output error"):
            unpack(good, target, 10_000)
    assert staging_of(good, target).exists()  # so that nobody takes it for whole
    unpack(good, target, 10_000)
    assert content(target) == FILES


def test_two_calls_do_not_mix(good: Path, target: Path) -> None:
    with good.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"is in use"):
            unpack(good, target, 10_000)
    unpack(good, target, 10_000)
