"""Whether both stages' commands train to the same bits on any number of processes.

Trains at toy size on the CPU: one process that takes each step in four parts, two with two parts
each, four with one; then once more, begun on one process, killed, continued on four, killed, ended
on two. Compared with the first are the digests of the whole state after every step, which
certificate.json has, and the last checkpoint: weights, statistics, momenta, average.

    python -m benchmarks.world_sizes      from scripts/
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from toy_data import Sizes, make_toy_data

from common.runs import checkpoints

ROOT = Path(__file__).parents[2]
PARTS = 4
"""Of each step, over all processes."""
STAGES = {
    "pretrain": "--network cifar-resnet20 --images.size 32 --optimization.batch-size 16 "
    "--optimization.epochs 10 --optimization.warmup-steps 3 --data imagenet",
    "detect": "--backbone scratch --detector.train-sizes 48 64 --detector.test-size 64 "
    "--detector.max-size 64 --detector.fpn-channels 16 --optimization.batch-size 8 "
    "--optimization.epochs 6 --optimization.warmup-steps 3 --data VOCdevkit",
}
"""Flags of both arms; the data lie in the folder that is worked in."""
ALL = (
    "--optimization.ema-decay 0.9 --optimization.clip-norm 0.5 --workers 0 --device cpu "
    "--deterministic --certify-steps 1 --checkpoint-minutes 0 --log none --quiet"
)
ARMS = {
    ("pretrain", "with FocusedDropout"): "toy-resnet18-fd --focus.after layer2 "
    "--focus.participation-rate 0.5",
    ("pretrain", "without"): "toy-resnet18",
    ("detect", "with FocusedDropout"): "toy-retinanet --focused-dropout layer3 "
    "--focus.participation-rate 0.5",
    ("detect", "without"): "toy-retinanet",
}
SIZES = Sizes(train_per_class=7, val_per_class=1, image_side=40, trainval=14, test=2, scene_side=64)
"""Last batches of 10 images, in parts of 3, 3, 2 and 2, and of 6, in parts of 2, 2, 1 and 1."""
SECONDS = 3600
PAUSE = 0.02  # seconds
"""A training that takes longer has hung."""


def command(stage: str, arm: str, size: int, out: str) -> list[str]:
    """Return the words that train on so many processes."""
    train = ["-m", stage, "train", *ARMS[stage, arm].split(), *STAGES[stage].split(), *ALL.split()]
    train += ["--optimization.accumulate", str(PARTS // size), "--out", out]
    if size == 1:
        return [sys.executable, *train]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(size), *train[:1], "--", *train[1:]]


def live(words: Sequence[str], folder: Path, run: Path, kill_at: int | None = None) -> None:
    """Train until the end, or until a step after which all processes are killed.

    Raises:
        SystemExit: If it failed, or ended before it could be killed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        for _ in range(round(SECONDS / PAUSE)):
            if process.poll() is not None:
                break
            if kill_at is not None and steps_done(run) >= kill_at:
                kill(process.pid)
            time.sleep(PAUSE)
        if process.poll() is None:
            kill(process.pid)
        process.wait()
    wanted = 0 if kill_at is None else -signal.SIGKILL
    if process.returncode != wanted:
        print((folder / "printed").read_text(), file=sys.stderr)
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}, not {wanted}")


def steps_done(run: Path) -> int:
    """Return the last certified step of a run that has a checkpoint; else 0."""
    if not (run / "last.pt").exists():
        return 0
    return max(digests(run), default=0)


def kill(number: int) -> None:
    """Kill a process and all that it has started, at once."""
    for each in [number, *descendants(number)]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def descendants(number: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
    found = [child for child, parent in parents.items() if parent == number]
    return found + [below for child in found for below in descendants(child)]


def digests(run: Path) -> dict[int, str]:
    """Return the digest of the state after each step."""
    path = run / "certificate.json"
    if not path.exists():
        return {}
    return {state["step"]: state["digest"] for state in json.loads(path.read_text())["states"]}


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of nested dicts and lists by their paths."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if not isinstance(value, dict | list | tuple):
        return {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: found for k, v in pairs for key, found in tensors(v, f"{name}.{k}").items()}


def state(run: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of the last checkpoint, from which training continues."""
    content = checkpoints.load(run / "last.pt")
    return tensors({name: content[name] for name in ("model", "optimizer", "average")})


def compare(run: Path, reference: Path) -> str:
    """Say what is equal, or differs first."""
    mine, theirs = digests(run), digests(reference)
    for step, digest in theirs.items():
        if mine.get(step) != digest:
            return f"DIFFERS from step {step} on"
    if mine.keys() != theirs.keys():
        return f"DIFFERS: {len(mine)} steps, not {len(theirs)}"
    mine_last, last = state(run), state(reference)
    other = [name for name in last if not same(last[name], mine_last.get(name))]
    if other or mine_last.keys() != last.keys():
        return f"DIFFERS in last.pt: {other[:1] or 'names'}"
    return f"equal: {len(theirs)} states, {len(last)} tensors of last.pt"


def same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Compare to the bit, signs of zero and NaN included."""
    if other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)]
    return torch.equal(*bits)


def table(folder: Path, stages: Sequence[str]) -> bool:
    """Print a row for each training; return whether all are equal to their first."""
    make_toy_data(folder, seed=0, sizes=SIZES)
    print("| stage | arm | processes x parts | against 1 x 4 |\n|---|---|---|---|")
    good = True
    for stage, arm in ARMS:
        if stage not in stages:
            continue
        name = f"{stage}-{arm.split()[0]}"
        reference = folder / f"{name}-1"
        for size in (1, 2, 4):
            run = folder / f"{name}-{size}"
            live(command(stage, arm, size, run.name), folder, run)
            told = compare(run, reference) if size > 1 else f"{len(digests(run))} states"
            good &= "DIFFERS" not in told
            row(stage, arm, f"{size} x {PARTS // size}", told)
        run = folder / f"{name}-moved"
        last, seen = len(digests(reference)), []
        for size, kill_at in ((1, last // 3), (4, 2 * last // 3), (2, None)):
            live(command(stage, arm, size, run.name), folder, run, kill_at)
            seen.append(f"{size} x {PARTS // size}")
            if kill_at:
                seen.append(f"killed after step {max(digests(run))}")
        told = compare(run, reference)
        good &= "DIFFERS" not in told
        row(stage, arm, ", ".join(seen), told)
    return good


def row(stage: str, arm: str, processes: str, told: str) -> None:
    """Print a row at once."""
    print(f"| {stage} | {arm} | {processes} | {told} |", flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="world-sizes-") as folder:
        return int(not table(Path(folder), flags.stages))


if __name__ == "__main__":
    sys.exit(main())
