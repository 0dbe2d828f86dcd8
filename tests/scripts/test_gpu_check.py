"""The parts of the GPU check: limits, what is left, what another call continues with, the table."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench
import gpu_check
import pytest
import torch
from benchmarks import measure
from benchmarks.measure import Comparison

from common.errors import InputError

PROGRAMS = {
    "quick": "note('a'); note('b')",
    "broken": "note('c'); sys.exit(3)",
    "slow": "note('d'); time.sleep(60)",
}
"""Part to what stands in for its benchmark."""


def comparison(case: str) -> Comparison:
    return Comparison(
        case=case,
        seconds={"ours": [0.5, 0.25, 0.75], "plain": [1.0, 1.0, 1.0]},
        host={"ours": [0.125, 0.125, 0.125]},
        floor=(0.125, "all its bytes"),
        published=(128.0, "others"),
        images=32,
        notes={"ours": "first step 9 s"},
        failed={"ours-compiled": "failed with exit code 1"},
    )


def program(part: gpu_check.Part, lines: Path, *, tiny: bool) -> list[str]:
    code = f"""
import json, subprocess, sys, time
line = json.loads({json.dumps(asdict(comparison("")))!r})
def note(case):
    with open({str(lines)!r}, "a") as file:
        print(json.dumps(line | dict(case=case)), file=file)
{PROGRAMS[part.name]}
"""
    return [sys.executable, "-c", code]


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the script, its parts replaced."""
    parts = tuple(gpu_check.Part(name, 20 if name != "slow" else 1, ()) for name in PROGRAMS)
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    monkeypatch.setattr(gpu_check, "command", program)
    monkeypatch.setattr(measure, "_commit", lambda: "abc")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", *map(str, arguments)])
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
        for number in handlers:  # unhandled they would end the tests
            signal.signal(number, signal.SIG_IGN)
        try:
            code = gpu_check.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def results(folder: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [(line["part"], line.get("case") or line["ended"]) for line in lines]


def test_each_part_has_its_limit_and_a_second_call_does_what_is_missing(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = check("run", "--out", tmp_path, "--tiny")
    assert code == 1
    assert "left: broken slow; give the command again" in out
    first = [
        ("quick", "a"),
        ("quick", "b"),
        ("quick", "done"),
        ("broken", "c"),
        ("broken", "exit code 3, see log.txt"),
        ("slow", "d"),
        ("slow", "stopped after 1 s"),
    ]
    assert results(tmp_path) == first
    monkeypatch.setitem(PROGRAMS, "broken", "note('c')")
    monkeypatch.setitem(PROGRAMS, "slow", "note('e')")
    assert check("run", "--out", tmp_path, "--tiny")[0] == 0
    assert results(tmp_path) == [
        *first,
        ("broken", "c"),
        ("broken", "done"),
        ("slow", "e"),
        ("slow", "done"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.jsonl"]
    # Of another commit, and of another machine, nothing is there yet.
    for target, name, value in (
        (measure, "_commit", lambda: "abd"),
        (torch, "__version__", "9.9"),
    ):
        before = len(results(tmp_path))
        monkeypatch.setattr(target, name, value)
        assert check("run", "--out", tmp_path, "--tiny", "quick")[0] == 0
        assert results(tmp_path)[before:] == first[:3]
    table = check("table", "--out", tmp_path)[1]
    assert [line.count("commit ab") for line in table.splitlines() if "commit" in line] == [1] * 3


def test_no_part_starts_that_may_not_end_in_time(check: Any, tmp_path: Path) -> None:
    code, out, _ = check("run", "--out", tmp_path, "--tiny", "--minutes", 0.2, "quick", "broken")
    assert (code, out) == (1, "left: quick broken; give the command again\n")


def test_what_failed_comes_last(tmp_path: Path) -> None:
    facts = dict.fromkeys(gpu_check.TOGETHER, "x")
    lines = [{"part": "a", "facts": facts, "ended": "stopped after 9 s"}] * 2
    lines.append({"part": "b", "facts": facts, "ended": "done"})
    lines.append({"part": "c", "facts": facts, "ended": "interrupted"})
    parts = [gpu_check.Part(name, 1, ()) for name in "abcd"]
    assert [part.name for part in gpu_check.missing(lines, facts, parts)] == ["d", "c", "a"]


def test_what_a_call_that_was_killed_had_measured_is_kept(check: Any, tmp_path: Path) -> None:
    facts = {"device": "gone", "torch": "1", "tiny": False}
    lines = [{"part": "slow", "facts": facts}, {"case": "d"}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"case": "cut o'
    (tmp_path / "slow.part.jsonl").write_text(text)
    assert check("run", "--out", tmp_path, "--tiny", "quick")[0] == 0
    assert results(tmp_path)[:2] == [("slow", "d"), ("slow", "interrupted")]
    assert not (tmp_path / "slow.part.jsonl").exists()


def test_a_part_that_was_killed_before_its_first_line_holds_up_nothing(
    check: Any, tmp_path: Path
) -> None:
    (tmp_path / "slow.part.jsonl").touch()
    assert check("run", "--out", tmp_path, "--tiny", "quick")[0] == 0
    assert results(tmp_path)[-1] == ("quick", "done")
    assert not (tmp_path / "slow.part.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_part_ends_with_the_call(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Also where the connection to the machine is cut: the next call's times would suffer."""
    noted = tmp_path / "pid"
    begin = f"import os; open({str(noted)!r}, 'w').write(str(os.getpid())); "
    monkeypatch.setitem(
        PROGRAMS, "quick", f"{begin}os.kill({os.getpid()}, {int(number)}); time.sleep(60)"
    )
    with pytest.raises(SystemExit) as left:
        check("run", "--out", tmp_path / "out", "--tiny", "quick")
    assert left.value.code == 128 + number
    assert not _runs(int(noted.read_text()))
    assert list((tmp_path / "out").glob("*.part.jsonl"))  # kept for the next call


def test_a_part_ends_with_a_call_that_is_killed(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SIGKILL the call can do nothing any more; nor does what the part has started stay."""
    noted = tmp_path / "pid"
    monkeypatch.setitem(
        PROGRAMS,
        "quick",
        f"open({str(noted)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid)); "
        "import os; os.kill(os.getppid(), 9); time.sleep(60)",
    )
    call = os.fork()
    if not call:
        check("run", "--out", tmp_path / "out", "--tiny", "quick")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(call, 0)[1]) == -signal.SIGKILL
    pid, deadline = int(noted.read_text()), time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def test_a_part_that_is_stopped_leaves_no_process(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "pid"
    monkeypatch.setitem(
        PROGRAMS,
        "slow",
        f"open({str(noted)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid)); "
        "time.sleep(60)",
    )
    check("run", "--out", tmp_path / "out", "--tiny", "slow")
    pid, deadline = int(noted.read_text()), time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not state.stdout.strip().startswith("Z")


def test_the_table_names_the_machine_and_holds_each_result_against_its_bounds(
    check: Any, tmp_path: Path
) -> None:
    check("run", "--out", tmp_path, "--tiny")
    code, out, _ = check("table", "--out", tmp_path)
    assert code == 0
    facts, _, head, _, *rows = out.splitlines()
    assert facts.startswith("device ")
    assert f"torch {torch.__version__}, torchvision " in facts
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {len(row) for row in cells} == {len(head.strip("|").split("|"))}
    spread = "500 ms (250 ms to 750 ms)"
    assert cells[:5] == [
        ["quick", "a", "ours", "64", spread, "125 ms", "0.25", "", "0.50", "first step 9 s"],
        ["", "", "plain", "32", "1 s (1 s to 1 s)", "", "0.12", "", "0.25", ""],
        ["", "", "ours-compiled", *[""] * 6, "failed with exit code 1"],
        ["", "", "floor", "", "125 ms", "", "", "", "", "all its bytes"],
        ["", "", "published", "", "250 ms", *[""] * 4, "128 images/s, others"],
    ]
    assert ["broken", "exit code 3, see log.txt", *[""] * 8] in cells


def test_mistakes_are_told_in_a_line(check: Any, tmp_path: Path) -> None:
    code, _, err = check("table", "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no results.jsonl" in err
    code, _, err = check("run", "--out", tmp_path, "--tiny", "fast")
    assert (code, err) == (2, "error: there is no part fast: choose from quick, broken, slow\n")
    (tmp_path / "file").touch()
    code, _, err = check("run", "--out", tmp_path / "file", "--tiny", "quick")
    assert (code, err) == (2, f"error: {tmp_path / 'file'}: File exists: choose another name\n")
    if not torch.cuda.is_available():
        code, _, err = check("run", "--out", tmp_path)
        assert (code, err.count("\n")) == (2, 1)


def test_every_part_is_a_call_of_a_benchmark_with_cases_of_a_gpu() -> None:
    for part in gpu_check.PARTS:
        words = gpu_check.command(part, Path("lines"), tiny=False)
        if part is gpu_check.TESTS_PART:
            assert [Path(word).name for word in words[-2:]] == list(gpu_check.TESTS)
            continue
        given = bench.parser().parse_args(words[2:])
        assert given.device == "cuda"
        assert not given.tiny
        assert bench.parser().parse_args(gpu_check.command(part, Path("lines"), tiny=True)[2:]).tiny
        settings = measure.Settings(device=torch.device("cuda"), network=given.network)
        module = __import__(f"benchmarks.{given.name}", fromlist=["run"])
        if given.name == "retinanet":
            assert len(module.choose(settings)) == 1
        if given.name == "cifar":
            assert list(module.cases(settings)) == [given.network]
    names = [part.name for part in gpu_check.PARTS]
    assert len(set(names)) == len(names)
    compiled = [name.endswith("-compiled") for name in names]
    assert compiled == sorted(compiled)
    assert all(part.limit < 9 * 60 for part in gpu_check.PARTS)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(InputError, match="--minutes .*: choose a number above 0"):
        gpu_check.run(tmp_path / "out", (), tiny=True, minutes=minutes)
    assert not (tmp_path / "out").exists()
