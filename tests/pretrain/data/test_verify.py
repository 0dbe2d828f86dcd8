"""`pretrain verify` finds every planted fault, and none where a training would read on."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from sharding.flags import Flags
from sharding.packing import pack

import pretrain.__main__ as command
from common.errors import InputError
from pretrain.data.datasets import load
from pretrain.data.shards import ShardSet
from pretrain.data.verify import verify

GOOD = cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()
Call = Callable[..., tuple[int, str, str]]


def write(root: Path, *names: str, content: bytes = GOOD) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def faults(
    capsys: pytest.CaptureFixture[str], kind: str, root: Path, workers: int = 0
) -> tuple[list[str], str]:
    """The lines of a check, below the folder, and the summary."""
    with pytest.raises(InputError) as caught:
        verify(kind, root, workers)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    table = next(at for at, line in enumerate(lines) if line.startswith("images  "))
    lines = lines[: table - 1]
    return [line.removeprefix(f"{root}/") for line in lines], str(caught.value)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write(
        tmp_path,
        *(f"{split}/{c}/{n}.jpg" for split in ("train", "val") for c in "ab" for n in "12"),
    )
    return tmp_path


def test_good_folders(folders: Path, call_command: Call) -> None:
    code, out, err = call_command(
        command, "verify", "--data", folders, "--dataset", "imagenet", "--workers", "0"
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("no faults; 8 images checked in ")


def test_bad_folders_by_the_command_and_its_processes(folders: Path, call_command: Call) -> None:
    write(folders, "train/b/2.jpg", content=GOOD[:-5])
    arguments = ("verify", "--data", folders, "--dataset", "imagenet")
    code, out, err = call_command(command, *arguments, "--workers", "1")
    assert code == 2
    assert out.splitlines()[0] == (
        f"{folders}/train/b/2.jpg: cut off ({len(GOOD) - 5} bytes): fetch it again"
    )
    assert err.startswith("error: 1 fault, listed above; 8 images checked in ")
    assert err.count("\n") == 1
    assert call_command(command, *arguments, "--workers", "-1")[0] == 2


def test_all_faults_of_images_and_of_the_layout(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folders, "train/a/2.jpg", "val/b/1.jpg", content=b"")
    write(folders, "train/c/1.jpg", content=b"<html>")
    write(folders, "val/d/readme.txt", "val/e/.hidden.jpg")
    (folders / "train/b/3.jpg").mkdir()
    (folders / "train/b/4.png").symlink_to("4.png")
    lines, summary = faults(capsys, "imagenet", folders)
    expected = {
        "train/c": "has no such class",
        "train/a/2.jpg": "empty",
        "train/b/4.png": "a dangling link, to 4.png",
        "train/c/1.jpg": "not an image",
        "val/d": "has no such class",
        "val/e": "has no such class",
        "val/b/1.jpg": "empty",
    }
    told = [line.partition(": ") for line in lines]
    assert {name for name, _, _ in told} == expected.keys()
    assert all(
        any(n == name and r in reason for n, _, reason in told) for name, r in expected.items()
    )
    empty = [name for name, _, reason in told if "holds no .jpg" in reason]
    assert sorted(empty) == ["val/d", "val/e"]
    assert summary.startswith("9 faults, listed above; 9 images checked")


def test_loops_of_folders_end(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "train/a/loop").symlink_to(folders / "train")
    verify("imagenet", folders, 0)
    out = capsys.readouterr().out
    assert "no faults; 8 images" in out
    assert "1 link to a folder above (such as train/a/loop)" in out
    (folders / "train/self").symlink_to(folders / "train/self")
    (folders / "train/up").symlink_to(folders)
    lines, summary = faults(capsys, "imagenet", folders)
    assert lines[0].startswith("train/self: a class folder that is a dangling link, to ")
    assert lines[1].startswith("train/up: a link to a folder above it")
    assert "8 images" in summary


def test_one_split_missing(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "train").rename(folders / "away")
    lines, summary = faults(capsys, "imagenet", folders)
    assert len(lines) == 1
    assert "train: " in lines[0] and "holds no train images" in lines[0]
    assert "4 images checked" in summary
    (folders / "val").rename(folders / "train")
    verify("imagenet", folders, 0)  # part of the training images validates, as in a training
    assert "no faults; 4 images" in capsys.readouterr().out


def test_what_both_parts_of_a_hash_have_is_told_once(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folders / "val")
    write(folders, "train/c/readme.txt")
    lines, summary = faults(capsys, "folders", folders)
    assert len(lines) == 1 and lines[0].startswith("train/c: a class folder that holds no")
    assert summary.startswith("1 fault, listed above; 4 images")
    shutil.rmtree(folders / "train")
    write(folders, *(f"train/{n}.jpg" for n in "12345678"))
    rows = "1.jpg,a\n1.jpg,a\n9.jpg,b\n2.jpg,\n3.jpg,b\n" + "".join(
        f"{n}.jpg,{c}\n" for n, c in ("5a", "6a", "7b", "8b")
    )
    (folders / "train.csv").write_text(f"image,label\n{rows}")
    lines, summary = faults(capsys, "folders", folders)
    assert len(lines) == len(set(lines)) == 4
    assert summary.startswith("4 faults, listed above; 6 images")


@pytest.mark.parametrize("kind", ["imagenet", "tiny-imagenet", "cifar10", "cifar100"])
def test_no_data_at_all_is_the_usual_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError) as usual:
        load(kind, tmp_path, "train")  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        verify(kind, tmp_path, 0)  # type: ignore[arg-type]
    assert str(caught.value) == str(usual.value)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write(tmp_path, *(f"train/{c}/images/{c}_{n}.JPEG" for c in ("n01", "n02") for n in "12"))
    write(tmp_path, "val/images/val_0.JPEG", "val/images/val_1.JPEG")
    lines = b"val_0.JPEG\tn01\t0\t0\t8\t8\nval_1.JPEG\tn02\t0\t0\t8\t8\n"
    write(tmp_path, "val/val_annotations.txt", content=lines)
    return tmp_path


def test_tiny_imagenet(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify("tiny-imagenet", tiny, 0)
    assert "no faults; 6 images" in capsys.readouterr().out
    write(tiny, "train/n03/images/notes.txt", "val/images/val_2.JPEG")
    listing = "val_0.JPEG\tn01\nval_0.JPEG\tn09\n../train/x.JPEG\tn01\nval_1.JPEG\n"
    (tiny / "val/val_annotations.txt").write_text(listing)
    lines, summary = faults(capsys, "tiny-imagenet", tiny)
    told = [line.removeprefix("val/val_annotations.txt: ") for line in lines]
    table = "val/val_annotations.txt"
    assert told == [
        "train/n03: a class folder that holds no .jpg, .jpeg, .png, .bmp, .gif or .webp images: "
        "fill it, or remove it from every split",
        "line 2: the image 'val_0.JPEG' came before: correct the line",
        f"line 3: the image 'x.JPEG' is not in {tiny}/val/images: correct the line",
        f"line 4: val_1.JPEG has the class '', which {tiny}/train does not have: correct the line",
        f"val/images/val_2.JPEG: {tiny}/{table} does not say its class: add a line",
        "names no image of the class n02: add a line for one",
        "names no image of the class n03: add a line for one",
    ]
    assert summary.startswith("7 faults, listed above; 5 images")


def test_cifar_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "cifar-10-batches-bin/test_batch.bin", content=bytes(3073 * 10_000))
    lines, summary = faults(capsys, "cifar10", tmp_path)
    assert len(lines) == 1 and "train: " in lines[0]
    assert "10,000 images checked" in summary
    os.truncate(tmp_path / "cifar-10-batches-bin/test_batch.bin", 3073)
    with pytest.raises(InputError):
        verify("cifar10", tmp_path, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bit_that_flipped_in_a_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """In an image, most of which decode as before; in the class of one; in the padding."""
    rng = np.random.default_rng(0)
    for split, name, count in (("train", "a", 30), ("train", "b", 30), ("val", "a", 1)):
        for number in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            content = cv2.imencode(".jpg", pixels)[1].tobytes()
            write(tmp_path, f"{split}/{name}/{number}.jpg", content=content)
    write(tmp_path, "val/b/0.jpg")
    for split in ("train", "val"):
        flags = Flags(data=tmp_path, out=tmp_path / "shards", split=split, workers=1)
        pack(flags, tmp_path, tmp_path / "shards")
    root = tmp_path / "shards"
    verify("imagenet", root, workers)
    out = capsys.readouterr().out
    assert "no faults; 62 images" in out and "; 2 shards compared with the SHA" in out
    data = load("imagenet", root, "train")
    assert isinstance(data, ShardSet)
    (shard,) = (root / "train").glob("*.tar")
    good = shard.read_bytes()
    places = [int(offset + size - 3) for _, offset, size in data.places[::6]]
    unseen = 0
    for place in [*places, good.index(b".cls") - 10, len(good) - 1][: None if workers == 0 else 1]:
        content = bytearray(good)
        content[place] ^= 1
        shard.write_bytes(content)
        lines, summary = faults(capsys, "imagenet", root, workers)
        wanted = "train/imagenet-train-000000.tar: damaged, or not the shard of its index.json"
        assert lines[0].startswith(wanted)
        assert "62 images checked" in summary
        unseen += len(lines) == 1
    assert unseen > 0  # without the digest
