"""The pixel cache: what it returns, when it is used, and what cannot stop a training."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.errors import InputError
from pretrain.data import pixel_cache
from pretrain.data.augment import ResidentImages
from pretrain.data.datasets import class_folders
from pretrain.data.image_sets import FileSet, PixelSet, decode
from pretrain.data.pixel_cache import cached_decode, fingerprint

SIZE = 8


def write_images(root: Path) -> FileSet:
    rng = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / "train" / name), rng.integers(0, 256, (SIZE, 10, 3)))
    return class_folders(root, "train")


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    return write_images(tmp_path / "images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def never(*_: object) -> PixelSet:
    raise AssertionError("decoded although there is a cache")


def assert_cached(files: FileSet, folder: Path, monkeypatch: pytest.MonkeyPatch) -> PixelSet:
    """Read the set without decoding, from the only file of the folder."""
    expected = decode(files, SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(pixel_cache, "decode", never)
        data = cached_decode(files, SIZE, folder)
    np.testing.assert_array_equal(data.pixels, expected.pixels)
    assert [path.name for path in folder.iterdir()] == [f"pixels-{fingerprint(files, SIZE)}.npy"]
    return data


def test_decoded_once(
    files: FileSet,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = cached_decode(files, SIZE, folder / "made")
    np.testing.assert_array_equal(first.pixels, decode(files, SIZE).pixels)
    assert first.labels.tolist() == [0, 0, 1]
    assert first.classes == ("a", "b")
    relabelled = replace(files, labels=np.array([2, 1, 0]), classes=("x", "y", "z"))
    second = assert_cached(relabelled, folder / "made", monkeypatch)
    assert second.labels.tolist() == [2, 1, 0]  # of the listing, not of the file
    assert second.classes == ("x", "y", "z")
    (file,) = (folder / "made").iterdir()
    assert re.fullmatch(r"pixels-[0-9a-f]{16}\.npy", file.name)
    np.testing.assert_array_equal(np.load(file), first.pixels)  # as numpy itself writes them
    assert capsys.readouterr().out == ""


def test_without_a_folder(files: FileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    np.testing.assert_array_equal(
        cached_decode(files, SIZE, None).pixels, decode(files, SIZE).pixels
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_pixels_are_mapped_and_the_file_is_safe(
    files: FileSet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_decode(files, SIZE, folder)
    data = assert_cached(files, folder, monkeypatch)
    assert isinstance(data.pixels.base, np.memmap)
    assert type(data.pixels) is np.ndarray
    (file,) = folder.iterdir()
    before = file.read_bytes()
    tensor = torch.from_numpy(data.pixels)  # a warning would be an error here
    tensor.zero_()
    assert file.read_bytes() == before
    assert assert_cached(files, folder, monkeypatch).pixels.any()


@pytest.mark.parametrize("padding", [0, 2])
def test_resident_images_take_it(
    files: FileSet, folder: Path, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_decode(files, SIZE, folder)
    second = assert_cached(files, folder, monkeypatch)
    resident = [ResidentImages(d, padding, 0, torch.device("cpu")) for d in (first, second)]
    for a, b in zip(*(r.train_batch(0, np.arange(3)) for r in resident), strict=True):
        assert torch.equal(a, b)


# ---- the fingerprint ----


def touch(path: Path) -> None:
    """Date a file one nanosecond later."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def lengthen(path: Path) -> None:
    """Append a byte, and keep the date."""
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: touch(root / "train/b/0.png"),
        lambda root: lengthen(root / "train/a/1.png"),
        lambda root: (root / "train/a/1.png").rename(root / "train/a/2.png"),
        lambda root: (root / "train/a").rename(root / "train/aa"),
        lambda root: (root / "train/a/1.png").rename(root / "train/b/1.png"),
        lambda root: (root / "train/a/1.png").unlink(),
    ],
)
def test_fingerprint_of_a_changed_set(files: FileSet, change: Callable[[Path], object]) -> None:
    root = files.paths[0].parents[2]
    before = fingerprint(files, SIZE)
    assert fingerprint(class_folders(root, "train"), SIZE) == before
    change(root)
    assert fingerprint(class_folders(root, "train"), SIZE) != before


