"""What no program could go below by much: operations and bytes over the rates of the device.

The rates are measured where the times are taken: a large matrix product, a copy, and on a GPU the
smallest kernel.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.timing import calls_of_a_region, elapsed

COPIED_BYTES = 2**30
KERNELS = 1000
_NO_WORK = re.compile(r"prim\.|aten\.(_unsafe_view|(new_)?empty|_local_scalar|detach|lift_fresh)")
TIMES_THE_CACHE = 4
"""Inputs that are used in turn are so many times as large as the cache together."""


@dataclass(frozen=True)
class Rates:
    """What a device can do."""

    flops: float
    """Operations a second of a matrix product, bfloat16 on a GPU, float32 on a CPU."""
    bandwidth: float = float("inf")
    """Bytes a second of a copy, read and written."""
    cache: float = float("inf")
    """Bytes that need not go through memory; on a CPU bytes are not counted at all."""
    kernel: float = 0.0
    """Seconds of the smallest kernel in a CUDA graph, one after another."""


@lru_cache
def rates(device: torch.device) -> Rates:
    """Measure the rates of a device, once in a process."""
    cuda = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if cuda else (1536, torch.float32)
    matrices = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]
    flops = 2 * side**3 / best(lambda: matrices[0] @ matrices[1], device, 10)
    if not cuda:
        return Rates(flops)
    source = torch.randint(0, 256, (COPIED_BYTES,), dtype=torch.uint8, device=device)
    bandwidth = 2 * COPIED_BYTES / copy_seconds(source)
    matrices.clear()
    del source
    torch.cuda.empty_cache()  # processes that this one starts need the memory
    cache = float(torch.cuda.get_device_properties(device).L2_cache_size)
    kernel = best(graph_of(small_kernels(device)), device, 10) / KERNELS
    return Rates(flops, bandwidth, cache, kernel)


def small_kernels(device: torch.device) -> Callable[[], None]:
    """Return a call that adds to a few numbers, many times."""
    numbers = torch.zeros(1024, device=device)

    def add() -> None:
        for _ in range(KERNELS):
            numbers.add_(1.0)

    return add


def graph_of(call: Callable[[], None]) -> Callable[[], None]:
    """Capture a call as a CUDA graph; return its replay."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def best(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the shortest time of a call, seconds."""
    call()
    calls = calls_of_a_region(call, device)
    return min(elapsed(call, device, calls).seconds for _ in range(rounds))


def copies_beyond_cache(tensor: Tensor) -> int:
    """Tell how many tensors like this one a GPU's cache cannot hold; 1 on a CPU."""
    if tensor.device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(tensor.device).L2_cache_size
    return -(-TIMES_THE_CACHE * cache // tensor.nbytes)


def copy_seconds(tensor: Tensor) -> float:
    """Measure one read and one write of a tensor of this size, the best of several.

    On a GPU tensors take turns, so that each comes from memory.
    """
    source = tensor.detach()
    pairs = cycle(
        [(source.clone(), torch.empty_like(source)) for _ in range(copies_beyond_cache(source))]
    )

    def copy() -> None:
        origin, into = next(pairs)
        into.copy_(origin)

    return best(copy, tensor.device, 15)


class Operation(NamedTuple):
    """Floating-point operations and bytes of a call, and whether it is a convolution or product."""

    flops: int
    moved: int
    is_product: bool

    def seconds(self, rates: Rates) -> float:
        """Return the longer of the two times, that of the bytes if they miss the cache."""
        memory = self.moved / rates.bandwidth if self.moved > rates.cache else 0.0
        return max(self.flops / rates.flops, memory)


class Bounds(TypedDict, total=False):
    """Seconds that no program goes below, and what they are made of."""

    floor: tuple[float, str]
    """Convolutions and products alone, everything else fused into them."""
    one_by_one: tuple[float, str]
    """Every operation by itself, as eager PyTorch runs them; a compiler can beat it."""


class Work(TorchDispatchMode):
    """Notes every operation of its block with the bytes that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Operation] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(function._overloadpacket)
        if not count and torch.is_inference_mode_enabled():  # conv2d and its like come whole
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = function(*args, **kwargs)
        if count:
            flops = int(count(*args, **kwargs, out_val=result))
            self.seen.append(Operation(flops, _bytes(args, kwargs, result), True))
        elif not (function.is_view or _NO_WORK.match(str(function))):
            self.seen.append(Operation(0, _bytes(args, kwargs, result), False))
        return result


def _bytes(*values: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    # An expanded tensor is read as often as it has values, but from the cache.
    return sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)


def count_training(make: Callable[[], Callable[[], Tensor]], *, bf16: bool) -> Work:
    """Count forward and backward of a network without running it.

    Args:
        make: Called where tensors have no values: builds network and inputs, and returns what
            computes a number to minimise.
        bf16: Whether it is computed under autocast to bfloat16.
    """
    # The numbers are of shapes alone, so a CPU stands for any device.
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.simplefilter("ignore")
        forward = make()
        work = Work()
        with work:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = forward()
            loss.float().sum().backward()
    return work


def floors(work: Work, rates: Rates) -> Bounds:
    """Return what no program goes below, and on a GPU what none does that works op by op."""
    products = [operation for operation in work.seen if operation.is_product]
    flops = sum(operation.flops for operation in products)
    reason = f"{flops / 1e9:.3g} GFLOP at the {rates.flops / 1e9:.0f} GFLOP/s of a product"
    if rates.cache == float("inf"):
        return {"floor": (sum(each.seconds(rates) for each in products), reason)}
    copied = f"GB at the {rates.bandwidth / 1e12:.2f} TB/s of a copy"
    some, every = (sum(each.moved for each in part) / 1e9 for part in (products, work.seen))
    return {
        "floor": (
            sum(each.seconds(rates) for each in products),
            f"convolutions alone, {reason} or {some:.3g} {copied}",
        ),
        "one_by_one": (
            sum(max(each.seconds(rates), rates.kernel) for each in work.seen),
            f"its {len(work.seen)} operations one by one, {every:.3g} {copied}, "
            f"at least {rates.kernel * 1e6:.2f} us each",
        ),
    }
