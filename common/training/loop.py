"""The training loop of both stages; it knows neither images nor boxes.

A task hands over its network and its functions (`Task`). What happens at step t is a function of
(recipe, seed, t) and the checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import tee
from math import inf
from typing import Any, NoReturn

import torch

from common.command.flags import Options
from common.errors import InputError
from common.images.sampling import Sampling
from common.processes.determinism import seed_generators
from common.processes.polling import Polling
from common.processes.ranks import World, any_rank, gather, share, sum_over_ranks
from common.processes.signals import StopRequest, Terminated
from common.recipe import Recipe
from common.runs import epoch_lines, trackers
from common.runs.folder import RunFolder
from common.runs.metrics_log import MetricsLog
from common.runs.progress import Progress
from common.runs.results import flatten
from common.runs.terminal import emit
from common.runs.trackers import Trackers
from common.text import counted
from common.training.checkpointing import TrainingState, begin, extent_of, resume, save, save_best
from common.training.epoch_means import EpochSums
from common.training.non_finite import FiniteCheck
from common.training.steps import Steps
from common.training.task import Metrics, Task, Watch

_EVALUATION = -1
"""In place of the part of a step."""

_POINTS = 20
"""That trackers get within an epoch."""


def train(
    task: Task,
    recipe: Recipe,
    options: Options,
    world: World,
    folder: RunFolder | None,
    watch: Watch | None = None,
) -> Metrics:
    """Train, evaluate and save until the last epoch; resume where a checkpoint left off.

    Args:
        task: Network, data, loss and evaluation; FocusedDropout stands in the network.
        recipe: Optimizer, schedule and method.
        options: How the run is carried out.
        world: This process among its peers.
        folder: Where files go; None on all ranks but the main one.
        watch: Is shown the states.

    Returns:
        The metrics of the last evaluation, with `best_<metric>` beside them; None where undefined.

    Raises:
        NonFiniteError: If the loss or the gradient norm became NaN or infinite.
        Terminated: After SIGTERM, SIGUSR1 or Ctrl-C, once a checkpoint is written.
        InputError: If a checkpoint cannot be read or written.
    """
    with (
        closing(StopRequest()) as stop,
        _started(task, recipe, options, world, folder, watch) as run,
    ):
        state, steps = run.state, run.steps
        if watch:
            watch.begin(state, task.data)
        # Once for both: the order of a large set takes a while to draw.
        plan, ahead = tee(run.sampling.micro_batches(state.step, run.last_step))
        batches = task.load(ahead)
        task.model.train()
        if any_rank(stop.asked, world.device):
            raise Terminated(
                f"ended on request before step {state.step}", interrupted=stop.interrupted
            )
        if state.cut_short and run.at_epoch_end():
            steps.set_progress(state.step - 1)
            _end_epoch(run, stop)
        while state.step < run.last_step:
            steps.take([next(plan) for _ in range(run.sampling.accumulate)], batches)
            run.show()
            run.track()
            if watch:
                watch.after_step(state)
            if run.at_epoch_end():
                _end_epoch(run, stop)
            asked, late = run.polling.ask(state.step, stop.asked, run.late())
            if asked:
                _end_on_request(run, stop)
            if late:
                _save(run)
        if not state.metrics:  # nothing to validate on
            return {}
        best = None if state.best == -inf else state.best
        return {**state.metrics, f"best_{task.metric}": best}


@dataclass(kw_only=True)
class _Run:
    """What a training consists of, beside its state."""

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
        step = self.state.step
        return step % self.sampling.steps_per_epoch == 0 or step == self.last_step

    def late(self) -> bool:
        return time.monotonic() - self.saved_at > self.options.checkpoint_minutes * 60

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
            means = self.tracked.since(state.sums)
            rate = state.optimizer.param_groups[0]["lr"]
            self.trackers.within_epoch(state.step, {**means, "lr": rate})


class _Means:
    """Means over the images since they were asked for last, out of the sums of an epoch."""

    def __init__(self, sums: EpochSums) -> None:
        self._begin(sums)

    def _begin(self, sums: EpochSums) -> None:
        self._of, self._images, self._before = sums, sums.images, sums.means()

    def since(self, sums: EpochSums) -> dict[str, float]:
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
def _started(
    task: Task,
    recipe: Recipe,
    options: Options,
    world: World,
    folder: RunFolder | None,
    watch: Watch | None,
) -> Iterator[_Run]:
    """Put a training together as it begins, or as its checkpoint left it."""
    sampling = _sampling(task, recipe, options, world)
    state = begin(task, recipe, sampling, options.seed)
    finite = FiniteCheck(task.model, world, folder.path if folder else None)
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
        print(f"{options.name}: resuming from step {state.step}{ranks}", flush=True)
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
    on_gpu = world.device.type == "cuda"
    progress = Progress(
        last_step,
        state.step,
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
        + _device(world)
    )
    following = None
    if folder and not options.dry_run:
        config = flatten({"seed": options.seed, **asdict(recipe)})  # type: ignore[call-overload]
        names = trackers.chosen(options.log)
        following = Trackers(names, folder.path, options.name, logged, config, progress.say)
    try:
        yield _Run(
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
        print(
            f"{options.name}: {counted(sampling.left_out, 'image')} of {num_images:,} left out of "
            f"each epoch, other ones each time: too few for a last batch",
            flush=True,
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


def _end_epoch(run: _Run, stop: StopRequest) -> None:
    """Log the epoch, evaluate where it is due; save if it is a new best or the last.

    After a crash the epochs since the last save are trained, and their lines written, again.
    """
    state, speed, last = run.state, run.speed, run.state.step == run.last_step
    run.finite.check(state.sums, state.step, now=True)
    timed = {
        "images_per_second": speed.images_per_second(state.step),
        "seconds": speed.seconds(),
    }
    # First: if this ends the run, the checkpoint holds the sums and counts of the epoch.
    due = last or state.epoch % run.options.evaluate_every == 0
    metrics = _evaluate(run, stop) if due else {}
    record = {
        "epoch": state.epoch,
        "step": state.step,
        "lr": state.optimizer.param_groups[0]["lr"],
        **{f"train_{name}": mean for name, mean in state.sums.means_over_ranks().items()},
        **timed,
        **_gpu_memory(run.world),
        **_method_counts(state),
        **metrics,
    }
    state.sums = EpochSums()
    value = metrics.get(run.task.metric)
    is_best = value is not None and value > state.best
    if metrics:
        state.metrics, state.best = metrics, max(state.best, -inf if value is None else value)
        state.stale = 0 if is_best else state.stale + 1
    if run.log:
        run.log.write(record)
        emit(record)
    if run.trackers:
        run.trackers.epoch(record)
    run.progress.epoch(record, best=is_best)
    if not last and _out_of_patience(state, run.options):
        run.last_step, last = state.step, True
        run.progress.say(f"stops early: {state.stale} evaluations without a better one")
    if is_best and run.folder and run.log:
        run.log.flush()
        if run.watch:
            run.watch.saved(state)
        save_best(state, run.folder)  # first: last.pt says that this best is written
    if is_best or last:
        _save(run)
    speed.restart(state.step)


def _out_of_patience(state: TrainingState, options: Options) -> bool:
    return options.patience is not None and state.stale >= options.patience


def _device(world: World) -> str:
    on_gpu = world.device.type == "cuda"
    return torch.cuda.get_device_name(world.device) if on_gpu else str(world.device)


def _gpu_memory(world: World) -> dict[str, float]:
    """Return the most that PyTorch held of the GPU so far, which is what has to fit."""
    if world.device.type != "cuda":
        return {}
    return {"gpu_memory_gib": torch.cuda.max_memory_reserved(world.device) / 2**30}


def _method_counts(state: TrainingState) -> dict[str, Any]:
    """Return the epoch's counts of the method and of loss scaling; they begin anew."""
    counts: dict[str, Any] = {}
    if state.focus:
        for layer in state.focus.layers:
            sum_over_ranks(layer.totals)
        counts = {f"focus_{k}": v for k, v in state.focus.end_epoch().items() if k != "steps"}
    if state.scaling:
        counts["scaler_skips"] = state.scaling.end_epoch()
    return counts


