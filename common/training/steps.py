"""One optimizer step of a training, with all that the recipe puts into it."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from common.images.sampling import MicroBatch, Sampling
from common.method.draws import image_keys
from common.optimization.cuda_graphs import Capture, GraphedStep, refuse
from common.optimization.parts import OrderedGradients, PartStatistics, in_order
from common.optimization.step import StepParts
from common.processes.determinism import seed_generators
from common.processes.ranks import World
from common.recipe import Recipe, learning_rate
from common.training.checkpointing import TrainingState
from common.training.network import eager_if, over_ranks
from common.training.non_finite import FiniteCheck
from common.training.task import Task


class Steps:
    """Takes the optimizer steps of a training, each of which changes its state.

    Args:
        task: For its loss.
        recipe: Optimizer, schedule and method.
        state: What is changed; `state.step` is the one that comes next.
        sampling: Which images form which step.
        world: This process among its peers.
        finite: Looks at the numbers before each update.

    Attributes:
        planned: Steps of the whole training.

    Raises:
        InputError: If CUDA graphs are asked for and would get something wrong.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        state: TrainingState,
        sampling: Sampling,
        world: World,
        finite: FiniteCheck,
    ) -> None:
        optimization = recipe.optimization
        if optimization.cuda_graphs:
            refuse(optimization, world, scheduled=task.at_step is not None)
        self._task, self._optimization, self._state = task, optimization, state
        self._sampling, self._world, self._finite = sampling, world, finite
        self.planned = optimization.epochs * sampling.steps_per_epoch
        self._parts = StepParts(
            over_ranks(task.model, world),
            task.loss,
            state.optimizer,
            optimization,
            world.device,
            state.scaling,
            state.focus.draw_from if state.focus else None,
        )
        self._gradients: OrderedGradients | None = None
        if in_order(world):
            self._gradients = OrderedGradients(list(task.model.parameters()))
        self._graphed: GraphedStep | None = None
        if optimization.cuda_graphs:
            self._graphed = GraphedStep(
                self._parts.step_for_graph,
                state.optimizer,
                self._parts.changed,
                Capture(world.device),
            )

    def take(self, plan: list[MicroBatch], batches: Iterator[Any]) -> None:
        """Take the next step over this rank's micro-batches.

        Raises:
            NonFiniteError: If the loss or the gradient norm is found NaN or infinite.
        """
        state, step = self._state, self._state.step
        self._finite.begin(step, plan)
        self.set_progress(step)
        lr = learning_rate(self._optimization, step, self._sampling.steps_per_epoch)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        with state.focus.step(step) if state.focus else nullcontext(False) as participating:
            if self._graphed:
                self._replay(plan, batches, participating=participating)
            else:
                self._step_by_step(plan, batches, participating=participating)
        if state.scaling and state.scaling.failed:
            self._finite.stop(["the gradient of too many fp16 steps in a row"], step)
        if state.average:
            state.average.update(step)
        state.step += 1

    def set_progress(self, step: int) -> None:
        """Tell the task, if it wants to know, the share of the training that precedes a step."""
        if self._task.at_step:
            self._task.at_step(step / self.planned)

    def _step_by_step(
        self, plan: list[MicroBatch], batches: Iterator[Any], *, participating: bool
    ) -> None:
        statistics = PartStatistics(self._task.model, self._world, len(plan))
        for micro_batch in plan:
            batch = next(batches)
            self._seed(micro_batch)
            if participating and self._state.focus:
                self._state.focus.draw_from(self._keys(micro_batch))
            statistics.begin_part()
            # DDP takes the mean over the ranks; this makes it the mean over the images.
            weight = micro_batch.share * (1 if self._gradients else self._world.size)
            last = micro_batch is plan[-1]
            with self._eager_if_short():
                means = self._parts.backward(batch, weight, last=last)
            statistics.end_part()
            if self._gradients:
                self._gradients.add()
            self._add(means, len(micro_batch.indices))
        statistics.finish()
        if self._gradients:
            self._gradients.finish()
        self._add(self._parts.clip(), _images(plan), count=False)
        self._finite.check(self._state.sums, self._state.step)
        self._parts.update()

    def _replay(
        self, plan: list[MicroBatch], batches: Iterator[Any], *, participating: bool
    ) -> None:
        assert self._graphed is not None
        full = self._sampling.is_full(self._state.step)
        batch = next(batches)
        if self._state.focus and isinstance(batch, tuple):
            batch = (self._keys(plan[0]), *batch)
        self._seed(plan[0])
        with self._eager_if_short():
            means = self._graphed(batch, participating=participating, full=full)
        self._add(means, _images(plan))
        self._finite.check(self._state.sums, self._state.step)

    def _seed(self, micro_batch: MicroBatch) -> None:
        """Set the generators, which dropouts other than FocusedDropout draw from."""
        seed, step = self._sampling.seed, self._state.step
        seed_generators(seed, step, micro_batch.part, self._world.device)

    def _keys(self, micro_batch: MicroBatch) -> Tensor:
        count = len(micro_batch.indices)
        keys = image_keys(self._sampling.seed, self._state.step, micro_batch.first, count)
        return keys.to(self._world.device, non_blocking=True)

    def _eager_if_short(self) -> Any:
        full = self._sampling.is_full(self._state.step)
        return eager_if(self._optimization.compile and not full)

    def _add(self, means: dict[str, Tensor], images: int, *, count: bool = True) -> None:
        self._state.sums.add(means, images, count=count)


def _images(plan: list[MicroBatch]) -> int:
    return sum(len(micro_batch.indices) for micro_batch in plan)
