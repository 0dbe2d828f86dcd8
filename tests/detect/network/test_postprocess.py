"""Detections of a batch against torchvision's, image by image."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.retinanet import RetinaNet

from detect.network.boxes import decode
from detect.network.postprocess import select_detections


def make_stock() -> RetinaNet:
    backbone = nn.Identity()
    backbone.out_channels = 8
    return RetinaNet(backbone, num_classes=1)


STOCK = make_stock()


def random_outputs(
    seed: int, images: int, counts: list[int], classes: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """No two scores of an image are equal: torchvision's topk takes any of equal ones."""
    random = torch.Generator().manual_seed(seed)
    sizes = torch.randint(20, 200, (images, 2), generator=random)
    total = sum(counts) * classes
    order = torch.rand(images, total, generator=random).argsort(dim=1)
    logits = (order * (12 / total) - 6).split([count * classes for count in counts], dim=1)
    regression, anchors = [], []
    for count in counts:
        regression.append(torch.randn(images, count, 4, generator=random) * 0.5)
        centre = torch.rand(count, 2, generator=random) * 150
        half = 5 + torch.rand(count, 2, generator=random) * 50
        anchors.append(torch.cat([centre - half, centre + half], dim=1))
    return [level.view(images, -1, classes) for level in logits], regression, anchors, sizes


def compare(
    seed: int,
    images: int,
    counts: list[int],
    classes: int,
    *,
    score_threshold: float,
    candidates: int,
    nms_iou: float,
    limit: int,
) -> int:
    """Compare with torchvision; return the number of detections."""
    STOCK.score_thresh, STOCK.topk_candidates = score_threshold, candidates
    STOCK.nms_thresh, STOCK.detections_per_img = nms_iou, limit
    logits, regression, anchors, sizes = random_outputs(seed, images, counts, classes)
    expected = STOCK.postprocess_detections(
        {"cls_logits": logits, "bbox_regression": regression},
        [anchors] * images,
        [(int(height), int(width)) for height, width in sizes],
    )
    found = select_detections(
        logits,
        regression,
        anchors,
        sizes,
        score_threshold=score_threshold,
        candidates=candidates,
        nms_iou=nms_iou,
        limit=limit,
    )
    assert len(found) == images
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert torch.equal(mine["labels"], theirs["labels"])
        # A sigmoid's last bit depends on its place in the vector registers.
        torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(mine["boxes"], theirs["boxes"], rtol=1e-6, atol=1e-4)
    return sum(len(image["scores"]) for image in found)


@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 4),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    classes=st.integers(1, 4),
    score_threshold=st.sampled_from([0.0, 0.05, 0.5, 0.95]),
    candidates=st.sampled_from([1, 7, 20, 1000]),
    nms_iou=st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    limit=st.sampled_from([1, 5, 300]),
)
@settings(max_examples=100)
def test_detections_are_torchvisions(**case) -> None:
    compare(**case)


@pytest.mark.parametrize("images", [1, 6])
def test_more_boxes_than_torchvision_takes_at_once(images: int) -> None:
    """Above 1,000 boxes its batched_nms goes class by class."""
    choices = {"score_threshold": 0.05, "candidates": 1000, "nms_iou": 0.5, "limit": 300}
    assert compare(0, images, [300, 100], 3, **choices) > 100 * images


