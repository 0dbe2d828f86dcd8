"""Code changed by `scripts/mutate.py`: what the changes are, and which of them tests see."""

import ast
import json
import time
from pathlib import Path

import pytest
from mutation.changes import Mutant, mutants
from mutation.running import in_a_fork, try_mutants

SOURCE = '''"""A docstring stays."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT: int = 3

def near(x: "Literal[1]", *, most: int = 5) -> bool:
    """So does this one."""
    assert x != 7, "and what is asserted"
    if x < LIMIT or x == most:
        return True
    raise ValueError(f"{x + 1} is not near")
'''


def test_a_source_is_changed_at_every_place_that_counts() -> None:
    drawn = mutants(SOURCE, "near.py", 100, seed=0)
    found = [(m.line, m.before, m.after, m.function) for m in drawn]
    assert len({(m.line, m.column, m.after) for m in drawn}) == len(drawn)
    assert found == [
        (9, "3", "4", None),
        (9, "3", "2", None),
        (11, "5", "6", None),
        (11, "5", "4", None),
        (14, "if x < LIMIT or x == most:", "if not (x < LIMIT or x == most):", 11),
        (14, "x < LIMIT or x == most", "x < LIMIT and x == most", 11),
        (14, "x < LIMIT", "x <= LIMIT", 11),
        (14, "x == most", "x != most", 11),
        (15, "return True", "return None", 11),
        (15, "True", "False", 11),
        (16, "raise ValueError(f'{x + 1} is not near')", "pass", 11),
    ]
    whole = ast.unparse(ast.parse(SOURCE)).split("\n")
    for mutant in drawn:  # that one place, and nothing else
        changed = ast.unparse(mutant.tree).split("\n")
        differing = [pair for pair in zip(whole, changed, strict=True) if pair[0] != pair[1]]
        assert [old.replace(mutant.before, mutant.after, 1) for old, _ in differing] == [
            new for _, new in differing
        ]
        assert len(differing) == 1


def test_equal_changes_of_a_line_are_told_apart() -> None:
    drawn = mutants("x = f(a=True, b=True)", "f.py", 100, seed=0)
    assert [m.column for m in drawn if m.before == "True"] == [8, 16]


def test_guards_against_mistakes_of_a_programmer_stay() -> None:
    source = "@dataclass(frozen=True, order=True)\nclass A:\n    pass\nzip(a, b, strict=True)\n"
    drawn = mutants(f"{source}net.load_state_dict(c, strict=True)", "f.py", 100, seed=0)
    assert [m.line for m in drawn if m.before == "True"] == [1, 5]


def test_lines_keep_their_numbers() -> None:
    drawn = mutants("def f(x):\n    # why\n\n    return x < g(\n        3)\n", "f.py", 100, seed=0)
    assert [m.before for m in drawn] == ["return x < g(3)", "x < g(3)", "3", "3"]
    for mutant in drawn:
        (code,) = (c for c in compile(mutant.tree, "", "exec").co_consts if hasattr(c, "co_lines"))
        assert {line for *_, line in code.co_lines()} <= {1, 4, 5}


CHANGES = {
    "a < b <= c": ["a <= b <= c", "a < b < c"],
    "a > b >= c": ["a >= b >= c", "a > b > c"],
    "a is b is not c": ["a is not b is not c", "a is b is c"],
    "a in b not in c": ["a not in b not in c", "a in b in c"],
    "a + b - c": ["a + b + c", "a - b - c"],
    "a * b / c": ["a * b * c", "a / b / c"],
    "a // b % c ** d": ["a // b * c ** d", "a * b % c ** d", "a // b % (c * d)"],
    "a & b | c ^ d": ["a & b & (c ^ d)", "a | b | c ^ d", "a & b | c & d"],
    "a << b >> c": ["a << b << c", "a >> b >> c"],
    "a and b and c": ["a or b or c"],
    "not a": ["a"],
    "-a": ["a"],
    "True": ["False"],
    "False": ["True"],
    "2": ["3", "1"],
    "0": ["1", "-1"],
    "0.25": ["0.5"],
    "0.0": ["1.0"],
    "'text'": [],
    "None": [],
    "a if b else c": ["c if b else a"],
    "min(a, max(b))": ["max(a, max(b))", "min(a, min(b))"],
    "any(a)": ["all(a)"],
    "all(a)": ["any(a)"],
    "f(a, k=b, m=c)": ["f(a, m=c)", "f(a, k=b)"],
    "f'{a + 1}'": [],
    "zip(a, strict=True)": [],
    "load(a, strict=True)": ["load(a)", "load(a, strict=False)"],
    "dataclass(frozen=True, slots=True, kw_only=True, eq=True)": [
        "dataclass(frozen=True, slots=True, kw_only=True)",
        "dataclass(frozen=True, slots=True, kw_only=True, eq=False)",
    ],
}


