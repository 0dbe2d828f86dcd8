"""The benchmarks of a GPU, part by part, on a machine without a network; then their table.

python scripts/gpu_check.py run --out gpu-check            what is missing there, in nine minutes
python scripts/gpu_check.py run --out gpu-check r50 layer  these parts alone
python scripts/gpu_check.py run --out /tmp/tiny --tiny     all of it on a CPU, at its smallest
python scripts/gpu_check.py table --out gpu-check          the results as Markdown

Each part is a process with a time limit. What it measures goes to results.jsonl in the folder, one
line per comparison, as soon as it is there; what it prints goes to log.txt. Given again, it
continues with the parts that have not succeeded on this device at this commit, those that failed
last.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks import measure
from benchmarks.measure import Comparison, Settings, duration

from common.errors import InputError, outcome

RESULTS, LOG, PIECE = "results.jsonl", "log.txt", ".part.jsonl"
DONE = "done"
TINY_LIMIT = 120
BOUNDS = ("floor", "eager", "published")
HEAD = ("part", "case", "side", "images/s", "a call (range)", "host", *BOUNDS, "notes")
TESTS = ("test_cuda_graphs.py", "test_no_waiting.py")
TOGETHER = ("device", "torch", "tiny", "commit")
"""Facts that must agree for results to belong together."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A process: its name, its time limit in seconds, and the arguments of bench.py."""

    name: str
    limit: int
    arguments: tuple[str, ...]


def _bench(name: str, limit: int, arguments: str) -> Part:
    return Part(name, limit, tuple(arguments.split()))


TESTS_PART = Part("tests", 240, ())
PARTS = (
    _bench("rates", 60, "rates"),
    _bench("r20", 180, "cifar --network cifar-resnet20"),
    TESTS_PART,
    _bench("r50", 240, "imagenet"),
    _bench("det-608x1024", 180, "retinanet --network 608x1024"),
    _bench("det-800x800", 180, "retinanet --network 800x800"),
    _bench("layer", 120, "layer"),
    _bench("method", 120, "method"),
    _bench("feeding", 180, "feeding"),
    _bench("r56", 150, "cifar --network cifar-resnet56"),
    _bench("r20-compiled", 300, "cifar --network cifar-resnet20 --compiled"),
    _bench("layer-compiled", 240, "layer --compiled"),
    _bench("r50-compiled", 500, "imagenet --compiled"),
    _bench("det-608x1024-compiled", 400, "retinanet --network 608x1024 --compiled"),
    _bench("det-800x800-compiled", 400, "retinanet --network 800x800 --compiled"),
)
"""The most informative for their time first, what compiles last."""


def command(part: Part, lines: Path, *, tiny: bool) -> list[str]:
    """Return what a part runs."""
    if part is TESTS_PART:
        files = [str(file) for name in TESTS for file in measure.ROOT.glob(f"tests/**/{name}")]
        # Warnings are no errors here: the versions of the machine are not those of the project.
        pytest = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider"]
        return [*pytest, *files]
    flags = ["--tiny", "--device", "cpu", "--threads", "1"] if tiny else ["--device", "cuda"]
    lines_flag = ["--lines", str(lines.resolve())]
    return [sys.executable, str(measure.BENCH), *part.arguments, *flags, *lines_flag]


def read(path: Path) -> list[Line]:
    """Return the lines of a file, if there is one; one that was cut off does not count."""
    found: list[Line] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def collect(piece: Path, ended: str, seconds: float | None = None) -> None:
    """Move what a part wrote to the results, and say there how it ended."""
    found = read(piece)
    if not found:  # killed before the first line was there
        piece.unlink()
        return
    head, *lines = found
    with (piece.parent / RESULTS).open("a", encoding="utf-8") as file:
        for line in lines:
            print(json.dumps(head | line), file=file)
        print(json.dumps(head | {"ended": ended, "seconds_in_all": seconds}), file=file)
    piece.unlink()


