"""Ask the tests what they see: change one expression of the code at a time, run the tests near it.

    python scripts/mutate.py --work /tmp/mutants --seed 0 --most 16
    python scripts/mutate.py common/recipe.py --work /tmp/mutants --seed 0 --most 100

A mutant is killed when a test fails. Which are tried is fixed by the seed; messages, docstrings and
annotations are left alone. Torch and the tests are imported once. Each mutant then is a fork of
that process, in which the code of one function is exchanged and those tests run that call it,
quickest first; a process that a test starts does not see it. What runs on import (constants,
defaults of fields) is written to a copy of the tree instead, and all tests of the file run on it.
"""

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo  # noqa: F401 - once, for all forks
import torchvision  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
METHOD = "tests/common/method"
SCORING = "tests/detect/scoring"
TESTS: dict[str, str] = {
    "common/method/dropout.py": f"{METHOD}/test_dropout.py {METHOD}/test_dropout_layer.py "
    f"{METHOD}/test_placed_layers.py {METHOD}/test_foreign_hands.py",
    "common/method/draws.py": f"{METHOD}/test_draws.py {METHOD}/test_dropout_layer.py "
    "tests/common/training/test_world_sizes.py",
    "common/method/participation.py": f"{METHOD}/test_participation.py",
    "common/method/focused_training.py": f"{METHOD}/test_focused_training.py "
    f"{METHOD}/test_any_optimizer.py {METHOD}/test_own_loop.py {METHOD}/test_foreign_hands.py",
    "common/method/magnified.py": f"{METHOD}/test_focused_training.py "
    f"{METHOD}/test_any_optimizer.py {METHOD}/test_foreign_hands.py",
    "common/method/restarts.py": f"{METHOD}/test_own_loop.py {METHOD}/test_focused_training.py "
    f"{METHOD}/test_foreign_hands.py",
    "common/method/placement.py": f"{METHOD}/test_insert_after.py {METHOD}/test_placed_layers.py "
    f"{METHOD}/test_foreign_hands.py",
    "common/method/stages.py": f"{METHOD}/test_stages.py {METHOD}/test_penultimate.py",
    "common/method/controls.py": f"{METHOD}/test_controls.py tests/pretrain/test_recipes.py",
    "common/images/sampling.py": "tests/common/images/test_sampling.py",
    "detect/data/batches.py": "tests/detect/data/test_batches.py",
    "common/runs/checkpoints.py": "tests/common/runs/test_checkpoints.py "
    "tests/common/training/test_resume.py",
    "common/training/checkpointing.py": "tests/common/runs/test_checkpoints.py "
    "tests/common/training/test_resume.py tests/common/training/test_loop.py",
    "common/recipe.py": "tests/common/test_recipe.py tests/test_recipe_tables.py",
    "pretrain/recipes/recipe.py": "tests/test_recipe_tables.py tests/pretrain/test_recipes.py",
    "pretrain/recipes/tables.py": "tests/test_recipe_tables.py tests/pretrain/test_recipes.py",
    "pretrain/recipes/backbones.py": "tests/test_recipe_tables.py",
    "pretrain/recipes/toy.py": "tests/test_recipe_tables.py",
    "pretrain/recipes/cost.py": "tests/pretrain/test_costs.py",
    "detect/recipes.py": "tests/test_recipe_tables.py tests/detect/test_commands.py",
    "detect/scoring/voc.py": f"{SCORING}/test_voc.py",
    "detect/scoring/matches.py": f"{SCORING}/test_voc.py {SCORING}/test_matches_file.py",
    "detect/scoring/coco.py": f"{SCORING}/test_coco.py",
    "detect/scoring/sizes.py": f"{SCORING}/test_coco.py {SCORING}/test_analysis.py",
    "detect/scoring/metrics.py": f"{SCORING}/test_metrics.py {SCORING}/test_scored_folder.py",
    "detect/scoring/bootstrap.py": f"{SCORING}/test_bootstrap.py",
    "detect/scoring/comparison.py": f"{SCORING}/test_over_seeds.py",
    "detect/scoring/over_seeds.py": f"{SCORING}/test_over_seeds.py",
    "common/runs/results.py": "tests/common/runs/test_results.py tests/pretrain/test_results.py "
    "tests/detect/test_results.py",
    "common/runs/over_seeds.py": "tests/common/runs/test_over_seeds.py",
    "pretrain/results.py": "tests/pretrain/test_results.py",
    "detect/results.py": "tests/detect/test_results.py",
    "scripts/reproduction/tables.py": "tests/scripts/reproduction/test_tables.py",
    "scripts/reproduction/experiments.py": "tests/scripts/reproduction/test_experiments.py "
    "tests/scripts/reproduction/test_tables.py",
    "scripts/reproduction/table5.py": "tests/scripts/reproduction/test_table5.py",
}
"""The tests of each file, quickest first."""
_COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A change to a file."""

    file: str
    line: int
    before: str
    after: str
    tree: ast.Module
    """The file, changed; its lines have their numbers."""
    function: int | None
    """First line of the function whose body it changes, decorators included."""


def mutants(text: str, file: str, most: int, seed: int) -> list[Mutant]:
    """Return changes of one expression or statement each, drawn by the seed, in order of lines."""
    tree = ast.parse(text)
    places = list(_places(tree))
    all_of_them = [(n, k) for n, place in enumerate(places) for k in range(len(_changes(place)))]
    drawn = random.Random(f"{seed} {file}").sample(all_of_them, min(most, len(all_of_them)))
    return [_mutant(tree, file, *one) for one in sorted(drawn)]


def _mutant(tree: ast.Module, file: str, number: int, kind: int) -> Mutant:
    tree = copy.deepcopy(tree)
    node = list(_places(tree))[number]
    by = _changes(node)[kind]
    before, line = ast.unparse(node), getattr(node, "lineno", 0)
    function = _function_around(tree, node)
    ast.fix_missing_locations(_Replace(node, ast.copy_location(by, node)).visit(tree))
    return Mutant(file, line, _short(before), _short(ast.unparse(by)), tree, function)


def _function_around(tree: ast.AST, node: ast.AST) -> int | None:
    """Find the outermost function that has a node in its body."""
    for outer in ast.walk(tree):  # breadth first
        if isinstance(outer, ast.FunctionDef) and any(
            inner is node for statement in outer.body for inner in ast.walk(statement)
        ):
            return min([outer.lineno, *(d.lineno for d in outer.decorator_list)])
    return None


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) < 120 else f"{line[:117]}..."


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what is computed: no docstring, annotation or message of an error."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params") or isinstance(tree, ast.Assert):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or _is_text(node) or _is_for_types(node):
                continue
            yield node
            if not isinstance(node, ast.Raise):
                yield from _places(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _is_for_types(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        value = ast.unparse(node.value)
        return value.startswith(("Literal[", "TypeVar(", "Callable["))
    return isinstance(node, ast.Import | ast.ImportFrom)


def _changes(node: Any) -> list[ast.AST]:
    """Return what a node may be changed to."""
    match node:
        case ast.Compare(ops=ops):
            return [
                _with(node, ops=[*ops[:n], _COMPARED[type(op)](), *ops[n + 1 :]])
                for n, op in enumerate(ops)
            ]
        case ast.AugAssign(op=op):
            return [_with(node, op=_COMPUTED[type(op)]()), ast.Pass()]
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            return [_with(node, op=_COMPUTED[type(op)]())]
        case ast.BoolOp(op=op):
            return [_with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return [node.operand]
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int(value)):
            return [ast.Constant(value + 1), ast.Constant(value - 1)]
        case ast.Constant(value=float(value)):
            return [ast.Constant(value * 2 or 1.0)]
        case ast.IfExp():
            return [_with(node, body=node.orelse, orelse=node.body)]
        case ast.If() | ast.While():
            return [_with(node, test=ast.UnaryOp(ast.Not(), node.test))]
        case ast.Return(value=value) if value is not None:
            return [] if ast.unparse(value) == "None" else [ast.Return(ast.Constant(None))]
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            return [ast.Pass()]
        case ast.Break():
            return [ast.Continue()]
        case ast.Continue():
            return [ast.Break()]
        case ast.Name(id=name) if name in _NAMES:
            return [ast.Name(_NAMES[name], ast.Load())]
        case ast.Call(keywords=keywords):
            numbers = range(len(keywords))
            return [_with(node, keywords=keywords[:n] + keywords[n + 1 :]) for n in numbers]
    return []


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, by: ast.AST) -> None:
        self.node, self.by = node, by

    def visit(self, node: ast.AST) -> ast.AST:
        return self.by if node is self.node else self.generic_visit(node)


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


def _start_pytest(tree: Path, tests: list[str], *plugins: object) -> None:
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:0] = [str(tree)]
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'pytest'}"]
    sys.exit(int(pytest.main([*options, *tests], plugins=plugins)))


def _killer(status: int, log: Path) -> str:
    """Name the test that failed, or how the process ended; "" if all passed."""
    if status and (failed := re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(), re.MULTILINE)):
        return failed[1]
    code = os.waitstatus_to_exitcode(status)
    if code > 0:
        raise RuntimeError(f"a change could not be tried: see {log}")
    return f"ended by signal {-code}" if code else ""


Tell = Callable[[Mutant, str, float], None]


class InFunctions:
    """Runs mutants of functions where the tests are collected: a plugin of pytest."""

    def __init__(self, path: Path, mutants: list[Mutant], tell: Tell) -> None:
        self.path, self.mutants, self.tell = str(path), mutants, tell
        self.log = Path(f"{path}.output")
        self.calls = Path(f"{path}.calls")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run each test once as it is, then for each mutant those that call its function."""
        failed, _ = in_a_fork(lambda: self._watch(session), 600, self.log)
        if failed:
            raise SystemExit(f"{_killer(failed, self.log)} fails without any change")
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
        for mutant in self.mutants:
            calling = [n for n, (_, lines) in enumerate(seen) if mutant.function in lines]
            chosen = sorted(calling or range(len(seen)), key=lambda n: float(seen[n][0]))
            usual = sum(seen[n][0] for n in chosen)
            items = [session.items[n] for n in chosen]
            status, taken = in_a_fork(
                lambda m=mutant, items=items: self._try(m, functions, session, items),  # type: ignore[misc]
                4 * usual + 5,
                self.log,
            )
            self.tell(mutant, _killer(status, self.log), taken)
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
            self.log.write_text(f"FAILED {item.nodeid}\n")  # pytest holds the output back
            sys.exit(1)


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


