"""Where a run was made: versions, hardware, commit, command."""

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "torchvision", "albumentations", "opencv-python-headless", "numpy")


def describe_environment(device: str, world_size: int) -> dict[str, Any]:
    """Return versions, hardware and command of this process, for the record."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        **installed_versions(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "hardware": _hardware(device),
        "world_size": world_size,
    }


def installed_versions() -> dict[str, str | None]:
    """Return the versions of what a training computes with."""
    return {package: _version(package) for package in ("focused-dropout", *_PACKAGES)}


def _program(path: Path) -> list[str]:
    """Return what was typed to start a module of ours, or a command that was installed."""
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware(device: str) -> str:
    """Name the GPU, or the processor and its number of cores."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return f"{name}, {os.cpu_count()} cores"


def _commit() -> str | None:
    """Return the commit of a checkout, marked where code differs from it; None elsewhere."""
    commit = run_git("rev-parse", "--short=12", "HEAD")
    # Results and logs change with every run that is added to them.
    changed = commit and run_git(
        "status", "--porcelain", "-uno", "--", ".", ":(exclude)*.csv", ":(exclude)*.gz"
    )
    return f"{commit}-dirty" if changed else commit


def run_git(*arguments: str) -> str | None:
    """Return what git says of this checkout; None where there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
