"""The folder of a run: who owns it, what was run, where, and what came out.

```
recipe.json        stage, recipe name, resolved recipe, seed
environment.json   versions, hardware, command
metrics.jsonl      one JSON object a line
last.pt best.pt    checkpoints (last.previous.pt: the one before)
tensorboard/       scalars, where tensorboard is installed
unreadable.txt     images that --skip-bad left out
non_finite.json    steps and images of a training that became non-finite
last.damaged.pt    a checkpoint that was found damaged; the one before was used
run.lock           held while a process works in the folder
```
"""

import contextlib
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from common.errors import InputError
from common.recipe import Recipe, from_json
from common.storage import write_atomically

Resume = str
"""auto: go on where the folder has a run; never: refuse such a folder; a path: from that file."""

_OURS = (".last.", ".best.", ".metrics.", ".recipe.", ".environment.", ".non_finite.")
"""How the temporary files of a run begin."""
_PACKAGES = ("torch", "torchvision", "albumentations", "opencv-python-headless", "numpy")


def describe_environment(device: str, world_size: int) -> dict[str, Any]:
    """Return versions, hardware and command of this process, for the record."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in ("focused-dropout", *_PACKAGES)},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "hardware": _hardware(device),
        "world_size": world_size,
    }


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
    commit = _git("rev-parse", "--short=12", "HEAD")
    # Results and logs change with every run that is added to them.
    changed = commit and _git(
        "status", "--porcelain", "-uno", "--", ".", ":(exclude)*.csv", ":(exclude)*.gz"
    )
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str | None:
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


def to_json(value: object) -> str:
    """Write a plain value as readable JSON, dataclasses and what holds them included."""
    return json.dumps(value, indent=2, default=_fields) + "\n"


def _fields(value: Any) -> dict[str, Any]:
    return asdict(value)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: If the file is missing or holds anything else.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder of a run of this stage") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


def read_description(folder: Path, stage: str, kind: type[Recipe]) -> tuple[str, int, Recipe]:
    """Return name, seed and recipe of a run, finished or not.

    Args:
        folder: As `train` wrote it.
        stage: "pretrain" or "detect".
        kind: Dataclass of the stage's recipes.

    Raises:
        InputError: If the folder holds no such run.
    """
    description = read_json(folder / "recipe.json")
    if description.get("stage") != stage:
        raise InputError(f"{folder} is no run of `python -m {stage} train`")
    try:
        recipe = from_json(kind, description["recipe"])
        return description["name"], description["seed"], recipe
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'recipe.json'} does not fit this version: {error}") from error


class RunFolder:
    """A run folder, owned by this process until `close`.

    Args:
        path: Folder; made if it is not there.
        description: What is run, as written to recipe.json: plain JSON values, and under "recipe"
            a dataclass; of a run of an older version, fields that it lacks count as the default.
        resume: "auto", "never" or the path of a checkpoint.

    Raises:
        InputError: If another process owns the folder, if it holds a run and `resume` is "never",
            or if it holds a run of something else.
    """

    def __init__(self, path: Path, description: Mapping[str, Any], resume: Resume = "auto") -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(path / "run.lock")
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{path} is a file: choose another --out") from None
        except OSError as error:
            raise InputError(f"{path} cannot be used: {error.strerror}") from error
        recipe = path / "recipe.json"
        try:
            self._check_never(resume)
            if recipe.exists():
                self._check_same(read_json(recipe), description)
            elif self.checkpoint_exists():
                raise InputError(
                    f"{path} holds a checkpoint, but {recipe.name} is missing: choose another --out"
                )
            text = to_json(dict(description))
            if not (recipe.exists() and recipe.read_text() == text):
                _write(recipe, text)
        except BaseException:
            self.close()
            raise
        for stale in path.glob(".*.tmp"):
            if stale.name.startswith(_OURS):
                stale.unlink()

    def _check_never(self, resume: Resume) -> None:
        if resume == "never" and self.checkpoint_exists():
            raise InputError(
                f"{self.path} holds a run already: --resume auto goes on with it, "
                "or choose another --out"
            )

    def _check_same(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        recipe = now.get("recipe")
        if is_dataclass(recipe) and not isinstance(recipe, type):
            # What the version that wrote it did not have yet stands at its default.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                before = {**before, "recipe": from_json(type(recipe), before["recipe"])}
        difference = _first_difference(*(json.loads(to_json(dict(d))) for d in (before, now)))
        if difference and self.checkpoint_exists():
            raise InputError(
                f"{self.path} holds another run ({difference}): choose another --out, "
                "or give the same recipe, flags and seed"
            )

    @property
    def last(self) -> Path:
        """Checkpoint to go on from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """Weights of the best evaluation."""
        return self.path / "best.pt"

    def checkpoint_exists(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.last.exists() or self.last.with_suffix(".previous.pt").exists()

    def record(self, environment: Mapping[str, Any]) -> None:
        """Write environment.json: of the first start, and under "resumed" of every later one."""
        path = self.path / "environment.json"
        if self.checkpoint_exists() and path.exists():
            first = read_json(path)
            environment = {**first, "resumed": [*first.get("resumed", []), dict(environment)]}
        _write(path, to_json(dict(environment)))

    def close(self) -> None:
        """Give the folder up."""
        self._lock.close()


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def _take_lock(path: Path) -> IO[str]:
    """Lock a file; the system lets go of it when the process ends, however it ends."""
    file = path.open("a")
    try:
        # Not flock: forked workers would hold that for seconds after the process was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(
            f"{path.parent} is in use by another run: wait for it, or choose another --out"
        ) from None
    return file


def _first_difference(before: Any, now: Any, name: str = "") -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            inner = f"{name}.{key}" if name else str(key)
            found = _first_difference(before.get(key), now.get(key), inner)
            if found:
                return found
        return None
    return None if before == now else f"{name} was {before}, is now {now}"
