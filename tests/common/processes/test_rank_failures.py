"""One of two ranks fails in the midst of a step: both end, within seconds, each with one line."""

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import faults
import pytest
import torch
import torch.distributed as dist
from ranks import Hook, live, train_rank
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError, outcome
from common.processes import ranks
from common.processes.signals import Terminated
from common.runs.folder import RunFolder

LOST = "PeerFailed: another rank was killed, or the connection to it broke: give the same command"


def failing(error: BaseException, at: int = 1) -> Hook:
    def hook(rank: int, step: int) -> None:
        if (rank, step) == (at, 5):
            raise error

    return hook


@pytest.mark.parametrize("by_hand", [False, True], ids=["torchrun", "by hand"])
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.jpg is no image: remove it"), 2, "error: a.jpg is no image: remove it"),
        (RuntimeError("a bug"), 1, "RuntimeError: a bug"),
        (
            torch.OutOfMemoryError("4 GiB"),
            1,
            "OutOfMemory: the GPU's memory does not suffice (4 GiB): take a smaller batch, smaller "
            "images or fewer --workers",
        ),
        (FileNotFoundError(2, "No such", "/a/b"), 2, "error: /a/b: No such: check the path"),
        (SystemExit(7), 7, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_both_end(
    tmp_path: Path, error: BaseException, code: int, line: str, by_hand: bool
) -> None:
    """The folder is free at once; only the rank that failed tells what happened."""
    out = tmp_path / "run"
    work = partial(train_rank, out, failing(error))
    codes, printed, seconds = live(tmp_path, work, by_hand=by_hand)
    assert codes == [code, code], printed
    assert seconds < 20, printed
    lines = printed[1].splitlines()
    assert (lines[-1] if lines else "") == line
    assert printed[1].count("Traceback") == (line.startswith("Runtime"))
    told = (
        f"PeerFailed: rank 1 has ended with exit code {code}, and this one cannot continue without"
    )
    assert [text.startswith(told) for text in printed[0].splitlines()] == [True], printed
    description = {"stage": "test", "name": "test", "seed": 0, "overfit_batches": None}
    RunFolder(out, description).close()


def test_sigterm_does_not_hide_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sends it as soon as the first rank has left; here, when the other has noticed."""

    class Time:
        def sleep(self, seconds: float) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ranks, "time", Time())
    work = partial(train_rank, tmp_path / "run", failing(InputError("no image")))
    codes, printed, _ = live(tmp_path, work)
    assert codes == [2, 2], printed
    assert printed[0].startswith("PeerFailed: rank 1 has ended with exit code 2")
    assert len(printed[0].splitlines()) == 1


def test_rank_0_by_hand(tmp_path: Path) -> None:
    """With it goes the store, so that the other cannot know the reason."""
    work = partial(train_rank, tmp_path / "run", failing(InputError("no image"), at=0))
    codes, printed, seconds = live(tmp_path, work, by_hand=True)
    assert codes == [2, 1], printed
    assert seconds < 20
    assert printed[0] == "error: no image\n"
    assert [text.startswith(LOST) for text in printed[1].splitlines()] == [True], printed


@pytest.mark.parametrize("by_hand", [False, True], ids=["torchrun", "by hand"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_missed(tmp_path: Path, rank: int, by_hand: bool) -> None:
    def kill(now: int, step: int) -> None:
        if (now, step) == (rank, 5):
            os.kill(os.getpid(), signal.SIGKILL)

    work = partial(train_rank, tmp_path / "run", kill)
    codes, printed, seconds = live(tmp_path, work, by_hand=by_hand)
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1), printed
    assert seconds < 20
    assert printed[rank] == ""
    assert [text.startswith(LOST) for text in printed[1 - rank].splitlines()] == [True], printed


@pytest.mark.parametrize("by_hand", [False, True], ids=["torchrun", "by hand"])
def test_what_all_ranks_end_with_is_told_once(tmp_path: Path, by_hand: bool) -> None:
    """The value that is not finite is named, although one rank alone has it.

    That rank is late with its verdict: by hand, the other one is what it has to ask.
    """

    def late(error: BaseException) -> tuple[int, str | None]:
        time.sleep(0.3)
        return outcome(error)

    def work(rank: int) -> None:
        if rank == 1:
            ranks.outcome = late
        train_rank(tmp_path / "run", poison, rank)

    def poison(rank: int, step: int) -> float:
        return float("nan") if (rank, step) == (1, 9) else 0.0

    codes, printed, _ = live(tmp_path, work, by_hand=by_hand)
    assert codes == [3, 3], printed
    (line,) = "".join(printed).splitlines()
    assert line.startswith("NonFiniteError: loss became non-finite at step 10, or")


def test_what_rank_0_alone_finds_ends_both_and_is_told_once(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        def look() -> str:
            assert rank == 0
            raise InputError("a.jpg is of another size: fetch it again")

        with ranks.start("cpu"):
            assert ranks.from_main(lambda: f"of rank {rank}") == "of rank 0"
            ranks.from_main(look)

    codes, printed, seconds = live(tmp_path, work)
    assert codes == [2, 2], printed
    assert "".join(printed) == "error: a.jpg is of another size: fetch it again\n"
    assert seconds < 30


def test_a_rank_that_hangs_is_given_up(tmp_path: Path) -> None:
    def hang(rank: int, step: int) -> None:
        if (rank, step) == (1, 5):
            time.sleep(4)

    work = partial(train_rank, tmp_path / "run", hang, timeout_minutes=1 / 60)
    codes, printed, _ = live(tmp_path, work)
    assert codes == [1, 1], printed
    waited = "PeerFailed: waited 0.0166667 minutes for another rank: it hangs, is cut off, or needs"
    assert [text.startswith(waited) for text in printed[0].splitlines()] == [True], printed
    assert [text.startswith(LOST) for text in printed[1].splitlines()] == [True], printed


def test_different_flags_are_refused(tmp_path: Path) -> None:
    """By hand each rank has a command line of its own."""

    def work(rank: int) -> None:
        train_rank(tmp_path / "run", lambda rank, step: None, rank, seed=rank, evaluate_every=2)

    codes, printed, _ = live(tmp_path, work)
    assert codes == [2, 2], printed
    told = "error: the processes were started with different flags (seed): give all of them"
    assert "".join(printed).startswith(told)
    assert "".join(printed).count("\n") == 1


def test_nothing_waits_for_a_collective_that_is_under_way(tmp_path: Path) -> None:
    """DDP, in the traceback, is the last owner of the group, and a thread needs the GIL.

    So gloo's threads were waited for with torch 2.11 for ever, if they came to release a tensor
    only then; here they come a second late.
    """

    def work(rank: int) -> None:
        with ranks.start("cpu"):
            wrapped = DistributedDataParallel(nn.Linear(1, 1))
            if rank == 1:
                time.sleep(1)
            dist.all_reduce(torch.ones(3), async_op=True)
            raise Terminated(f"asked, as {type(wrapped).__name__} knows")

    codes, printed, seconds = live(tmp_path, work)
    assert codes == [143, 143], printed
    assert seconds < 20


def test_ranks_that_cannot_meet_say_so(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        if rank == 0:
            with ranks.start("cpu", timeout_minutes=1 / 60):
                pass

    codes, printed, _ = live(tmp_path, work)
    assert codes == [2, 0]
    assert "Traceback" not in printed[0]
    assert printed[0].splitlines()[-1].startswith("error: rank 0 cannot join the other 1 (")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_waits_for_the_others_to_start_ends_at_once(
    tmp_path: Path, number: int
) -> None:
    """The rendezvous is a call into a library, which heeds no handler of Python's for minutes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def work() -> None:
        (tmp_path / "begun").touch()
        with ranks.start("cpu", timeout_minutes=1.0):
            raise AssertionError("there is no other rank")

    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    pid = faults.start(work, tmp_path / "printed", RANK="0", WORLD_SIZE="2", **address)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    time.sleep(1.0)
    begin = time.monotonic()
    os.kill(pid, number)
    assert faults.end(pid) == -number
    assert time.monotonic() - begin < 10
