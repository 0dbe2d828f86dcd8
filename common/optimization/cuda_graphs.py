"""A training step as CUDA graphs: one launch instead of one for each of its kernels.

A graph repeats the kernels of its capture with the same addresses and the same Python values. So
there is a graph for each kind of step (with the method and without: the weight decay and the
layers' switch are Python values), batches are copied to fixed buffers, and the learning rate is a
tensor. Random numbers continue as in a step without graphs: CUDA's default generator, which
dropouts draw from, advances with every replay.

The warm-up before a capture leaves no trace, so a resumed run takes the same steps as one that was
never interrupted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from common.errors import InputError
from common.processes.ranks import World
from common.recipe import Optimization
from common.runs import checkpoints

Means = dict[str, Tensor]
WARM_UP_STEPS = 3
"""Steps of each kind before its capture, which are undone: they load kernels and make the
optimizer's state."""


def refuse(optimization: Optimization, world: World, *, scheduled: bool) -> None:
    """Refuse what a captured step would get wrong.

    Args:
        optimization: With `cuda_graphs` on.
        world: This process.
        scheduled: Whether a Python value changes from step to step.

    Raises:
        InputError: If there is no GPU, more than one process or micro-batch, or such a value.
    """
    reasons = {
        "needs a GPU": world.device.type != "cuda",
        "is for a single process": world.size > 1,
        "needs --optimization.accumulate 1": optimization.accumulate > 1,
        "cannot skip a step, as --optimization.precision fp16 must": optimization.precision
        == "fp16",
        "cannot follow a dropout whose rate changes from step to step": scheduled,
    }
    for reason, applies in reasons.items():
        if applies:
            raise InputError(f"--optimization.cuda-graphs {reason}: leave it out")


class Capture:
    """A side stream, and the memory that all graphs captured on it share."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        # Shared, since no graph reads what another one left; only the means outlive a replay, and
        # they are read before the next one.
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        """Run the block's kernels beside the current stream, which waits for them."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            yield
        main.wait_stream(self._stream)

    def capture(self, step: Callable[[], Means]) -> tuple[Callable[[], None], Means]:
        """Record a step without running it.

        Returns:
            The replay, and the tensors that it writes.
        """
        graph = torch.cuda.CUDAGraph()
        # Not the default mode, which fails if a loader's thread pins memory meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            means = step()
        return graph.replay, means


class GraphedStep:
    """Runs each step as a replay of its kind's graph, the first one included.

    Args:
        step: A whole training step on a batch: forward, backward, update. It must leave all
            gradients None, as it must find them, so that a graph makes its own; and return
            detached means, since a living autograd graph would tie the next one to its stream.
        optimizer: With fused kernels; its rate is read from the first group at each call.
        changed: Returns the tensors that a step changes, those of the optimizer left out.
        capture: Makes the graphs.
    """

    def __init__(
        self,
        step: Callable[[Any], Means],
        optimizer: Optimizer,
        changed: Callable[[], list[Tensor]],
        capture: Capture,
    ) -> None:
        self._step, self._optimizer, self._capture = step, optimizer, capture
        self._changed = changed
        self._device = optimizer.param_groups[0]["params"][0].device
        self._lr = torch.zeros((), device=self._device)  # float32, as the fused kernels read it
        self._buffers: tuple[Tensor, ...] = ()
        self._graphs: dict[bool, tuple[Callable[[], None], Means]] = {}

    def __call__(self, batch: Any, *, participating: bool, full: bool) -> Means:
        """Run one step.

        Args:
            batch: Tensors on the device.
            participating: Which kind of step this is.
            full: Whether the batch has the size of all others; the short one of an epoch's end
                never becomes a graph.

        Returns:
            The step's means; the next call overwrites them.

        Raises:
            InputError: If the batch is anything but a tuple of tensors.
        """
        if not (isinstance(batch, tuple) and all(isinstance(part, Tensor) for part in batch)):
            raise InputError(
                "--optimization.cuda-graphs needs batches of one shape, which this run does not "
                "have: leave it out"
            )
        self._lr.fill_(self._optimizer.param_groups[0]["lr"])
        if not full:
            return self._eagerly(batch)
        if not self._buffers:
            self._buffers = tuple(torch.empty_like(part) for part in batch)
        for buffer, part in zip(self._buffers, batch, strict=True):
            buffer.copy_(part)
        if participating not in self._graphs:
            with self._restoring():
                for _ in range(WARM_UP_STEPS):
                    self._eagerly(self._buffers)
                with self._rate_from_device(capturing=True):
                    self._graphs[participating] = self._capture.capture(
                        lambda: self._step(self._buffers)
                    )
        replay, means = self._graphs[participating]
        replay()
        return means

    def _eagerly(self, batch: Any) -> Means:
        with self._capture.side_stream(), self._rate_from_device(capturing=False):
            return self._step(batch)

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """Put everything that the block's steps change back, in place: graphs keep addresses."""
        generators = checkpoints.random_state(self._device)
        values = [tensor.detach().clone() for tensor in self._changed()]
        states = {name: tensor.clone() for name, tensor in self._optimizer_state()}
        yield
        with torch.no_grad():
            for tensor, value in zip(self._changed(), values, strict=True):
                tensor.copy_(value)
            # What was not there before begins at zero: momenta, Adam's moments and its steps.
            for name, tensor in self._optimizer_state():
                tensor.copy_(states[name]) if name in states else tensor.zero_()
        checkpoints.restore_random_state(generators, self._device)

    def _optimizer_state(self) -> Iterator[tuple[tuple[int, str], Tensor]]:
        for parameter, state in self._optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield (id(parameter), name), value

    @contextmanager
    def _rate_from_device(self, *, capturing: bool) -> Iterator[None]:
        """Let the optimizer read the rate's tensor; outside, and in checkpoints, it is a float.

        Eager steps read it, too: a short batch's rate is rounded as that of all others.
        """
        groups = self._optimizer.param_groups
        before = [dict(group) for group in groups]
        for group in groups:
            group["lr"] = self._lr
            if "capturable" in group:  # Adam asks for it, and warns of it, in and out of a capture
                group["capturable"] = capturing
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)
