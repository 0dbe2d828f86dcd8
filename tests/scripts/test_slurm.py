"""`scripts/slurm_pretrain.sh` with stand-ins for SLURM's commands, and torchrun itself at the end.

The stand-in for srun starts its task once per node, in sessions of their own as SLURM does, and
passes signals on to these tasks alone. That for torchrun dies of USR1 as torchrun would.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_pretrain.sh"

SCONTROL = """#!/bin/sh
echo "$*" >> "$LOG/scontrol"
[ "$1" != show ] || echo "${HOSTS:-node7 node8}" | tr ' ' '\\n'
"""

SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = sys.argv[1:]
open(os.environ["LOG"] + "/srun", "w").write("\\n".join(words))
command = words[words.index("bash"):]
tasks = [subprocess.Popen(command, start_new_session=True) for _ in range(int(os.environ["NODES"]))]
for task in tasks:
    open(f"{{os.environ['LOG']}}/task-{{task.pid}}", "w").close()
def forward(number, frame):
    [task.send_signal(number) for task in tasks]
signal.signal(signal.SIGUSR1, forward)
sys.exit(max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks]))
"""

TORCHRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$LOG/torchrun"
trap 'echo TERM >> "$LOG/signals-$$"; exit 1' TERM
touch "$LOG/started-$$"
[ -z "$CODE" ] || exit "$CODE"
while :; do sleep 0.02; done
"""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the script as the batch shell of a job."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN), ("torchrun", TORCHRUN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "log").mkdir()

    def start(
        *flags: str, nodes: int = 1, path: str = "", **variables: str
    ) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "PATH": f"{path or programs}{os.pathsep}{programs}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "NODES": str(nodes),
            "PYTHONPATH": str(tmp_path),
            "CODE": "",
            "IMAGENET": "/data/image net",
            "SLURM_JOB_ID": "4242",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "32",
            **variables,
        }
        return subprocess.Popen(
            ["bash", SCRIPT, *flags],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield start
    for path in (tmp_path / "log").glob("task-*"):  # those that a failed test leaves
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.name.split("-")[1]), signal.SIGKILL)


def finish(process: "subprocess.Popen[str]") -> int:
    out, _ = process.communicate(timeout=60)
    print(out)
    return process.returncode


def wait_for(tmp_path: Path, pattern: str, count: int = 1) -> list[Path]:
    for _ in range(3000):
        found = list((tmp_path / "log").glob(pattern))
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {pattern}")


def requeued(tmp_path: Path) -> bool:
    return "requeue 4242" in (tmp_path / "log" / "scontrol").read_text().splitlines()


def test_it_is_a_script() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    lines = SCRIPT.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line.split(" ", 1)[1] for line in lines if line.startswith("#SBATCH")]
    assert all(line.startswith("#") for line in lines[:first])  # sbatch looks no further
    assert len(directives) == sum(line.startswith("#SBATCH") for line in lines[:first])
    for directive in ("--signal=USR1@120", "--requeue", "--open-mode=append"):
        assert directive in directives


def test_arguments(job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    flags = ("--optimization.accumulate", "2", "--out", "a b")
    assert finish(job(*flags, nodes=2, CODE="0", RUN="runs/x", SEED="3")) == 0
    assert (tmp_path / "log" / "torchrun").read_text().splitlines() == [
        *("--nnodes", "2", "--nproc-per-node", "4", "--max-restarts", "3"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "node7:14242", "--rdzv-id", "4242"),
        *("-m", "--", "pretrain", "train", "imagenet-resnet50-fd"),
        *("--data", "/data/image net", "--out", "runs/x", "--seed", "3", "--resume", "auto"),
        *flags,
    ]
    assert (tmp_path / "log" / "scontrol").read_text() == "show hostnames node[7-8]\n"
    assert (tmp_path / "log" / "srun").read_text().splitlines()[0] == "--cpus-per-task=32"
    assert len(wait_for(tmp_path, "started-*", 2)) == 2


def test_a_task_of_an_array_is_a_run_of_its_own(
    job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """SLURM gives one task of an array the number that also stands for all of them."""
    array = {"SLURM_JOB_ID": "24242", "SLURM_ARRAY_JOB_ID": "24242", "SLURM_ARRAY_TASK_ID": "4"}
    assert finish(job(CODE="143", RUN="runs/x", SEED="3", **array)) == 143
    words = (tmp_path / "log" / "torchrun").read_text().splitlines()
    given = dict(itertools.pairwise(words))
    assert (given["--out"], given["--seed"]) == ("runs/x-seed7", "7")
    assert (given["--rdzv-id"], given["--rdzv-endpoint"]) == ("24242_4", "node7:14242")
    calls = (tmp_path / "log" / "scontrol").read_text().splitlines()
    assert calls[1:] == ["requeue 24242_4"]


def test_data_must_be_named(job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    assert finish(job(IMAGENET="")) != 0
    assert not list((tmp_path / "log").iterdir())


@pytest.mark.parametrize("code", [0, 1, 2, 3, 137, 143])
def test_exit_codes(job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, code: int) -> None:
    assert finish(job(CODE=str(code))) == code
    assert requeued(tmp_path) == (code == 143)


@pytest.mark.parametrize("to", ["tasks", "batch shell", "all"])
def test_the_warning_ends_torchrun_and_requeues(
    job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, to: str
) -> None:
    process = job(nodes=2)
    started = wait_for(tmp_path, "started-*", 2)
    tasks = [int(path.name.split("-")[1]) for path in wait_for(tmp_path, "task-*", 2)]
    receivers = {
        "tasks": tasks,
        "batch shell": [process.pid],
        # Some clusters signal whatever a task has started, too.
        "all": [*tasks, *(int(path.name.split("-")[1]) for path in started)],
    }[to]
    for pid in receivers:
        os.kill(pid, signal.SIGUSR1)
    assert finish(process) == 143
    assert requeued(tmp_path)
    # Each torchrun was told once, and by TERM.
    assert [path.read_text() for path in wait_for(tmp_path, "signals-*", 2)] == ["TERM\n"] * 2


def test_a_training_that_ends_after_the_warning_is_done(
    job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    stub = tmp_path / "bin" / "torchrun"
    stub.write_text(TORCHRUN.replace("exit 1", "exit 0"))
    process = job()
    wait_for(tmp_path, "started-*")
    os.kill(process.pid, signal.SIGUSR1)
    assert finish(process) == 0
    assert not requeued(tmp_path)


def test_a_cancelled_job_does_not_come_back(
    job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """A scancel sends TERM to the tasks and to the batch shell."""
    process = job()
    wait_for(tmp_path, "started-*")
    (task,) = (int(path.name.split("-")[1]) for path in wait_for(tmp_path, "task-*"))
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGUSR1)  # even if the warning came, too
    os.kill(task, signal.SIGTERM)
    assert finish(process) != 0
    assert not requeued(tmp_path)


WAITING = """
import os, pathlib, sys, time
log, job = pathlib.Path(os.environ["LOG"]), os.environ["SLURM_JOB_ID"]
(log / f"waiting-{job}").touch()
while not (log / f"end-{job}").exists():
    time.sleep(0.02)
