"""RetinaNet-FPN from torchvision's public parts, on a ResNet body whose weights come from a file.

Choices that torchvision's ready-made builder does not offer together: BatchNorm frozen whatever the
backbone's origin, P6 computed from C5 (not P5), a pyramid of any width, and no background class:
labels are 0..classes-1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from common.backbones import load_body
from detect.recipes import Detector

_PUBLISHED_CHANNELS = 256
_STRIDES = (8, 16, 32, 64, 128)
_STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")
"""What `trainable_stages` counts, from the last."""


def build_retinanet(
    settings: Detector,
    body: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    weights: Mapping[str, Tensor] | None = None,
    source: Path = Path(),
) -> RetinaNet:
    """Build the detector.

    Args:
        settings: Its recipe.
        body: A torchvision ResNet.
        num_classes: Classes without background; labels are 0..num_classes-1.
        mean: Per RGB channel, for values in [0, 1], as in the backbone's training.
        std: Likewise.
        weights: Backbone weights; None leaves the body as initialised, to be overwritten by a
            checkpoint.
        source: The file of the weights, for the message.

    Returns:
        A torchvision RetinaNet: images (list of (3, H, W) in [0, 1]) and targets in, losses out in
        training, detections in eval mode.

    Raises:
        InputError: If any key of the backbone is missing, unexpected or of another shape.
    """
    resnet = models.get_model(body, weights=None, norm_layer=FrozenBatchNorm2d)
    if weights is not None:
        load_body(resnet, weights, source)
    trained = _STAGES[: settings.trainable_stages]
    for name, parameter in resnet.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    c5 = resnet.fc.in_features
    in_channels = [c5 // 4, c5 // 2, c5]
    backbone = BackboneWithFPN(
        resnet,
        return_layers={"layer2": "0", "layer3": "1", "layer4": "2"},
        in_channels_list=in_channels,
        out_channels=settings.fpn_channels,
        extra_blocks=LastLevelP6P7(c5, settings.fpn_channels),
    )
    # A pyramid as wide as C5 would make torchvision compute P6 from P5.
    backbone.fpn.extra_blocks.use_P5 = False
    network = RetinaNet(
        backbone,
        num_classes,
        min_size=settings.train_sizes,
        max_size=settings.max_size,
        image_mean=list(mean),
        image_std=list(std),
        anchor_generator=anchors(settings.anchor_scale),
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_iou,
        detections_per_img=settings.detections_per_image,
    )
    if settings.fpn_channels != _PUBLISHED_CHANNELS:
        _keep_variance(network)
    network.head.register_forward_hook(_in_float32)
    return network


def _keep_variance(network: RetinaNet) -> None:
    """Initialise the towers of the heads for their width.

    torchvision's deviation of 0.01 is meant for 256 channels; in narrower towers the signal fades
    from layer to layer, and the classes are learnt several times slower.
    """
    for head in (network.head.classification_head, network.head.regression_head):
        for layer in head.conv.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _in_float32(head: nn.Module, inputs: object, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep autocast out of losses, scores and NMS: bfloat16 scores tie by the hundred."""
    return {name: output.float() for name, output in outputs.items()}


class _Float32Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is not typed
    """Anchors in float32 under autocast: they take the dtype of the maps they are given."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        anchors: list[Tensor] = super().forward(image_list, [m.float() for m in feature_maps])
        return anchors


def anchors(scale: float) -> AnchorGenerator:
    """Return three sizes by three shapes a level, P3 to P7.

    Args:
        scale: Smallest size of a level over its stride; sizes are cut to whole pixels as
            torchvision does.
    """
    sizes = tuple(
        tuple(int(scale * stride * 2 ** (octave / 3)) for octave in range(3)) for stride in _STRIDES
    )
    return _Float32Anchors(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
