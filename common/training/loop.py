"""The training loop of both stages; it knows neither images nor boxes.

A task hands over its network and its functions (`Task`). What happens at step t is a function of
(recipe, seed, t) and the checkpoint.
"""

import time
from contextlib import closing, suppress
from itertools import tee
from math import inf
from typing import Any, NoReturn

import torch

from common.command.flags import Options
from common.processes.determinism import seed_generators
from common.processes.ranks import World, any_rank, share, sum_over_ranks
from common.processes.signals import StopRequest, Terminated
from common.recipe import Recipe
from common.runs.folder import RunFolder
from common.runs.terminal import emit
from common.training.assembly import Training, assembled
from common.training.checkpointing import TrainingState, save, save_best
from common.training.epoch_means import EpochSums
from common.training.task import Metrics, Task, Watch

_EVALUATION = -1
"""In place of the part of a step."""


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
        watch: Observes the states.

    Returns:
        The metrics of the last evaluation, with `best_<metric>` beside them; None where undefined.

    Raises:
        NonFiniteError: If the loss or the gradient norm became NaN or infinite.
        Terminated: After SIGTERM, SIGUSR1 or Ctrl-C, once a checkpoint is written.
        InputError: If a checkpoint cannot be read or written.
    """
    with (
        closing(StopRequest()) as stop,
        assembled(task, recipe, options, world, folder, watch) as training,
    ):
        state, steps = training.state, training.steps
        if watch:
            watch.begin(state, task.data)
        # Once for both: the order of a large set takes a while to draw.
        plan, ahead = tee(training.sampling.micro_batches(state.step, training.last_step))
        batches = task.load(ahead)
        task.model.train()
        if any_rank(stop.asked, world.device):
            raise Terminated(
                f"ended on request before step {state.step}", interrupted=stop.interrupted
            )
        if state.cut_short and training.at_epoch_end():
            steps.set_progress(state.step - 1)
            _end_epoch(training, stop)
        while state.step < training.last_step:
            steps.take([next(plan) for _ in range(training.sampling.accumulate)], batches)
            training.show()
            training.track()
            if watch:
                watch.after_step(state)
            if training.at_epoch_end():
                _end_epoch(training, stop)
            asked, due = training.polling.ask(state.step, stop.asked, training.checkpoint_is_due())
            if asked:
                _end_on_request(training, stop)
            if due:
                _save(training)
        if not state.metrics:  # nothing to validate on
            return {}
        best = None if state.best == -inf else state.best
        return {**state.metrics, f"best_{task.metric}": best}


def _end_epoch(training: Training, stop: StopRequest) -> None:
    """Log the epoch, evaluate where it is due; save if it is a new best or the last.

    After a crash the epochs since the last save are trained, and their lines written, again.
    """
    state, speed, last = training.state, training.speed, training.state.step == training.last_step
    training.finite.check(state.sums, state.step, now=True)
    timed = {
        "images_per_second": speed.images_per_second(state.step),
        "seconds": speed.seconds(),
    }
    # First: if this ends the run, the checkpoint holds the sums and counts of the epoch.
    due = last or state.epoch % training.options.evaluate_every == 0
    metrics = _evaluate(training, stop) if due else {}
    record = {
        "epoch": state.epoch,
        "step": state.step,
        "lr": state.optimizer.param_groups[0]["lr"],
        **{f"train_{name}": mean for name, mean in state.sums.means_over_ranks().items()},
        **timed,
        **_gpu_memory(training.world),
        **_method_counts(state),
        **metrics,
    }
    state.sums = EpochSums()
    value = metrics.get(training.task.metric)
    is_best = value is not None and value > state.best
    if metrics:
        state.metrics, state.best = metrics, max(state.best, -inf if value is None else value)
        state.stale = 0 if is_best else state.stale + 1
    if training.log:
        training.log.write(record)
        emit(record)
    if training.trackers:
        training.trackers.epoch(record)
    training.progress.epoch(record, best=is_best)
    if not last and training.out_of_patience():
        training.last_step, last = state.step, True
        training.progress.say(f"stops early: {state.stale} evaluations without a better one")
    if is_best and training.folder and training.log:
        training.log.flush()
        if training.watch:
            training.watch.saved(state)
        save_best(state, training.folder)  # first: last.pt says that this best is written
    if is_best or last:
        _save(training)
    speed.restart(state.step)


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


def _evaluate(training: Training, stop: StopRequest) -> Metrics:
    """Score the network; if the run is asked to end meanwhile, save and end it instead."""
    network = training.state.evaluated()
    # For a task whose evaluation draws: the same, were it cut here and made up for later.
    seed_generators(training.options.seed, training.state.step, _EVALUATION, training.world.device)
    share(network.buffers())
    metrics: Metrics = {}
    training.progress.waiting(training.state.step, "evaluating")
    with suppress(Terminated):
        metrics = training.task.evaluate(network.eval())
        _send_pictures(training, network)
    training.task.model.train()
    if any_rank(stop.asked, training.world.device):
        _end_on_request(training, stop)
    return metrics


def _send_pictures(training: Training, network: torch.nn.Module) -> None:
    draw = training.task.pictures
    if training.trackers and draw:
        training.trackers.pictures(training.state.step, lambda: draw(network))


def _save(training: Training) -> None:
    training.finite.check(training.state.sums, training.state.step, now=True)
    if training.log:
        training.log.flush()  # first: last.pt says that these lines are there
    if training.watch:
        training.watch.saved(training.state)
    save(training.state, training.folder, training.world)
    training.saved_at = time.monotonic()


def _end_on_request(training: Training, stop: StopRequest) -> NoReturn:
    _save(training)
    # Wait: torchrun ends all once the first has ended.
    interrupted = any_rank(stop.interrupted, training.world.device)
    raise Terminated(f"ended on request after step {training.state.step}", interrupted=interrupted)
