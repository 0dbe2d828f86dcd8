"""Draws that are a function of (seed, step, image), whatever process the image is on.

An image has a key of 32 bits, a hash of (seed, step, its position in the batch of the step). Every
draw is made from keys by integer arithmetic on their device, so it is the same on a CPU and on a
GPU, eager and compiled, and no generator's state is part of it.
"""

from hashlib import blake2b
from struct import unpack

import torch
from torch import Tensor

_IN_A_DIGEST = 16
_MASK = 2**32 - 1


def image_keys(seed: int, step: int, first: int, count: int) -> Tensor:
    """Return the keys of some images of a step.

    Args:
        seed: Any integer.
        step: Optimizer step, counted from 0.
        first: Position of the first of them in the batch of the step, over all processes.
        count: How many.

    Returns:
        Whole numbers in [0, 2**32), int64, shape (count,), on the CPU.
    """
    blocks = range(first // _IN_A_DIGEST, -(-(first + count) // _IN_A_DIGEST))
    content = b"".join(
        blake2b(f"{seed} {step} {block}".encode(), person=b"images").digest() for block in blocks
    )
    numbers = unpack(f"<{len(content) // 4}I", content)
    skipped = first % _IN_A_DIGEST
    return torch.tensor(numbers[skipped : skipped + count], dtype=torch.int64)


def derived(keys: Tensor, number: int) -> Tensor:
    """Return other keys, those of a layer or of a purpose, made from an image's."""
    return _mixed((keys + number * 0x9E3779B9) & _MASK)


def uniform(keys: Tensor, count: int | None = None) -> Tensor:
    """Return draws from the uniform distribution on [0, 1).

    Args:
        keys: As `image_keys`, shape (N,).
        count: Draws for each image; None: one.

    Returns:
        Multiples of 2**-24, float32, shape (N, count), or (N,) for one.
    """
    if count is not None:
        places = _mixed(torch.arange(count, device=keys.device))
        keys = (keys[:, None] + places) & _MASK
    return (_mixed(keys) >> 8).float() * 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    """Hash whole numbers in [0, 2**32) to others, one to one.

    Two rounds of xor, shift and multiply with constants of C. Wellons' hash-prospector; they are
    below 2**31, so no product overflows int64.
    """
    for factor, shift in ((0x21F0AAAD, 16), (0x735A2D97, 15)):
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> 15)
