"""What the device can do: a copy, a matrix product, and how fast the host launches kernels.

All floors are made of the first two. A step of many small kernels can take no less than the
launches of all of them, unless a CUDA graph repeats them.
"""

from collections.abc import Iterator

import torch

from benchmarks.floors import COPIED_BYTES, copy_seconds, rates
from benchmarks.measure import Comparison, Settings
from benchmarks.timing import take_turns

SMALL = 1024
LAUNCHES = 1000


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
    numbers = torch.zeros(SMALL, device=device)

    def add() -> None:
        for _ in range(LAUNCHES):
            numbers.add_(1.0)

    sides = {"launched by the host": add}
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            add()
        sides["replayed by a CUDA graph"] = graph.replay
    turns = take_turns(sides, 2 if settings.tiny else 9, device, per=dict.fromkeys(sides, LAUNCHES))
    yield Comparison(case=f"an addition of {SMALL} numbers", **vars(turns))