def run_part(part: Part, folder: Path, facts: Line, limit: float) -> None:
    """Run a part, and note what it measured and how it ended."""
    piece = folder / f"{part.name}{PIECE}"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    paths = [str(measure.ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    start = time.monotonic()
    with (folder / LOG).open("ab") as log:
        log.write(f"\n==== {part.name}\n".encode())
        log.flush()
        piece.write_text(json.dumps({"part": part.name, "facts": facts}) + "\n", encoding="utf-8")
        process = subprocess.Popen(
            command(part, piece, tiny=facts["tiny"]),
            cwd=measure.ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it starts ends with it
        )
        guard = _guard(process.pid)
        try:
            code = process.wait(limit)
            ended = DONE if code == 0 else f"exit code {code}, see {LOG}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            guard.kill()
            guard.communicate()
    if part is TESTS_PART:
        said = (folder / LOG).read_text(encoding="utf-8").strip().splitlines()[-1]
        with piece.open("a", encoding="utf-8") as file:
            print(json.dumps({"said": said}), file=file)
    seconds = time.monotonic() - start
    collect(piece, ended, round(seconds, 1))
    print(f"{part.name}: {ended}, {seconds:.0f} s", flush=True)


def _guard(group: int) -> subprocess.Popen[bytes]:
    """Start a process that kills a group of others when this one dies, by SIGKILL too.

    It reads from a pipe that only this process holds, and the system closes that.
    """
    return subprocess.Popen(
        ["sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "guard", str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def together(facts: Line) -> tuple[Any, ...]:
    """Return what must agree for results to belong together."""
    return tuple(facts.get(name) for name in TOGETHER)


def missing(lines: Iterable[Line], facts: Line, parts: Iterable[Part]) -> list[Part]:
    """Return the parts that have not succeeded here with this code, those tried least first."""
    ends = [
        line for line in lines if "ended" in line and together(line["facts"]) == together(facts)
    ]
    done = {line["part"] for line in ends if line["ended"] == DONE}
    tries = Counter(line["part"] for line in ends)
    return sorted((part for part in parts if part.name not in done), key=lambda p: tries[p.name])


def run(folder: Path, parts: Sequence[Part], *, tiny: bool, minutes: float) -> int:
    """Run what is missing, as far as the time goes; return the exit code.

    Raises:
        InputError: If `minutes` is no time, or there is no GPU and this is no tiny run.
    """
    if not (tiny or torch.cuda.is_available()):
        raise InputError("torch sees no GPU: give --tiny to try the parts on the CPU")
    if not 0 < minutes < math.inf:
        raise InputError(f"--minutes {minutes}: choose a number above 0")
    deadline = time.monotonic() + 60 * minutes
    device = torch.device("cpu" if tiny else "cuda")
    facts = measure.describe(Settings(device=device, tiny=tiny, threads=torch.get_num_threads()))
    folder.mkdir(parents=True, exist_ok=True)
    for piece in folder.glob(f"*{PIECE}"):
        collect(piece, "interrupted")
    wanted = missing(read(folder / RESULTS), facts, parts)
    for part in wanted:
        limit = min(part.limit, TINY_LIMIT) if tiny else part.limit
        if limit < deadline - time.monotonic():
            run_part(part, folder, facts, limit)
    left = [part.name for part in missing(read(folder / RESULTS), facts, parts)]
    if left:
        print(f"left: {' '.join(left)}; give the command again", flush=True)
    return int(bool(left))


def table(lines: Sequence[Line]) -> str:
    """Write the results as Markdown, a section per machine and commit, the last of each case."""
    written: list[str] = []
    for one in dict.fromkeys(together(line["facts"]) for line in lines):
        its = [line for line in lines if together(line["facts"]) == one]
        facts = its[-1]["facts"]
        written += ["", ", ".join(f"{name} {value}" for name, value in facts.items()) + "."]
        written += ["", *(f"| {' | '.join(cells)} |" for cells in (HEAD, ("---",) * len(HEAD)))]
        order = {part.name: place for place, part in enumerate(PARTS)}
        for name in sorted({line["part"] for line in its}, key=lambda name: order.get(name, 0)):
            part = [line for line in its if line["part"] == name]
            last = {line["case"]: line for line in part if "case" in line}
            for line in last.values():
                values = {key: line[key] for key in Comparison.__dataclass_fields__}
                cells_of = rows(name, Comparison(**values))
                written += [f"| {' | '.join(cells)} |" for cells in cells_of]
            said = [line["said"] for line in part if "said" in line]
            end = [line["ended"] for line in part if "ended" in line][-1]
            if said or end != DONE:
                cells = (name, ", ".join([end, *said[-1:]]), *[""] * (len(HEAD) - 2))
                written.append(f"| {' | '.join(cells)} |")
    return "\n".join(written).strip() + "\n"


def rows(part: str, comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the lines of a comparison: its sides, then what they are held against."""
    found = comparison.bounds()
    lines: list[tuple[str, ...]] = []
    for side, seconds in comparison.seconds.items():
        middle = statistics.median(seconds)
        host = comparison.host.get(side)
        images = comparison.images
        shares = [f"{found[name][0] / middle:.2f}" if name in found else "" for name in BOUNDS]
        lines.append(
            (
                part,
                comparison.case,
                side,
                f"{images / middle:,.0f}" if images else "",
                measure.spread(seconds, duration),
                duration(statistics.median(host)) if host else "",
                *shares,
                comparison.notes.get(side, ""),
            )
        )
    for side, why in comparison.failed.items():
        lines.append((part, comparison.case, side, *[""] * 6, why))
    for name, (least, reason) in found.items():
        lines.append((part, comparison.case, name, "", duration(least), *[""] * 4, reason))
    return [lines[0], *(("", "", *line[2:]) for line in lines[1:])]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True)
    names = ", ".join(part.name for part in PARTS)
    runs = commands.add_parser("run", help="run what is missing")
    runs.add_argument("parts", nargs="*", metavar="PART", help=f"these alone: {names}")
    runs.add_argument("--minutes", type=float, default=9.0, help="start no part that needs longer")
    runs.add_argument("--tiny", action="store_true", help="on a CPU, the smallest sizes")
    for sub in (runs, commands.add_parser("table", help="write the results as Markdown")):
        sub.add_argument("--out", type=Path, required=True, help="folder of the results")
    return made


def main() -> int:
    """Run the parts or write the table."""
    given = parser().parse_args()
    for number in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # a connection that is cut: no part continues alone
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        if given.command == "table":
            lines = read(given.out / RESULTS)
            if not lines:
                raise InputError(f"{given.out} holds no {RESULTS}: give the folder of a run")
            print(table(lines), end="")
            return 0
        known = {part.name: part for part in PARTS}
        unknown = [name for name in given.parts if name not in known]
        if unknown:
            raise InputError(f"there is no part {unknown[0]}: choose from {', '.join(known)}")
        parts = [known[name] for name in given.parts or known]
        return run(given.out, parts, tiny=given.tiny, minutes=given.minutes)
    except (InputError, OSError) as error:
        code, line = outcome(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
