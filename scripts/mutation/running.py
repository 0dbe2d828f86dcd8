"""Running tests on changed code: forks of a process in which the tests are collected once."""

import ast
import contextlib
import gc
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mutation.changes import Mutant

Tell = Callable[[Mutant, str, float], None]
"""Hears of a mutant, the test that killed it ("": none did) and the seconds of a processor."""


def try_mutants(mutants: Sequence[Mutant], tree: Path, tests: Sequence[str], tell: Tell) -> None:
    """Run tests on each mutant of one file: first those of functions, then the others.

    A function that was changed unseen is changed in the file as well, for the processes that tests
    start.

    Args:
        mutants: What to try, all of one file.
        tree: A copy of the repository, in which the file is changed and put back.
        tests: Paths below the tree.
        tell: Hears of each.

    Raises:
        RuntimeError: If a test fails on the code as it is, or cannot be run.
    """
    if not mutants:
        return
    path, log = tree / mutants[0].file, tree.parent / "output.txt"
    text = path.read_text(encoding="utf-8")
    compiled = compile(text, str(path), "exec")
    in_functions = [m for m in mutants if m.function is not None and _fits(m, compiled)]
    left = [m for m in mutants if m not in in_functions]
    if in_functions:
        plugin = InFunctions(path, in_functions, tell)
        status, _ = in_a_fork(lambda: _start_pytest(tree, tests, plugin), 3600, log)
        if status:
            said = log.read_text(encoding="utf-8", errors="replace")
            why = re.search(r"Exit: (.*?) !*$", said, re.MULTILINE)
            raise RuntimeError(why[1] if why else f"the tests cannot be run: see {log}")
        left += [in_functions[number] for number in json.loads(plugin.unseen.read_text())]
    try:
        for count, mutant in enumerate(left):
            path.write_text(ast.unparse(mutant.tree), encoding="utf-8")
            # Compiled files are known by whole seconds: each mutant has its own.
            os.utime(path, times=(0, 10**9 + count))
            status, taken = in_a_fork(lambda: _start_pytest(tree, tests), 300, log)
            tell(mutant, _killer(status, log), taken)
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, times=(0, 10**9 - 1))


def in_a_fork(work: Callable[[], object], seconds: float, log: Path) -> tuple[int, float]:
    """Do some work in a fork, for so many seconds of a processor, and twenty times as many waits.

    Returns:
        Its exit status, not 0 if it raises or is cut; and the seconds of a processor taken.
    """
    before = _seconds_of_children()
    child = os.fork()
    if child == 0:
        _do(work, seconds, log)
    waited = 0.0
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.01)
        waited += 0.01  # ticks, not the clock: this process may be stopped for a while
        if waited > 20 * seconds:
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # what the tests left behind
        os.killpg(child, signal.SIGKILL)
    return ended[1], _seconds_of_children() - before


def _do(work: Callable[[], object], seconds: float, log: Path) -> None:
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # A pytest around this has its own; and whatever replaces these must not find them open.
        sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start_pytest(tree: Path, tests: Sequence[str], *plugins: object) -> None:
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:0] = [str(tree)]
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'pytest'}"]
    sys.exit(int(pytest.main([*options, *tests], plugins=plugins)))


_KILLED = re.compile(
    r"^(?:FAILED |ERROR |ImportError while loading conftest ')([^\s']+)", re.MULTILINE
)


def _killer(status: int, log: Path) -> str:
    """Name the test that failed, or how the process ended; "" if all passed."""
    if status and (failed := _KILLED.search(log.read_text())):
        return failed[1]
    code = os.waitstatus_to_exitcode(status)
    if code > 0:
        raise RuntimeError(f"a change could not be tried: see {log}")
    return f"ended by signal {-code}" if code else ""


class InFunctions:
    """Runs mutants of functions where the tests are collected: a plugin of pytest."""

    def __init__(self, path: Path, mutants: list[Mutant], tell: Tell) -> None:
        self.path, self.mutants, self.tell = str(path), mutants, tell
        self.log = Path(f"{path}.output")
        self.calls = Path(f"{path}.calls")
        self.unseen = Path(f"{path}.unseen")
        """The numbers of those that no test sees; they are not told."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run each test once as it is, then for each mutant those that call its function."""
        failed, _ = in_a_fork(lambda: self._watch(session), 600, self.log)
        if failed:
            pytest.exit(f"{_killer(failed, self.log)} fails without any change", returncode=1)
        seen = json.loads(self.calls.read_text())
        # Commands import late: what no test has imported by now could not be exchanged.
        name = self.mutants[0].file.removesuffix(".py").removeprefix("scripts/").replace("/", ".")
        importlib.import_module(name)
        functions = [
            f
            for f in gc.get_objects()
            if type(f) is types.FunctionType and f.__code__.co_filename == self.path
        ]
        gc.freeze()  # forks share what is there
        unseen = []
        for number, mutant in enumerate(self.mutants):
            calling = [n for n, (_, lines) in enumerate(seen) if mutant.function in lines]
            chosen = sorted(calling or range(len(seen)), key=lambda n: float(seen[n][0]))
            usual = sum(seen[n][0] for n in chosen)
            items = [session.items[n] for n in chosen]
            status, taken = in_a_fork(
                lambda m=mutant, items=items: self._try(m, functions, session, items),  # type: ignore[misc]
                4 * usual + 5,
                self.log,
            )
            if killer := _killer(status, self.log):
                self.tell(mutant, killer, taken)
            else:
                unseen.append(number)
        self.unseen.write_text(json.dumps(unseen))
        return True

    def _watch(self, session: pytest.Session) -> None:
        """Note the seconds of each test, and which functions of the file it calls."""
        seen: list[tuple[float, list[int]]] = []
        for item in session.items:
            lines: set[int] = set()

            def note(frame: types.FrameType, *_: object, lines: set[int] = lines) -> None:
                if frame.f_code.co_filename == self.path:
                    lines.add(frame.f_code.co_firstlineno)

            start = time.process_time()
            sys.settrace(note)
            self._run(session, item, None)
            sys.settrace(None)
            seen.append((time.process_time() - start, sorted(lines)))
        self.calls.write_text(json.dumps(seen))

    def _try(
        self,
        mutant: Mutant,
        functions: list[types.FunctionType],
        session: pytest.Session,
        items: list[pytest.Item],
    ) -> None:
        for code in _codes(compile(mutant.tree, self.path, "exec")):
            for function in functions:
                old = function.__code__
                if (old.co_firstlineno, old.co_name) == (code.co_firstlineno, code.co_name):
                    function.__code__ = code
        for item, following in zip(items, [*items[1:], None], strict=True):
            self._run(session, item, following)

    def _run(
        self, session: pytest.Session, item: pytest.Item, following: pytest.Item | None
    ) -> None:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            sys.exit(1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed: pytest itself holds its output back until all has run."""
        if report.failed:
            self.log.write_text(f"FAILED {report.nodeid}\n{report.longreprtext}\n")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes(constant)


def _fits(mutant: Mutant, compiled: types.CodeType) -> bool:
    """Tell whether the functions' code can be exchanged: a closure keeps what it has of others."""
    pairs = zip(_codes(compiled), _codes(compile(mutant.tree, "", "exec")), strict=False)
    return all(
        (old.co_name, old.co_freevars) == (new.co_name, new.co_freevars) for old, new in pairs
    )
