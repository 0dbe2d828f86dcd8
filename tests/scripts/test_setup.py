"""`scripts/setup.sh` and `scripts/test.sh`, with a stand-in for uv that says what it installs."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UV = """#!/bin/bash
if [ "$1" = venv ]; then
  mkdir -p "${@: -1}/bin"
  printf '#!/bin/sh\\necho "in $0: $@"\\n' >"${@: -1}/bin/python"
  chmod +x "${@: -1}/bin/python"
elif [ -n "$BROKEN" ]; then
  exit 1
else
  echo "install ${*: -5}"
fi
"""


def pins(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = dict(line.split("==") for line in lines)
    assert len(pairs) == len(lines), "a package is pinned twice"
    return pairs


def pinned(name: str) -> dict[str, str]:
    return pins((ROOT / "scripts" / name).read_text())


def test_the_oldest_pair_is_the_one_that_the_project_promises() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in ("torch", "torchvision"):
        (bound,) = [text for text in requirements if re.match(rf"{name}\W", text)]
        assert bound == f"{name}>={pinned('constraints-oldest.txt')[name].removesuffix('.0')}"


@pytest.fixture
def run_tests(tmp_path: Path) -> Callable[..., list[str]]:
    """Run a copy's `scripts/test.sh`: the lines that it printed."""
    (tmp_path / "scripts").mkdir()
    for name in ("setup.sh", "test.sh", "constraints.txt", "constraints-oldest.txt"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("first\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "uv").write_text(UV)
    (tmp_path / "tools" / "uv").chmod(0o755)

    def run(*arguments: str, code: int = 0, **variables: str) -> list[str]:
        path = f"{tmp_path / 'tools'}:{os.environ['PATH']}"
        done = subprocess.run(
            [tmp_path / "scripts" / "test.sh", *arguments],
            cwd="/",
            env={**os.environ, "PATH": path, "BROKEN": "", **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("flags", "venv", "first"),
    [([], ".venv", ()), (["--oldest"], ".venv-oldest", ("constraints-oldest.txt",))],
)
def test_an_environment_of_each_kind(
    flags: list[str],
    venv: str,
    first: tuple[str, ...],
    run_tests: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    installing, installed, running, tests = run_tests(*flags, "-k", "two words")
    assert installing.startswith(f"setup: installing into {venv} with uv")
    constraints = f"{venv}/constraints.txt"
    assert installed == (
        f"install {venv}/bin/python --constraint {constraints} --editable .[test,tensorboard]"
    )
    assert tests == f"in {tmp_path}/{venv}/bin/python: -m pytest -k two words"
    expected = pinned("constraints.txt")
    for name in first:
        expected |= pinned(name)
    assert pins((tmp_path / constraints).read_text()) == expected
    assert (tmp_path / ".venv").is_dir() == (venv == ".venv")

    assert run_tests(*flags)[0] == f"setup: reusing {venv}"


def test_without_arguments_all_tests_run_in_two_processes(
    run_tests: Callable[..., list[str]],
) -> None:
    given = [line.split("-m pytest ")[1].split() for line in run_tests() if "-m pytest " in line]
    assert len(given) == 2
    own = {path for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "helpers"}
    folders = {f"tests/{path.name}" for path in own if any(path.rglob("test_*.py"))}
    assert sorted([*given[0], *given[1]]) == sorted({*folders, "tests/test_*.py"})


def test_a_half_that_fails_fails_the_whole(
    run_tests: Callable[..., list[str]], tmp_path: Path
) -> None:
    run_tests()
    python = tmp_path / ".venv/bin/python"
    for half in ("tests/common", "tests/detect"):
        python.write_text(f'#!/bin/sh\ncase "$*" in *{half}*) exit 7 ;; esac\n')
        run_tests(code=7)


def test_what_was_installed_before_a_change_is_not_taken_for_the_present(
    run_tests: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Also where the change is taken back, or its installation failed half-way."""
    project = tmp_path / "pyproject.toml"

    def state() -> str:
        return run_tests()[0].split()[1]

    assert [state(), state()] == ["installing", "reusing"]
    project.write_text("second\n")
    assert [state(), state()] == ["installing", "reusing"]
    project.write_text("first\n")
    assert [state(), state()] == ["installing", "reusing"]
    project.write_text("second\n")
    run_tests(code=1, BROKEN="1")
    project.write_text("first\n")
    assert [state(), state()] == ["installing", "reusing"]
