"""Memory that is freed is used again instead of being mapped anew."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import Training

from common.command.flags import RunFlags
from common.errors import InputError
from common.processes import memory
from common.processes.ranks import World
from common.recipe import Optimization
from common.training import launch

COUNT_PAGE_FAULTS = """
import resource, runpy, sys

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [bytearray(16 << 20) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = page_faults()
runpy.run_path(sys.argv[1])["keep_freed_memory"]()
page_faults()
print(before, page_faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_blocks_are_faulted_in_once() -> None:
    """Counted in a process of its own: the setting cannot be taken back."""
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS, str(memory.__file__)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = map(int, printed.split())
    assert before > 100
    assert after < before / 20


@pytest.mark.parametrize("limit", [1 << 40, 1 << 25, 0])
def test_takes_the_largest_limit_that_is_accepted(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            pass

        def mallopt(self, option: int, value: int) -> int:
            calls.append((option, value))
            return int(value <= limit or option == -1)

    monkeypatch.setattr(ctypes, "CDLL", Library)
    memory.keep_freed_memory()
    tried = [1 << 30] if limit > 1 << 30 else [1 << 30, 1 << 25]
    assert calls == [*((-3, value) for value in tried), (-1, 2**31 - 1)]


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()


def test_a_training_on_a_cpu_keeps_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []

    def build(world: World) -> None:
        calls.append("build")
        raise InputError("far enough")

    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append("keep"))
    recipe = Training(Optimization(lr=0.1, batch_size=2, epochs=1))
    flags = RunFlags(data=tmp_path, out=tmp_path / "run", recipe=recipe, device="cpu")
    with pytest.raises(InputError, match="far enough"):
        launch.launch("test", flags, build)  # type: ignore[arg-type]
    assert calls == ["keep", "build"]
