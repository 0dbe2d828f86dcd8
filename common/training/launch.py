"""One call of a `train` command: processes, run folder, training."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.command.flags import RunFlags
from common.errors import InputError
from common.images.loading import Reading, default_workers
from common.processes import memory, ranks
from common.processes.determinism import deterministic
from common.processes.ranks import World
from common.processes.signals import ending_at_once
from common.runs import trackers
from common.runs.checkpoints import load_to_resume
from common.runs.environment import describe_environment
from common.runs.folder import RunFolder
from common.text import say
from common.training.certifying import Certifying
from common.training.loop import train
from common.training.task import Metrics, Task, Watch

DRY_STEPS = 2
_SHARED = ("evaluate_every", "patience", "dry_run", "deterministic", "resume")
"""Flags beside the description of a run that all ranks must have alike."""
Build = Callable[[World], tuple[Task, Mapping[str, Any]]]
"""Makes the task, and what environment.json should say of it, once the folder is secured."""


def launch(
    program: str,
    flags: RunFlags[Any],
    build: Build,
    facts: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Metrics:
    """Train in a run folder; with `flags.dry_run`, two steps in one that is removed again.

    Args:
        program: "pretrain" or "detect".
        flags: What is trained, and how.
        build: Makes the task.
        facts: What is trained beside the recipe, such as the digest of a backbone.
        watch: Observes the states in place of the writer of certificate.json.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data or arguments are wrong.
        SystemExit: At SIGTERM or SIGUSR1 before the training; later as `train`.
    """
    trackers.chosen(flags.log)  # before anything else: a mistyped name
    description = {
        "stage": program,
        "recipe": flags.recipe,
        **(facts or {}),
        "name": flags.name,
        "seed": flags.seed,
        "overfit_batches": flags.overfit_batches,
        **({"limit_images": flags.limit_images} if flags.limit_images else {}),
    }
    with (
        ending_at_once(),
        ranks.start(flags.device, flags.timeout_minutes) as world,
        deterministic(flags.deterministic),
    ):
        if world.device.type == "cpu":
            memory.keep_freed_memory()
        if not flags.dry_run:
            return _launch_once(description, flags, build, world, watch)
        _check_unused(flags)
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dry-run-", dir=flags.out.parent) as folder:
            dry = replace(flags, out=Path(folder), resume="auto", stop_step=DRY_STEPS)
            _launch_once(description, dry, build, world, watch)
            # Resumes from the checkpoint that the first one saved.
            metrics = _launch_once(
                description, dry, partial(_rebuild_silently, build), world, watch
            )
        if world.is_main:
            say("dry run: two steps, evaluation, save and load went well; nothing is kept")
            say(_memory_needed(world.device))
        return metrics


def _check_unused(flags: RunFlags[Any]) -> None:
    """Check the flags that a dry run replaces by its own.

    Raises:
        InputError: The training itself would refuse them.
    """
    if flags.resume not in ("auto", "never"):
        load_to_resume(Path(flags.resume))
    if flags.out.exists() and not flags.out.is_dir():
        raise InputError(f"{flags.out} is a file: choose another --out")


def _rebuild_silently(build: Build, world: World) -> tuple[Task, Mapping[str, Any]]:
    """Build what was built before, without saying again of what."""
    with contextlib.redirect_stdout(io.StringIO()):
        return build(world)


def _memory_needed(device: torch.device) -> str:
    """Say how much of the GPU the steps and the evaluation took, which is what has to fit."""
    if device.type != "cuda":
        return "GPU memory: not measured, for this ran on the CPU"
    peak = torch.cuda.max_memory_reserved(device) / 2**30
    whole = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"GPU memory: {peak:.1f} of {whole:.1f} GiB at most"


def _launch_once(
    description: Mapping[str, Any],
    flags: RunFlags[Any],
    build: Build,
    world: World,
    watch: Watch | None = None,
) -> Metrics:
    folder = _claim_folder(flags, description, world)
    try:
        task, facts = build(world)
        if folder:
            environment = describe_environment(str(world.device), world.size)
            folder.record({**environment, "deterministic": flags.deterministic, **facts})
            watch = watch or Certifying(folder.path, description, flags, world)
        return train(task, flags.recipe, flags, world, folder, watch)
    finally:
        if folder:
            folder.close()


def reading(flags: RunFlags[Any], world: World) -> Reading:
    """Return how training images are read; a dry run skips none, since it leaves no record."""
    return Reading(
        workers=default_workers() if flags.workers is None else flags.workers,
        device=world.device,
        skip_bad=0 if flags.dry_run else flags.skip_bad,
        record=flags.out / "unreadable.txt",
    )


def _claim_folder(
    flags: RunFlags[Any], description: Mapping[str, Any], world: World
) -> RunFolder | None:
    """Take the run folder on rank 0; an error of it is raised on every rank."""
    # Ranks that are started by hand have command lines of their own: other flags would train
    # something else, or hang.
    mine = {**description, **{name: getattr(flags, name) for name in _SHARED}}
    everyones = ranks.gather(mine)
    differing = [name for name in mine if any(one.get(name) != mine[name] for one in everyones)]
    if differing:
        raise InputError(
            f"the processes were started with different flags ({', '.join(differing)}): "
            "give all of them the same command"
        )
    folder, problem = None, None
    if world.is_main:
        try:
            folder = RunFolder(flags.out, description, flags.resume)
        except InputError as error:
            problem = str(error)
    problem = ranks.broadcast(problem)
    if problem:
        raise InputError(problem)
    return folder
