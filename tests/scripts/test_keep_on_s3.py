"""`scripts/keep_on_s3.py` with a folder for S3, and a stand-in for the `aws` command.

As `aws` does with large files, the stand-in opens the file that it sends once for every part.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "keep_on_s3.py"

AWS = f"""#!{sys.executable}
import os, pathlib, sys, time
place = pathlib.Path(os.environ["S3"])
def local(name):
    return place / name.removeprefix("s3://") if name.startswith("s3://") else pathlib.Path(name)
_, verb, *words = sys.argv[1:]
with (place / "log").open("a") as log:
    print(verb, *words, file=log)
if os.environ.get("DOWN") == verb:
    print("Could not connect to the endpoint", file=sys.stderr)
    sys.exit(255)
if verb == "ls":
    names = [p.name for p in local(words[0]).glob("*")]
    print("\\n".join(f"2026-01-01 00:00:00       1234 {{name}}" for name in names))
    sys.exit(0 if names else 1)
source, target = map(local, words[-2:])
size, parts = source.stat().st_size, []
for half in (0, size // 2):
    with source.open("rb") as file:
        file.seek(half)
        parts.append(file.read(size - half if half else size // 2))
    time.sleep(0.1 if source.name.startswith("last") else 0)
target.parent.mkdir(parents=True, exist_ok=True)
target.with_name("part").write_bytes(b"".join(parts))
target.with_name("part").rename(target)
"""

# Checkpoint n, in 0.02 s each, is 1,000 times the byte n; its log line is written before it.
TRAINING = """
import os, pathlib, signal, sys, time
run, end = pathlib.Path(sys.argv[1]), int(sys.argv[2])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
step = (run / "last.pt").read_bytes()[0] if (run / "last.pt").exists() else 0
while step < end:
    time.sleep(0.02)
    step += 1
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}}}\\n')
    (run / "new").write_bytes(bytes([step]) * 1000)
    (run / "new").rename(run / "last.pt")
    if asked:
        sys.exit(143)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aws").write_text(AWS)
    (tmp_path / "bin" / "aws").chmod(0o755)
    (tmp_path / "training.py").write_text(TRAINING)
    (tmp_path / "s3").mkdir()
    started: list[subprocess.Popen[str]] = []

    def popen(run: Path, end: int, **variables: str) -> "subprocess.Popen[str]":
        words = [sys.executable, tmp_path / "training.py", run, str(end)]
        flags = ["--store", "s3://bucket/fd/", "--run", run, "--seconds", "0.05"]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *flags, "--", *words],
            env={
                **os.environ,
                "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "S3": str(tmp_path / "s3"),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:  # those that a failed test leaves
        process.kill()
        process.communicate()


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def stored(tmp_path: Path) -> tuple[int, list[int]]:
    """The step of the checkpoint in the store, which is whole, and the steps of the log there."""
    folder = tmp_path / "s3" / "bucket" / "fd"
    last = (folder / "last.pt").read_bytes()
    assert last == last[:1] * 1000
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return last[0], [json.loads(line)["step"] for line in lines]


def test_a_run_outlives_its_machine(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    first = start(tmp_path / "one", 250)
    kept = tmp_path / "s3" / "bucket" / "fd" / "last.pt"
    steps: list[int] = []
    while len(steps) < 3:
        time.sleep(0.01)
        assert first.poll() is None
        if kept.exists():
            step, lines = stored(tmp_path)
            assert lines[:step] == list(range(1, step + 1))
            steps += [step] if step not in steps else []
    first.send_signal(signal.SIGTERM)
    code, _, err = finish(first)
    assert (code, err) == (143, "")
    step, lines = stored(tmp_path)  # of the very end
    assert steps[-1] < step == (tmp_path / "one" / "last.pt").read_bytes()[0] < 250
    assert finish(start(tmp_path / "two", step + 3))[0] == 0
    assert stored(tmp_path) == (step + 3, list(range(1, step + 4)))


def test_nothing_starts_anew_while_the_store_is_out_of_reach(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    assert finish(start(tmp_path / "one", 2))[0] == 0
    for verb, told in (("ls", "s3://bucket/fd cannot be listed"), ("cp", "cannot be fetched")):
        code, _, err = finish(start(tmp_path / "two", 9, DOWN=verb))
        assert (code, err.count("\n")) == (2, 1)
        assert told in err and err.endswith(": Could not connect to the endpoint\n")
        assert not (tmp_path / "two" / "last.pt").exists()
    assert stored(tmp_path) == (2, [1, 2])


def test_a_training_that_could_not_be_kept_says_so(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    code, out, _ = finish(start(tmp_path / "one", 2, DOWN="cp"))
    assert code == 1
    assert "could not be written: Could not connect to the endpoint" in out


def test_what_is_there_already_is_not_sent_again(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    log, calls = tmp_path / "s3" / "log", []
    for _ in range(2):
        assert finish(start(tmp_path / "one", 2))[0] == 0
        calls.append(log.read_text())
    assert calls[0] == calls[1] != ""
