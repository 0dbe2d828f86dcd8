"""What a training step of the detector is made of: operations and bytes, counted, not timed.

The step runs on tensors without values (fake tensors), so it needs neither a GPU nor its memory. A
convolution counts two operations for each multiply-add, anything else one for each value of its
largest tensor. Bytes are what each operation reads and writes by itself, as eager PyTorch runs
them: a compiler fuses the rest and moves less, those of the convolutions stay. The bound is each
operation by itself on an H100 by its data sheet: the longer of operations and bytes.

    python -m benchmarks.cost      from scripts/
"""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.floors import Rates, Work
from benchmarks.retinanet import GPU_CASES, OBJECTS, Case, make_ours, precision
from detect.data.batches import ImageBatch, Targets

CASES = (GPU_CASES["800x800"], Case("resnet50", 256, 512, 16, 1, "bf16", False, (500, 500)))
H100 = Rates(flops=989e12, bandwidth=3.35e12, cache=0.0)
"""SXM: dense bfloat16, and HBM3, by NVIDIA's data sheet."""
CONVOLUTIONS, LOSSES, OPTIMIZER = "convolutions", "matching and losses, forward", "optimizer"
REST = "all else"
PARTS = (CONVOLUTIONS, LOSSES, OPTIMIZER, REST)


@dataclass
class Sum:
    """What the operations of a part come to."""

    calls: int = 0
    flops: int = 0
    moved: int = 0
    """Bytes."""
    seconds: float = 0.0
    """Bound by the rates."""


class Parts(Work):
    """Adds up the operations of its block, part by part."""

    def __init__(self, rates: Rates = H100) -> None:
        super().__init__()
        self.rates = rates
        self.sums = {part: Sum() for part in PARTS}
        self._part = REST

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count what is no convolution to a part."""
        before, self._part = self._part, part
        try:
            yield
        finally:
            self._part = before

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        noted = len(self.seen)
        result = super().__torch_dispatch__(function, types, args, kwargs)
        for operation in self.seen[noted:]:
            if not operation.is_product:
                operation = operation._replace(flops=_values(args, kwargs, result))
            part = self.sums[CONVOLUTIONS if operation.is_product else self._part]
            part.calls += 1
            part.flops += operation.flops
            part.moved += operation.moved
            part.seconds += operation.seconds(self.rates)
        return result


def _values(*arguments: Any) -> int:
    """Return the values of the largest tensor; of a list of tensors those of all count."""
    leaves = [leaf.numel() for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    lists = [a for a in arguments[0] if isinstance(a, list) and a and isinstance(a[0], Tensor)]
    return max([*leaves, *(sum(tensor.numel() for tensor in one) for one in lists)], default=0)


def count_step(case: Case) -> dict[str, Sum]:
    """Count one training step of ours: forward, losses, backward, SGD with momentum."""
    cpu = torch.device("cpu")  # the numbers are of shapes alone, so it stands for any device
    network = make_ours(case, cpu).train()
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        warnings.simplefilter("ignore")
        for module in network.modules():
            for held in (module._parameters, module._buffers):
                there = {name: tensor for name, tensor in held.items() if tensor is not None}
                held.update({name: mode.from_tensor(tensor) for name, tensor in there.items()})
        height, width = (int(side * case.short / min(case.photo)) for side in case.photo)
        padded = (-(-side // 32) * 32 for side in (height, width))
        images = ImageBatch(
            torch.zeros(case.batch, 3, *padded, dtype=torch.uint8),
            torch.zeros(case.batch, 2, dtype=torch.int64),
        )
        targets = Targets(
            torch.zeros(case.batch, OBJECTS, 4),
            torch.zeros(case.batch, OBJECTS, dtype=torch.int64),
            torch.ones(case.batch, OBJECTS, dtype=torch.bool),
        )
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, fused=True)
        compute_loss = network.compute_loss
        for _ in range(2):  # the momentum begins in the first
            with Parts() as parts:
                network.compute_loss = parts.within(LOSSES)(compute_loss)
                with precision(case, cpu):
                    losses = network(images, targets)
                sum(losses.values()).backward()
                with parts.within(OPTIMIZER):
                    optimizer.step()
                optimizer.zero_grad()
    sums: dict[str, Sum] = parts.sums
    return sums


def table(case: Case, sums: Mapping[str, Sum]) -> str:
    """Write the parts as a Markdown table, in numbers and in shares of the step."""
    side = -(-case.short // 32) * 32
    total = Sum(*(sum(getattr(s, name) for s in sums.values()) for name in vars(Sum())))
    lines = [
        f"{case.body}, {case.channels} channels, {case.batch} of {side}x{side}, {case.precision}",
        "",
        "| part | calls | operations | bytes | bound on an H100 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, part in {**sums, "a step": total}.items():
        shares = [
            f"{value / unit:,.1f} {what} ({value / whole:.1%})"
            for value, whole, unit, what in (
                (part.flops, total.flops, 1e9, "GFLOP"),
                (part.moved, total.moved, 1e9, "GB"),
                (part.seconds, total.seconds, 1e-3, "ms"),
            )
        ]
        lines.append(f"| {name} | {part.calls} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table per case."""
    for case in CASES:
        sums = count_step(case)
        seconds = sum(part.seconds for part in sums.values())
        alone = case.batch / sums[CONVOLUTIONS].seconds
        print(f"\n{table(case, sums)}\n")
        print(f"so at most {case.batch / seconds:.0f} images/s; convolutions alone: {alone:.0f}")


if __name__ == "__main__":
    main()
