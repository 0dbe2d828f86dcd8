"""`detect report` under faults: each ends in a line, and leaves no half of a file."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.storage import sole_writer
from detect import __main__ as command
from detect.report import document

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the report goes; charts, which take the most time, are one file."""

    def one_chart(comparison: Any, folder: Path) -> list[Path]:
        document.write_text(folder / "map.csv", "run,mAP\n")
        return [folder / "map.csv"]

    monkeypatch.setattr(document, "write_figures", one_chart)
    return tmp_path / "out" / "report.html"


def whole(out: Path) -> dict[Path, bytes]:
    """Return the files of a report, none of which is a temporary one."""
    files = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    assert not [path for path in files if path.name.startswith(".")]
    return files


def before(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Do something before the report goes on with a part."""
    part = getattr(document, name)

    def acting(*given: Any) -> Any:
        act()
        return part(*given)

    monkeypatch.setattr(document, name, acting)


@pytest.mark.parametrize(
    ("part", "named"),
    [("to_html", "report.html"), ("write_pictures", "report-figures/picture-1.jpg")],
)
def test_the_disk_is_full(
    call_command: Call, two_runs: list[Path], out: Path, monkeypatch: Any, part: str, named: str
) -> None:
    """The file is named, and what stood there before stays."""
    assert call_command(command, "report", *two_runs, "--out", out)[0] == 0
    kept = whole(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (100, limits[1])
    before(monkeypatch, part, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full))
    try:
        code, _, err = call_command(command, "report", *two_runs, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith(f"error: {out.parent / named} could not be written (")
    assert "free space" in err and "what was there before stays" in err
    assert whole(out) == kept


def test_the_folder_is_taken_away(
    call_command: Call, two_runs: list[Path], out: Path, monkeypatch: Any
) -> None:
    before(monkeypatch, "write_pictures", lambda: shutil.rmtree(out.parent / "report-figures"))
    code, _, err = call_command(command, "report", *two_runs, "--out", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"{out.parent / 'report-figures/picture-1.jpg'} could not be written (" in err
    assert not (out.parent / "report-figures").exists()


def test_two_writers_of_one_report(call_command: Call, two_runs: list[Path], out: Path) -> None:
    """The second is refused; another report in the same folder is not."""
    with sole_writer(out.parent / "report-figures"):
        code, _, err = call_command(command, "report", *two_runs, "--out", out)
        assert (code, err.count("\n")) == (2, 1), err
        assert f"another command is writing to {out.parent / 'report-figures'}: wait for it" in err
        assert whole(out) == {}
        other = out.with_name("other.html")
        assert call_command(command, "report", *two_runs, "--out", other)[0] == 0
    assert call_command(command, "report", *two_runs, "--out", out)[0] == 0
    assert {out, other} <= whole(out).keys()


def pictures(two_runs: list[Path]) -> list[Path]:
    return sorted((two_runs[0].parent / "VOCdevkit/VOC2007/JPEGImages").iterdir())


def test_a_photo_is_gone_before_it_is_shown(
    call_command: Call, two_runs: list[Path], out: Path, monkeypatch: Any
) -> None:
    """The page does without, and says so."""
    lost = pictures(two_runs)[0]
    read = document.read_runs

    def reading(*given: Any) -> Any:
        comparison = read(*given)
        lost.unlink()
        return comparison

    monkeypatch.setattr(document, "read_runs", reading)
    code, _, err = call_command(command, "report", *two_runs, "--out", out)
    assert (code, err) == (0, "")
    assert "3 images of 4, " in out.read_text() and "1 could not be read. " in out.read_text()


def test_a_photo_is_gone_before_it_is_drawn(
    call_command: Call, two_runs: list[Path], out: Path, monkeypatch: Any
) -> None:
    """It is named; the page, which has it already, is there."""
    before(monkeypatch, "write_pictures", lambda: [path.unlink() for path in pictures(two_runs)])
    code, _, err = call_command(command, "report", *two_runs, "--out", out)
    assert (code, err.count("\n")) == (2, 1), err
    assert "VOCdevkit/VOC2007/JPEGImages/00000" in err
    assert {out, out.with_suffix(".md"), out.with_suffix(".json")} <= whole(out).keys()


def test_ctrl_c(call_command: Call, two_runs: list[Path], out: Path, monkeypatch: Any) -> None:
    assert call_command(command, "report", *two_runs, "--out", out)[0] == 0
    kept = whole(out)
    before(monkeypatch, "to_csv", lambda: os.kill(os.getpid(), signal.SIGINT))
    known = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        code, _, err = call_command(command, "report", *two_runs, "--out", out)
    finally:
        signal.signal(signal.SIGINT, known)
    assert (code, err) == (130, "interrupted\n")
    assert whole(out) == kept
