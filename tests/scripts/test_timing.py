"""No benchmark takes the time of the host for that of a GPU: shown on one whose work ends late."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench
import pytest
import torch
from benchmarks import floors, loops, measure, timing
from benchmarks.timing import CPU, StepTimes, elapsed, take_turns
from torch.utils._python_dispatch import TorchDispatchMode

from common.processes import memory

LAUNCH, WORK = 1e-3, 1000.0
"""Seconds of an operation, of the host and of the device; 1,000 launches are below one's work."""


class LateGpu(TorchDispatchMode):
    """Stands in for a GPU: an operation returns at once and ends WORK after the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.free_at = 0.0
        self.waits = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.now += LAUNCH
        self.free_at = max(self.free_at, self.now) + WORK
        if function is torch.ops.aten._local_scalar_dense.default:  # a value that is asked for
            self.wait()
        return function(*args, **(kwargs or {}))

    def wait(self, *device: object) -> None:
        self.waits += 1
        self.now = max(self.now, self.free_at)

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        return LateEvent(self)


class LateEvent:
    def __init__(self, gpu: LateGpu) -> None:
        self.gpu = gpu

    def record(self, stream: object) -> None:
        assert stream == "default stream"
        self.at = max(self.gpu.now, self.gpu.free_at)

    def elapsed_time(self, end: "LateEvent") -> float:
        if end.at > self.gpu.now:
            raise RuntimeError("not ready")  # as CUDA has it
        return 1e3 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateGpu]:
    """Let the CPU be that GPU."""
    late = LateGpu()
    monkeypatch.setattr(timing, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(measure, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: late.now))
    monkeypatch.setattr(torch.cuda, "Event", late.event)
    monkeypatch.setattr(torch.cuda, "synchronize", late.wait)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default stream")
    floors.rates.cache_clear()
    with late:
        yield late
    floors.rates.cache_clear()


def work(operations: int, x: torch.Tensor) -> None:
    for _ in range(operations):
        x.add_(1.0)


def test_a_region_lasts_until_its_work_is_done_and_no_longer(gpu: LateGpu) -> None:
    x = torch.zeros(1)
    work(7, x)  # from before, not of this region
    took = elapsed(lambda: work(5, x), CPU, calls=3)
    assert took.seconds == pytest.approx(5 * WORK)
    assert took.host == pytest.approx(5 * LAUNCH)


def test_the_stand_in_tells_of_a_region_that_does_not_wait(gpu: LateGpu) -> None:
    x, start, end = torch.zeros(1), gpu.event(enable_timing=True), gpu.event(enable_timing=True)
    start.record("default stream")
    work(5, x)
    end.record("default stream")
    with pytest.raises(RuntimeError, match="not ready"):
        start.elapsed_time(end)


def test_steps_are_timed_from_batch_to_batch(gpu: LateGpu) -> None:
    """Step n has n operations. Two regions of three steps after a warm-up of two."""
    times = StepTimes(CPU, steps=3, regions=2, warm_up=2)
    assert times.batches == 9
    x, waits = torch.zeros(1), []
    for number in times.watch(range(times.batches)):
        work(number, x)
        waits.append(gpu.waits)
    assert [took.seconds for took in times.took()] == pytest.approx([3 * WORK, 6 * WORK])
    assert [took.host for took in times.took()] == pytest.approx([3 * LAUNCH, 6 * LAUNCH])
    # Before the first step, behind it, and at the start of each region.
    assert waits == [1, 2, 3, 3, 3, 4, 4, 4, 4]


def test_short_calls_share_a_region_and_the_host_is_told_apart(
    gpu: LateGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "REGION_SECONDS", 10 * WORK)
    calls = {"one": [0], "two": [0]}
    x = torch.zeros(1)

    def call(name: str, operations: int) -> None:
        calls[name][0] += 1
        work(operations, x)

    sides = {"one": lambda: call("one", 1), "two": lambda: call("two", 2)}
    turns = take_turns(sides, 2, CPU, warm_up=1, per={"two": 2})
    assert turns.seconds == {name: pytest.approx([WORK, WORK]) for name in sides}
    assert turns.host == {name: pytest.approx([LAUNCH, LAUNCH]) for name in sides}
    # A warm-up, one to see how long it takes, two rounds of ten operations.
    assert calls == {"one": [1 + 1 + 2 * 10], "two": [1 + 1 + 2 * 5]}


def test_a_cpu_has_one_time() -> None:
    turns = take_turns({"work": lambda: torch.zeros(1)}, 2, CPU)
    assert turns.host == {}
    took = elapsed(lambda: torch.zeros(1), CPU)
    assert took.seconds == took.host > 0


ON_THE_DEVICE = {
    "rates": {"launched by the host"},
    "layer": {"FocusedDropout", "x * 1.0"},
    "method": {"the method, p = 0.1", "plain step"},
    "cifar": {"plain"},
    "imagenet": {"torchvision"},
    "retinanet": {"ours"},
    "retinanet --compiled": {"ours"},
}
"""Benchmark to sides that hand over their work without waiting for any; in RetinaNet the training.

Our own loop looks at the loss, on a CPU at each step.
"""


@pytest.mark.parametrize("name", ON_THE_DEVICE)
def test_every_time_of_a_benchmark_is_of_finished_work(
    gpu: LateGpu,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
) -> None:
    """What is not waited for would seem to take less than a single operation."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
        assert bench.main() == 0
        return capsys.readouterr().out

    def child(arguments: list[str], launcher: list[str]) -> measure.Run:
        return measure.Run(**json.loads(call(*arguments).splitlines()[-1]))

    monkeypatch.setattr(measure, "child", child)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: None)
    lines = tmp_path / "lines.jsonl"
    flags = ["--tiny", "--threads", "1", "--device", "cpu", "--lines", str(lines)]
    benchmark, *more = name.split()
    call(benchmark, *flags, *more)
    comparisons = [json.loads(line) for line in lines.read_text().splitlines()]
    timed = [one for one in comparisons if not one["case"].startswith("of it")]  # the profiler's
    assert timed
    seen = set()
    for comparison in timed:
        least = WORK / floors.KERNELS if comparison["case"].startswith("adding") else WORK
        for side, seconds in comparison["seconds"].items():
            assert min(seconds) > 0.99 * least, (comparison["case"], side)
            if side in ON_THE_DEVICE[name] and not comparison["case"].startswith("inference"):
                assert max(comparison["host"][side]) < 0.01 * min(seconds), side
                seen.add(side)
        if comparison["floor"]:
            assert comparison["floor"][0] > 0
    assert seen == ON_THE_DEVICE[name]


def test_the_plain_loop_waits_no_more_often_for_more_steps(gpu: LateGpu) -> None:
    waits = []
    for steps in (2, 12):
        before, times = gpu.waits, StepTimes(CPU, steps, regions=1, warm_up=2)
        settings = measure.Settings(loop="plain-fed", tiny=True)
        loops.fed_cifar("cifar-resnet20", 2, loops.Side.of(settings), CPU, times)
        waits.append(gpu.waits - before)
    assert waits[0] == waits[1]


def test_one_module_reads_the_clock() -> None:
    folder = Path(str(importlib.import_module("benchmarks").__file__)).parent
    readers = {file.name for file in folder.glob("*.py") if "perf_counter" in file.read_text()}
    assert readers == {"timing.py"}
    for file in folder.glob("*.py"):
        assert "monotonic(" not in file.read_text(), file
        assert "time.time(" not in file.read_text(), file
