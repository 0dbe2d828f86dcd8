"""The detector against torchvision's own, and what a backbone file must fit."""

import copy
import functools
import pickle
from pathlib import Path

import pytest
import torch
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from common import FocusedDropout, insert_after
from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from detect.data.batches import ImageBatch, Targets
from detect.network.retinanet import BatchedRetinaNet, build_retinanet
from detect.recipes import Detector

EXACT_MEAN, EXACT_STD = (0.5, 0.25, 0.375), (0.25, 0.5, 0.125)  # without rounding
NARROW = Detector(fpn_channels=32)


def build(
    settings: Detector = NARROW,
    body: str = "resnet18",
    weights=None,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
) -> BatchedRetinaNet:
    return build_retinanet(settings, body, 20, mean, std, weights, Path("backbone.safetensors"))


def stock_of(network: BatchedRetinaNet, short: int, long: int) -> RetinaNet:
    """Build torchvision's RetinaNet with the weights of ours."""
    resnet = models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    width = network.backbone.out_channels
    backbone = BackboneWithFPN(
        resnet,
        return_layers={"layer2": "0", "layer3": "1", "layer4": "2"},
        in_channels_list=[128, 256, 512],
        out_channels=width,
        extra_blocks=LastLevelP6P7(512, width),
    )
    stock = RetinaNet(
        backbone,
        network.head.classification_head.num_classes,
        min_size=short,
        max_size=long,
        image_mean=list(EXACT_MEAN),
        image_std=list(EXACT_STD),
        score_thresh=network.score_thresh,
        detections_per_img=network.detections_per_img,
    )
    stock.load_state_dict(network.state_dict())
    return stock


def random_images(sizes: list[tuple[int, int]], height: int, width: int) -> ImageBatch:
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for image, (h, w) in zip(pixels, sizes, strict=True):
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w))
    return ImageBatch(pixels, torch.tensor(sizes))


def unpadded(images: ImageBatch) -> list[Tensor]:
    sizes = images.sizes.tolist()
    return [image[:, :h, :w] for image, (h, w) in zip(images.pixels, sizes, strict=True)]


IMAGES = random_images([(80, 96), (96, 64)], 96, 96)
TARGETS = Targets(
    torch.tensor([[[4.0, 4.0, 60.0, 70.0], [30.0, 20.0, 90.0, 60.0]], [[0.0] * 4] * 2]),
    torch.tensor([[19, 3], [0, 0]]),
    torch.tensor([[True, True], [False, False]]),
)


def spread_statistics(network: nn.Module) -> None:
    """Give BatchNorm numbers that a fresh network would not have."""
    for name, value in network.backbone.body.state_dict().items():
        if ("bn" in name or "downsample.1" in name) and value.is_floating_point():
            value.uniform_(*((0.3, 0.6) if name.endswith("weight") else (0.5, 1.0)))


@pytest.fixture(scope="module")
def equal_pair() -> tuple[BatchedRetinaNet, RetinaNet]:
    """In float64: no score is close enough to another for rounding to swap them."""
    torch.manual_seed(0)
    settings = Detector(fpn_channels=32, score_threshold=0.0, detections_per_image=100)
    ours = build(settings, mean=EXACT_MEAN, std=EXACT_STD)
    spread_statistics(ours)
    return ours.double(), stock_of(ours, 80, 96).double()


@pytest.mark.parametrize("channels_last", [False, True])
def test_detections_on_one_image_are_torchvisions(
    equal_pair: tuple[BatchedRetinaNet, RetinaNet], channels_last: bool
) -> None:
    """Padded to 96x96 in both; torchvision resizes by exactly 1."""
    ours, stock = (copy.deepcopy(network).eval() for network in equal_pair)
    if channels_last:
        ours.to(memory_format=torch.channels_last)
    images = random_images([(80, 96)], 96, 96)
    with torch.inference_mode():
        (found,) = ours(images)
        (expected,) = stock([image.double() / 255 for image in unpadded(images)])
    assert len(found["scores"]) == 100
    assert torch.equal(found["labels"], expected["labels"])
    for name in ("boxes", "scores"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)