def copied(work: Path) -> Path:
    """Copy what git tracks, or would, into a folder of the work; return it."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree


def try_all(files: Sequence[str], work: Path, most: int, seed: int, again: str) -> None:
    """Try the mutants of each file; append one line of JSON for each to results.jsonl."""
    tree = copied(work)
    record, log = work / "results.jsonl", work / "output.txt"

    def tell(mutant: Mutant, killer: str, seconds: float) -> None:
        told = {"file": mutant.file, "line": mutant.line}
        told |= {"before": mutant.before, "after": mutant.after}
        with record.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**told, "killer": killer, "seconds": round(seconds, 1)}) + "\n")

    failed = False
    for number, file in enumerate(files):
        path, tests = tree / file, TESTS[file].split()
        text = path.read_text(encoding="utf-8")
        chosen = mutants(text, file, most, seed)
        if again:
            chosen = [m for m in chosen if _line(m.file, m.line, m.before, m.after) in again]
        compiled = compile(text, str(path), "exec")
        in_functions = [m for m in chosen if m.function is not None and _fits(m, compiled)]
        if in_functions:
            plugin = InFunctions(path, in_functions, tell)
            status, _ = in_a_fork(lambda t=tests, p=plugin: _start_pytest(tree, t, p), 3600, log)  # type: ignore[misc]
            if status:  # the others are tried all the same
                print(f"{file}: {_last_line(log)}", file=sys.stderr, flush=True)
                failed = True
                continue
        for count, mutant in enumerate(m for m in chosen if m not in in_functions):
            path.write_text(ast.unparse(mutant.tree), encoding="utf-8")
            # Compiled files are known by whole seconds: each mutant has its own.
            os.utime(path, times=(0, 10**9 + 1000 * number + count))
            status, taken = in_a_fork(lambda t=tests: _start_pytest(tree, t), 120, log)  # type: ignore[misc]
            tell(mutant, _killer(status, log), taken)
        path.write_text(text, encoding="utf-8")
        os.utime(path, times=(0, 10**9 - 1))
    _show(record)
    if failed:
        raise SystemExit(1)


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["?"])[-1]


def _line(file: str, line: int, before: str, after: str) -> str:
    return f"{file}:{line} {before} -> {after}"


def _show(record: Path) -> None:
    """Print a table of what was tried last of each mutant."""
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    last = {(x["file"], x["line"], x["before"], x["after"]): x["killer"] for x in lines}
    for key, killer in last.items():
        if not killer:
            print(_line(*key))
    print("\n| file | mutants | killed |\n|---|---|---|")
    for file in dict.fromkeys(key[0] for key in last):
        killers = [killer for key, killer in last.items() if key[0] == file]
        print(f"| `{file}` | {len(killers)} | {sum(map(bool, killers))} |")
    print(f"| all | {len(last)} | {sum(map(bool, last.values()))} |")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", default=list(TESTS), help="which code; all of TESTS")
    parser.add_argument("--work", type=Path, required=True, help="a folder to work in")
    parser.add_argument("--seed", type=int, default=0, help="draws the mutants of each file")
    parser.add_argument("--most", type=int, default=16, help="at most so many of a file")
    parser.add_argument("--again", type=Path, help="a printed list: try these survivors alone")
    arguments = parser.parse_args()
    if unknown := set(arguments.files) - set(TESTS):
        parser.error(f"TESTS has no tests for {', '.join(sorted(unknown))}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    again = arguments.again.read_text() if arguments.again else ""
    try_all(arguments.files, arguments.work.resolve(), arguments.most, arguments.seed, again)


if __name__ == "__main__":
    main()
