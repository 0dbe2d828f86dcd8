"""Files of predictions: whole, or what was done of the photos under another name."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from common.errors import InputError
from common.images.photos import Photos
from common.images.predicting import append, say_passed_over, write_predictions

PHOTOS = Photos(tuple(map(Path, "abcd")), tuple("abcd"))
BIG = "x" * 300_000  # more than is kept back until it is written


def work(end: BaseException | int | None, after: int = 2) -> object:
    """Write a table and a list; fail, or get a signal, in the midst of a photo."""

    def write(files: Sequence[BinaryIO]) -> Iterator[None]:
        table, listed = files
        table.write(b"name\n")
        yield
        for number, name in enumerate(PHOTOS.names):
            table.write(f"{name}\n".encode())
            if number == after and end is not None:
                table.write(BIG.encode())
                if isinstance(end, int):
                    os.kill(os.getpid(), end)
                else:
                    raise end
            append(listed, json.dumps({"name": name, "more": BIG}).encode())
            yield

    return write


def names(path: Path) -> list[str]:
    return [entry["name"] for entry in json.loads(path.read_bytes())]


def predict(out: Path, *arguments: object) -> None:
    write_predictions(out, [".csv", ".json"], PHOTOS, work(*arguments))  # type: ignore[arg-type]


def test_pictures_of_other_formats_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    say_passed_over(Photos((), (), (Path("a.TIF"), Path("notes.txt"), Path("b.avif"))))
    assert capsys.readouterr().out.splitlines() == [
        "2 pictures skipped, of no format that is read, such as a.TIF: convert to .png",
        "1 other file skipped, such as notes.txt",
    ]


def test_all_photos(tmp_path: Path) -> None:
    predict(tmp_path, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.csv", "predictions.json"
    ]  # fmt: skip
    assert names(tmp_path / "predictions.json") == ["a", "b", "c", "d"]
    write_predictions(tmp_path, [".json"], PHOTOS, lambda files: iter([None]))
    assert json.loads((tmp_path / "predictions.json").read_bytes()) == []


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (signal.SIGTERM, SystemExit),
        (signal.SIGUSR1, SystemExit),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("out of memory"), RuntimeError),
    ],
)
def test_what_is_done_is_kept_and_what_was_there_stays(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    end: BaseException | int,
    kind: type[BaseException],
) -> None:
    for name in ("predictions.csv", "predictions.json"):
        (tmp_path / name).write_text("before")
    with pytest.raises(kind) as caught:
        predict(tmp_path, end)
    assert getattr(caught.value, "code", 143) == 143
    table, listed = tmp_path / "predictions.partial.csv", tmp_path / "predictions.partial.json"
    assert table.read_bytes() == b"name\na\nb\n" and names(listed) == ["a", "b"]
    told = f"ended early: 2 of 4 photos in {table} and {listed}; the same command does them all\n"
    printed = capfd.readouterr()
    assert printed.out == told
    assert printed.err == "ended on request: what is done is kept\n" * (kind is SystemExit)
    assert (tmp_path / "predictions.csv").read_text() == "before"
    assert (tmp_path / "predictions.json").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 4
    predict(tmp_path, None)  # the same command again: the whole stands in place of the part
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "predictions.csv", "predictions.json"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("end", "after"),
    [(KeyboardInterrupt(), 0), (InputError("no picture"), 2), (OSError(28, "x"), 2)],
)
def test_where_nothing_is_done_or_can_be_written_nothing_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: BaseException, after: int
) -> None:
    with pytest.raises(InputError if isinstance(end, OSError) else type(end)):
        predict(tmp_path, end, after)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
