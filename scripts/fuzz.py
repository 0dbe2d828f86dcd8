"""Fuzzing: a parser is given changed inputs by the thousand, and must take or refuse each.

python scripts/fuzz.py voc-xml --runs 100000 --seed 0    one parser, or several
python scripts/fuzz.py all --runs 1000                   all of them, one after the other
python scripts/fuzz.py list                              what each reads

Refused means an InputError of one line or two. Anything else is a finding: another exception, more
than 2 seconds of a processor or 400 MB for one input, a process that dies. Where atheris is
installed (pip install atheris), --guided lets it choose the changes by what the code does.
"""

import argparse
import math
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

if "--guided" in sys.argv:  # before what is to be followed is imported
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["common", "detect", "pretrain", "sharding"]):
        from fuzzing.parsers import PARSERS
else:
    from fuzzing.parsers import PARSERS

from fuzzing.running import Session, limit_memory


def fuzz(
    name: str, runs: int, seed: int, seconds: float, keep: Path | None, *, guided: bool
) -> int:
    """Fuzz one parser in a process of its own, and say what came of it.

    Returns:
        0, or 1 where something was found.
    """
    started = time.perf_counter()
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=place) as scratch:
        child = os.fork()
        if not child:
            code = 2
            try:
                code = _work(name, runs, seed, seconds, keep, Path(scratch), guided=guided)
            except BaseException:  # of the harness itself: it must not go on as a second parent
                traceback.print_exc()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
            os.system(f"cp -r {scratch}/. {kept}")
            print(f"FOUND {name}: the process died of signal {-code}; its input is in {kept}")
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return int(code != 0)


def _work(
    name: str,
    runs: int,
    seed: int,
    seconds: float,
    keep: Path | None,
    scratch: Path,
    *,
    guided: bool,
) -> int:
    parser = PARSERS[name]
    (scratch / "parser").mkdir()
    corpus = list(parser.seeds())
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        corpus += [path.read_bytes() for path in sorted(keep.iterdir())]
    session = Session(parser, parser.prepare(scratch / "parser"), corpus, keep)
    limit_memory()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders say of damaged images
    if guided:
        session.guided(runs, seed, scratch)
    session.run(runs, seed, seconds)
    refused = sum(times for told, times in session.outcomes.items() if told != "read")
    print(
        f"{name}: {sum(session.outcomes.values()):,} inputs, seed {seed}, {refused:,} refused in "
        f"{len(session.outcomes)} ways, {len(session.findings)} findings, "
        f"{time.process_time():.0f} s of a processor",
        flush=True,
    )
    return int(bool(session.findings))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="list: the names")
    parser.add_argument("parsers", nargs="+", choices=["all", "list", *PARSERS], metavar="PARSER")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--seconds", type=float, default=math.inf, help="at most, each parser")
    parser.add_argument("--keep", type=Path, help="folder of inputs to begin with, gains new ones")
    parser.add_argument("--guided", action="store_true", help="let atheris choose the changes")
    flags = parser.parse_args()
    if "list" in flags.parsers:
        for name, known in PARSERS.items():
            print(f"{name:18} {known.summary}")
        return 0
    names = list(PARSERS) if "all" in flags.parsers else flags.parsers
    codes = [
        fuzz(
            name,
            flags.runs,
            flags.seed,
            flags.seconds,
            flags.keep / name if flags.keep else None,
            guided=flags.guided,
        )
        for name in names
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
