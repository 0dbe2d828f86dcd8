"""`--batch-size auto`: the largest power of two whose steps fit into the memory of the GPU."""

import contextlib
import gc
import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch

from common.command.flags import RunFlags
from common.errors import InputError
from common.processes import launcher, ranks
from common.runs.data_parts import Parts
from common.runs.folder import has_checkpoint, read_description
from common.storage import read_json
from common.text import say
from common.training.checkpointing import TrainingState
from common.training.task import Watch

_SMALLEST, _LARGEST = 2, 2**15
_SHARE = 0.9
"""Of the memory, what the steps tried may take: later ones can have larger images."""
Flags = TypeVar("Flags", bound=RunFlags[Any])
Fit = Literal["fits", "holds every image", "too large"]
"""What came of trying a batch size; "holds every image" fits too, and a larger one is the same."""


def with_fitting_batch(flags: Flags, train: Callable[[Flags, Watch], object]) -> Flags:
    """Return the flags with the batch size that fits, where it is to be found out.

    The learning rate goes with the batch: in proportion for SGD (Goyal et al., arXiv 1706.02677),
    by the root for AdamW (Malladi et al., arXiv 2205.10330). A run that is there already keeps what
    was found for it.

    Args:
        flags: Of a training.
        train: Carries out such flags, here dry runs.

    Raises:
        InputError: If there is no GPU, or there are several processes, or nothing fits.
    """
    if flags.batch_size is None:
        return flags
    flags = replace(flags, batch_size=None)
    optimization = flags.recipe.optimization
    kept = _kept(flags)
    if kept:
        size, rate = kept
    else:
        if launcher.size() > 1:
            raise InputError(
                "--batch-size auto is found by one process: find it on one GPU, then give "
                "--optimization.batch-size, times the number of GPUs"
            )
        size = largest(lambda size: _attempt(size, flags, train))
        ratio = size / optimization.batch_size
        rate = optimization.lr * (ratio if optimization.optimizer == "sgd" else math.sqrt(ratio))
    if launcher.is_main():
        say(
            f"batch size {size}, {'as this run began with' if kept else 'the largest that fits'}; "
            f"learning rate {rate:.4g} (the recipe: {optimization.batch_size}, "
            f"{optimization.lr:.4g})",
        )
    return with_batch(flags, size, rate)


def with_batch(flags: Flags, size: int, rate: float) -> Flags:
    """Return the flags with another batch size and learning rate."""
    optimization = replace(flags.recipe.optimization, batch_size=size, lr=rate)
    return replace(flags, recipe=replace(flags.recipe, optimization=optimization))


def largest(attempt: Callable[[int], Fit]) -> int:
    """Return the largest power of two that fits, from 2 on, doubling until one does not.

    Args:
        attempt: Tries a batch size.

    Raises:
        InputError: If not even 2 fits.
    """
    size = _SMALLEST
    if attempt(size) == "too large":
        raise InputError(
            f"--batch-size auto: not even a batch of {size} fits: take smaller images or a smaller "
            "network, or free the GPU"
        )
    while size < _LARGEST and attempt(2 * size) == "fits":
        size *= 2
    return size


def _kept(flags: RunFlags[Any]) -> tuple[int, float] | None:
    """Return batch size and rate of the run in the folder, if it has begun."""
    path = flags.out / "recipe.json"
    if not has_checkpoint(flags.out) or not path.is_file():
        return None
    program = read_json(path).get("stage")
    recipe = read_description(flags.out, str(program), type(flags.recipe))[2]
    return recipe.optimization.batch_size, recipe.optimization.lr


class _Largest:
    """A `Watch` that notes the images of the largest batch."""

    images = 0

    def begin(self, state: TrainingState, data: Parts) -> None:
        """Do nothing: no step is taken yet."""

    def after_step(self, state: TrainingState) -> None:
        """Note the images of the epoch so far; after its first step they are those of a batch."""
        self.images = max(self.images, state.sums.images)

    def saved(self, state: TrainingState) -> None:
        """Do nothing: no step was taken since."""


def _attempt(size: int, flags: RunFlags[Any], train: Callable[[Any, Watch], object]) -> Fit:
    """Take two steps with batches of a size, evaluate and save, as a dry run does."""
    device = ranks.choose_device(flags.device)
    if not has_own_memory(device):
        raise InputError(
            "--batch-size auto measures the memory of a GPU, and this trains on the CPU: give "
            "--optimization.batch-size"
        )
    optimization = flags.recipe.optimization
    if size < optimization.accumulate:
        return "fits"  # each part would have no image
    seen = _Largest()
    dry = replace(with_batch(flags, size, optimization.lr), dry_run=True, quiet=True, json=False)
    release(device)
    full = False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(dry, seen)
    except torch.cuda.OutOfMemoryError:
        full = True  # and the traceback, which holds the tensors, is gone behind this block
    full = full or share_used(device) > _SHARE
    release(device)
    if full:
        return "too large"
    return "holds every image" if seen.images < size else "fits"


def has_own_memory(device: torch.device) -> bool:
    """Tell whether a device has memory of its own, which a step can fill without harm."""
    return device.type == "cuda"


def release(device: torch.device) -> None:
    """Free what a step left behind, and start the peak count again."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def share_used(device: torch.device) -> float:
    """Return the peak of the memory taken, as a share of the whole."""
    whole = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_reserved(device) / whole
