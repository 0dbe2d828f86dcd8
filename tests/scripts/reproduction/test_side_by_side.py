"""Jobs side by side: all run, none twice, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from reproduction.side_by_side import Job, Slot, find_slots, run_side_by_side

from common.errors import InputError
from common.processes.signals import Terminated

ONE = Slot("cpu")


def job(name: str, folder: Path, *codes: str) -> Job:
    commands = [[sys.executable, "-c", code, str(folder)] for code in codes]
    return Job(name=name, commands=commands, log=folder / "logs" / f"{name}.log")


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_all_run_each_on_its_slot(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
mark = folder / f"busy-{os.environ['SLOT']}"
mark.touch(exist_ok=False)  # fails where two share a slot
time.sleep(0.1)
mark.unlink()
print(os.environ["SLOT"])
"""
    jobs = [job(f"job{number}", tmp_path, code) for number in range(5)]
    slots = [Slot("cpu", {"SLOT": name}) for name in ("a", "b")]
    ended: list[tuple[str, int]] = []
    run_side_by_side(jobs, slots, lambda j, code: ended.append((j.name, code)), print)
    assert sorted(ended) == [(f"job{number}", 0) for number in range(5)]
    used = {(tmp_path / "logs" / f"job{number}.log").read_text() for number in range(5)}
    assert used == {"a\n", "b\n"}


def test_commands_of_a_job_follow_each_other_until_one_fails(tmp_path: Path) -> None:
    good = job("good", tmp_path, "print('first')", "print('second')")
    bad = job("bad", tmp_path, "print('first')", "raise SystemExit(3)", "print('third')")
    ended: dict[str, int] = {}
    run_side_by_side([good, bad], [ONE], lambda j, code: ended.update({j.name: code}), print)
    assert ended == {"good": 0, "bad": 3}
    assert good.log.read_text() == "first\nsecond\n"
    assert bad.log.read_text() == "first\n"


def test_a_failure_that_matters_ends_the_others(tmp_path: Path) -> None:
    slow = job("slow", tmp_path, "import time; time.sleep(60)")
    bad = job("bad", tmp_path, "raise SystemExit(2)")

    def done(ended: Job, code: int) -> None:
        raise InputError(f"{ended.name} {code}")

    start = time.monotonic()
    with pytest.raises(InputError, match="bad 2"):
        run_side_by_side([slow, bad], [ONE, ONE], done, print)
    assert time.monotonic() - start < 30


def test_the_running_are_told(tmp_path: Path) -> None:
    told: list[list[str]] = []
    run_side_by_side(
        [job("a", tmp_path, "import time; time.sleep(0.5)"), job("b", tmp_path, "")],
        [ONE],
        lambda j, code: None,
        lambda running: told.append([j.name for j in running]),
        seconds=0.05,
    )
    assert told[0] == ["a"]


SCRIPTS = Path(__file__).parents[3] / "scripts"
PARENT = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
from pathlib import Path
from reproduction.side_by_side import Job, Slot, run_side_by_side
folder = Path(sys.argv[1])
child = '''
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def end(*_):
    (folder / "saved").touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, end)
(folder / "started").touch()
time.sleep(60)
'''
job = Job(name="job", commands=[[sys.executable, "-c", child, str(folder)]], log=folder / "log")
try:
    run_side_by_side([job, job], [Slot("cpu")], print, print)
except BaseException as error:
    print(type(error).__name__, (folder / "saved").exists())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_reaches_the_jobs_and_is_waited_for(tmp_path: Path, number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "started")
    parent.send_signal(number)
    out, _ = parent.communicate(timeout=30)
    assert out == f"{Terminated.__name__} True\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's")
def test_jobs_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    wait_for(tmp_path / "started")
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "saved")


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    run_side_by_side([job("a", tmp_path, "")], [ONE], lambda j, code: None, print)
    after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert after == before


def test_slots_of_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for count, wanted, expected in ((None, 100, 8), (None, 3, 3), (2, 100, 2), (16, 100, 16)):
        slots = find_slots("cpu", count, wanted)
        threads = {slot.environment["OMP_NUM_THREADS"] for slot in slots}
        assert (len(slots), threads) == (expected, {str(max(1, 8 // expected))})


@pytest.mark.parametrize(
    ("gpus", "free", "count", "expected"),
    [
        (1, 80, None, ["0", "0", "0", "0"]),
        (1, 30, None, ["0", "0"]),
        (1, 4, None, ["0"]),
        (3, 80, None, ["0", "1", "2"]),
        (3, 80, 4, ["0", "1", "2", "0"]),
    ],
)
def test_slots_of_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, free: int, count: int | None, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    slots = find_slots("auto", count, 100)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == expected
    assert {slot.device for slot in slots} == {"cuda"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert find_slots("cuda", 1, 100)[0].environment["CUDA_VISIBLE_DEVICES"] == "5"


def test_no_gpu_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda: torch sees no GPU here"):
        find_slots("cuda", None, 1)
