"""The record of where a run was made."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.runs import environment
from common.runs.environment import describe_environment, installed_versions, run_git


@pytest.mark.parametrize(
    ("started", "told"),
    [
        ("/x/pretrain/__main__.py", "python -m pretrain train 'a b'"),
        ("/usr/bin/pretrain", "pretrain train 'a b'"),
    ],
)
def test_a_run_on_a_cpu(started: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started, "train", "a b"])
    found = describe_environment("cpu", 3)
    begun = datetime.fromisoformat(found["started"])
    assert begun.utcoffset() == datetime.now(UTC).utcoffset() and begun.microsecond == 0
    assert abs((datetime.now(UTC) - begun).total_seconds()) < 60
    assert found["command"] == told
    assert (found["device"], found["world_size"]) == ("cpu", 3)
    assert found["python"] == platform.python_version()
    assert found["platform"] == platform.platform()
    assert found["cpu_count"] == os.cpu_count()
    assert found["hardware"].endswith(f", {os.cpu_count()} cores")
    name = found["hardware"].removesuffix(f", {os.cpu_count()} cores")
    assert name and name in Path("/proc/cpuinfo").read_text() + platform.machine()
    assert not name.startswith(("model name", ":", " "))
    assert (found["numpy"], found["torch"]) == (np.__version__, version("torch"))


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("torch", "no-such-package"))
    assert installed_versions() == {
        "focused-dropout": installed_versions()["focused-dropout"],
        "torch": version("torch"),
        "no-such-package": None,
    }


@pytest.mark.parametrize(("processor", "name"), [("M1", "M1"), ("", platform.machine())])
def test_a_system_that_lists_no_processors(
    processor: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    assert environment._hardware("cpu") == f"{name}, {os.cpu_count()} cores"


def test_a_gpu_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the one at {device}")
    assert describe_environment("cuda:1", 1)["hardware"] == "the one at cuda:1"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in whose common/runs the module lies."""
    (tmp_path / "common" / "runs").mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "common/runs/environment.py"))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_is_marked_where_code_differs(checkout: Path) -> None:
    assert describe_environment("cpu", 1)["commit"] is None  # no repository
    git(checkout, "init", "-q")
    assert describe_environment("cpu", 1)["commit"] is None  # no commit
    for name in ("code.py", "results.csv", "log.gz"):
        (checkout / name).write_text("1")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "x")
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert describe_environment("cpu", 1)["commit"] == commit
    (checkout / "new.py").write_text("of no run")
    (checkout / "results.csv").write_text("2")
    (checkout / "log.gz").write_text("2")
    assert describe_environment("cpu", 1)["commit"] == commit
    (checkout / "code.py").write_text("2")
    assert describe_environment("cpu", 1)["commit"] == f"{commit}-dirty"


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("git", 10)])
def test_git_may_be_missing_or_hang(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run(command: list[str], **how: Any) -> None:
        given.update(how, command=command)
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert run_git("status") is None
    assert given["command"] == ["git", "status"]
    assert 1 <= given["timeout"] <= 60
    assert describe_environment("cpu", 1)["commit"] is None
