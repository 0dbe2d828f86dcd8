"""FocusedDropout against a copy and the dropouts of others, forward and backward, one layer.

At the outputs of the four stages of a ResNet-50. Ours marks a whole image by its channel means, so
it reads the input once more than a copy does. Blocks and channels are dropped at a rate of 0.1.
On a CPU memory is kept as in a training: else the page faults of a copy hide whatever else is done.
On a GPU maps are bfloat16, and inputs take turns, so that the cache does not serve one that was
just read.
"""

from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from timm.layers import DropBlock2d
from torch import Tensor, nn
from torchvision.ops import drop_block2d

from benchmarks.floors import copies_beyond_cache, copy_seconds
from benchmarks.measure import Comparison, Settings
from benchmarks.timing import take_turns
from common import FocusedDropout
from common.processes import memory

STAGES = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OURS, COPY, BLOCKS = "FocusedDropout", "x * 1.0", "torchvision drop_block2d"
RATE = 0.1
Side = Callable[[Tensor], Tensor]


def switched_on() -> FocusedDropout:
    """Return the layer as it is in a participating step."""
    layer = FocusedDropout().train()
    layer.active = True
    return layer


def sides() -> dict[str, Side]:
    """Return what is compared, ours first, all of them on."""
    return {
        OURS: switched_on(),
        COPY: lambda x: x * 1.0,
        BLOCKS: lambda x: drop_block2d(x, RATE, block_size=7),
        "timm DropBlock2d": DropBlock2d(RATE, block_size=7).train(),
        "Dropout2d": nn.Dropout2d(RATE).train(),
    }


def compiled_sides(backend: str) -> dict[str, Side]:
    """Return ours compiled, and a copy beside it."""
    made = torch.compile(switched_on(), dynamic=False, backend=backend)
    return {f"{OURS}, compiled": made, COPY: lambda x: x * 1.0}


def forward_backward(side: Side, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the output, once the gradient is in `x.grad`."""
    x.grad = None
    y = side(x)
    y.backward(gradient)
    return y


def inputs(
    shape: tuple[int, ...], memory_format: torch.memory_format, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Draw maps as after a ReLU, and their gradients; several on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def draw() -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype).to(memory_format=memory_format)

    count = copies_beyond_cache(draw())
    return [(draw().relu_().requires_grad_(), draw()) for _ in range(count)]


def run(settings: Settings) -> Iterator[Comparison]:
    """Time each stage in both memory formats."""
    cuda = settings.device.type == "cuda"
    batch, rounds = (256, 15) if cuda else (16, 9)
    if settings.tiny:
        batch, rounds = 2, 2
    if not cuda:
        memory.keep_freed_memory()
    shapes = [(batch, *stage) for stage in (STAGES[2:] if settings.tiny else STAGES)]
    if cuda:
        shapes.append((128, 32, 16, 16))  # where the layer stands in a ResNet-20
    for shape in shapes:
        for layout, memory_format in LAYOUTS.items():
            maps = inputs(shape, memory_format, settings.device)
            chosen = sides()
            if settings.compiled:
                chosen = compiled_sides("eager" if settings.tiny else "inductor")
            turns = take_turns(
                {name: rotating(side, maps) for name, side in chosen.items()},
                rounds,
                settings.device,
                settle=True,
            )
            case = f"{'x'.join(map(str, shape))} {layout}" + ", bf16" * cuda
            yield Comparison(
                case=case,
                **vars(turns),
                faster={} if settings.compiled else {COPY: 1 / 1.15, BLOCKS: 3.0},
                floor=(2 * copy_seconds(maps[0][0]), "two reads, two writes at the speed of copy_"),
                images=shape[0],
            )


def rotating(side: Side, maps: list[tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
    """Return a call that takes the next input each time."""
    following = cycle(maps)
    return lambda: forward_backward(side, *next(following))
