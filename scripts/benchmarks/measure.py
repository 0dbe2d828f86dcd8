"""What the benchmarks share: settings, comparisons, tables, processes, the record."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import CPU, StepTimes, is_asynchronous
from common.errors import InputError

Call = Callable[[], torch.Tensor]
BENCH = Path(__file__).resolve().parents[1] / "bench.py"
ROOT = BENCH.parents[1]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How benchmarks are run."""

    threads: int = 1
    """CPU threads of torch."""
    device: torch.device = CPU
    photos: Path | None = None
    """Folder of JPEG files, searched through."""
    runs: tuple[Path, ...] = ()
    """Folders of trained detectors."""
    coco: bool = False
    """Time pycocotools as well."""
    tiny: bool = False
    """The smallest sizes: shows that a benchmark runs, not how fast."""
    loop: str | None = None
    """One side only, in this process: print its seconds per step."""
    network: str | None = None
    """One network or case only, by its name."""
    compiled: bool = False
    """Time compiled sides as well."""

    def flags(self) -> list[str]:
        """Return the flags that hand these settings to another process."""
        flags = ["--threads", str(self.threads), "--device", self.device.type]
        flags += ["--photos", str(self.photos)] if self.photos else []
        flags += ["--runs", *map(str, self.runs)] if self.runs else []
        flags += ["--network", self.network] if self.network else []
        flags += ["--compiled"] * self.compiled
        return flags + ["--coco"] * self.coco + ["--tiny"] * self.tiny


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Times of ours and of the alternatives for the same work."""

    case: str
    """What was done."""
    seconds: Mapping[str, list[float]]
    """Times of each side, ours first; those at one position were taken one after another."""
    host: Mapping[str, list[float]] = field(default_factory=dict)
    """Seconds in which the host had handed the same work to a GPU; empty on a CPU."""
    faster: Mapping[str, float] = field(default_factory=dict)
    """Side to how many times as fast as it ours is to be."""
    limit: float | None = None
    """Seconds that the median of ours is to stay under."""
    floor: tuple[float, str] | None = None
    """Seconds that no program could go below, and how that is known."""
    one_by_one: tuple[float, str] | None = None
    """Seconds that no program goes below that works operation by operation, likewise."""
    images: int | None = None
    """Images of the work, for images/s."""
    published: tuple[float, str] | None = None
    """Images a second that others state, and who; for the same kind of device."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Side to what else there is to say of it."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Sides whose process failed, and how."""

    def ratios(self, name: str) -> list[float]:
        """Return how many times as fast as a side ours is, pair by pair."""
        ours = next(iter(self.seconds.values()))
        return [theirs / mine for theirs, mine in zip(self.seconds[name], ours, strict=True)]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the lines of the table: a side each, then the floor."""
        rows: list[tuple[str, ...]] = []
        for position, (name, seen) in enumerate(self.seconds.items()):
            alone = position == 0 or self.failed  # the first may not be ours
            ratio = "" if alone else spread(self.ratios(name), "{:.2f}".format)
            took = spread(seen, duration) + self._host(name)
            rows.append((self.case, name, took, ratio, self._goal(name)))
        rows += [(self.case, name, why, "", "") for name, why in self.failed.items()]
        ours = statistics.median(next(iter(self.seconds.values())))
        for name, bound in self.bounds().items():
            seconds, reason = bound
            share = f"{seconds / ours:.2f} of ours"
            rows.append((self.case, f"{name}: {reason}", duration(seconds), share, ""))
        return rows

    def bounds(self) -> dict[str, tuple[float, str]]:
        """Return what there is to hold times against, by name: seconds, and what they are."""
        found = {"floor": self.floor, "eager": self.one_by_one}
        if self.published and self.images:
            rate, who = self.published
            found["published"] = (self.images / rate, f"{rate:,.0f} images/s, {who}")
        return {name: bound for name, bound in found.items() if bound}

    def _host(self, name: str) -> str:
        if name not in self.host:
            return ""
        return f"; host {duration(statistics.median(self.host[name]))}"

    def _goal(self, name: str) -> str:
        if name in self.faster and not self.failed:
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


@dataclass(frozen=True)
class Run:
    """What the process of one side measured."""

    seconds: list[float]
    """Times of a step, or of what the side says; none if it failed."""
    host: list[float] = field(default_factory=list)
    """The host's for the same; empty where it is the same."""
    notes: str = ""
    """What else there is to say."""

    @staticmethod
    def of(times: StepTimes, device: torch.device) -> "Run":
        """Gather what was taken in a training loop; waits for the device."""
        taken = times.took()
        notes = f"first step {duration(times.first)}"
        if device.type == "cuda":
            notes += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        host = [took.host for took in taken] if is_asynchronous(device) else []
        return Run([took.seconds for took in taken], host, notes)


def in_processes(
    commands: Mapping[str, list[str]], rounds: int, *, launcher: Mapping[str, list[str]] = {}
) -> dict[str, Run]:
    """Time sides one after another, each time in a process of its own.

    What a side sets for its whole process, such as the allocator, stays its own. A side that fails
    does not stop the others; its run has no times.

    Args:
        commands: Side to the arguments of `bench.py`, with --loop; it prints its `Run` last.
        rounds: Processes of each side.
        launcher: Side to what starts python, if it is not this interpreter alone.

    Raises:
        InputError: If all of them fail.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    failed: dict[str, Run] = {}
    for _ in range(rounds):
        for name, arguments in commands.items():
            if name not in failed:
                try:
                    runs[name].append(child(arguments, launcher.get(name, [sys.executable])))
                except subprocess.CalledProcessError as error:
                    failed[name] = Run([], notes=f"failed with exit code {error.returncode}")
    if len(failed) == len(commands):
        raise InputError(f"no side ran ({', '.join(failed)}): follow their messages above")
    return failed | {
        name: Run(
            [seconds for run in its for seconds in run.seconds],
            [seconds for run in its for seconds in run.host],
            its[-1].notes,
        )
        for name, its in runs.items()
        if name not in failed
    }


def child(arguments: list[str], launcher: list[str]) -> Run:
    """Run one side in a process of its own; return what it prints last."""
    command = [*launcher, str(BENCH), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def of_runs(runs: Mapping[str, Run], **more: Any) -> Comparison:
    """Compare what processes measured; `more` is the rest of the comparison."""
    return Comparison(
        seconds={name: run.seconds for name, run in runs.items() if run.seconds},
        host={name: run.host for name, run in runs.items() if run.host},
        notes={name: run.notes for name, run in runs.items() if run.notes and run.seconds},
        failed={name: run.notes for name, run in runs.items() if not run.seconds},
        **more,
    )


def describe(settings: Settings) -> dict[str, Any]:
    """Say where and on what the times are taken."""
    cuda = settings.device.type == "cuda"
    facts: dict[str, Any] = {"device": torch.cuda.get_device_name() if cuda else _processor()}
    if cuda:
        facts |= {
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": _version("triton"),
            "processor": _processor(),
        }
    return facts | {
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
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


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


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
