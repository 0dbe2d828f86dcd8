"""`python -m pretrain train` under kills and restarts, with the processes that it starts."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data._utils import worker as data_worker

from pretrain import __main__ as command
from pretrain.networks.cifar_resnet import CifarResNet
from pretrain.train import train_classifier as _imported_once_for_all_processes  # noqa: F401

KILLED = -signal.SIGKILL
NEVER = faults.Moments(10**9)
ARGUMENTS = (
    "train toy-resnet18-fd --network cifar-resnet20 --focus.after layer2 "
    "--focus.participation-rate 0.7 --images.crop resized --images.size 32 "
    "--optimization.batch-size 8 --optimization.epochs 2 --optimization.warmup-steps 2 "
    "--device cpu"
).split()  # three steps per epoch, of images that a worker process reads from files


def train(
    data: Path, out: Path, moments: Any = NEVER, *, every_step: bool = False, workers: int = 1
) -> None:
    """Run the command, in a process of its own; save after every step, or every epoch."""
    faults.reseed(faults.resumes(out))  # what is drawn before a resume may not matter
    moments.watch_command(CifarResNet)
    sys.argv = [str(command.__file__), *ARGUMENTS, "--workers", str(workers)]
    sys.argv += ["--data", str(data), "--out", str(out)]
    if every_step:
        sys.argv += ["--checkpoint-minutes", "0"]
    raise SystemExit(command.main())


@pytest.fixture(scope="module")
def straight(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run came to that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    code = faults.live(partial(train, folders, folder / "run"), folder / "printed")
    assert code == 0, (folder / "printed").read_text()
    return faults.outcome(folder / "run")


def test_killed_again_and_again(folders: Path, straight: dict[str, Any], tmp_path: Path) -> None:
    """A life begins where the one before had saved; its steps are counted anew."""
    out, printed, begins = tmp_path / "run", tmp_path / "printed", [0, 1, 1, 2, 2, 2, 3, 4]
    deaths = [(1, "before the update"), (0, "after the update"), (1, "evaluation")]
    deaths += [(0, "to best.pt"), (0, "to last.pt"), (1, "before the update")]
    deaths += [(1, "after the update")]
    for begin, death in zip(begins, [*deaths, None], strict=True):
        moments = faults.Moments(death[0], kind=death[1]) if death else NEVER
        life = partial(train, folders, out, moments, every_step=True)
        code = faults.live(life, printed)
        assert code == (KILLED if death else 0), printed.read_text()
        assert (f"resuming from step {begin}\n" in printed.read_text()) == (begin > 0)
    assert faults.different(straight, faults.outcome(out)) == set()


def test_a_reading_process_that_is_killed_ends_the_run(
    folders: Path, straight: dict[str, Any], tmp_path: Path
) -> None:
    """As the system does when memory runs out; the other one does not keep the run from ending."""
    out, printed = tmp_path / "run", tmp_path / "printed"
    done = subprocess.run(  # not forked: a process that ends as any does, its readers with it
        [sys.executable, __file__, folders, out],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stdout
    assert "\nReaderKilled: a process that reads images was killed" in f"\n{done.stdout}"
    assert "Traceback" not in done.stdout
    assert faults.live(partial(train, folders, out), printed) == 0, printed.read_text()
    assert faults.different(straight, faults.outcome(out)) == set()


def train_rank(data: Path, out: Path, rank: int) -> None:
    train(data, out)


def die_once(data: Path, out: Path) -> None:
    """Live a life below torchrun; rank 1 dies in its first one, in the second epoch."""
    # How soon a reader follows its rank into death; else 5 s.
    data_worker.MP_STATUS_CHECK_INTERVAL = 0.1  # type: ignore[attr-defined]
    fatal = NEVER
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        fatal = faults.Moments(4, kind="after the update", journal=out.with_suffix(".death"))
    try:
        train(data, out, fatal)
    except RuntimeError:  # of the connection to the dead one
        traceback.print_exc()
        os._exit(1)  # without waiting for its reader, as a process that was forked would


def test_torchrun_starts_killed_ranks_again(folders: Path, tmp_path: Path) -> None:
    """Both ranks resume from the checkpoint of the first epoch."""
    out, printed = tmp_path / "run", tmp_path / "printed"
    life = partial(train_rank, folders, tmp_path / "straight")
    assert faults.live_ranks(life, printed) == [0, 0], printed.read_text()

    def torchrun() -> None:
        """`torchrun --standalone --nproc-per-node 2 --max-restarts 2`, but its ranks are forked."""
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            run_id=out.name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=2,
            start_method="fork",
        )
        elastic_launch(config, die_once)(folders, out)

    # Else torchrun keeps one store for all lives, and new ranks can meet old addresses there.
    pid = faults.start(torchrun, printed, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    assert faults.end(pid) == 0, printed.read_text()
    assert out.with_suffix(".death").exists()
    assert printed.read_text().count("resuming from step 3\n") == 1
    straight, run = faults.outcome(tmp_path / "straight"), faults.outcome(out)
    assert straight["rest"]["ranks"] == 2
    assert faults.different(straight, run) == set()
    assert len(json.loads((out / "environment.json").read_text())["resumed"]) == 1


def kill_a_reader(*_: Any) -> None:
    readers = multiprocessing.active_children()
    if len(readers) == 2:
        os.kill(readers[0].pid, signal.SIGKILL)


if __name__ == "__main__":
    register_optimizer_step_pre_hook(kill_a_reader)
    work = partial(train, *map(Path, sys.argv[1:]), workers=2)
    sys.exit(faults.cli.dispatch("test", {"work": lambda _: work()}, "", ["work"]))
