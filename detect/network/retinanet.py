"""RetinaNet-FPN from torchvision's public parts, on a ResNet body whose weights come from a file.

Choices that torchvision's ready-made builder does not offer together: BatchNorm frozen whatever the
backbone's origin, P6 computed from C5 (not P5), a pyramid of any width, and no background class:
labels are 0..classes-1. And speed: a batch comes as one padded tensor, and no step of the training
loops over its images or waits for the device.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import torch
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from common.weights.backbone import load_body
from detect.data.batches import ImageBatch, Targets
from detect.network.anchors import make_anchors
from detect.network.frozen_norm import freeze_norms
from detect.network.losses import retinanet_losses
from detect.network.postprocess import select_detections
from detect.recipes import Detector

_PUBLISHED_CHANNELS = 256
_GROUPS = 32
_STAGES = (("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"))
"""What `trainable_stages` counts, from the last."""


class BatchedRetinaNet(RetinaNet):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's RetinaNet for batches that were resized and padded outside.

    Args:
        backbone: Body and pyramid.
        num_classes: Classes without background.
        detector: The recipe.
        mean: Per RGB channel, for values in [0, 1].
        std: Likewise.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        detector: Detector,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        anchor_generator = make_anchors(detector.anchor_scale)
        super().__init__(
            backbone,
            num_classes,
            anchor_generator=anchor_generator,
            head=RetinaNetHead(
                backbone.out_channels,
                anchor_generator.num_anchors_per_location()[0],
                num_classes,
                norm_layer=(
                    partial(nn.GroupNorm, _GROUPS) if detector.head_norm == "group" else None
                ),
            ),
            score_thresh=detector.score_threshold,
            nms_thresh=detector.nms_iou,
            detections_per_img=detector.detections_per_image,
        )
        del self.transform  # it resizes and normalises lists of images
        for head, last in (
            (self.head.classification_head, "cls_logits"),
            (self.head.regression_head, "bbox_reg"),
        ):
            setattr(head, last, _PreciseConv2d.like(getattr(head, last)))
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.box_loss = detector.box_loss
        self.loss_normalizer = detector.loss_normalizer
        for name, values in (("mean", mean), ("std", std)):
            value = 255 * torch.tensor(values).view(1, 3, 1, 1)
            self.register_buffer(f"pixel_{name}", value, persistent=False)

    def forward(
        self, images: ImageBatch, targets: Targets | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses of a batch in training, else its detections.

        Args:
            images: On the network's device.
            targets: Likewise; for training.

        Returns:
            "classification" and "bbox_regression"; or for each image "boxes" (n, 4) in pixels of
            the resized image, "scores" (n) and "labels" (n), best first.
        """
        pixels = self.normalize(images)
        features = list(self.backbone(pixels).values())
        outputs = self.head(features)
        (anchors,) = self.anchor_generator(ImageList(pixels, [pixels.shape[-2:]]), features)
        if self.training:
            if targets is None:
                raise ValueError("training needs targets")
            return self.compute_loss(targets, outputs, anchors)
        per_cell = self.anchor_generator.num_anchors_per_location()[0]
        levels = [per_cell * level.shape[-2] * level.shape[-1] for level in features]
        split = {name: output.split(levels, dim=1) for name, output in outputs.items()}
        return self.postprocess_detections(split, anchors.split(levels), images.sizes)

    def normalize(self, images: ImageBatch) -> Tensor:
        """Return normalised pixels (B, 3, H, W); padding is 0, the mean of a normalised image."""
        pixels = images.pixels.to(self.pixel_mean.dtype, memory_format=torch.channels_last)
        pixels = pixels.sub_(self.pixel_mean).div_(self.pixel_std)
        height, width = images.sizes.view(-1, 2, 1, 1, 1).unbind(1)
        rows, columns = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
        return pixels.masked_fill_((rows.view(-1, 1) >= height) | (columns >= width), 0.0)

    def compute_loss(
        self, targets: Targets, head_outputs: Mapping[str, Tensor], anchors: Tensor
    ) -> dict[str, Tensor]:
        """Return both losses of a batch; anchors (N, 4) are those of every image."""
        return retinanet_losses(
            targets,
            head_outputs["cls_logits"],
            head_outputs["bbox_regression"],
            anchors,
            box_loss=self.box_loss,
            normalizer=self.loss_normalizer,
        )

    def postprocess_detections(
        self,
        head_outputs: Mapping[str, Sequence[Tensor]],
        anchors: Sequence[Tensor],
        image_sizes: Tensor,
    ) -> list[dict[str, Tensor]]:
        """Return the detections of each image; outputs and anchors come a level each."""
        return select_detections(
            head_outputs["cls_logits"],
            head_outputs["bbox_regression"],
            anchors,
            image_sizes,
            score_threshold=self.score_thresh,
            candidates=self.topk_candidates,
            nms_iou=self.nms_thresh,
            limit=self.detections_per_img,
        )

    def compile_parts(self) -> None:
        """Compile body, pyramid and towers, where the time goes; the rest stays as it is.

        Images have many sizes: from the second one on a graph serves all of them.
        """
        self.backbone.compile()
        self.head.compile()


