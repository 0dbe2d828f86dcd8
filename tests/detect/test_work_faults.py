"""`detect predict`, `evaluate` and `score` under faults: each ends in a line, and harms nothing."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectors import write_detector_run
from PIL import Image

from common.storage import sole_writer
from detect import __main__ as command
from detect import evaluate, predict
from detect.scoring import label_errors

Call = Callable[..., tuple[int, str, str]]
NAMES = [f"{number:02}.jpg" for number in range(4)]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, toy_devkit: Path) -> Path:
    """A run, not of narrow networks: other processes open it, too."""
    classes = tuple((toy_devkit / "classes.txt").read_text().split())
    return write_detector_run(tmp_path_factory.mktemp("runs") / "r18", classes)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of mixed shapes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 255, (40 + 9 * number, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def arguments(detector: Path, photos: Path, out: Path, workers: int = 0) -> list[object]:
    common = ["--device", "cpu", "--workers", workers]
    return ["predict", "--run", detector, "--images", photos, "--out", out, *common]


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def at_second_picture(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once, before the second picture is drawn."""
    draw, drawn = predict._Work._draw, []

    def drawing(self: Any, photo: Any, prediction: Any, path: Path) -> None:
        drawn.append(path)
        if len(drawn) == 2:
            act()
        draw(self, photo, prediction, path)

    monkeypatch.setattr(predict._Work, "_draw", drawing)


# ---- what is written ----------------------------------------------------------------------------


