"""The detector against torchvision's own, and what a backbone file must fit."""

from pathlib import Path

import pytest
import torch
import torchvision.models as models
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from common.errors import InputError
from common.images import IMAGENET_MEAN, IMAGENET_STD
from detect.recipes import Detector
from detect.retinanet import anchors, build_retinanet

SMALL = Detector(train_sizes=(64,), test_size=64, max_size=64)


def build(settings: Detector = SMALL, body: str = "resnet18", weights=None):
    return build_retinanet(
        settings, body, 20, IMAGENET_MEAN, IMAGENET_STD, weights, Path("backbone.safetensors")
    )


def test_default_anchors_are_torchvisions() -> None:
    stock = retinanet_resnet50_fpn(weights=None, weights_backbone=None).anchor_generator
    ours = anchors(4.0)
    assert ours.sizes == stock.sizes
    assert ours.aspect_ratios == stock.aspect_ratios


def test_every_backbone_weight_arrives_and_norms_are_frozen() -> None:
    source = models.resnet18(weights=None, num_classes=7)
    for buffer in source.buffers():  # statistics that a fresh network would not have
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    network = build(weights=source.state_dict())
    body = network.backbone.body.state_dict()
    assert body
    for name, value in body.items():
        assert torch.equal(value, source.state_dict()[name]), name
    norms = [m for m in network.backbone.body.modules() if "Norm" in type(m).__name__]
    assert len(norms) == 20
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [(3, {"conv1", "layer1"}), (5, set()), (0, {"conv1", "layer1", "layer2", "layer3", "layer4"})],
)
def test_frozen_stages(stages: int, frozen: set[str]) -> None:
    settings = Detector(trainable_stages=stages)
    body = build(settings).backbone.body
    found = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert found == frozen


@pytest.mark.parametrize(("body", "width"), [("resnet18", 256), ("resnet18", 512)])
def test_p6_comes_from_c5(body: str, width: int) -> None:
    network = build(Detector(fpn_channels=width), body)
    extra = network.backbone.fpn.extra_blocks
    assert extra.p6.in_channels == 512
    assert not extra.use_P5


@pytest.mark.parametrize(("width", "deviation"), [(256, 0.01), (64, (2 / (9 * 64)) ** 0.5)])
def test_towers_are_initialised_for_their_width(width: int, deviation: float) -> None:
    network = build(Detector(fpn_channels=width))
    for head in (network.head.classification_head, network.head.regression_head):
        weights = [p for p in head.conv.parameters() if p.ndim == 4]
        assert len(weights) == 4
        for weight in weights:
            assert weight.std().item() == pytest.approx(deviation, rel=0.05)


def test_labels_run_from_zero_without_background() -> None:
    network = build().train()
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([19])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = network([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], [target, empty])
    assert set(losses) == {"classification", "bbox_regression"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_output_equals_stock_retinanet_with_the_same_weights() -> None:
    torch.manual_seed(0)
    settings = Detector(train_sizes=(96,), test_size=96, max_size=96, score_threshold=0.0)
    ours = build(settings, "resnet50").eval()
    ours.num_classes = 20
    stock = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=20,
        norm_layer=FrozenBatchNorm2d,
        min_size=96,
        max_size=96,
        score_thresh=0.0,
        detections_per_img=100,
    ).eval()
    # The stock builder computes P6 from P5; give it our block, which reads C5.
    stock.backbone.fpn.extra_blocks = ours.backbone.fpn.extra_blocks
    stock.load_state_dict(ours.state_dict())
    image = torch.rand(3, 80, 96)
    with torch.no_grad():
        (a,), (b,) = ours([image]), stock([image])
    assert len(a["scores"]) == 100
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_scores_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    network = build(Detector(train_sizes=(64,), test_size=64, max_size=64, score_threshold=0.0))
    seen: list[torch.dtype] = []
    network.head.classification_head.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = network.eval()([torch.rand(3, 64, 64)])
    assert seen == [torch.bfloat16]
    assert found["scores"].dtype == torch.float32
    as_bfloat16 = found["scores"].bfloat16().float()
    assert not torch.equal(found["scores"], as_bfloat16)


def test_anchors_are_exact_under_autocast() -> None:
    images = ImageList(torch.zeros(1, 3, 640, 1000), [(640, 1000)])
    sizes = [(-(-640 // stride), -(-1000 // stride)) for stride in (8, 16, 32, 64, 128)]
    maps = [torch.zeros(1, 1, *size) for size in sizes]
    (expected,) = AnchorGenerator(anchors(4.0).sizes, anchors(4.0).aspect_ratios)(images, maps)
    (found,) = anchors(4.0)(images, [m.bfloat16() for m in maps])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer3.0.conv1.weight"), "missing layer3.0.conv1.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda w: w.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), "conv1.weight has shape"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(change, message: str) -> None:
    weights = models.resnet18(weights=None).state_dict()
    change(weights)
    with pytest.raises(InputError, match=message):
        build(weights=weights)


def test_a_prefixed_state_dict_loads_nothing_silently() -> None:
    weights = {f"module.{k}": v for k, v in models.resnet18(weights=None).state_dict().items()}
    with pytest.raises(InputError, match="missing conv1.weight"):
        build(weights=weights)
