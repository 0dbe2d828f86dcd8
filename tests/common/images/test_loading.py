"""Unreadable images in a stream: replaced by rule, counted, named once; none where none may be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.command.flags import RunFlags
from common.errors import InputError, SourceError
from common.images.loading import SkipBad, stream
from common.images.sampling import MicroBatch, Sampling
from common.processes.ranks import World
from common.training import launch

CPU = torch.device("cpu")


class Reader:
    """Items that tell what was read; some positions cannot be."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __call__(self, epoch: int, position: int) -> tuple[int, int]:
        if position in self.bad:
            raise InputError(f"image {position} is cut off")
        return epoch, position


def read(
    reader: Reader, skip: SkipBad | None, batches: Iterator[MicroBatch], workers: int = 0
) -> list[list[tuple[int, int]]]:
    return list(stream(reader, batches, list, workers=workers, device=CPU, skip=skip))


def sampled(num_images: int, start: int = 0, stop: int = 6) -> Iterator[MicroBatch]:
    return Sampling(num_images=num_images, batch_size=4, seed=3).micro_batches(start, stop)


def skipping(folder: Path, limit: int, num_images: int = 10) -> SkipBad:
    return SkipBad(limit=limit, num_images=num_images, record=folder / "run" / "unreadable.txt")


@settings(max_examples=25)
@given(bad=st.sets(st.integers(0, 9), max_size=9))
def test_the_next_readable_image_takes_the_place(
    tmp_path_factory: pytest.TempPathFactory, bad: set[int]
) -> None:
    skip = skipping(tmp_path_factory.mktemp("skip"), 9)
    expected = []
    for batch in sampled(10):
        row = []
        for index in map(int, batch.indices):
            while index in bad:
                index = 0 if index == 9 else index + 1
            row.append((batch.epoch, index))
        expected.append(row)
    assert read(Reader(*bad), skip, sampled(10)) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_each_is_named_once_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    read(Reader(2, 7), skipping(tmp_path, 2), sampled(10), workers)
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split(": ")[0] for line in lines] == [
        "skipped, 1 of at most 2",
        "skipped, 2 of at most 2",
    ]
    assert {line.split(": ")[1] for line in lines} == {"image 2 is cut off", "image 7 is cut off"}
    record = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert sorted(record) == ["2 image 2 is cut off", "7 image 7 is cut off"]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_too_many_stops(tmp_path: Path, workers: int) -> None:
    batches = stream(
        Reader(1, 4, 8),
        iter([MicroBatch(0, np.array(indices), 1.0) for indices in ([0, 1], [4, 5], [8, 9])]),
        list,
        workers=workers,
        device=CPU,
        skip=skipping(tmp_path, 2),
    )
    assert [next(batches), next(batches)] == [[(0, 0), (0, 2)], [(0, 5), (0, 5)]]
    with pytest.raises(InputError, match=r"^image 8 is cut off; --skip-bad 2 is used up: ") as stop:
        next(batches)
    assert str(tmp_path / "run/unreadable.txt") in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_resumed_run_sees_the_same_and_goes_on_counting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = read(Reader(2, 7), skipping(tmp_path / "whole", 2), sampled(10))
    capsys.readouterr()
    parts = [
        batch
        for start, stop in ((0, 4), (4, 6))
        for batch in read(Reader(2, 7), skipping(tmp_path / "parts", 2), sampled(10, start, stop))
    ]
    assert parts == whole
    assert capsys.readouterr().out.count("skipped") == 2
    with pytest.raises(InputError, match=r"^image 5 is cut off; --skip-bad 2 is used up"):
        read(Reader(2, 5, 7), skipping(tmp_path / "parts", 2), sampled(10))


def test_ranks_share_the_count(tmp_path: Path) -> None:
    rows = [[MicroBatch(0, np.array([index]), 1.0)] for index in (3, 6)]
    read(Reader(3, 6), skipping(tmp_path, 1), iter(rows[0]))
    with pytest.raises(InputError, match="image 6"):
        read(Reader(3, 6), skipping(tmp_path, 1), iter(rows[1]))


def test_all_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is cut off"):
        read(Reader(*range(3)), skipping(tmp_path, 50, 3), sampled(3, stop=1))


def test_a_long_row_of_unreadable_images_ends_at_the_limit(tmp_path: Path) -> None:
    tried: list[int] = []

    class Counting(Reader):
        def __call__(self, epoch: int, position: int) -> tuple[int, int]:
            tried.append(position)
            return super().__call__(epoch, position)

    with pytest.raises(InputError, match=r"image 2 is cut off; --skip-bad 2"):
        batch = MicroBatch(0, np.array([0]), 1.0)
        read(Counting(*range(900)), skipping(tmp_path, 2, 1000), iter([batch]))
    assert tried == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_without_leave_the_first_stops(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match=r"^image 2 is cut off$"):
        read(Reader(2), None, sampled(10), workers)


@pytest.mark.parametrize("skip", [False, True])
def test_a_source_that_fails_is_asked_once(tmp_path: Path, skip: bool) -> None:
    """To be sure that a server is gone takes a minute: not one for each image of a batch."""
    asked: list[int] = []

    def lost(epoch: int, position: int) -> tuple[int, int]:
        asked.append(position)
        raise SourceError("the server is gone")

    leave = skipping(tmp_path, 5) if skip else None
    batches = stream(lost, sampled(10), list, workers=0, device=CPU, skip=leave)
    with pytest.raises(SourceError, match=r"^the server is gone$"):
        list(batches)
    assert len(asked) == 1
    assert not (tmp_path / "run" / "unreadable.txt").exists()


def test_a_damaged_record_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    skip = skipping(tmp_path, 3)
    assert skip.found() == set()
    skip.record.parent.mkdir()
    skip.record.write_bytes(b"12 image\n\xff\xfe\n\n4 other\n7")
    assert skip.found() == {12, 4}


def test_the_flag(tmp_path: Path) -> None:
    def flags(**given: Any) -> RunFlags[Any]:
        return RunFlags(data=tmp_path, out=tmp_path / "run", recipe=None, **given)

    def skip(**given: int) -> SkipBad | None:
        return launch.reading(flags(**given), World(CPU)).skip(9)

    assert skip() is None
    assert skip(skip_bad=3, dry_run=True) is None
    assert skip(skip_bad=3) == SkipBad(
        limit=3, num_images=9, record=tmp_path / "run/unreadable.txt"
    )
    with pytest.raises(ValueError, match=r"skip.bad"):
        flags(skip_bad=-1)
