"""Which optimizer steps take part: a pure function of (seed, step).

Paper: arXiv 2103.15425, section 4: a random 10% of the batches; section 2: "of the batches [...]
during every training epoch", which may mean exactly so many of each.
"""

from functools import lru_cache
from hashlib import blake2b

from .arguments import whole_number


def _uniform(seed: int, step: int) -> float:
    """Hash (seed, step) to [0, 1)."""
    digest = blake2b(f"{seed} {step}".encode(), digest_size=8, person=b"participates").digest()
    # 53 bits, the precision of a float: all 64 could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@lru_cache
def _exact_steps(rate: float, seed: int, epoch: int, steps_per_epoch: int) -> frozenset[int]:
    first = epoch * steps_per_epoch
    steps = range(first, first + steps_per_epoch)
    return frozenset(
        sorted(steps, key=lambda step: (_uniform(seed, step), step))[: round(rate * len(steps))]
    )


def participates(rate: float, seed: int, step: int, steps_per_epoch: int | None = None) -> bool:
    """Decide whether a step uses FocusedDropout.

    By default each step is drawn by itself, with probability `rate`. With `steps_per_epoch` = N
    exactly round(rate * N) of the N steps of each epoch take part.

    Args:
        rate: Participation rate, in [0, 1].
        seed: Any integer.
        step: Optimizer step, counted from 0 over the whole training.
        steps_per_epoch: Optimizer steps of an epoch, for an exact number of them.

    Raises:
        TypeError: If `step` is no whole number.
        ValueError: If it is negative.
    """
    step = whole_number("step", step)
    if step < 0:
        raise ValueError(f"steps count from 0; there is no step {step}")
    if steps_per_epoch is None:
        return _uniform(seed, step) < rate
    return step in _exact_steps(rate, seed, step // steps_per_epoch, steps_per_epoch)