def test_the_disk_is_full(
    call_command: Call, detector: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """At a picture: it is named, and predictions.json stays as it was."""
    out = tmp_path / "out"
    assert call_command(command, *arguments(detector, photos, out))[0] == 0
    before = (out / "predictions.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_second_picture(
        monkeypatch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    )
    try:
        code, _, err = call_command(command, *arguments(detector, photos, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert f"{out / 'pictures' / NAMES[1]} could not be written" in one_line(err)
    assert "free space" in err
    assert (out / "predictions.json").read_bytes() == before and leftovers(out) == []


def test_the_disk_is_full_for_the_predictions(
    call_command: Call, detector: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """They are written as they are found; those of before stay, whole."""
    out = tmp_path / "out"
    every = [*arguments(detector, photos, out), "--score-threshold", 0]
    assert call_command(command, *every)[0] == 0
    before = (out / "predictions.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(before) > 20_000  # more than is kept back until it is written

    def drawing(*_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    monkeypatch.setattr(predict._Work, "_draw", drawing)
    try:
        code, _, err = call_command(command, *every)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert f"{out / 'predictions.json'} could not be written (" in one_line(err)
    assert "free space" in err and "what was there before stays" in err
    assert (out / "predictions.json").read_bytes() == before and leftovers(out) == []


@pytest.mark.parametrize("code", [130, 143])
def test_what_is_done_is_kept_when_it_is_asked_to_end(
    call_command: Call,
    detector: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: Any,
    code: int,
) -> None:
    def ask() -> None:
        if code == 130:  # as Ctrl-C does, which a process in the background does not hear
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    every = [*arguments(detector, photos, out := tmp_path / "out"), "--score-threshold", 0]
    at_second_picture(monkeypatch, ask)
    ended, printed, _ = call_command(command, *every)
    partial = out / "predictions.partial.json"
    assert ended == code
    assert f"ended early: 1 of {len(NAMES)} photos in {partial}; the same command" in printed
    assert [path.name for path in out.iterdir() if path.is_file()] == [partial.name]
    assert [path.name for path in (out / "pictures").iterdir()] == [NAMES[0]]
    found = json.loads(partial.read_bytes())
    assert found and {entry["file_name"] for entry in found} == {NAMES[0]}


def test_the_folder_is_taken_away(
    call_command: Call, detector: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    at_second_picture(monkeypatch, lambda: shutil.rmtree(out))
    code, _, err = call_command(command, *arguments(detector, photos, out))
    assert code == 2 and f"{out / 'pictures' / NAMES[1]} could not be written" in one_line(err)
    assert not out.exists()  # nobody wants half of it


def test_two_writers_of_one_folder(
    call_command: Call, detector: Path, photos: Path, toy_devkit: Path, tmp_path: Path
) -> None:
    """The second is refused, whatever the two do; what the first has written stays."""
    out, found = tmp_path / "out", tmp_path / "found.json"
    found.write_text("[]")
    data = ["--data", toy_devkit, "--split", "2007:test", "--out", out]
    evaluation = ["evaluate", "--run", detector, *data, "--device", "cpu", "--workers", 0]
    commands = (
        arguments(detector, photos, out),
        evaluation,
        ["score", "--detections", found, *data],
    )
    with sole_writer(out):
        for words in commands:
            code, _, err = call_command(command, *words)
            assert code == 2
            assert f"another command is writing to {out}: wait for it" in one_line(err)
        assert list(out.iterdir()) == []
    assert call_command(command, *arguments(detector, photos, out))[0] == 0


# ---- what is read -------------------------------------------------------------------------------


def test_a_photo_is_gone_before_it_is_read(
    call_command: Call, detector: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    find = predict.find_photos

    def listing(*given: Any, **options: Any) -> Any:
        found = find(*given, **options)
        (photos / NAMES[1]).unlink()
        return found

    monkeypatch.setattr(predict, "find_photos", listing)
    out = tmp_path / "out"
    code, _, err = call_command(command, *arguments(detector, photos, out))
    named, last = err.splitlines()
    assert code == 2 and str(photos / NAMES[1]) in named
    assert last.startswith("error: 1 of 4 photos could not be read")
    assert {path.name for path in (out / "pictures").iterdir()} == {NAMES[0], *NAMES[2:]}
    found = {entry["file_name"] for entry in json.loads((out / "predictions.json").read_text())}
    assert NAMES[0] in found and NAMES[1] not in found


def test_an_image_is_gone_before_it_is_evaluated(
    call_command: Call, detector: Path, toy_devkit: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """An evaluation leaves none out, so nothing is written."""
    data, out = shutil.copytree(toy_devkit, tmp_path / "VOCdevkit"), tmp_path / "out"
    lost = data / "VOC2007/ImageSets/Main/test.txt"
    lost = data / "VOC2007/JPEGImages" / f"{lost.read_text().split()[1]}.jpg"
    build = evaluate.build_detector

    def building(run: Any) -> Any:
        lost.unlink()
        return build(run)

    monkeypatch.setattr(evaluate, "build_detector", building)
    words = ["--run", detector, "--data", data, "--split", "2007:test", "--out", out]
    code, _, err = call_command(command, "evaluate", *words, "--device", "cpu", "--workers", 0)
    assert code == 2 and str(lost) in one_line(err)
    assert list(out.iterdir()) == []


# ---- ends ---------------------------------------------------------------------------------------


def test_ctrl_c_while_scoring(
    call_command: Call, toy_devkit: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    found, out = tmp_path / "found.json", tmp_path / "out"
    found.write_text("[]")
    words = ["score", "--detections", found, "--data", toy_devkit, "--split", "2007:test"]
    assert call_command(command, *words, "--out", out)[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(
        label_errors, "find_label_errors", lambda *_: os.kill(os.getpid(), signal.SIGINT)
    )
    known = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        code, _, err = call_command(command, *words, "--out", out)
    finally:
        signal.signal(signal.SIGINT, known)
    assert (code, err) == (130, "interrupted\n")
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("kill", 1, "ReaderKilled: a process that reads images was killed"),
        ("interrupt", 130, "interrupted\n"),
    ],
)
def test_readers_are_killed_or_all_interrupted(
    detector: Path, photos: Path, tmp_path: Path, what: str, code: int, line: str
) -> None:
    """As the system does where memory runs out, and as a terminal does at Ctrl-C."""
    for number in range(10, 50):  # more than are read ahead
        (photos / f"{number}.jpg").hardlink_to(photos / NAMES[0])
    out = tmp_path / "out"
    words = map(str, arguments(detector, photos, out, workers=2))
    done = subprocess.run(
        [sys.executable, __file__, what, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        start_new_session=True,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1, done.stderr
    assert not (out / "predictions.json").exists() and leftovers(out) == []


def _act(what: str) -> None:
    if what == "interrupt":
        os.killpg(0, signal.SIGINT)
    else:
        readers = multiprocessing.active_children()
        os.kill(readers[0].pid or 0, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fault = sys.argv.pop(1)
    with pytest.MonkeyPatch.context() as patch:
        at_second_picture(patch, lambda: _act(fault))
        sys.exit(command.main())
