"""Giving inputs to a parser, within limits of time and memory, and keeping what is new."""

import contextlib
import functools
import hashlib
import math
import random
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

from common.errors import InputError
from fuzzing.mutations import MOST_BYTES, Layer, mutate

SECONDS = 2.0
"""Of the processor, for one input."""
_WAITING = 60  # seconds for one input, whatever it waits for; those in which it is stopped are none
MEGABYTES = 400
"""That one input may add to the process's memory."""
_MESSAGE = 2500  # characters
_ADDRESSES = 4 * 2**30  # bytes that may be asked for beside what the process has at its start
ROOT = Path(__file__).parents[2]
Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Parser:
    """What is fuzzed.

    Attributes:
        summary: What it reads.
        seeds: Makes the first inputs, which can be read.
        prepare: Given an empty folder, returns what reads an input.
        words: What means something in the format.
        layers: What its inputs are packed in.
    """

    summary: str
    seeds: Callable[[], Sequence[bytes]]
    prepare: Callable[[Path], Read]
    words: Sequence[bytes] = ()
    layers: Sequence[Layer] = ()


@dataclass
class Session:
    """Inputs that were given to a parser.

    Attributes:
        parser: The parser.
        read: What reads an input.
        corpus: Inputs with different outcomes.
        keep: Folder for new ones; None keeps none.
        outcomes: How often each was met.
        findings: Inputs that broke the parser, by how.
    """

    parser: Parser
    read: Read
    corpus: list[bytes]
    keep: Path | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: dict[str, bytes] = field(default_factory=dict)

    def give(self, data: bytes) -> bool:
        """Give one input; returns whether its outcome is new."""
        with _watched():
            return self._give(data)

    def _give(self, data: bytes) -> bool:
        told, sound = _outcome(self.read, data)
        new = told not in self.outcomes
        self.outcomes[told] = self.outcomes.get(told, 0) + 1
        if new and not sound:
            self.findings[told] = data
            print(f"FOUND {told}: {data[:120]!r}", flush=True)
        if new and (self.keep is not None or not sound):
            kind = "" if sound else "finding-"
            name = f"{kind}{hashlib.sha256(data).hexdigest()[:16]}"
            kept = (self.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))) / name
            kept.write_bytes(data)
            if not sound:
                print(f"kept in {kept}", flush=True)
        return new

    def run(self, runs: int, seed: int, seconds: float = math.inf) -> None:
        """Give the corpus, then changes of it: `runs` inputs in all, fewer after `seconds`."""
        with _watched():
            self._run(runs, random.Random(seed), time.monotonic() + seconds)

    def _run(self, runs: int, rng: random.Random, end: float) -> None:
        for data in self.corpus[:runs]:
            self._give(data)
        first = len(self.corpus)
        for number in range(first, runs):
            if time.monotonic() > end:
                break
            # Half of the time one of the newest: they are the least known.
            pool = self.corpus[first - 20 :] if number % 2 and len(self.corpus) > first else None
            data = mutate(
                rng.choice(pool or self.corpus),
                rng,
                self.corpus,
                self.parser.words,
                self.parser.layers,
            )
            if self._give(data):
                self.corpus.append(data)

    def guided(self, runs: int, seed: int, folder: Path) -> None:
        """Give inputs by atheris, which follows what the code does; ends the process."""
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

        parser, rng = self.parser, random.Random(seed)

        def change(data: bytes, most: int, number: int) -> bytes:
            if number % 2:
                return bytes(atheris.Mutate(data, most))
            rng.seed(number)
            return mutate(data, rng, self.corpus, parser.words, parser.layers)[:most]

        flags = [f"-runs={runs}", f"-seed={seed}", f"-max_len={MOST_BYTES}", "-rss_limit_mb=0"]
        flags += ["-timeout=600", "-print_final_stats=1", "-len_control=0", "-verbosity=0"]
        for number, data in enumerate(self.corpus):
            (folder / f"seed-{number:04}").write_bytes(data)
        atheris.Setup(["fuzz", *flags, str(folder)], self._give, custom_mutator=change)
        with _watched():
            atheris.Fuzz()


class OverLimitError(BaseException):
    """An input took too long; no `except Exception` of a parser takes it for something else."""


def _outcome(read: Read, data: bytes) -> tuple[str, bool]:
    """Return how an input was taken, in words that are the same for its like; and if that is right.

    Right is a result or an InputError, in time, in little memory.
    """
    before = _peak()
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            _ticks.clear()
            signal.setitimer(signal.ITIMER_REAL, 1, 1)
            read(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        told, sound = "read", True
    except InputError as error:
        told, sound = f"refused at {_place(error)}", True
        if str(error).count("\n") > 1 or len(str(error)) > _MESSAGE:
            told, sound = f"too long a message at {_place(error)}", False
    except (Exception, OverLimitError) as error:
        told, sound = f"{type(error).__name__} at {_place(error)}", False
    if _peak() - before > MEGABYTES * 1024:
        return f"over {MEGABYTES} MB: {told}", False
    return told, sound


def _place(error: BaseException) -> str:
    """Return the last line of ours that an error came through."""
    found = "the harness"
    step = error.__traceback__
    while step is not None:
        place = _ours(step.tb_frame.f_code)
        found = f"{place[0]}:{step.tb_lineno} ({place[1]})" if place else found
        step = step.tb_next
    return found


@functools.cache
def _ours(code: CodeType) -> tuple[Path, str] | None:
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / "scripts" / "fuzzing"):
        return None
    return path.relative_to(ROOT), code.co_name


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB


_ticks: list[int] = []
"""Seconds that an input has taken."""


def _stop(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGALRM:
        _ticks.append(number)
    if number == signal.SIGPROF or len(_ticks) >= _WAITING:
        raise OverLimitError("took too long")


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Have timers and numpy's warnings end an input. For many inputs at once, for it is slow."""
    known = {which: signal.signal(which, _stop) for which in (signal.SIGPROF, signal.SIGALRM)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers that overflow
            yield
    finally:
        for which, handler in known.items():
            signal.signal(which, handler)


def limit_memory() -> None:
    """Let the process ask for little more memory than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESSES, hard))
