"""What the benchmarks share: timing in turn, floors, medians and spread, tables, the record."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

BENCH = Path(__file__).resolve().parents[1] / "bench.py"
ROOT = BENCH.parents[1]
CPU = torch.device("cpu")
Sides = Mapping[str, Callable[[], object]]
"""What is compared, by name."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How benchmarks are run."""

    threads: int = 1
    """CPU threads of torch."""
    device: torch.device = CPU
    photos: Path | None = None
    """Folder of JPEG files, searched through."""
    coco: bool = False
    """Time pycocotools as well."""
    tiny: bool = False
    """The smallest sizes: shows that a benchmark runs, not how fast."""
    loop: str | None = None
    """One side only, in this process: print its seconds per step."""
    network: str = "cifar-resnet20"
    """The network of that side."""

    def flags(self) -> list[str]:
        """Return the flags that hand these settings to another process."""
        flags = ["--threads", str(self.threads), "--device", self.device.type]
        flags += ["--photos", str(self.photos)] if self.photos else []
        return flags + ["--coco"] * self.coco + ["--tiny"] * self.tiny


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Times of ours and of the alternatives for the same work.

    Attributes:
        case: What was done.
        seconds: Times of each side, ours first; those at one position were taken one after another.
        faster: Side to how many times as fast as it ours is to be.
        limit: Seconds that the median of ours is to stay under.
        floor: Seconds that no program could go below, and how that is known.
    """

    case: str
    seconds: Mapping[str, list[float]]
    faster: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    floor: tuple[float, str] | None = None

    def ratios(self, name: str) -> list[float]:
        """Return how many times as fast as a side ours is, pair by pair."""
        ours = next(iter(self.seconds.values()))
        return [theirs / mine for theirs, mine in zip(self.seconds[name], ours, strict=True)]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the lines of the table: a side each, then the floor."""
        rows: list[tuple[str, ...]] = []
        for position, (name, seen) in enumerate(self.seconds.items()):
            ratio = "" if position == 0 else spread(self.ratios(name), "{:.2f}".format)
            rows.append((self.case, name, spread(seen, duration), ratio, self._goal(name)))
        if self.floor:
            seconds, reason = self.floor
            ours = statistics.median(next(iter(self.seconds.values())))
            share = f"{seconds / ours:.2f} of ours"
            rows.append((self.case, f"floor: {reason}", duration(seconds), share, ""))
        return rows

    def _goal(self, name: str) -> str:
        if name in self.faster:
            wanted = self.faster[name]
            reached = statistics.median(self.ratios(name)) >= wanted
            return f"{wanted:.2f}: {'yes' if reached else 'NO'}"
        if self.limit is not None and name == next(iter(self.seconds)):
            reached = statistics.median(self.seconds[name]) < self.limit
            return f"{duration(self.limit)}: {'yes' if reached else 'NO'}"
        return ""


def duration(seconds: float) -> str:
    """Write seconds with the unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e9:.3g} ns"


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """Write the median and the range."""
    middle, low, high = (form(value) for value in (statistics.median(values), *bounds(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def bounds(values: Iterable[float]) -> tuple[float, float]:
    """Return the smallest and the largest."""
    ordered = sorted(values)
    return ordered[0], ordered[-1]


def table(comparisons: Iterable[Comparison]) -> str:
    """Write comparisons as a Markdown table; a case is named in its first line only."""
    head = ("case", "side", "median (range)", "ours is .. times as fast", "to reach")
    lines = [head, ("---",) * len(head)]
    for comparison in comparisons:
        first, *others = comparison.rows()
        lines += [first, *(("", *row[1:]) for row in others)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def elapsed(call: Callable[[], object], device: torch.device) -> float:
    """Time one call until the device is done."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turn(
    calls: Sides,
    rounds: int,
    device: torch.device | None = None,
    *,
    warm_up: int = 2,
    per: Mapping[str, int] = {},
    settle: bool = False,
) -> dict[str, list[float]]:
    """Time calls one after another, every other round backwards.

    Args:
        calls: Side to what it does.
        rounds: Times of each side.
        device: What to wait for.
        warm_up: Rounds before that do not count.
        settle: Run a side once, untimed, right before: caches and memory are then as it leaves
            them, not as its neighbour does.
        per: Units of work in a call of a side, to divide by; 1 if not there.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, rounds):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            if settle:
                calls[name]()
            took = elapsed(calls[name], device or CPU)
            if number >= 0:
                seconds[name].append(took / per.get(name, 1))
    return seconds


def in_processes(
    commands: Mapping[str, list[str]], rounds: int, *, launcher: Mapping[str, list[str]] = {}
) -> dict[str, list[float]]:
    """Time sides one after another, each time in a process of its own.

    What a side sets for its whole process, such as the allocator, stays its own.

    Args:
        commands: Side to the arguments of `bench.py`, with --loop; it prints seconds last.
        rounds: Times of each side.
        launcher: Side to what starts python, if it is not this interpreter alone.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            seconds[name].append(child(arguments, launcher.get(name, [sys.executable])))
    return seconds


def child(arguments: list[str], launcher: list[str]) -> float:
    """Run one side in a process of its own; return the seconds that it prints last."""
    command = [*launcher, str(BENCH), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def copy_seconds(tensor: torch.Tensor) -> float:
    """Measure one read and one write of a tensor of this size, the best of several."""
    into = torch.empty_like(tensor)
    source = tensor.detach()
    return min(elapsed(lambda: into.copy_(source), tensor.device) for _ in range(15))


def arithmetic_floor(step: Callable[[], object], device: torch.device) -> tuple[float, str]:
    """Count the operations of convolutions and products, and divide by the rate of a product.

    Float32 on a CPU, bfloat16 on a GPU.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    cuda = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if cuda else (1536, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rate = 2 * side**3 / min(elapsed(lambda: a @ b, device) for _ in range(10))
    work = counter.get_total_flops()
    return work / rate, f"{work / 1e9:.3g} GFLOP at the {rate / 1e9:.0f} GFLOP/s of a product"


def describe(settings: Settings) -> dict[str, Any]:
    """Say where and on what the times are taken."""
    cuda = settings.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "tiny": settings.tiny,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")


def _commit() -> str:
    """Return the commit, marked where the working tree differs; "unknown" outside git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write a record as JSON."""
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def as_record(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Return comparisons as plain values."""
    return [asdict(comparison) for comparison in comparisons]