@pytest.mark.parametrize("source", CHANGES)
def test_an_expression(source: str) -> None:
    drawn = mutants(f"x = {source}", "a.py", 100, seed=0)
    assert [ast.unparse(m.tree) for m in drawn] == [f"x = {text}" for text in CHANGES[source]]


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("x += a", ["x -= a", "pass"]),
        ("while a:\n    break", ["while not a:\n    break", "while a:\n    continue"]),
        ("for a in b:\n    continue", ["for a in b:\n    break"]),
        ("f(a)", ["pass"]),
        ("del a", ["pass"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("def f():\n    return None", []),
        ("def f():\n    return", []),
        ("K = Literal[1, 2]", []),
        ("x: f(1) = a", []),
    ],
)
def test_a_statement(source: str, changed: list[str]) -> None:
    drawn = mutants(source, "a.py", 100, seed=0)
    assert [ast.unparse(m.tree) for m in drawn] == changed


def test_a_draw_is_of_the_seed_and_the_file() -> None:
    source = "x = [" + ", ".join(map(str, range(10, 60))) + "]"

    def drawn(file: str, seed: int) -> list[str]:
        return [ast.unparse(m.tree) for m in mutants(source, file, 10, seed)]

    assert len(set(drawn("a.py", 0))) == 10
    assert drawn("a.py", 0) == drawn("a.py", 0)
    assert drawn("a.py", 0) != drawn("a.py", 1)
    assert drawn("a.py", 0) != drawn("b.py", 0)


TOY = """
LIMIT = 3
calls = []

class Near:
    def __call__(self, x):
        return x < LIMIT

def far(x):
    return x > 10

def elsewhere():
    return 7
"""
TESTS = """
import subprocess
import sys

import toy

def test_near():
    assert toy.Near()(2) and not toy.Near()(3)

def test_far():
    assert toy.far(12)
    assert not toy.far(8)

def test_another_process():
    subprocess.run([sys.executable, "-c", "import toy; assert toy.elsewhere() == 7"], check=True)
"""


def told(tree: Path, test: str) -> dict[str, str]:
    """Try all changes of the toy: what killed each."""
    tree.mkdir()
    (tree / "toy.py").write_text(TOY)
    (tree / "test_toy.py").write_text(test)
    killers = tree.parent / "killers.jsonl"

    def tell(mutant: Mutant, killer: str, seconds: float) -> None:
        assert seconds > 0
        with killers.open("a") as lines:  # most are told from a fork
            print(json.dumps([f"{mutant.before} -> {mutant.after}", killer]), file=lines)

    try_mutants(mutants(TOY, "toy.py", 100, seed=0), tree, ["test_toy.py"], tell)
    assert (tree / "toy.py").read_text() == TOY
    return dict(json.loads(line) for line in killers.read_text().splitlines())


def test_what_no_test_sees_is_told(tmp_path: Path) -> None:
    near, far, other = (f"test_toy.py::test_{x}" for x in ("near", "far", "another_process"))
    assert told(tmp_path / "tree", TESTS) == {
        "3 -> 4": near,  # runs on import: a copy of the file
        "3 -> 2": near,
        "return x < LIMIT -> return None": near,
        "x < LIMIT -> x <= LIMIT": near,
        "return x > 10 -> return None": far,
        "x > 10 -> x >= 10": "",
        "10 -> 11": "",
        "10 -> 9": "",
        "return 7 -> return None": other,  # which has the file, not the memory
        "7 -> 8": other,
        "7 -> 6": other,
    }


def test_a_conftest_that_cannot_be_loaded_sees_it(tmp_path: Path) -> None:
    source, killers = "LIMIT = 3\n", []
    (tree := tmp_path / "tree").mkdir()
    (tree / "toy.py").write_text(source)
    (tree / "conftest.py").write_text("import toy\n1 / (4 - toy.LIMIT)\n")
    (tree / "test_toy.py").write_text("def test_nothing():\n    pass\n")
    drawn = mutants(source, "toy.py", 100, seed=0)
    try_mutants(drawn, tree, ["test_toy.py"], lambda *told: killers.append(told[1]))
    assert killers == [str(tree / "conftest.py"), ""]


def test_a_test_that_fails_by_itself_kills_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="test_toy.py::test_wrong fails without any change"):
        told(tmp_path / "tree", TESTS + "\ndef test_wrong():\n    assert False\n")


def test_a_fork_is_cut_after_its_seconds(tmp_path: Path) -> None:
    def forever() -> None:
        while True:
            pass

    status, seconds = in_a_fork(forever, 0.1, tmp_path / "log")
    assert status
    assert 0.1 < seconds < 5
    status, _ = in_a_fork(lambda: time.sleep(100), 0.01, tmp_path / "log")
    assert status
    status, _ = in_a_fork(lambda: print("said"), 1, tmp_path / "log")
    assert status == 0
    assert (tmp_path / "log").read_text() == "said\n"
