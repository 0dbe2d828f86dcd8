"""Ending a training whose values became NaN or infinite, with the images that may be at fault."""

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import InputError
from common.images.sampling import MicroBatch
from common.processes.ranks import World, any_rank, gather
from common.storage import write_json
from common.training.epoch_means import EpochSums

POLL_STEPS = 10
"""Steps between the questions that make a GPU, or another rank, wait."""
_SHOWN = 8
"""Images that the message names; the file names all."""


class NonFiniteError(RuntimeError):
    """The loss or the gradient became NaN or infinite; nothing was saved since."""

    exit_code = 3


class FiniteCheck:
    """Looks at the sums over the epoch, which NaN and infinity never leave.

    Where looking costs nothing, on a single CPU process, it looks before each update; elsewhere
    every few steps. It keeps the images of the steps that a look has not cleared.

    Args:
        model: The network.
        world: This process among its peers.
        folder: Where non_finite.json names the images; None writes nothing.
    """

    def __init__(self, model: nn.Module, world: World, folder: Path | None) -> None:
        self._model, self._world, self._folder = model, world, folder
        self._each_step = world.device.type == "cpu" and world.size == 1
        self._steps: list[tuple[int, list[MicroBatch]]] = []
        self._cleared = -1  # steps done when the weights were found finite

    def begin(self, step: int, plan: list[MicroBatch]) -> None:
        """Note what a step is made of."""
        self._steps.append((step, plan))

    def check(self, sums: EpochSums, step: int, *, now: bool = False) -> None:
        """Look, if it is time to.

        Args:
            sums: Of the epoch.
            step: The step before whose update this is; with `now`, the number of steps done.
            now: Look in any case, and at the weights, too; not a second time after the same step.

        Raises:
            NonFiniteError: If something is NaN or infinite, on any rank.
        """
        if not (now or self._each_step or step % POLL_STEPS == 0):
            return
        if now and step == self._cleared:
            return
        bad = sums.non_finite()
        # A gradient can be NaN where the loss is not; the next loss would come after the save.
        if now and not self._weights_are_finite():
            bad.append("a weight")
        if any_rank(bool(bad), self._world.device):
            self.stop(list(dict.fromkeys(name for names in gather(bad) for name in names)), step)
        if now:
            self._cleared = step
        del self._steps[:-1]  # of the last step, the update is still to be judged

    def stop(self, bad: list[str], step: int) -> None:
        """Name the images of the steps in question; to be called on all ranks.

        Raises:
            NonFiniteError: Always.
        """
        if self._each_step and self._weights_are_finite():
            del self._steps[:-1]  # the updates before were sound
        steps = self._images()
        first, last = (steps[0]["step"], steps[-1]["step"]) if steps else (step, step)
        listed = False
        if self._folder:
            path = self._folder / "non_finite.json"
            record = {"step": step, "non_finite": bad, "steps": steps}
            with contextlib.suppress(InputError):  # a full disk is not the news
                write_json(path, record)
                listed = True
        where = ", listed in non_finite.json" if any(gather(listed)) else ""
        images = [index for one in steps for part in one["images"] for index in part]
        more = f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
        since = "" if step == first else f", or up to {step - first} before"
        raise NonFiniteError(
            f"{' and '.join(bad)} became non-finite at step {step}{since}: lower the learning rate "
            f"or look at the data (training images {', '.join(map(str, images[:_SHOWN]))}{more} of "
            f"step{f's {first} to' if first < last else ''} {last}{where}); "
            "nothing was saved since"
        )

    def _weights_are_finite(self) -> bool:
        """Look at all weights in a few kernels, and wait for the device once."""
        weights = [weight.detach() for weight in self._model.parameters()]
        # The largest magnitude cannot overflow, as the sum of squares could.
        return bool(torch.isfinite(nn.utils.get_total_norm(weights, math.inf)))

    def _images(self) -> list[dict[str, Any]]:
        """Return the micro-batches of all ranks, step by step."""
        mine = [
            {
                "step": step,
                "epoch": plan[0].epoch,
                "images": [micro_batch.indices.tolist() for micro_batch in plan],
            }
            for step, plan in self._steps
        ]
        by_rank = gather(mine)
        return [
            {**parts[0], "images": [images for part in parts for images in part["images"]]}
            for parts in zip(*by_rank, strict=True)
        ]
