"""A detector as torchvision builds it: its state dict, and the lines that build what it fits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detect.network.retinanet import BatchedRetinaNet
from detect.recipes import Recipe

_COUNT = "num_batches_tracked"


def torchvision_weights(network: BatchedRetinaNet, recipe: Recipe) -> dict[str, Tensor]:
    """Return the state dict for what `torchvision_lines` builds, on the CPU."""
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    if recipe.detector.norm == "batch":  # frozen ones among them count no batches
        for name in [name for name in weights if name.endswith(".running_var")]:
            weights.setdefault(name.replace("running_var", _COUNT), torch.tensor(0))
    return weights


def torchvision_lines(
    network: BatchedRetinaNet, recipe: Recipe, pixels: Mapping[str, Sequence[float]], load: str
) -> list[str]:
    """Return the Python that builds the detector from torchvision alone and loads its weights.

    Args:
        network: The detector.
        recipe: Its recipe.
        pixels: Mean and std per RGB channel, for values in [0, 1].
        load: Expression that reads the state dict.
    """
    detector = recipe.detector
    c5 = network.backbone.fpn.extra_blocks.p6.in_channels
    width = detector.fpn_channels
    frozen = detector.norm == "frozen"
    arguments: dict[str, Any] = {
        "min_size": detector.test_size,
        "max_size": detector.max_size,
        "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]),
        "score_thresh": detector.score_threshold,
        "nms_thresh": detector.nms_iou,
        "detections_per_img": detector.detections_per_image,
    }
    classes = network.head.classification_head.num_classes
    group = detector.head_norm == "group"
    norm = ", norm_layer=partial(nn.GroupNorm, 32)" if group else ""
    return [
        *(["from functools import partial", ""] if group else []),
        "import torch",
        *(["from safetensors.torch import load_file"] if load.startswith("load_file") else []),
        *(["from torch import nn"] if group else []),
        f"from torchvision.models import {recipe.body}",
        "from torchvision.models.detection.anchor_utils import AnchorGenerator",
        "from torchvision.models.detection.backbone_utils import BackboneWithFPN",
        "from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead",
        *(["from torchvision.ops import FrozenBatchNorm2d"] if frozen else []),
        "from torchvision.ops.feature_pyramid_network import LastLevelP6P7",
        "",
        f"body = {recipe.body}({'norm_layer=FrozenBatchNorm2d' if frozen else ''})",
        'layers = {"layer2": "0", "layer3": "1", "layer4": "2"}',
        f"backbone = BackboneWithFPN(body, layers, {[c5 // 4, c5 // 2, c5]}, {width}, "
        f"LastLevelP6P7({c5}, {width}))",
        "backbone.fpn.extra_blocks.use_P5 = False",
        f"anchors = AnchorGenerator({network.anchor_generator.sizes}, "
        f"{network.anchor_generator.aspect_ratios})",
        f"head = RetinaNetHead({width}, 9, {classes}{norm})",
        f"model = RetinaNet(backbone, {classes}, anchor_generator=anchors, head=head, "
        + ", ".join(f"{name}={value}" for name, value in arguments.items())
        + ")",
        f"model.load_state_dict({load})",
        "model.eval()",
        "(found,) = model([torch.rand(3, 480, 640)])  # RGB, from 0 to 1; labels count from 0",
    ]
