"""The training loop of both stages; it knows neither images nor boxes.

A task hands over its network and four functions (`Task`). What happens at step t is a function of
(recipe, seed, t) and the checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from itertools import tee
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from common.errors import InputError
from common.images.sampling import MicroBatch, Sampling
from common.method.focused_training import FocusedTraining
from common.optimization.cuda_graphs import Capture, GraphedStep, refuse
from common.optimization.optimizer import build_optimizer, eager_if, load_optimizer
from common.optimization.step import StepParts
from common.optimization.weight_average import WeightAverage
from common.processes.polling import Polling
from common.processes.ranks import (
    World,
    any_rank,
    average_statistics,
    broadcast,
    gather,
    share_buffers,
    sum_over_ranks,
)
from common.processes.signals import StopRequest, Terminated
from common.recipe import Focus, Optimization, learning_rate
from common.runs import checkpoints
from common.runs.data_parts import changes
from common.runs.folder import RunFolder
from common.runs.metrics_log import MetricsLog
from common.runs.progress import Progress
from common.training.epoch_means import EpochSums
from common.training.non_finite import FiniteCheck
from common.training.non_finite import (
    NonFiniteError as NonFiniteError,  # what callers of `train` catch
)
from common.training.task import Options as Options
from common.training.task import Task as Task  # what callers of `train` make


def train(
    task: Task,
    settings: Optimization,
    focus_settings: Focus,
    world: World,
    folder: RunFolder | None,
    options: Options,
) -> dict[str, float]:
    """Train, evaluate and save until the last epoch; go on where a checkpoint left off.

    Args:
        task: Network, data, loss and evaluation.
        settings: Optimizer and schedule.
        focus_settings: FocusedDropout and magnified weight decay; the layer stands in the network.
        world: This process among its peers.
        folder: Where files go; None on all ranks but the main one.
        options: How the run is carried out.

    Returns:
        The metrics of the last evaluation, with `best_<metric>` beside them.

    Raises:
        NonFiniteError: If the loss or the gradient norm became NaN or infinite.
        Terminated: After SIGTERM or SIGUSR1, once a checkpoint is written.
        InputError: If a checkpoint cannot be read or written.
    """
    with (
        closing(StopRequest()) as stop,
        closing(_Run(task, settings, focus_settings, world, folder, options, stop)) as run,
    ):
        return run.train()


class _Run:
    """The state of one training, as a checkpoint holds it, and the steps that change it."""

    def __init__(
        self,
        task: Task,
        settings: Optimization,
        focus_settings: Focus,
        world: World,
        folder: RunFolder | None,
        options: Options,
        stop: StopRequest,
    ) -> None:
        if settings.cuda_graphs:
            refuse(settings, world, scheduled=task.at_step is not None)
        self.task, self.settings, self.world = task, settings, world
        self.folder, self.options, self.stop = folder, options, stop
        num_images = task.num_images
        if options.overfit_batches is not None:
            num_images = min(num_images, options.overfit_batches * settings.batch_size)
        self.sampling = Sampling(
            num_images=num_images,
            batch_size=settings.batch_size,
            seed=options.seed,
            rank=world.rank,
            world_size=world.size,
            accumulate=settings.accumulate,
            drawn_from=task.num_images if num_images < task.num_images else None,
            groups=task.groups,
            balanced_over=task.balanced_over,
        )
        self.steps_per_epoch = self.sampling.steps_per_epoch
        extents = gather(self._extent())
        if any(extent != extents[0] for extent in extents):
            raise InputError(
                f"the processes found different training images ({extents}): give all of them the "
                "same data"
            )
        self.planned_steps = self.total_steps = settings.epochs * self.steps_per_epoch
        if options.stop_step is not None:
            self.total_steps = min(self.planned_steps, options.stop_step)
        self.optimizer = build_optimizer(task.model, settings)
        self.focus: FocusedTraining | None = None
        if focus_settings.enabled:
            self.focus = FocusedTraining(
                task.model,
                self.optimizer,
                focus_settings.participation_rate,
                focus_settings.weight_decay,
                options.seed,
                steps_per_epoch=self.steps_per_epoch if focus_settings.exact else None,
                decay_only=focus_settings.after is None,
                freeze_bn_stats=focus_settings.freeze_bn_stats,
            )
        self.step = 0
        self.cut_short = False  # the checkpoint is of an epoch that was not logged
        self.best = float("-inf")
        self.metrics: dict[str, float] = {}
        self.sums = EpochSums()
        decay = settings.ema_decay
        self.average = WeightAverage(task.model, decay) if decay else None
        if self.average and task.compile:
            task.compile(self.average.network())
        self.parts = StepParts(task.model, task.loss, self.optimizer, settings, world)
        self.scaling = self.parts.scaling
        self._resume()
        self.finite = FiniteCheck(task.model, world, folder.path if folder else None)
        self.graphed: GraphedStep | None = None
        if settings.cuda_graphs:
            self.graphed = GraphedStep(
                self.parts.whole, self.optimizer, self.parts.changed, Capture(world.device)
            )
        # An epoch that was cut short has no line yet, unless a crash came right behind it.
        self.log = MetricsLog(folder.path, self.step - self.cut_short) if folder else None
        self.progress = Progress(self.total_steps, self.step, options.label, show=world.is_main)
        self.saved_at = time.monotonic()
        self.polling = Polling(world, self.step)
        self._start_clock()

    def close(self) -> None:
        self.progress.close()
        if self.log:
            self.log.close()

    def train(self) -> dict[str, float]:
        # Once for both: the order of a large set takes a while to draw.
        plan, ahead = tee(self.sampling.micro_batches(self.step, self.total_steps))
        batches = self.task.load(ahead)
        self.task.model.train()
        if any_rank(self.stop.asked, self.world.device):
            raise Terminated(f"ended on request before step {self.step}")
        if self.cut_short and self._at_epoch_end():
            if self.task.at_step:
                self.task.at_step((self.step - 1) / self.planned_steps)
            self._end_epoch()
        while self.step < self.total_steps:
            self._train_step([next(plan) for _ in range(self.settings.accumulate)], batches)
            self.step += 1
            self._report()
            if self._at_epoch_end():
                self._end_epoch()
            stop, late = self.polling.ask(self.step, self.stop.asked, self._late())
            if stop:
                self._end_on_request()
            if late:
                self._save()
        return self.metrics | {f"best_{self.task.metric}": self.best}

    def _late(self) -> bool:
        return time.monotonic() - self.saved_at > self.options.checkpoint_minutes * 60

    def _at_epoch_end(self) -> bool:
        return self.step % self.steps_per_epoch == 0 or self.step == self.total_steps

    def _end_on_request(self) -> NoReturn:
        self._save()
        any_rank(False, self.world.device)  # wait: torchrun ends all once the first has ended
        raise Terminated(f"ended on request after step {self.step}")

    def _train_step(self, plan: list[MicroBatch], batches: Iterator[Any]) -> None:
        """Run one optimizer step over this rank's micro-batches."""
        self.finite.begin(self.step, plan)
        if self.task.at_step:
            self.task.at_step(self.step / self.planned_steps)
        lr = learning_rate(self.settings, self.step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images = sum(len(micro_batch.indices) for micro_batch in plan)
        full = self.sampling.is_full(self.step)
        with self.focus.step(self.step) if self.focus else nullcontext(False) as participating:
            if self.graphed:
                with eager_if(self.settings.compile and not full):
                    means = self.graphed(next(batches), participating=participating, full=full)
                self.sums.add(means, images)
                self.finite.check(self.sums, self.step)
            else:
                for micro_batch in plan:
                    # DDP takes the mean over the ranks; this makes it the mean over the images.
                    weight = micro_batch.share * self.world.size
                    last = micro_batch is plan[-1]
                    with eager_if(self.settings.compile and not full):
                        means = self.parts.backward(next(batches), weight, last=last)
                    self.sums.add(means, len(micro_batch.indices))
                self.sums.add(self.parts.clip(), images, count=False)
                self.finite.check(self.sums, self.step)
                self.parts.update()
        average_statistics(self.task.model)
        if self.scaling and self.scaling.failed:
            self.finite.stop(["the gradient of too many fp16 steps in a row"], self.step)
        if self.average:
            self.average.update()

    def _report(self) -> None:
        self.progress.step()
        if self.progress.due():
            shown = {"epoch": self.step / self.steps_per_epoch, **self.sums.means()}
            self.progress.update(self.step, shown | {"images/s": self._images_per_second()})

    def _start_clock(self) -> None:
        self.clock_step, self.clock = self.step, time.monotonic()

    def _images_per_second(self) -> float:
        images = (self.step - self.clock_step) * self.settings.batch_size
        return images / max(1e-9, time.monotonic() - self.clock)

    def _end_epoch(self) -> None:
        """Log the epoch, evaluate where it is due; save if it is a new best or the last.

        After a crash the epochs since the last save are trained, and their lines written, again.
        """
        self.finite.check(self.sums, self.step, now=True)
        epoch = -(-self.step // self.steps_per_epoch)
        speed, seconds = self._images_per_second(), time.monotonic() - self.clock
        # First: if this ends the run, the checkpoint holds the sums and counts of the epoch.
        due = epoch % self.options.evaluate_every == 0 or self.step == self.total_steps
        metrics = self._evaluate() if due else {}
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": mean for name, mean in self.sums.means_over_ranks().items()},
            "images_per_second": speed,
            "seconds": seconds,
        }
        if self.focus:
            for layer in self.focus.layers:
                sum_over_ranks(layer.totals)
            record |= {f"focus_{k}": v for k, v in self.focus.end_epoch().items() if k != "steps"}
        if self.scaling:
            record["scaler_skips"] = self.scaling.end_epoch()
        self.sums = EpochSums()
        record |= metrics
        is_best = bool(metrics) and metrics[self.task.metric] > self.best
        if metrics:
            self.metrics = metrics
            self.best = max(self.best, metrics[self.task.metric])
        if self.log:
            self.log.write(record)
        shown = {k: v for k, v in record.items() if isinstance(v, float) and k != "seconds"}
        self.progress.say(
            f"{self.options.label} epoch {epoch}/{self.settings.epochs} "
            + " ".join(f"{name} {value:.4g}" for name, value in shown.items())
        )
        if is_best and self.folder and self.log:
            self.log.flush()
            # First: last.pt says that this best is written.
            checkpoints.save(self._weights(self._evaluated()), self.folder.best)
        if is_best or self.step == self.total_steps:
            self._save()
        self._start_clock()

    def _evaluated(self) -> nn.Module:
        return self.average.network() if self.average else self.task.model

    def _evaluate(self) -> dict[str, float]:
        """Score the network; if the run is to end, save the state from before instead."""
        before = checkpoints.random_state(self.world.device)
        network = self._evaluated()
        share_buffers(network)
        metrics: dict[str, float] = {}
        with suppress(Terminated):
            metrics = self.task.evaluate(network.eval())
        self.task.model.train()
        if any_rank(self.stop.asked, self.world.device):
            checkpoints.restore_random_state(before, self.world.device)
            self._end_on_request()
        return metrics

    def _weights(self, network: nn.Module) -> dict[str, Any]:
        return {
            "model": network.state_dict(),
            "step": self.step,
            "epoch": -(-self.step // self.steps_per_epoch),
            "metrics": self.metrics,
        }

    def _extent(self) -> dict[str, Any]:
        """Return what gives a step its images; a short last batch can depend on the ranks."""
        return {
            "num_images": self.task.num_images,
            "data": dict(self.task.data),
            "steps_per_epoch": self.steps_per_epoch,
        }

    def _focus_counts(self) -> dict[str, Any] | None:
        """Return the counts of the epoch, those of the layers summed over the ranks."""
        if not self.focus:
            return None
        counts = self.focus.counts()
        totals = torch.tensor(counts["totals"], dtype=torch.int64, device=self.world.device)
        return counts | {"totals": sum_over_ranks(totals).tolist()}

    def _save(self) -> None:
        self.finite.check(self.sums, self.step, now=True)
        if self.log:
            self.log.flush()  # first: last.pt says that these lines are there
        random_states = gather(checkpoints.random_state(self.world.device))
        sums = self.sums.state()
        focus = self._focus_counts()
        if self.folder:
            state = self._weights(self.task.model) | {
                "optimizer": self.optimizer.state_dict(),
                **self._extent(),
                "best": self.best,
                "sums": sums,
                "focus": focus,
                "random": random_states,
            }
            if self.average:
                state["average"] = self.average.network().state_dict()
            if self.scaling:
                state["scaling"] = self.scaling.state()
            checkpoints.save(state, self.folder.last, keep_previous=True)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Go on from the folder's checkpoint or the one asked for; rank 0 reads, all get it."""
        state: dict[str, Any] | None = None
        if self.folder:
            if self.options.resume != "never" and self.folder.checkpoint_exists():
                state = checkpoints.load_last(self.folder.last)
            elif self.options.resume not in ("auto", "never"):
                state = checkpoints.load(Path(self.options.resume))
            if state is not None and not self.folder.best.exists():
                state["best"] = float("-inf")  # it is of another folder, its best is not here
        state = broadcast(state)
        if state is None:
            return
        if changed := changes(state.get("data", {}), self.task.data):
            images = state.get("num_images", 0), self.task.num_images
            if images[0] != images[1]:
                changed.append(f"{images[0]} images then, {images[1]} now")
            raise InputError(
                f"the checkpoint is of other data, what changed is {'; '.join(changed)}: give the "
                "data as they were, or choose another --out"
            )
        try:
            for name, value in self._extent().items():
                if name != "data" and state[name] != value:
                    raise ValueError(f"{name} was {state[name]}, is now {value}")
            self.task.model.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            if self.average:
                self.average.restore(state["average"])
            if self.scaling:
                self.scaling.restore(state["scaling"])
            self.step, self.best, self.metrics = state["step"], state["best"], state["metrics"]
            self.cut_short = state["sums"]["images"] > 0
            self.sums.restore(state["sums"], self.world.device, is_main=self.world.is_main)
            if self.focus:
                if not self.world.is_main:  # the checkpoint holds the sums over the ranks
                    state["focus"]["totals"] = [[0] * len(t) for t in state["focus"]["totals"]]
                self.focus.restore_counts(state["focus"])
            states = state["random"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                "the checkpoint does not fit this recipe, these data or this number of processes "
                f"({reason}): choose another --out, or start it as it was"
            ) from error
        if self.world.rank < len(states):  # further ranks draw from where the seed put them
            checkpoints.restore_random_state(states[self.world.rank], self.world.device)
        if self.world.is_main:
            ranks = "" if len(states) == self.world.size else f" of a run on {len(states)} ranks"
            print(f"{self.options.label}: going on from step {self.step}{ranks}", flush=True)