def test_losses_and_gradients_of_a_batch_are_torchvisions(
    equal_pair: tuple[BatchedRetinaNet, RetinaNet],
) -> None:
    ours, stock = (copy.deepcopy(network).train() for network in equal_pair)
    stock.transform._skip_resize = True
    found = ours(IMAGES, Targets(TARGETS.boxes.double(), TARGETS.labels, TARGETS.valid))
    expected = stock(
        [image.double() / 255 for image in unpadded(IMAGES)],
        [
            {"boxes": boxes[valid].double(), "labels": labels[valid]}
            for boxes, labels, valid in zip(*vars(TARGETS).values(), strict=True)
        ],
    )
    assert found.keys() == expected.keys()
    for losses in (found, expected):
        sum(losses.values()).backward()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=0.0)
    trained = 0
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        if mine.requires_grad:
            trained += 1
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-10, msg=name)
    assert trained > 40


def test_normalized_pixels_are_torchvisions_and_padding_is_zero() -> None:
    transform = GeneralizedRCNNTransform(80, 96, list(IMAGENET_MEAN), list(IMAGENET_STD))
    found = build().normalize(IMAGES)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for image, pixels, (height, width) in zip(
        found, unpadded(IMAGES), IMAGES.sizes.tolist(), strict=True
    ):
        expected = transform.normalize(pixels.float() / 255)
        torch.testing.assert_close(image[:, :height, :width], expected, rtol=0.0, atol=2e-6)
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