@pytest.mark.parametrize("images", [1, 3])
def test_of_equal_scores_the_finer_level_comes_first(images: int) -> None:
    """Three levels with one box each, all of score 0.5; the last covers the first, and goes."""
    anchors = [
        torch.tensor([box])
        for box in ([10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 90.0, 90.0], [11.0, 11.0, 30.0, 30.0])
    ]
    STOCK.score_thresh, STOCK.topk_candidates = 0.05, 10
    STOCK.nms_thresh, STOCK.detections_per_img = 0.5, 10
    outputs = {
        "cls_logits": [torch.zeros(images, 1, 1)] * 3,
        "bbox_regression": [torch.zeros(images, 1, 4)] * 3,
    }
    expected = STOCK.postprocess_detections(outputs, [anchors] * images, [(100, 100)] * images)
    found = select_detections(
        *outputs.values(),
        anchors,
        torch.tensor([[100, 100]] * images),
        score_threshold=0.05,
        candidates=10,
        nms_iou=0.5,
        limit=10,
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["boxes"].tolist() == theirs["boxes"].tolist()
        assert mine["boxes"].tolist() == [anchors[0][0].tolist(), anchors[1][0].tolist()]


@pytest.mark.parametrize("place", range(4))
def test_candidates_are_chosen_by_logits_where_scores_round_to_one(place: int) -> None:
    logits = torch.full((1, 4, 1), 20.0)
    logits[0, place] = 21.0
    assert (logits.sigmoid() == 1).all()
    anchors = torch.tensor([[10.0 * i, 0.0, 10.0 * i + 8, 8.0] for i in range(4)])
    (found,) = select_detections(
        [logits],
        [torch.zeros(1, 4, 4)],
        [anchors],
        torch.tensor([[50, 50]]),
        score_threshold=0.05,
        candidates=1,
        nms_iou=0.5,
        limit=10,
    )
    assert found["boxes"].tolist() == [anchors[place].tolist()]


def test_classes_and_images_do_not_suppress_each_other() -> None:
    """One place, three classes, two images: six detections, each of its own image."""
    logits = torch.tensor([[[3.0, 2.0, 1.0]], [[0.5, 1.5, 2.5]]])
    found = select_detections(
        [logits],
        [torch.zeros(2, 1, 4)],
        [torch.tensor([[10.0, 10.0, 60.0, 90.0]])],
        torch.tensor([[50, 40], [80, 100]]),
        score_threshold=0.05,
        candidates=10,
        nms_iou=0.5,
        limit=10,
    )
    assert [image["labels"].tolist() for image in found] == [[0, 1, 2], [2, 1, 0]]
    assert found[0]["boxes"].tolist() == [[10.0, 10.0, 40.0, 50.0]] * 3
    assert found[1]["boxes"].tolist() == [[10.0, 10.0, 60.0, 80.0]] * 3


def test_neighbours_of_a_class_are_told_apart_far_from_the_origin_of_the_groups() -> None:
    """The last of 40 images: shifts between groups must not eat the digits of the overlap.

    Two boxes of 8x8 pixels, 2.66 pixels apart, overlap by 0.5009; 2.67 apart by 0.4998.
    """
    images, classes = 40, 20
    for shift, kept in ((2.66, 1), (2.67, 2)):
        anchors = torch.tensor([[900.0, 500.0, 908.0, 508.0]]).repeat(2, 1)
        anchors[1, ::2] += shift
        logits = torch.full((images, 2, classes), -9.0)
        logits[-1, :, -1] = torch.tensor([2.0, 1.0])
        found = select_detections(
            [logits],
            [torch.zeros(images, 2, 4)],
            [anchors],
            torch.tensor([[600, 1000]] * images),
            score_threshold=0.05,
            candidates=100,
            nms_iou=0.5,
            limit=100,
        )
        assert [len(image["scores"]) for image in found] == [0] * (images - 1) + [kept]


def test_no_score_above_the_threshold_gives_empty_detections() -> None:
    logits, regression, anchors, sizes = random_outputs(0, 3, [5], 2)
    for image in select_detections(
        logits, regression, anchors, sizes, score_threshold=1.0, candidates=5, nms_iou=0.5, limit=5
    ):
        assert image["boxes"].shape == (0, 4)
        assert image["scores"].shape == image["labels"].shape == (0,)
        assert image["labels"].dtype == torch.int64


def test_huge_sides_are_cut_where_torchvision_cuts_them() -> None:
    codes = torch.tensor([[0.1, -0.2, 0.3, 4.0], [0.0, 0.0, 4.2, 9.0], [0.5, 0.5, 100.0, -3.0]])
    anchors = torch.tensor([[0.0, 0, 16, 32]]).expand(3, 4)
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(codes, anchors)
    torch.testing.assert_close(decode(codes, anchors), expected)