def build_retinanet(
    detector: Detector,
    body: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    weights: Mapping[str, Tensor] | None = None,
    source: Path = Path(),
) -> BatchedRetinaNet:
    """Build the detector.

    Args:
        detector: Its recipe.
        body: A torchvision ResNet.
        num_classes: Classes without background; labels are 0..num_classes-1.
        mean: Per RGB channel, for values in [0, 1], as in the backbone's training.
        std: Likewise.
        weights: Backbone weights; None leaves the body as initialised, to be overwritten by a
            checkpoint or trained from scratch.
        source: The file of the weights, for the message.

    Returns:
        The network, contiguous and on the CPU.

    Raises:
        InputError: If any key of the backbone is missing, unexpected or of another shape.
    """
    resnet: models.ResNet = models.get_model(body, weights=None)
    if weights is not None:
        load_body(resnet, weights, source)
    _choose_trained(resnet, detector)
    freeze_norms(resnet)
    c5 = resnet.fc.in_features
    backbone = BackboneWithFPN(
        resnet,
        return_layers={"layer2": "0", "layer3": "1", "layer4": "2"},
        in_channels_list=[c5 // 4, c5 // 2, c5],
        out_channels=detector.fpn_channels,
        extra_blocks=LastLevelP6P7(c5, detector.fpn_channels),
    )
    # A pyramid as wide as C5 would make torchvision compute P6 from P5.
    backbone.fpn.extra_blocks.use_P5 = False
    network = BatchedRetinaNet(backbone, num_classes, detector, mean, std)
    if detector.fpn_channels != _PUBLISHED_CHANNELS:
        _keep_variance(network)
    return network


def _choose_trained(resnet: nn.Module, detector: Detector) -> None:
    """Let gradients reach the stages to train, and their BatchNorm if it is not to be frozen."""
    trained = [name for stage in _STAGES[: detector.trainable_stages] for name in stage]
    for name, module in resnet.named_children():
        module.requires_grad_(name in trained)
    if detector.norm == "frozen":
        for module in resnet.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)


def _keep_variance(network: RetinaNet) -> None:
    """Initialise the towers of the heads for their width.

    torchvision's deviation of 0.01 is meant for 256 channels; in narrower towers the signal fades
    from layer to layer, and the classes are learnt several times slower.
    """
    for head in (network.head.classification_head, network.head.regression_head):
        for layer in head.conv.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class _PreciseConv2d(nn.Conv2d):
    """A convolution that stays out of autocast: bfloat16 logits tie by the hundred."""

    @classmethod
    def like(cls, convolution: nn.Conv2d) -> Self:
        """Return one with the parameters of another, 3x3 with padding as in torchvision's heads."""
        made = cls(convolution.in_channels, convolution.out_channels, 3, padding=1, device="meta")
        made.weight, made.bias = convolution.weight, convolution.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))
