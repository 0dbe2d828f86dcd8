"""Run a training on a machine that may be lost, and keep its run folder in S3; see `--help`."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

from common.command import cli
from common.errors import InputError
from common.recipe import Range, check

PROGRAM = "python scripts/keep_on_s3.py"
DESCRIPTION = f"""Run a training with its folder on a local disk, and keep a copy of that in S3.

Before the start, what the store has of the run is fetched, unless the folder has a checkpoint.
While the training runs, new checkpoints are sent every so often, and the last one at its end.
SIGTERM and SIGUSR1 are passed on; the exit code is that of the training. Uses the `aws` command.

example: {PROGRAM} --store s3://bucket/fd --run /local/fd -- \\
  python -m pretrain train imagenet-resnet50-fd --data /local/imagenet --out /local/fd"""
_FILES = (
    "recipe.json",
    "environment.json",
    "metrics.jsonl",
    "unreadable.txt",
    "best.pt",
    "last.pt",
)
_NOTHING_LISTED = 1  # exit code of `aws s3 ls` where nothing is; errors have others


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Where the run is, and where its copy."""

    store: str
    """Folder in S3, such as s3://bucket/fd; of one run, which one machine writes at a time."""
    run: Path
    """Run folder: the --out of the training, on a disk of this machine."""
    seconds: Annotated[float, Range(low=0.01)] = 60.0
    """Time between two looks for a new checkpoint."""

    def __post_init__(self) -> None:
        check(self)
        if not self.store.startswith("s3://"):
            raise ValueError(f"--store {self.store}: give an address such as s3://bucket/folder")


def fetch(store: str, run: Path) -> None:
    """Fetch what the store has of a run, its checkpoint last.

    Raises:
        InputError: If it cannot be listed or fetched: a training must not start over then.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / "last.pt").exists():
        return
    listing = _aws("ls", f"{store}/")
    if listing.returncode not in (0, _NOTHING_LISTED):
        raise InputError(f"{store} cannot be listed, check name and rights: {_last_line(listing)}")
    there = {line.split()[-1] for line in listing.stdout.splitlines() if line.strip()}
    for name in _FILES:
        if name in there:
            copied = _aws("cp", "--only-show-errors", f"{store}/{name}", str(run / name))
            if copied.returncode:
                raise InputError(
                    f"{store}/{name} cannot be fetched, call again: {_last_line(copied)}"
                )


def keep(store: str, run: Path) -> bool:
    """Send a run to the store, unless its checkpoint is there already.

    Returns:
        Whether the store has the last checkpoint; if not, a line says why.
    """
    try:
        fault = _send(store, run, run / ".kept")
    except OSError as error:
        fault = f"{run / '.kept'} cannot be used: {error.strerror}"
    if fault:
        print(fault, flush=True)
    return fault is None


def _send(store: str, run: Path, kept: Path) -> str | None:
    """Return what is wrong, if anything is."""
    last, sent = run / "last.pt", kept / "sent"
    if not last.exists() or (sent.exists() and last.samefile(sent)):
        return None
    kept.mkdir(exist_ok=True)
    # A link stays what it is when a checkpoint is replaced while it is sent. That of last.pt is
    # taken first and sent last: what the store has beside it is as new, or newer, and a training
    # that continues makes up for that.
    for name in reversed(_FILES):
        (kept / name).unlink(missing_ok=True)
        if (run / name).exists():
            os.link(run / name, kept / name)
    for name in _FILES:
        if (kept / name).exists():
            copied = _aws("cp", "--only-show-errors", str(kept / name), f"{store}/{name}")
            if copied.returncode:
                return f"{store}/{name} could not be written: {_last_line(copied)}"
    (kept / "last.pt").replace(sent)
    return None


def _aws(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["aws", "s3", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # a signal to all processes of a terminal or job cuts no copy short
    )


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"aws ended with exit code {done.returncode}"


def run(argv: list[str]) -> None:
    """Fetch, train and keep; exit as the training does."""
    own, command = argv, []
    if "--" in argv:
        own, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    flags = cli.parse(Flags, own, PROGRAM, DESCRIPTION)
    if not command:
        raise InputError("the command of the training is missing: give it behind --")
    for program in ("aws", command[0]):
        if shutil.which(program) is None:
            raise InputError(f"there is no command {program}: install it, or set PATH")
    store = flags.store.rstrip("/")
    fetch(store, flags.run)
    training = subprocess.Popen(command)

    def pass_on(number: int, frame: FrameType | None) -> None:
        training.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # a terminal sends it to all
    while True:
        try:
            code = training.wait(flags.seconds)
            break
        except subprocess.TimeoutExpired:
            keep(store, flags.run)
    if not (keep(store, flags.run) or keep(store, flags.run)):
        code = code or 1
    raise SystemExit(code if code >= 0 else 128 - code)


def main() -> int:
    """Run the command."""
    return cli.dispatch(PROGRAM, {"run": run}, DESCRIPTION, ["run", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
