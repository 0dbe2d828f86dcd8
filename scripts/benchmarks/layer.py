"""FocusedDropout against a copy and the dropouts of others, forward and backward, one layer.

At the outputs of the four stages of a ResNet-50. Ours marks a whole image by its channel means, so
it reads the input once more than a copy does. Blocks and channels are dropped at a rate of 0.1.
Memory is kept as in a training: else the page faults of a copy hide whatever else is done.
"""

from collections.abc import Callable
from functools import partial

import torch
from timm.layers import DropBlock2d
from torch import Tensor, nn
from torchvision.ops import drop_block2d

from benchmarks.measure import Comparison, Settings, copy_seconds, in_turn
from common import FocusedDropout, allocator

STAGES = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
COPY, BLOCKS = "x * 1.0", "torchvision drop_block2d"
RATE = 0.1
Side = Callable[[Tensor], Tensor]


def sides() -> dict[str, Side]:
    """Return what is compared, ours first, all of them on."""
    focused = FocusedDropout().train()
    focused.active = True
    return {
        "FocusedDropout": focused,
        COPY: lambda x: x * 1.0,
        BLOCKS: lambda x: drop_block2d(x, RATE, block_size=7),
        "timm DropBlock2d": DropBlock2d(RATE, block_size=7).train(),
        "Dropout2d": nn.Dropout2d(RATE).train(),
    }


def forward_backward(side: Side, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the output, once the gradient is in `x.grad`."""
    x.grad = None
    y = side(x)
    y.backward(gradient)
    return y


def run(settings: Settings) -> list[Comparison]:
    """Time each stage in both memory formats."""
    batch, rounds = (32, 30) if settings.device.type == "cuda" else (16, 9)
    if settings.tiny:
        batch, rounds = 2, 2
    if settings.device.type == "cpu":
        allocator.keep_freed_memory()
    comparisons = []
    for stage in STAGES[2:] if settings.tiny else STAGES:
        for layout, memory_format in LAYOUTS.items():
            x, gradient = (
                torch.randn(batch, *stage, device=settings.device).to(memory_format=memory_format)
                for _ in range(2)
            )
            x = x.relu_().requires_grad_()
            calls = {
                name: partial(forward_backward, side, x, gradient) for name, side in sides().items()
            }
            comparisons.append(
                Comparison(
                    case=f"{batch}x{'x'.join(map(str, stage))} {layout}",
                    seconds=in_turn(calls, rounds, settings.device, settle=True),
                    faster={COPY: 1 / 1.15, BLOCKS: 3.0},
                    floor=(2 * copy_seconds(x), "two reads, two writes at the speed of copy_"),
                )
            )
    return comparisons