def test_every_backbone_weight_arrives_and_keys_are_torchvisions() -> None:
    source = models.resnet18(weights=None, num_classes=7)
    for buffer in source.buffers():  # statistics that a fresh network would not have
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    network = build(weights=source.state_dict())
    body = network.backbone.body.state_dict()
    frozen = models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d).state_dict()
    assert list(body) == [name for name in frozen if not name.startswith("fc.")]
    for name, value in body.items():
        assert torch.equal(value, source.state_dict()[name]), name
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_checkpoints_hold_torchvisions_keys_alone(
    equal_pair: tuple[BatchedRetinaNet, RetinaNet],
) -> None:
    ours, stock = equal_pair
    assert list(ours.state_dict()) == list(stock.state_dict())


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize(
    ("stages", "frozen"),
    [
        (3, {"conv1", "layer1"}),
        (5, set()),
        (0, {"conv1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_frozen_stages(norm: str, stages: int, frozen: set[str]) -> None:
    body = build(Detector(trainable_stages=stages, norm=norm)).backbone.body
    found = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert found == frozen
    norms = [name for name, m in body.named_modules() if isinstance(m, nn.BatchNorm2d)]
    stages_of_norms = {"bn1" if name == "bn1" else name.split(".")[0] for name in norms}
    every = {"bn1", "layer1", "layer2", "layer3", "layer4"}
    expected = every - frozen - ({"bn1"} if "conv1" in frozen else set())
    assert stages_of_norms == (expected if norm == "batch" else set())


def test_trained_norms_learn_and_those_of_frozen_stages_never_move() -> None:
    network = build(Detector(fpn_channels=32, trainable_stages=1, norm="batch"))
    spread_statistics(network)
    before = copy.deepcopy(network.backbone.body.state_dict())
    network.train()
    network.backbone.body.train()
    sum(network(IMAGES, TARGETS).values()).backward()
    moved = {
        name
        for name, value in network.backbone.body.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert {name.split(".")[0] for name in moved} == {"layer4"}
    assert "layer4.0.bn1.running_mean" in moved
    learnt = [name for name, p in network.backbone.body.named_parameters() if p.grad is not None]
    assert "layer4.0.bn1.weight" in learnt
    assert {name.split(".")[0] for name in learnt} == {"layer4"}


def test_group_norm_stands_in_both_towers() -> None:
    network = build(Detector(fpn_channels=64, head_norm="group"))
    for head in (network.head.classification_head, network.head.regression_head):
        groups = [
            module.num_groups for module in head.conv.modules() if hasattr(module, "num_groups")
        ]
        assert groups == [32] * 4
    assert not any(isinstance(m, nn.GroupNorm) for m in build().modules())


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


def test_settings_reach_losses_and_detections() -> None:
    network = build(NARROW).train()
    losses = network(IMAGES, TARGETS)
    network.box_loss = build(Detector(box_loss="giou")).box_loss
    giou = network(IMAGES, TARGETS)
    assert giou["bbox_regression"] != losses["bbox_regression"]
    network.loss_normalizer = build(Detector(loss_normalizer="batch")).loss_normalizer
    # One image of two has all objects: the mean over images halves what the batch's sum gives.
    of_batch = network(IMAGES, TARGETS)["bbox_regression"].item()
    assert of_batch == pytest.approx(2 * giou["bbox_regression"].item(), rel=1e-5)
    settings = Detector(score_threshold=0.0, detections_per_image=7, nms_iou=0.0)
    for found in build(settings).eval()(IMAGES):
        assert 0 < len(found["scores"]) <= 7
        # No two boxes of a class overlap at all.
        for label in found["labels"].unique():
            low, high = found["boxes"][found["labels"] == label].split(2, dim=1)
            sides = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
            overlap = sides.clamp(min=0).prod(dim=-1)
            assert not (overlap - overlap.diag().diag()).any()


def test_training_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="targets"):
        build().train()(IMAGES)


def test_detections_of_an_image_do_not_depend_on_its_neighbours() -> None:
    network = build(Detector(fpn_channels=32, score_threshold=0.0)).eval().double()
    together = network(IMAGES)
    for index, expected in enumerate(together):
        (alone,) = network(ImageBatch(IMAGES.pixels[index, None], IMAGES.sizes[index, None]))
        for name in alone:
            torch.testing.assert_close(alone[name], expected[name])
        height, width = IMAGES.sizes[index].tolist()
        assert expected["boxes"][:, 2].max() <= width
        assert expected["boxes"][:, 3].max() <= height


def assert_precise(values: Tensor) -> None:
    assert values.dtype == torch.float32
    assert (values != values.bfloat16().float()).float().mean() > 0.9


def test_losses_and_scores_are_float32_under_autocast() -> None:
    """The towers are bfloat16; what they end in is not even rounded to it, or scores would tie."""
    network = build(Detector(fpn_channels=32, score_threshold=0.0))
    towers: set[torch.dtype] = set()
    network.head.classification_head.conv[0].register_forward_hook(
        lambda module, inputs, output: towers.add(output.dtype)
    )
    for head in (network.head.classification_head, network.head.regression_head):
        head.register_forward_hook(lambda module, inputs, output: assert_precise(output))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, _ = network.eval()(IMAGES)
        losses = network.train()(IMAGES, TARGETS)
    assert towers == {torch.bfloat16}
    assert found["scores"].dtype == found["boxes"].dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_a_copy_and_a_pickle_detect_the_same() -> None:
    network = build(Detector(fpn_channels=32, score_threshold=0.0)).eval()
    expected = network(IMAGES)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for mine, theirs in zip(other(IMAGES), expected, strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_focused_dropout_can_follow_a_stage_of_the_body() -> None:
    network = build()
    keys = list(network.state_dict())
    layer = FocusedDropout()
    insert_after(network, "backbone.body.layer3", layer)
    assert list(network.state_dict()) == keys
    layer.active = True
    sum(network.train()(IMAGES, TARGETS).values()).backward()
    assert layer.statistics()["images"] == 2


# Dynamo looks at the gradient of every tensor that it meets.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_parts_are_whole_graphs_with_the_same_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced, not turned into kernels; a graph break would raise."""
    network = build(Detector(fpn_channels=32, trainable_stages=1, norm="batch")).train()
    expected = copy.deepcopy(network)(IMAGES, TARGETS)
    traced = functools.partialmethod(nn.Module.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", traced)
    network.compile_parts()
    found = network(IMAGES, TARGETS)
    for part in (network.backbone, network.head):
        assert part._compiled_call_impl is not None
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    sum(found.values()).backward()


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
    with pytest.raises(InputError, match="module.conv1.weight"):
        build(weights=weights)
