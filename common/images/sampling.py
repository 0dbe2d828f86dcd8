"""Which images form which micro-batch of which optimizer step.

Everything is a function of (seed, epoch, step), so a resumed run finds its place by arithmetic and
reads no image twice, and ranks agree without talking.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one rank sends through the network at once."""

    epoch: int
    indices: NDArray[np.int64]
    """Images, as positions in the data set."""
    share: float
    """Part of the optimizer step's images that these are: the weight of their mean loss."""
    part: int = 0
    """Number of the micro-batch among those of the step, over all ranks."""
    first: int = 0
    """Position of its first image in the step's batch, over all ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Shuffled batches over all ranks, the short last one of an epoch included.

    A step's batch is cut into `world_size * accumulate` nearly equal parts; rank r takes the
    parts r, r + world_size and so on. One process that accumulates and several ranks that do not
    thus see the same parts, and whatever comes next on all ranks stands in the order of the parts.
    A last batch with fewer images than parts is left out: a rank would have nothing to do. So is
    one of a single image: BatchNorm may have no variance over it. Every epoch leaves out other
    images.

    With groups (landscape and portrait images, say) a full batch holds images of one group, as far
    as they go: what is left over of the groups forms the other batches, a short one the last.

    Args:
        num_images: Images of an epoch.
        batch_size: Images per optimizer step.
        seed: Seed of the shuffle.
        rank: This process.
        world_size: Number of processes.
        accumulate: Micro-batches per step and rank.
        drawn_from: Images in the data set, if an epoch uses only a part: a random one, the same in
            every epoch.
        groups: Group of each image of the data set, if batches are to be of one group.
        balanced_over: Class of each image of the data set, if an epoch is to hold as many images of
            each class, to one: those of a rare class several times, of a frequent one only a part.
    """

    num_images: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    drawn_from: int | None = None
    groups: Sequence[int] | None = None
    balanced_over: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < self._parts:
            raise InputError(
                f"batch size {self.batch_size} cannot be cut into {self._parts} parts "
                f"({self.world_size} ranks x {self.accumulate} micro-batches): raise it"
            )
        if self.steps_per_epoch == 0:
            raise InputError(
                f"{self.num_images} training images are too few for "
                f"{self._parts} ranks and micro-batches: start fewer, or take a smaller batch"
            )

    @property
    def _parts(self) -> int:
        return self.world_size * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        full, rest = divmod(self.num_images, self.batch_size)
        # The same for one part and for two: a run may continue on more processes.
        fewest = max(self._parts, 2) if full else self._parts
        return full + (rest >= fewest)

    @property
    def smallest_part(self) -> int:
        """The fewest images that go through the network at once."""
        rest = self.num_images - (self.steps_per_epoch - 1) * self.batch_size
        return min(rest, self.batch_size) // self._parts

    @property
    def left_out(self) -> int:
        """Images that an epoch leaves out, other ones each time."""
        return max(0, self.num_images - self.steps_per_epoch * self.batch_size)

    def is_full(self, step: int) -> bool:
        """Tell whether a step's batch has `batch_size` images; an epoch's last can have fewer."""
        return (step % self.steps_per_epoch + 1) * self.batch_size <= self.num_images

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the images of an epoch: a permutation of all, unless they are balanced."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.num_images)
        if self.balanced_over is not None and self.drawn_from is None:
            order = _balanced(np.asarray(self.balanced_over), rng)
        if self.drawn_from is not None:
            order = np.random.default_rng(self.seed).permutation(self.drawn_from)[order]
        if self.groups is None:
            return order
        return _in_groups(order, np.asarray(self.groups)[order], self.batch_size, rng)

    def micro_batches(self, start_step: int, stop_step: int) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches of the optimizer steps [start_step, stop_step)."""
        order_epoch, order = None, np.empty(0, dtype=np.int64)
        for step in range(start_step, stop_step):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order_epoch, order = epoch, self.order(epoch)
            start = step_in_epoch * self.batch_size
            batch = order[start : start + self.batch_size]
            parts = np.array_split(batch, self._parts)
            firsts = np.cumsum([0, *map(len, parts)]).tolist()
            for number in range(self.rank, self._parts, self.world_size):
                part = parts[number]
                yield MicroBatch(epoch, part, len(part) / len(batch), number, firsts[number])


def _balanced(classes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many images as the set has, equally many of each class, in random order.

    No image of a class comes once more before all others of it came as often.
    """
    present = rng.permutation(np.unique(classes))  # the first have one more, if it does not divide
    quotas = np.full(len(present), len(classes) // len(present))
    quotas[: len(classes) % len(present)] += 1
    drawn = []
    for one, quota in zip(present.tolist(), quotas.tolist(), strict=True):
        members = np.flatnonzero(classes == one)
        rounds = -(-quota // len(members))
        drawn.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:quota])
    return rng.permutation(np.concatenate(drawn))


def _in_groups(
    order: NDArray[np.int64],
    groups: NDArray[np.int64],
    batch_size: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rearrange a permutation so that its full batches are of one group each, where they can be.

    Args:
        order: Images.
        groups: Group of each of them.
        batch_size: Images of a full batch.
        rng: Shuffles the full batches; only the last batch may be short.
    """
    left_over = np.ones(len(order), np.bool_)
    batches = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        full = members[: len(members) // batch_size * batch_size]
        left_over[full] = False
        batches.append(full.reshape(-1, batch_size))
    rest = np.flatnonzero(left_over)
    full = rest[: len(rest) // batch_size * batch_size]
    shuffled = rng.permutation(np.concatenate([*batches, full.reshape(-1, batch_size)]))
    rearranged: NDArray[np.int64] = order[np.concatenate([shuffled.ravel(), rest[len(full) :]])]
    return rearranged
