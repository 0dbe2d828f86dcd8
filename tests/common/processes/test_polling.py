"""When ranks ask each other: by time, alike on all, whatever their clocks say."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import live, train_rank
from torch import Tensor

from common.processes import polling
from common.processes.polling import Polling
from common.processes.ranks import World
from common.runs import checkpoints


class Clock:
    """Stands in for `time`; advances by `tick` alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [
        (6.0, [1, 2, 3, 4]),
        (0.3, [1, 4, 7, 10]),
        (0.001, [1, 101, 201, 301]),  # never further apart: what comes may be slower
        (0.0, [1, 101, 201, 301]),
    ],
)
def test_asks_about_once_a_second(
    seconds: float, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = Clock(), []

    def exchange(values: Tensor) -> Tensor:
        asked.append(step)
        return values

    monkeypatch.setattr(polling, "time", clock)
    monkeypatch.setattr(polling, "max_over_ranks", exchange)
    questions = Polling(World(torch.device("cpu"), size=2), 0)
    for step in range(1, steps[-1] + 1):
        clock.tick(seconds)
        answers = questions.ask(step, True, False)
        assert answers == [step in steps, False]
    assert asked == steps


def test_follows_steps_that_grow_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a first step that takes long, as it compiles, is no measure for the others."""
    clock = Clock()
    monkeypatch.setattr(polling, "time", clock)
    questions = Polling(World(torch.device("cpu"), size=2), 20)
    asked = []
    for step, seconds in enumerate([60.0, *[0.125] * 11, *[6.0] * 20], 21):
        clock.tick(seconds)
        if questions.ask(step, True) == [True]:
            asked.append(step)
    assert asked == [21, 22, 30, *range(38, 53)]


def test_a_single_process_is_always_asked() -> None:
    questions = Polling(World(torch.device("cpu")), 0)
    assert [questions.ask(1, wish, True) for wish in (True, False)] == [[True, True], [False, True]]


@pytest.mark.parametrize("slow", [0, 1])
def test_sigterm_between_long_steps_keeps_its_checkpoint(
    tmp_path: Path, slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 6 s by the clock of one rank: the run ends after the step in which it is asked."""

    def hook(clock: Clock, rank: int, step: int) -> None:
        clock.tick(6.0 if rank == slow else 0.001)
        if (rank, step) == (1, 13):
            os.kill(os.getpid(), signal.SIGTERM)

    def work(rank: int) -> None:
        clock = Clock()
        monkeypatch.setattr(polling, "time", clock)
        train_rank(tmp_path / "run", partial(hook, clock), rank)

    codes, printed, _ = live(tmp_path, work)
    assert codes == [143, 143], printed
    assert "".join(printed).count("Terminated: ended on request after step 14\n") == 1
    assert checkpoints.load(tmp_path / "run" / "last.pt")["step"] == 14
