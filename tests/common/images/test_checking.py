"""Checking images: what is a fault, what is a note, and processes that die on a file."""

import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.images.checking import Report, Result, check_image, check_path
from common.images.decoding import read_image

ROOT = Path(__file__).parents[3]


def noise(side: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def jpeg() -> bytes:
    return cv2.imencode(".jpg", noise())[1].tobytes()


def digest_of(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()


def check(path: Path) -> Result:
    return check_path([path], 0)


def test_a_good_image_and_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"
    path.write_bytes(cv2.imencode(".jpg", noise()[:50])[1].tobytes())
    expected = Result(size=(96, 50), format="JPEG", digest=digest_of(path))
    assert check(path) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (jpeg()[:-100], "cut off"),
        (b"<html>", "not an image"),
        (None, "unreadable: No such file"),
    ],
)
def test_what_a_training_refuses_is_a_fault(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    ((place, told),) = check(path).faults
    assert place == path
    assert reason in told
    assert "a.jpg" not in told  # the line names it already
    with pytest.raises(InputError):
        read_image(path)


def test_what_the_decoder_mends_is_a_fault(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data, path = jpeg(), tmp_path / "a.jpg"
    path.write_bytes(data[: len(data) // 2] + data[len(data) * 3 // 4 :])
    assert read_image(path).shape == (96, 96, 3)  # a training would not notice
    assert "Corrupt JPEG data" in capfd.readouterr().err
    ((_, reason),) = check(path).faults
    assert reason.startswith("damaged within (Corrupt JPEG data")
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


@pytest.mark.parametrize(
    ("mode", "kind", "suffix", "notes"),
    [
        ("RGB", "JPEG", ".jpeg", []),
        ("L", "JPEG", ".jpg", ["grey"]),
        ("CMYK", "JPEG", ".jpg", ["CMYK"]),
        ("P", "PNG", ".png", ["palette"]),
        ("RGBA", "PNG", ".png", ["RGB with alpha"]),
        ("RGB", "PNG", ".JPEG", ["PNG named .JPEG"]),
    ],
)
def test_what_is_read_correctly_is_only_noted(
    tmp_path: Path, mode: str, kind: str, suffix: str, notes: list[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    with Image.fromarray(noise()) as image:
        image.convert(mode).save(path, kind)
    digest = digest_of(path)
    assert check(path) == Result(notes=notes, size=(96, 96), format=kind, digest=digest)


def test_an_error_of_the_reading_function_is_a_fault(tmp_path: Path) -> None:
    def read() -> bytes:
        raise InputError("the shard is gone")

    assert check_image(tmp_path, read).faults == [(tmp_path, "the shard is gone")]


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.jpg", "2.jpg"):
        with Image.fromarray(noise()) as image:
            image.convert("L").save(tmp_path / name)
    report = Report()
    report.check(partial(check_path, paths := sorted(tmp_path.iterdir())), paths, 0, "x")
    report.end("the end")
    line = capsys.readouterr().out
    assert line.startswith("no faults; 2 images checked in ")
    assert line.endswith(f"; read as RGB: 2 grey (such as {tmp_path / '1.jpg'}); the end\n")
    (tmp_path / "3.jpg").touch()
    report = Report()
    report.check(partial(check_path, paths := sorted(tmp_path.iterdir())), paths, 0, "x")
    with pytest.raises(InputError, match=r"^1 fault, listed above; 3 images checked in "):
        report.end()
    assert capsys.readouterr().out.startswith(f"{tmp_path / '3.jpg'}: empty (0 bytes)")


def test_a_hostile_file_name_stays_on_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / os.fsdecode(b"a\n\x1b[31m\xff.jpg")
    path.touch()
    report = Report()
    report.check(partial(check_path, [path]), [path], 0, "x")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert r"a\n\x1b[31m\udcff.jpg: empty" in line


SCRIPT = """
    import os, signal, sys
    from functools import partial
    from pathlib import Path

    from common.images.checking import Report, Result, check_path

    def check(paths, index):
        if "crash" in paths[index].name:
            os.kill(os.getpid(), signal.SIGSEGV)
        return check_path(paths, index)

    if __name__ == "__main__":
        paths = sorted(Path(sys.argv[1]).iterdir())
        report = Report()
        report.check(partial(check, paths), paths, 2, "x")
        report.end()
"""


def test_every_file_is_told_of_once_and_in_order_though_a_decoder_crashes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    good = jpeg()
    for number in range(70):
        (tmp_path / f"data/{number:02}.jpg").write_bytes(b"" if number % 30 == 5 else good)
    (tmp_path / "data/17-crash.jpg").write_bytes(good)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "data"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    lines = [line.removeprefix(f"{tmp_path}/data/") for line in done.stdout.splitlines()]
    assert [line.split(":")[0] for line in lines] == [
        "05.jpg",
        "17-crash.jpg",
        "35.jpg",
        "65.jpg",
    ]
    assert "crashed" in lines[1]
    assert "4 faults, listed above; 71 images checked" in done.stderr


WAITING = SCRIPT.replace("os.kill(os.getpid(), signal.SIGSEGV)", "print(os.getpid(), flush=True)")


def test_processes_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        (tmp_path / f"data/crash{number}.jpg").touch()
    script = tmp_path / "script.py"
    text = WAITING.replace("return check_path", "signal.pause()\n        return check_path")
    script.write_text(textwrap.dedent(text))
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path / "data"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    os.kill(parent.pid, signal.SIGKILL)
    assert parent.stdout.read() == ""  # returns when the last process that holds the pipe is gone
    parent.stdout.close()
    parent.wait()