def _evaluate(run: _Run, stop: StopRequest) -> Metrics:
    """Score the network; if the run is to end, save the state from before instead."""
    network = run.state.evaluated()
    # For a task whose evaluation draws: the same, were it cut here and made up for later.
    seed_generators(run.options.seed, run.state.step, _EVALUATION, run.world.device)
    share(network.buffers())
    metrics: Metrics = {}
    run.progress.waiting(run.state.step, "evaluating")
    with suppress(Terminated):
        metrics = run.task.evaluate(network.eval())
        _send_pictures(run, network)
    run.task.model.train()
    if any_rank(stop.asked, run.world.device):
        _end_on_request(run, stop)
    return metrics


def _send_pictures(run: _Run, network: torch.nn.Module) -> None:
    draw = run.task.pictures
    if run.trackers and draw:
        run.trackers.pictures(run.state.step, lambda: draw(network))


def _save(run: _Run) -> None:
    run.finite.check(run.state.sums, run.state.step, now=True)
    if run.log:
        run.log.flush()  # first: last.pt says that these lines are there
    if run.watch:
        run.watch.saved(run.state)
    save(run.state, run.folder, run.world)
    run.saved_at = time.monotonic()


def _end_on_request(run: _Run, stop: StopRequest) -> NoReturn:
    _save(run)
    # Wait: torchrun ends all once the first has ended.
    interrupted = any_rank(stop.interrupted, run.world.device)
    raise Terminated(f"ended on request after step {run.state.step}", interrupted=interrupted)
