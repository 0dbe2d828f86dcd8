"""The one place where the benchmarks read a clock.

A GPU still works when the call that started it has returned. So its time is taken by events on it,
over many calls where one is short, and the host's beside it: how long it took to hand the work
over. Where the two are nearly the same, the host is what limits.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

CPU = torch.device("cpu")
Sides = Mapping[str, Callable[[], object]]
"""What is compared, by name."""
REGION_SECONDS, MOST_CALLS = 0.1, 200
"""How long a region on a GPU should be, and how many calls it has at most."""
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Took:
    """Seconds of the device, and of the host until it had handed the work over."""

    seconds: float
    host: float


def is_asynchronous(device: torch.device) -> bool:
    """Tell whether calls return before their work is done."""
    return device.type == "cuda"


class Region:
    """A stretch of work.

    Events lie on the device's default stream, which the work of a step begins and ends on, whatever
    stream is current where the region is marked.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        if is_asynchronous(device):
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._host = 0.0

    def begin(self) -> None:
        """Wait for what was asked for before, and begin."""
        if self._events:
            torch.cuda.synchronize(self._device)
            self._events[0].record(torch.cuda.default_stream(self._device))
        self._start = time.perf_counter()

    def end(self) -> None:
        """Mark the end; this does not wait, so that a loop continues undisturbed."""
        self._host = time.perf_counter() - self._start
        if self._events:
            self._events[1].record(torch.cuda.default_stream(self._device))

    def took(self, calls: int = 1) -> Took:
        """Wait for the end, and return the time of one of so many calls."""
        if not self._events:
            return Took(self._host / calls, self._host / calls)
        torch.cuda.synchronize(self._device)
        seconds = self._events[0].elapsed_time(self._events[1]) / 1e3
        return Took(seconds / calls, self._host / calls)


def elapsed(call: Callable[[], object], device: torch.device, calls: int = 1) -> Took:
    """Time so many calls until the device is done; return the time of one."""
    region = Region(device)
    region.begin()
    for _ in range(calls):
        call()
    region.end()
    return region.took(calls)


def calls_of_a_region(call: Callable[[], object], device: torch.device) -> int:
    """Choose how often to repeat a call that is warm: once on a CPU."""
    if not is_asynchronous(device):
        return 1
    wanted = REGION_SECONDS / max(elapsed(call, device).seconds, 1e-9)
    return max(1, min(MOST_CALLS, round(wanted)))


@dataclass(frozen=True)
class Turns:
    """Times of sides that took turns, seconds; `host` is empty where it is the same."""

    seconds: dict[str, list[float]]
    host: dict[str, list[float]] = field(default_factory=dict)


def take_turns(
    calls: Sides,
    rounds: int,
    device: torch.device,
    *,
    warm_up: int = 2,
    per: Mapping[str, int] = {},
    settle: bool = False,
) -> Turns:
    """Time calls one after another, every other round backwards.

    Args:
        calls: Side to what it does.
        rounds: Times of each side.
        device: Where it is done.
        warm_up: Rounds before that do not count, at least one on a GPU.
        per: Units of work in a call of a side, to divide by; 1 if not there.
        settle: Run a side once, untimed, right before: caches and memory are then as it leaves
            them, not as its neighbour does.
    """
    taken: dict[str, list[Took]] = {name: [] for name in calls}
    repeats = dict.fromkeys(calls, 1)
    for number in range(-warm_up, rounds):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            if number == 0:
                repeats[name] = calls_of_a_region(calls[name], device)
            if settle:
                calls[name]()
            took = elapsed(calls[name], device, repeats[name])
            if number >= 0:
                taken[name].append(took)
    seconds = {name: [took.seconds / per.get(name, 1) for took in taken[name]] for name in calls}
    if not is_asynchronous(device):
        return Turns(seconds)
    host = {name: [took.host / per.get(name, 1) for took in taken[name]] for name in calls}
    return Turns(seconds, host)


def in_turn(
    calls: Sides,
    rounds: int,
    *,
    warm_up: int = 2,
    per: Mapping[str, int] = {},
) -> dict[str, list[float]]:
    """Time calls on the CPU one after another, as `take_turns`."""
    return take_turns(calls, rounds, CPU, warm_up=warm_up, per=per).seconds


class StepTimes:
    """Times the steps of a training loop by the batches that it takes, whatever the loop does.

    The loop takes a batch, asks the device for a step, and takes the next. So from one batch to a
    later one it asks for the steps between. There are no hooks in the loop, and nothing waits
    but at the start of each region.

    Args:
        device: Where the steps are done.
        steps: Steps of a region.
        regions: Regions one after another.
        warm_up: Steps before the first, at least one.
    """

    def __init__(self, device: torch.device, steps: int, regions: int, warm_up: int) -> None:
        self._device, self._steps, self._warm_up = device, steps, warm_up
        self._regions = [Region(device) for _ in range(regions)]
        self._first = Region(device)

    @property
    def batches(self) -> int:
        """How many batches the loop has to take; the last step is not timed."""
        return self._warm_up + self._steps * len(self._regions) + 1

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Hand the batches on, and mark the regions."""
        self._first.begin()
        for number, batch in enumerate(batches):
            if number == 1:
                self._first.end()
                self.first = self._first.took().seconds
            place, begins = divmod(number - self._warm_up, self._steps)
            if begins == 0:
                if 0 < place <= len(self._regions):
                    self._regions[place - 1].end()
                if 0 <= place < len(self._regions):
                    self._regions[place].begin()
            yield batch

    def took(self) -> list[Took]:
        """Return the time of a step, region by region."""
        return [region.took(self._steps) for region in self._regions]