"""


def free(*ports: int) -> bool:
    try:
        for port in ports:
            socket.create_server(("localhost", port)).close()
    except OSError:
        return False
    return True


def test_a_job_outlives_another_on_its_machine(
    job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "__main__.py").write_text(WAITING)
    # Two jobs in a row, where the ports that follow from their numbers are free.
    first = next(n for n in range(os.getpid() % 19_000, 20_000) if free(n + 10_000, n + 10_001))
    jobs = {}
    for number in (first, first + 1):
        jobs[number] = job(
            path=str(Path(sys.executable).parent),
            SLURM_JOB_ID=str(number),
            SLURM_GPUS_ON_NODE="1",
            OMP_NUM_THREADS="1",
            HOSTS="localhost",
        )
        wait_for(tmp_path, f"waiting-{number}")
    for number, process in jobs.items():
        (tmp_path / "log" / f"end-{number}").touch()
        assert finish(process) == 0


TRAINER = """
import os, pathlib, signal, time
log = pathlib.Path(os.environ["LOG"])
def save(number, frame):
    time.sleep(1)
    (log / f"saved-{os.getpid()}").touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
(log / f"trainer-{os.getpid()}").touch()
time.sleep(60)
"""


def test_trainers_below_the_true_torchrun_save(
    job: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """They get TERM once and the time they need; torchrun does not start them again."""
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "__init__.py").touch()  # or a whole package on PYTHONPATH goes before
    (tmp_path / "pretrain" / "__main__.py").write_text(TRAINER)
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    process = job(
        path=str(Path(sys.executable).parent),
        SLURM_GPUS_ON_NODE="2",
        OMP_NUM_THREADS="1",
        PORT=str(port),
        HOSTS="localhost",
    )
    wait_for(tmp_path, "trainer-*", 2)
    os.kill(process.pid, signal.SIGUSR1)
    assert finish(process) == 143
    assert requeued(tmp_path)
    assert len(list((tmp_path / "log").glob("saved-*"))) == 2
    assert len(list((tmp_path / "log").glob("trainer-*"))) == 2
