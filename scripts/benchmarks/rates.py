"""What the device can do: a copy, a matrix product, and how fast the host launches kernels.

All floors are made of the first two. A step of many small kernels can take no less than the
launches of all of them, unless a CUDA graph repeats them.
"""

from collections.abc import Iterator

import torch

from benchmarks.floors import (
    COPIED_BYTES,
    KERNELS,
    copy_seconds,
    graph_of,
    rates,
    small_kernels,
)
from benchmarks.measure import Comparison, Settings
from benchmarks.timing import take_turns


def run(settings: Settings) -> Iterator[Comparison]:
    """Measure the rates, then many small additions, launched and replayed."""
    device = settings.device
    size = 2**20 if settings.tiny or device.type == "cpu" else COPIED_BYTES
    seconds = copy_seconds(torch.randint(0, 256, (size,), dtype=torch.uint8, device=device))
    yield Comparison(
        case=f"a copy of {size / 2**20:.0f} MiB: {2 * size / seconds / 1e12:.3f} TB/s, both ways",
        seconds={"copy_": [seconds]},
    )
    flops = rates(device).flops
    precision = "bf16" if device.type == "cuda" else "fp32"
    yield Comparison(
        case=f"a product of matrices, {precision}: {flops / 1e12:.3g} TFLOP/s",
        seconds={"1 TFLOP": [1e12 / flops]},
    )
    launched = small_kernels(device)
    sides = {"launched by the host": launched}
    if device.type == "cuda":
        sides["replayed by a CUDA graph"] = graph_of(launched)
    rounds, per = 2 if settings.tiny else 9, dict.fromkeys(sides, KERNELS)
    yield Comparison(
        case="adding to 1024 numbers, one of many times",
        **vars(take_turns(sides, rounds, device, per=per)),
    )
