"""`python -m pretrain train` under kills and restarts, with the processes that it starts."""

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from common import train_loop
from pretrain import __main__ as command
from pretrain.networks.cifar_resnet import CifarResNet
from pretrain.train import run as _imported_once_for_all_processes  # noqa: F401

SPEC = importlib.util.spec_from_file_location("faults", Path(__file__).parents[1] / "faults.py")
faults = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(faults)

KILLED = -signal.SIGKILL
NEVER = faults.Moments(10**9)
ARGUMENTS = (
    "train toy-resnet18-fd --network cifar-resnet20 --focus.after layer2 "
    "--focus.participation-rate 0.7 --images.crop resized --images.size 32 --workers 1 "
    "--optimization.batch-size 8 --optimization.epochs 2 --optimization.warmup-steps 2 "
    "--device cpu"
).split()  # three steps an epoch, of images that a worker process reads from files


def train(data: Path, out: Path, moments: Any = NEVER, *, every_step: bool = False) -> None:
    """Run the command, in a process of its own; save after every step, or every epoch."""
    if every_step:
        train_loop.CHECKPOINT_SECONDS = -1.0
    faults.reseed(faults.resumes(out))  # what is drawn before a resume may not matter
    moments.watch_command(CifarResNet)
    sys.argv = [str(command.__file__), *ARGUMENTS, "--data", str(data), "--out", str(out)]
    raise SystemExit(command.main())


def train_rank(data: Path, out: Path, rank: int) -> None:
    train(data, out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 80, (40, 36, 3), dtype=np.uint8)
                pixels[..., label] += 150
                cv2.imwrite(str(root / split / name / f"{number}.jpg"), pixels)
    return root


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run came to that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    code = faults.live(partial(train, data, folder / "run"), folder / "printed")
    assert code == 0, (folder / "printed").read_text()
    return faults.outcome(folder / "run")


def test_killed_again_and_again(data: Path, straight: dict[str, Any], tmp_path: Path) -> None:
    """A life begins where the one before had saved; its steps are counted anew."""
    out, printed, begins = tmp_path / "run", tmp_path / "printed", [0, 1, 1, 2, 2, 2, 3, 4]
    deaths = [(1, "before the update"), (0, "after the update"), (1, "evaluation")]
    deaths += [(0, "to best.pt"), (0, "to last.pt"), (1, "before the update")]
    deaths += [(1, "after the update")]
    for begin, death in zip(begins, [*deaths, None], strict=True):
        moments = faults.Moments(death[0], kind=death[1]) if death else NEVER
        code = faults.live(partial(train, data, out, moments, every_step=True), printed)
        assert code == (KILLED if death else 0), printed.read_text()
        assert (f"going on from step {begin}\n" in printed.read_text()) == (begin > 0)
    assert faults.different(straight, faults.outcome(out)) == set()


def run_script(*command: str, data: Path, out: Path, **environment: str) -> tuple[int, str]:
    """Run the end of this file in new processes; return exit code and output."""
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *command, __file__, str(data), str(out)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=200)
        finally:
            process.terminate()  # of what waits for ever; a kill of torchrun would leave its ranks
    return process.returncode, printed


def test_a_reading_process_that_is_killed_ends_the_run(
    data: Path, straight: dict[str, Any], tmp_path: Path
) -> None:
    """As the system does when memory runs out; the other one does not keep the run from ending."""
    out, printed = tmp_path / "run", tmp_path / "printed"
    code, output = run_script(data=data, out=out, FAULT="reader")
    assert code == 1, output
    assert "\nReaderKilled: a process that reads images was killed" in f"\n{output}"
    assert "Traceback" not in output
    assert faults.live(partial(train, data, out), printed) == 0, printed.read_text()
    assert faults.different(straight, faults.outcome(out)) == set()


def test_torchrun_starts_killed_ranks_again(data: Path, tmp_path: Path) -> None:
    """Rank 1 dies in the second epoch; both go on from the checkpoint of the first."""
    life, output = partial(train_rank, data, tmp_path / "straight"), tmp_path / "printed"
    assert faults.live_ranks(life, output) == [0, 0], output.read_text()
    out = tmp_path / "run"
    code, printed = run_script(
        *"-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 2".split(),
        data=data,
        out=out,
        FAULT="rank",
        # Else torchrun keeps one store for all lives, and new ranks can meet old addresses there.
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    assert code == 0, printed
    assert out.with_suffix(".death").exists()
    assert printed.count("going on from step 3\n") == 1
    straight, run = faults.outcome(tmp_path / "straight"), faults.outcome(out)
    assert len(straight["random"]) == 2
    assert faults.different(straight, run) == set()
    assert len(json.loads((out / "environment.json").read_text())["resumed"]) == 1


def kill_a_reader(*_: Any) -> None:
    readers = multiprocessing.active_children()
    if len(readers) == 2:
        os.kill(readers[0].pid, signal.SIGKILL)


if __name__ == "__main__":
    fault, (data_folder, run_folder) = os.environ["FAULT"], map(Path, sys.argv[1:])
    fatal = NEVER
    if fault == "reader":
        ARGUMENTS += ["--workers", "2"]
        register_optimizer_step_pre_hook(kill_a_reader)
    elif (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        journal = run_folder.with_suffix(".death")
        fatal = faults.Moments(4, kind="after the update", journal=journal)
    work = {"work": lambda _: train(data_folder, run_folder, fatal)}
    sys.exit(faults.cli.run("test", work, "", ["work"]))
