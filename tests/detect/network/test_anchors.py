"""Kept anchors are torchvision's, whatever the order of shapes, precision and mode."""

import copy
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detect.network import anchors as module
from detect.network.anchors import make_anchors


def inputs(
    height: int, width: int, images: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[ImageList, list[Tensor]]:
    shapes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128)]
    batch = torch.zeros(images, 3, height, width)
    sizes = [(height, width)] * images
    return ImageList(batch, sizes), [
        torch.zeros(images, 1, *shape, dtype=dtype) for shape in shapes
    ]


def test_default_anchors_are_torchvisions() -> None:
    stock = retinanet_resnet50_fpn(weights=None, weights_backbone=None).anchor_generator
    ours = make_anchors(4.0)
    assert ours.sizes == stock.sizes
    assert ours.aspect_ratios == stock.aspect_ratios


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    scale=st.sampled_from([1.0, 3.0, 4.0, 6.5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=25)
def test_anchors_are_torchvisions_in_float32(
    shapes: list[tuple[int, int]], scale: float, dtype: torch.dtype
) -> None:
    ours = make_anchors(scale)
    stock = AnchorGenerator(ours.sizes, ours.aspect_ratios)
    for height, width in shapes + shapes[::-1]:
        (expected,) = stock(*inputs(32 * height, 32 * width))
        for found in ours(*inputs(32 * height, 32 * width, images=3, dtype=dtype)):
            assert found.dtype == torch.float32
            assert torch.equal(found, expected)


def test_equal_maps_of_other_images_have_other_anchors() -> None:
    ours = make_anchors(4.0)
    stock = AnchorGenerator(ours.sizes, ours.aspect_ratios)
    _, maps = inputs(64, 64)
    for height in (64, 72):  # 8 rows of 8 or of 9 pixels
        images, _ = inputs(height, 64)
        assert torch.equal(ours(images, maps)[0], stock(images, maps)[0])


def test_float64_maps_get_float64_anchors() -> None:
    ours = make_anchors(4.0)
    ours(*inputs(64, 64))
    assert ours(*inputs(64, 64, dtype=torch.float64))[0].dtype == torch.float64


def test_the_shapes_seen_last_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 2)
    ours = make_anchors(4.0)

    def at(height: int) -> Tensor:
        return ours(*inputs(height, 64))[0]

    first, second = at(64), at(96)
    assert at(64) is first  # now the newest
    at(128)
    assert at(64) is first
    assert at(96) is not second
    assert len(ours._kept) == 2


def test_copies_and_pickles_carry_nothing_and_work() -> None:
    ours = make_anchors(4.0)
    (expected,) = ours(*inputs(64, 96))
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert not other._kept
        (found,) = other(*inputs(64, 96))
        assert found is not expected
        assert torch.equal(found, expected)


def test_anchors_of_an_evaluation_serve_the_training_after_it() -> None:
    ours = make_anchors(4.0)
    with torch.inference_mode():
        (anchors,) = ours(*inputs(64, 64))
    weight = torch.ones(4, requires_grad=True)
    (weight * anchors).sum().backward()
    assert torch.equal(weight.grad, anchors.sum(dim=0))
