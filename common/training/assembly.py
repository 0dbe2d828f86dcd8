"""Putting a training together, from its start or from its checkpoint."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from common.command.flags import Options
from common.errors import InputError
from common.images.sampling import Sampling
from common.processes.polling import Polling
from common.processes.ranks import World, gather
from common.recipe import Recipe
from common.runs import epoch_lines, trackers
from common.runs.folder import RunFolder
from common.runs.metrics_log import MetricsLog
from common.runs.progress import Progress
from common.runs.results import flatten
from common.runs.trackers import Trackers
from common.text import counted, say
from common.training.checkpointing import TrainingState, begin, extent_of, resume
from common.training.epoch_means import EpochSums
from common.training.non_finite import FiniteCheck
from common.training.steps import Steps
from common.training.task import Task, Watch

_POINTS = 20
"""Points within an epoch that trackers get."""


@dataclass(kw_only=True)
class Training:
    """What a training consists of, its state among it."""

    task: Task
    recipe: Recipe
    options: Options
    world: World
    folder: RunFolder | None
    watch: Watch | None
    sampling: Sampling
    last_step: int
    """Where it ends: after all epochs, or in a dry run after two steps."""
    state: TrainingState
    steps: Steps
    finite: FiniteCheck
    log: MetricsLog | None
    trackers: Trackers | None
    tracked: "_Means"
    progress: Progress
    polling: Polling
    speed: "_Speed"
    saved_at: float

    def at_epoch_end(self) -> bool:
        """Tell whether the last step ended an epoch, or the training within one."""
        step = self.state.step
        return step % self.sampling.steps_per_epoch == 0 or step == self.last_step

    def checkpoint_is_due(self) -> bool:
        """Tell whether the next checkpoint is due."""
        return time.monotonic() - self.saved_at > self.options.checkpoint_minutes * 60

    def out_of_patience(self) -> bool:
        """Tell whether too many evaluations in a row brought nothing better."""
        return _out_of_patience(self.state, self.options)

    def show(self) -> None:
        """Show a step on the bar, if it is time to."""
        if self.progress.due():
            state = self.state
            rate = self.speed.images_per_second(state.step)
            self.progress.update(state.step, state.sums.means(), rate)

    def track(self) -> None:
        """Send a point within the epoch, if it is time to: some twenty an epoch."""
        of_epoch, state = self.sampling.steps_per_epoch, self.state
        every = max(1, of_epoch // _POINTS)
        if self.trackers and state.step % of_epoch % every == 0:
            means = self.tracked.means_since_last(state.sums)
            rate = state.optimizer.param_groups[0]["lr"]
            self.trackers.within_epoch(state.step, {**means, "lr": rate})


class _Means:
    """Means over the images since they were asked for last, out of the sums of an epoch."""

    def __init__(self, sums: EpochSums) -> None:
        self._begin(sums)

    def _begin(self, sums: EpochSums) -> None:
        self._of, self._images, self._before = sums, sums.images, sums.means()

    def means_since_last(self, sums: EpochSums) -> dict[str, float]:
        if sums is not self._of:  # of a new epoch
            self._of, self._images, self._before = sums, 0, {}
        images, before, means = self._images, self._before, sums.means()
        self._images, self._before = sums.images, means
        new = max(1, sums.images - images)
        return {
            name: (mean * sums.images - before.get(name, 0.0) * images) / new
            for name, mean in means.items()
        }


class _Speed:
    """Images per second since the clock was started."""

    def __init__(self, batch_size: int, step: int) -> None:
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._time

    def images_per_second(self, step: int) -> float:
        return (step - self._step) * self._batch_size / max(1e-9, self.seconds())


@contextmanager
def assembled(
    task: Task,
    recipe: Recipe,
    options: Options,
    world: World,
    folder: RunFolder | None,
    watch: Watch | None,
) -> Iterator[Training]:
    """Put a training together, from its start or from its checkpoint; close it at the end."""
    sampling = _sampling(task, recipe, options, world)
    state = begin(task, recipe, sampling, options.seed)
    finite = FiniteCheck(task.model, world, folder.path if folder and not options.dry_run else None)
    fresh = folder is None or not folder.checkpoint_exists()
    saved_by = resume(state, folder, options.resume, world)
    planned = recipe.optimization.epochs * sampling.steps_per_epoch
    if options.resume not in ("auto", "never") and state.step >= planned and saved_by and fresh:
        raise InputError(
            f"--resume {options.resume} is of step {state.step}, and this training has "
            f"{counted(planned, 'step')}: raise --optimization.epochs, or use that run as it is"
        )
    if saved_by and world.is_main:
        ranks = "" if saved_by == world.size else f" of a run on {counted(saved_by, 'rank')}"
        say(f"{options.name}: resuming from step {state.step}{ranks}")
    if folder:
        folder.keep_description()
    steps = Steps(task, recipe, state, sampling, world, finite)
    stop_step = options.stop_step
    last_step = steps.planned if stop_step is None else min(steps.planned, stop_step)
    if _out_of_patience(state, options):
        last_step = min(last_step, state.step)
    # An epoch that was cut short has no line yet, unless a crash came right behind it.
    logged = state.step - state.cut_short
    log = MetricsLog(folder.path, logged) if folder else None
    progress = _progress(task, recipe, options, world, sampling, state.step, last_step)
    following = None
    if folder and not options.dry_run:
        config = flatten({"seed": options.seed, **asdict(recipe)})  # type: ignore[call-overload]
        names = trackers.chosen(options.log)
        following = Trackers(names, folder.path, options.name, logged, config, progress.say)
    try:
        yield Training(
            task=task,
            recipe=recipe,
            options=options,
            world=world,
            folder=folder,
            watch=watch,
            sampling=sampling,
            last_step=last_step,
            state=state,
            steps=steps,
            finite=finite,
            log=log,
            trackers=following,
            tracked=_Means(state.sums),
            progress=progress,
            polling=Polling(world, state.step),
            speed=_Speed(recipe.optimization.batch_size, state.step),
            saved_at=time.monotonic(),
        )
    finally:
        progress.close()
        if following:
            following.close()


def _sampling(task: Task, recipe: Recipe, options: Options, world: World) -> Sampling:
    """Plan which images form which step.

    Raises:
        InputError: If the ranks found different training images, or a part would have a single
            image and the network needs two.
    """
    batch_size, num_images = recipe.optimization.batch_size, task.num_images
    if options.overfit_batches is not None:
        num_images = min(num_images, options.overfit_batches * batch_size)
    sampling = Sampling(
        num_images=num_images,
        batch_size=batch_size,
        seed=options.seed,
        rank=world.rank,
        world_size=world.size,
        accumulate=recipe.optimization.accumulate,
        drawn_from=task.num_images if num_images < task.num_images else None,
        groups=task.groups,
        balanced_over=task.balanced_over,
    )
    if sampling.left_out and world.is_main:
        say(
            f"{options.name}: {counted(sampling.left_out, 'image')} of {num_images:,} left out of "
            f"each epoch, other ones each time: too few for a last batch",
        )
    extents = gather(extent_of(task, sampling.steps_per_epoch))
    if any(extent != extents[0] for extent in extents):
        raise InputError(
            f"the processes found different training images ({extents}): give all of them the "
            "same data"
        )
    if sampling.smallest_part == 1 and not task.single_images:
        parts = world.size * recipe.optimization.accumulate
        raise InputError(
            f"{num_images} images in batches of {batch_size} over {parts} ranks and micro-batches "
            "leave parts of one image, and BatchNorm needs two: change --optimization.batch-size"
        )
    return sampling


def _progress(
    task: Task,
    recipe: Recipe,
    options: Options,
    world: World,
    sampling: Sampling,
    step: int,
    last_step: int,
) -> Progress:
    """Begin the bar, and say above it what is trained on what."""
    on_gpu = world.device.type == "cuda"
    progress = Progress(
        last_step,
        step,
        epochs=recipe.optimization.epochs,
        steps_per_epoch=sampling.steps_per_epoch,
        columns=[*task.columns, *epoch_lines.OF_EVERY_TRAINING, *([epoch_lines.MEMORY] * on_gpu)],
        show=world.is_main and not (options.quiet or options.json),
    )
    progress.say(
        f"{options.name}: {counted(task.num_images, 'image')}, "
        f"{counted(recipe.optimization.epochs, 'epoch')} of "
        f"{counted(sampling.steps_per_epoch, 'step')}, batch {recipe.optimization.batch_size}, on "
        + (f"{world.size} x " if world.size > 1 else "")
        + (torch.cuda.get_device_name(world.device) if on_gpu else str(world.device))
    )
    steps = recipe.optimization.epochs * sampling.steps_per_epoch
    if 2 * (warmup := recipe.optimization.warmup_steps) > steps:
        progress.say(
            f"warning: the learning rate rises for {warmup} steps, and this training has {steps}: "
            f"give more --optimization.epochs, or --optimization.warmup-steps {steps // 10}"
        )
    return progress


def _out_of_patience(state: TrainingState, options: Options) -> bool:
    return options.patience is not None and state.stale >= options.patience
