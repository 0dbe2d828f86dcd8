"""The folding of frozen BatchNorm, by itself: forward and backward of a ResNet body."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as models
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.measure import Comparison
from benchmarks.timing import take_turns
from detect.network.frozen_norm import freeze_norms


class FunctionalNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's frozen norm by the library's kernel, which keeps bfloat16 maps as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def norm_bodies(body: str) -> dict[str, nn.Module]:
    """Return a ResNet body with frozen norms done in three ways, of equal weights."""
    made: dict[str, nn.Module] = {"folded": models.get_model(body, weights=None)}
    for parameter in made["folded"].named_parameters():
        parameter[1].requires_grad_("bn" not in parameter[0] and "downsample.1" not in parameter[0])
    state = made["folded"].state_dict()
    freeze_norms(made["folded"])
    kinds = {"F.batch_norm": FunctionalNorm, "FrozenBatchNorm2d": FrozenBatchNorm2d}
    for name, kind in kinds.items():
        made[name] = models.get_model(body, weights=None, norm_layer=kind)
        made[name].load_state_dict(
            {key: value for key, value in state.items() if "num_batches" not in key}
        )
    return {name: network.to(memory_format=torch.channels_last) for name, network in made.items()}


def compare_norms(
    body: str,
    images: Tensor,
    rounds: int,
    precision: Callable[[], AbstractContextManager[Any]],
    label: str,
) -> Comparison:
    """Time forward and backward of a body with each kind of frozen norm.

    Args:
        body: Name of a torchvision ResNet.
        images: (B, 3, H, W), channels last, on the device.
        rounds: Times of each.
        precision: Makes the context of the forward pass.
        label: Name of that precision.
    """

    def forward_backward(network: nn.Module) -> None:
        with precision():
            out = network(images)
        out.float().sum().backward()
        network.zero_grad()

    bodies = {name: network.to(images.device) for name, network in norm_bodies(body).items()}
    calls = {name: partial(forward_backward, network) for name, network in bodies.items()}
    batch, _, height, width = images.shape
    return Comparison(
        case=f"frozen norm: {body} body, {batch} of {height}x{width}, {label}",
        **vars(take_turns(calls, rounds, images.device, warm_up=1)),
        faster={"F.batch_norm": 1.0},
    )
