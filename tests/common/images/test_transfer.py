"""The order of streams around a copy to a GPU, told by stand-ins; and on a GPU, if there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from common.images.transfer import transferred

CPU = torch.device("cpu")


def test_batches_for_a_cpu_stay_as_they_are() -> None:
    batches = [(torch.zeros(2), torch.ones(1)), (torch.ones(2), torch.zeros(1))]
    for sent, came in zip(batches, transferred(batches, CPU), strict=True):
        assert came is sent


class Streams:
    """Stands in for `torch.cuda`: notes who waits for whom, and where a tensor is copied."""

    def __init__(self, events: list[str]) -> None:
        self.events, self.now = events, "steps"

    def Stream(self, device: torch.device) -> Any:
        assert device == torch.device("cuda", 0)
        return Stream("copies", self.events)

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.now, before = stream.name, self.now
        yield
        self.now = before

    def current_stream(self, device: torch.device) -> Any:
        return Stream(self.now, self.events)


class Stream:
    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: Any) -> None:
        self.events.append(f"{self.name} wait for {other.name}")


class Pinned:
    """A tensor that says what is done with it."""

    def __init__(self, name: str, streams: Streams) -> None:
        self.name, self.streams = name, streams

    def to(self, device: torch.device, *, non_blocking: bool) -> Any:
        assert non_blocking
        self.streams.events.append(f"{self.name} copied on {self.streams.now}")
        return self

    def record_stream(self, stream: Any) -> None:
        self.streams.events.append(f"{self.name} kept for {stream.name}")


def test_a_copy_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    streams = Streams(events)
    monkeypatch.setattr(torch, "cuda", streams)
    batches: Any = [
        (Pinned(f"images {n}", streams), Pinned(f"labels {n}", streams)) for n in (0, 1)
    ]
    for number, _ in enumerate(transferred(batches, torch.device("cuda", 0))):
        assert events == [
            f"images {number} copied on copies",
            f"labels {number} copied on copies",
            "steps wait for copies",
            f"images {number} kept for steps",
            f"labels {number} kept for steps",
        ]
        assert streams.now == "steps"
        events.clear()
    assert events == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams need a GPU")
def test_a_step_sees_its_batch_however_late_it_runs() -> None:
    """Copies run ahead of steps that are held up; no memory is used again before its time."""
    device = torch.device("cuda", 0)
    sent = [(torch.full((1 << 20,), float(n)).pin_memory(),) for n in range(20)]
    sums: list[Tensor] = []
    for (batch,) in transferred(sent, device):
        torch.cuda._sleep(10_000_000)
        sums.append(batch.sum())
        del batch
    assert torch.stack(sums).tolist() == [float(n << 20) for n in range(20)]
