"""The folder of a run: who owns it, what was run, where, and what came out.

```
recipe.json        stage (the program), recipe name, resolved recipe, seed
environment.json   versions, hardware, command
certificate.json   digests of what the run was made of, and of its states
metrics.jsonl      one JSON object per line
last.pt best.pt    checkpoints (last.previous.pt: the one before)
tensorboard/       scalars, where tensorboard is installed
training_images.txt  of a detector: digest and name of each image it is trained on
unreadable.txt     images that --skip-bad left out
non_finite.json    steps and images of a training that became non-finite
last.damaged.pt    a checkpoint that was found damaged; the one before was used
run.lock           held while a process works in the folder
```
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import IO, Any

from common.errors import InputError, remedy
from common.recipe import AnyRecipe, Recipe, from_json, lengthened
from common.storage import file_locks, previous, read_json, to_json, write_json, write_text
from common.text import counted, say

Resume = str
"""auto: resume where the folder has a run; never: refuse such a folder; a path: from that file."""

_OURS = (
    ".last.",
    ".best.",
    ".metrics.",
    ".recipe.",
    ".environment.",
    ".certificate.",
    ".non_finite.",
    ".training_images.",
)
"""How the temporary files of a run begin."""
_MOST_SHOWN = 100  # characters of a value in a message
_UNFIT = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What reading the recipe of another version, or of something else, raises."""


def read_description(
    folder: Path, program: str, kind: type[AnyRecipe]
) -> tuple[str, int, AnyRecipe]:
    """Return name, seed and recipe of a run, finished or not.

    Args:
        folder: As `train` wrote it.
        program: "pretrain" or "detect".
        kind: Dataclass of its recipes.

    Raises:
        InputError: If the folder holds no such run.
    """
    description = read_json(folder / "recipe.json")
    if description.get("stage") != program:
        raise InputError(
            f"{folder} is no run of `python -m {program} train`: give the folder of one"
        )
    try:
        recipe = from_json(kind, description["recipe"])
        return description["name"], description["seed"], recipe
    except _UNFIT as error:
        raise InputError(
            f"{folder / 'recipe.json'} does not fit this version, train again: {str(error)[:300]}"
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a checkpoint to resume from."""
    last = folder / "last.pt"
    return last.exists() or previous(last).exists()


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
            raise InputError(
                f"{path} cannot be used ({error.strerror}): {remedy(error)}"
            ) from error
        recipe = path / "recipe.json"
        try:
            self._check_never(resume)
            if recipe.exists():
                self._check_same(read_json(recipe), description)
            elif self.checkpoint_exists():
                raise InputError(
                    f"{path} holds a checkpoint, but {recipe.name} is missing: choose another --out"
                )
            self._description = to_json(dict(description))
            if not self.checkpoint_exists():  # else the run may yet turn out to be another
                self.keep_description()
        except BaseException:
            self.close()
            raise
        for stale in path.glob(".*.tmp"):
            if stale.name.startswith(_OURS):
                stale.unlink()

    def keep_description(self) -> None:
        """Write recipe.json, if it does not say the same already."""
        path = self.path / "recipe.json"
        if not (path.exists() and path.read_text() == self._description):
            write_text(path, self._description)

    def _check_never(self, resume: Resume) -> None:
        if resume == "never" and self.checkpoint_exists():
            raise InputError(
                f"{self.path} holds a run already: --resume auto continues it, "
                "or choose another --out"
            )

    def _check_same(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        recipe = now.get("recipe")
        if is_dataclass(recipe) and not isinstance(recipe, type):
            # What the version that wrote it did not have yet stands at its default.
            old: Any = before.get("recipe")
            with contextlib.suppress(*_UNFIT):
                old = from_json(type(recipe), old)
            old = self._shared_alike(old, recipe)
            if lengthened(old, recipe) and self.checkpoint_exists():
                self._check_lengthened(old, now["recipe"])
                old = recipe
            before = {**before, "recipe": old}
        difference = _first_difference(*(json.loads(to_json(dict(d))) for d in (before, now)))
        if difference and self.checkpoint_exists():
            raise InputError(
                f"{self.path} holds another run ({difference}): choose another --out, "
                "or give the same recipe, flags and seed"
            )

    def _shared_alike(self, before: Any, now: Any) -> Any:
        """Return the recipe before as of now where they differ in how a step is shared out."""
        if not (isinstance(before, Recipe) and isinstance(now, Recipe)):
            return before
        old, new = before.optimization.accumulate, now.optimization.accumulate
        if old == new:
            return before
        if self.checkpoint_exists():
            say(f"{self.path}: continues with {new} micro-batches on a rank instead of {old}")
        shared = replace(before.optimization, accumulate=new)
        return replace(before, optimization=shared)  # type: ignore[type-var]

    def _check_lengthened(self, before: Recipe, now: Recipe) -> None:
        length = counted(before.optimization.epochs, "epoch")
        if now.tied_to_epochs:
            raise InputError(
                f"{self.path} holds a run of {length}, which cannot be lengthened: "
                f"{now.tied_to_epochs} depends on their number; choose another --out"
            )
        say(f"{self.path}: lengthened from {length} to {now.optimization.epochs}")

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """Weights of the best evaluation."""
        return self.path / "best.pt"

    def checkpoint_exists(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return has_checkpoint(self.path)

    def record(self, environment: Mapping[str, Any]) -> None:
        """Write environment.json: of the first start, and under "resumed" of every later one."""
        path = self.path / "environment.json"
        if self.checkpoint_exists() and path.exists():
            first = read_json(path)
            environment = {**first, "resumed": [*first.get("resumed", []), dict(environment)]}
        write_json(path, environment)

    def close(self) -> None:
        """Give the folder up."""
        self._lock.close()


def _take_lock(path: Path) -> IO[str]:
    """Lock a file; the system lets go of it when the process ends, however it ends."""
    fcntl, file = file_locks(), path.open("a")
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
    return None if before == now else f"{name} was {_cut(before)}, is now {_cut(now)}"


def _cut(value: Any) -> str:
    return text if len(text := str(value)) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
