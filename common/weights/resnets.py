"""The ResNets of torchvision and timm by their keys and shapes.

A network is recognised by its keys and shapes alone, so weights of unknown origin can be named and
no model is built for it. Keys: torchvision/models/resnet.py, timm/models/resnet.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResNet:
    """What distinguishes one ResNet from another."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    """Of the 3x3 convolutions."""
    width: int = 64
    """Channels of each group in the first stage's bottlenecks."""
    deep: bool = False
    """Three 3x3 convolutions as stem and pooled shortcuts ("ResNet-D", timm's names end in d)."""

    @property
    def depth(self) -> int:
        """Layers with weights, shortcuts not counted."""
        return (3 if self.bottleneck else 2) * sum(self.blocks) + 2


TORCHVISION: dict[str, ResNet] = {
    "resnet18": ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNet((3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNet((3, 4, 6, 3)),
    "resnet101": ResNet((3, 4, 23, 3)),
    "resnet152": ResNet((3, 8, 36, 3)),
    "resnext50_32x4d": ResNet((3, 4, 6, 3), groups=32, width=4),
    "resnext101_32x8d": ResNet((3, 4, 23, 3), groups=32, width=8),
    "resnext101_64x4d": ResNet((3, 4, 23, 3), groups=64, width=4),
    "wide_resnet50_2": ResNet((3, 4, 6, 3), width=128),
    "wide_resnet101_2": ResNet((3, 4, 23, 3), width=128),
}
"""Networks that torchvision and timm build under the same name, with the same keys."""

TIMM: dict[str, ResNet] = {
    "resnet26": ResNet((2, 2, 2, 2)),
    "resnet18d": ResNet((2, 2, 2, 2), bottleneck=False, deep=True),
    "resnet34d": ResNet((3, 4, 6, 3), bottleneck=False, deep=True),
    "resnet26d": ResNet((2, 2, 2, 2), deep=True),
    "resnet50d": ResNet((3, 4, 6, 3), deep=True),
    "resnet101d": ResNet((3, 4, 23, 3), deep=True),
    "resnet152d": ResNet((3, 8, 36, 3), deep=True),
    "resnet200d": ResNet((3, 24, 36, 3), deep=True),
    "resnext101_32x4d": ResNet((3, 4, 23, 3), groups=32, width=4),
}
"""Networks that timm alone builds."""


def recognise(weights: Mapping[str, Tensor]) -> str | None:
    """Name the ResNet that has just these keys and shapes, classifier aside; None: no such one."""
    given = {name: tuple(value.shape) for name, value in weights.items() if is_body(name)}
    known = TORCHVISION | TIMM
    return next((name for name, resnet in known.items() if body_shapes(resnet) == given), None)


def is_body(name: str) -> bool:
    """Return whether a key of a ResNet is neither the classifier's nor a count of batches.

    FrozenBatchNorm2d has no such count, and the classifier is nobody's backbone.
    """
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")


def body_shapes(resnet: ResNet) -> dict[str, Shape]:
    """Return the keys that `is_body` keeps, with their shapes."""
    return dict(_body(resnet))


def _body(resnet: ResNet) -> Iterator[tuple[str, Shape]]:
    yield from _stem(resnet.deep)
    channels = 64
    for stage, blocks in enumerate(resnet.blocks):
        planes = 64 * 2**stage
        inner = planes * resnet.width // 64 * resnet.groups
        out = 4 * planes if resnet.bottleneck else planes
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            if resnet.bottleneck:
                yield from _conv(f"{prefix}.conv1", f"{prefix}.bn1", inner, channels, 1)
                grouped = inner // resnet.groups
                yield from _conv(f"{prefix}.conv2", f"{prefix}.bn2", inner, grouped, 3)
                yield from _conv(f"{prefix}.conv3", f"{prefix}.bn3", out, inner, 1)
            else:
                yield from _conv(f"{prefix}.conv1", f"{prefix}.bn1", out, channels, 3)
                yield from _conv(f"{prefix}.conv2", f"{prefix}.bn2", out, out, 3)
            if block == 0 and (stage or channels != out):
                first = 1 if resnet.deep else 0  # a pooling comes before it
                shortcut = f"{prefix}.downsample"
                yield from _conv(f"{shortcut}.{first}", f"{shortcut}.{first + 1}", out, channels, 1)
            channels = out


def _stem(deep: bool) -> Iterator[tuple[str, Shape]]:
    if deep:
        yield from _conv("conv1.0", "conv1.1", 32, 3, 3)
        yield from _conv("conv1.3", "conv1.4", 32, 32, 3)
        yield from _conv("conv1.6", "bn1", 64, 32, 3)
    else:
        yield from _conv("conv1", "bn1", 64, 3, 7)


def _conv(conv: str, norm: str, out: int, into: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{conv}.weight", (out, into, side, side)
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{name}", (out,)
