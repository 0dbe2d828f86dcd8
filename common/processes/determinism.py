"""Bit-identical runs, on a GPU too."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch

from common.errors import InputError

_VARIABLES = {
    # cuBLAS sums in another order where streams share a workspace. It reads these once, before its
    # first product; inductor would time kernels that sum differently and take the fastest.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TORCHINDUCTOR_DETERMINISTIC": "1",
}
_REFUSAL = "does not have a deterministic implementation"


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Use deterministic algorithms alone, in torch, cuDNN, cuBLAS and the code of torch.compile.

    On a CPU a training is equal to the bit without. To be entered before the first work on a GPU.

    Args:
        on: False changes nothing.

    Raises:
        InputError: If an operation has no deterministic algorithm on its device.
    """
    if not on:
        yield
        return
    cudnn = torch.backends.cudnn
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if _REFUSAL not in str(error):
            raise
        what = str(error).partition(_REFUSAL)[0].strip()
        raise InputError(f"--deterministic: {what} {_REFUSAL}: leave the flag out") from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = flags
        for name, old in variables.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def seed_generators(seed: int, step: int, part: int, device: torch.device) -> None:
    """Let what a micro-batch draws be a function of (seed, step, part), on whatever process it is.

    Args:
        seed: Of the training.
        step: Optimizer step.
        part: Number of the micro-batch among those of the step, over all ranks.
        device: Beside the CPU's and Python's, its generator is set.
    """
    digest = blake2b(f"{seed} {step} {part}".encode(), digest_size=8, person=b"part").digest()
    number = int.from_bytes(digest, "big") >> 1
    random.seed(number)
    # Not torch.manual_seed, which seeds the generators of all other devices as well.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(number)