def test_fingerprint_of_other_arguments(files: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fingerprint(files, SIZE) != fingerprint(files, SIZE + 1)
    reordered = replace(files, paths=files.paths[::-1])
    assert fingerprint(files, SIZE) != fingerprint(reordered, SIZE)
    relabelled = replace(files, labels=np.zeros(3, np.int64), classes=("x",))
    assert fingerprint(files, SIZE) == fingerprint(relabelled, SIZE)
    before = fingerprint(files, SIZE)
    monkeypatch.setattr(cv2, "__version__", "0.1")  # another decoder
    assert fingerprint(files, SIZE) != before


@pytest.mark.parametrize("name", ["elsewhere", "anderswo-\N{LATIN SMALL LETTER U WITH DIAERESIS}"])
def test_fingerprint_of_a_moved_set(
    files: FileSet, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(files, SIZE)
    root = files.paths[0].parents[2].rename(tmp_path / name)
    assert fingerprint(class_folders(root, "train"), SIZE) == before
    for here, relative in ((tmp_path, Path(name)), (root, Path()), (root / "train", Path(".."))):
        monkeypatch.chdir(here)
        assert fingerprint(class_folders(relative, "train"), SIZE) == before


def test_fingerprint_of_files_right_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder in front names must count in full."""
    monkeypatch.chdir(tmp_path)
    prints = []
    for name in ("a.png", "b.png"):
        Path(name).touch()
        os.utime(name, ns=(0, 0))
        prints.append(fingerprint(FileSet((Path(name),), np.zeros(1, np.int64), ("x",)), SIZE))
    assert len(set(prints)) == 2


def test_missing_image(files: FileSet, folder: Path) -> None:
    files.paths[1].unlink()
    with pytest.raises(InputError, match=r"cannot read the image .*a/1\.png: No such file"):
        cached_decode(files, SIZE, folder)


def test_damaged_image(files: FileSet, folder: Path) -> None:
    files.paths[1].write_bytes(files.paths[1].read_bytes()[:40])
    with pytest.raises(InputError, match=re.escape(str(files.paths[1]))):
        cached_decode(files, SIZE, folder)
    assert not folder.exists()


# ---- a cache that cannot be used ----


def save(path: Path, pixels: NDArray[np.generic], **options: bool) -> None:
    with path.open("wb") as file:
        np.save(file, pixels, **options)


def save_zipped(path: Path, pixels: NDArray[np.generic]) -> None:
    with path.open("wb") as file:
        np.savez(file, pixels)


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


ZEROS = np.zeros((3, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: cut(path, -1),
        lambda path: cut(path, 128),
        lambda path: cut(path, 127),
        lambda path: cut(path, 60),
        lambda path: cut(path, 3),
        lambda path: cut(path, 0),
        lambda path: path.write_bytes(b"garbage " * 99),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70_000),
        lambda path: path.write_bytes(path.read_bytes().replace(b"'descr'", b"'dexcr'")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"{", b"(")),
        lambda path: save(path, ZEROS[:2]),
        lambda path: save(path, ZEROS[:, :7]),
        lambda path: save(path, ZEROS.reshape(3, -1)),
        lambda path: save(path, ZEROS.astype(np.int8)),
        lambda path: save(path, ZEROS.astype(np.float32)),
        lambda path: save(path, np.asfortranarray(ZEROS)),
        lambda path: save(path, ZEROS.astype(object), allow_pickle=True),
        lambda path: save_zipped(path, ZEROS),
    ],
)
def test_a_damaged_cache_is_replaced(
    files: FileSet,
    folder: Path,
    damage: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = cached_decode(files, SIZE, folder)
    (file,) = folder.iterdir()
    damage(file)
    data = cached_decode(files, SIZE, folder)
    np.testing.assert_array_equal(data.pixels, expected.pixels)
    printed = capsys.readouterr().out
    assert printed.startswith(f"decoding again: the cache {file} cannot be used (")
    assert printed.count("\n") == 1
    assert_cached(files, folder, monkeypatch)
    assert capsys.readouterr().out == ""


def assert_told(printed: str, reason: str) -> None:
    line = r"continuing without a cache: \S*pixels-\S*npy could not be written \((.*)\)\n"
    match = re.fullmatch(line, printed)
    assert match and re.fullmatch(rf"\[Errno \d+\] .*{reason}.*", match[1]), printed


def test_a_full_disk(
    files: FileSet,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The system itself refuses to let the file grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        data = cached_decode(files, SIZE, folder)
        assert_told(capsys.readouterr().out, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    np.testing.assert_array_equal(data.pixels, decode(files, SIZE).pixels)
    assert list(folder.iterdir()) == []
    cached_decode(files, SIZE, folder)
    assert_cached(files, folder, monkeypatch)


@pytest.mark.parametrize("when", ["pathlib.Path.open", "pathlib.Path.mkdir", "os.fsync"])
def test_a_folder_that_cannot_be_written(
    files: FileSet,
    folder: Path,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    expected = decode(files, SIZE)
    monkeypatch.setattr(pixel_cache, "decode", lambda *_: expected)
    with monkeypatch.context() as patch:
        patch.setattr(when, refuse)
        assert cached_decode(files, SIZE, folder) is expected
    assert_told(capsys.readouterr().out, "Read-only file system")
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_folder_that_is_a_file(
    files: FileSet, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.touch()
    for place in (folder, folder / "below"):
        assert cached_decode(files, SIZE, place).pixels.any()
        assert_told(capsys.readouterr().out, "")


def test_a_cache_that_must_not_be_read(
    files: FileSet,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", refuse)
        assert cached_decode(files, SIZE, folder).pixels.any()
    printed = capsys.readouterr().out
    assert "cannot be used ([Errno 13] Permission denied)" in printed and printed.count("\n") == 1
    assert_cached(files, folder, monkeypatch)


# ---- several processes ----


def test_another_process_is_quicker(
    files: FileSet,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While one decodes, another finishes its cache and maps it; the first then replaces that."""
    mapped: list[PixelSet] = []

    def slow(*arguments: object) -> PixelSet:
        with monkeypatch.context() as patch:
            patch.setattr(pixel_cache, "decode", decode)
            cached_decode(files, SIZE, folder)
        mapped.append(assert_cached(files, folder, monkeypatch))
        return decode(files, SIZE)

    monkeypatch.setattr(pixel_cache, "decode", slow)
    data = cached_decode(files, SIZE, folder)
    (file,) = folder.iterdir()
    file.unlink()
    np.testing.assert_array_equal(data.pixels, mapped[0].pixels)
    assert capsys.readouterr().out == ""


def test_two_processes_at_once(
    files: FileSet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both wait until the other has seen that there is no cache, so that both decode and write."""
    script = """
import sys, time
from pathlib import Path
from pretrain.data import pixel_cache
from pretrain.data.datasets import class_folders
from pretrain.data.image_sets import decode

root, folder, me, other = Path(sys.argv[1]), Path(sys.argv[2]), *map(Path, sys.argv[3:])

def together(files, size):
    me.touch()
    deadline = time.monotonic() + 60
    while not other.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return decode(files, size)

pixel_cache.decode = together
data = pixel_cache.cached_decode(class_folders(root, "train"), 8, folder)
print(int(data.pixels.sum()))
"""
    root, flags = files.paths[0].parents[2], [folder.parent / name for name in ("one", "two")]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, (root, folder, *order))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in (flags, flags[::-1])
    ]
    expected = int(decode(files, SIZE).pixels.sum())
    assert [process.communicate(timeout=60)[0] for process in both] == [f"{expected}\n"] * 2
    assert [process.returncode for process in both] == [0, 0]
    assert_cached(files, folder, monkeypatch)


def test_runs_beside_each_other_share_one_file_that_goes_with_the_last(
    files: FileSet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_decode(files, SIZE, folder / "one")
    assert_cached(files, folder / "two", monkeypatch)
    name = f"pixels-{fingerprint(files, SIZE)}.npy"
    assert (folder / "one" / name).samefile(folder / "two" / name)
    assert [path.name for path in sorted(folder.iterdir())] == ["one", "two"]
    shutil.rmtree(folder / "one")
    assert_cached(files, folder / "two", monkeypatch)
    # A file of another kind under that name is nothing to share.
    (folder / "three").mkdir()
    shutil.rmtree(folder / "two")
    (folder / "three" / name).write_bytes(b"no array")
    cached_decode(files, SIZE, folder / "four")
    assert not (folder / "three" / name).samefile(folder / "four" / name)
