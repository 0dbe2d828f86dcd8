"""Matching and losses against torchvision's own."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou

from detect.data.batches import Targets
from detect.network import losses
from detect.network.losses import match, retinanet_losses

HEIGHT, WIDTH, CLASSES = 64, 96, 3
GENERATOR = AnchorGenerator(((16, 20), (32, 50)), ((0.5, 1.0, 2.0),) * 2)
MAPS = [torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)]
ANCHORS = GENERATOR(ImageList(torch.zeros(1, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)]), MAPS)[0]


def stock(box_loss: str = "l1") -> RetinaNet:
    backbone = nn.Identity()
    backbone.out_channels = 8
    network = RetinaNet(backbone, CLASSES, anchor_generator=GENERATOR)
    network.head.regression_head._loss_type = box_loss
    return network


STOCK = {name: stock(name) for name in ("l1", "giou")}


def random_targets(seed: int, images: int, rows: int, step: int, dtype=torch.float64) -> Targets:
    """Boxes whose corners are multiples of `step`: anchors overlap them equally by the dozen."""
    random = torch.Generator().manual_seed(seed)
    cells = torch.tensor([WIDTH // step, HEIGHT // step])
    share = torch.rand(images, rows, 2, 2, generator=random)
    low = (share[:, :, 0] * cells).floor()
    high = low + 1 + (share[:, :, 1] * (cells - low - 1)).floor()
    boxes = torch.cat([low, high], dim=-1).to(dtype) * step
    crowd = 1.4 * torch.rand(images, 1, generator=random) - 0.2  # one image in seven is empty
    valid = torch.rand(images, rows, generator=random) < crowd
    padding = torch.rand(images, rows, 4, generator=random, dtype=dtype) * 60
    return Targets(
        torch.where(valid[..., None], boxes, padding),
        torch.where(valid, torch.randint(0, CLASSES, valid.shape, generator=random), -7),
        valid,
    )


def random_outputs(seed: int, images: int, spread: float, dtype: torch.dtype) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, len(ANCHORS), CLASSES, generator=random, dtype=dtype) * spread
    codes = torch.randn(images, len(ANCHORS), 4, generator=random, dtype=dtype)
    return {
        "cls_logits": logits.requires_grad_(),
        "bbox_regression": codes.requires_grad_(),
    }


def as_list(targets: Targets) -> list[dict[str, Tensor]]:
    rows = zip(targets.boxes, targets.labels, targets.valid, strict=True)
    return [{"boxes": boxes[v], "labels": labels[v]} for boxes, labels, v in rows]


def ours(targets: Targets, outputs: dict[str, Tensor], **choices: Any) -> dict[str, Tensor]:
    choices = {"box_loss": "l1", "normalizer": "image"} | choices
    logits, codes = outputs["cls_logits"], outputs["bbox_regression"]
    return retinanet_losses(targets, logits, codes, ANCHORS.to(logits.dtype), **choices)


def gradients(losses: dict[str, Tensor], outputs: dict[str, Tensor]) -> list[Tensor]:
    total = losses["classification"] + 3 * losses["bbox_regression"]
    return list(torch.autograd.grad(total, list(outputs.values())))


batches = given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 4),
    rows=st.integers(1, 12),
    step=st.sampled_from([1, 4, 8, 16, 32]),
)


@batches
@example(seed=0, images=1, rows=1, step=32)
@settings(max_examples=60)
def test_anchors_get_the_objects_of_torchvisions_matcher(
    seed: int, images: int, rows: int, step: int
) -> None:
    targets = random_targets(seed, images, rows, step, torch.float32)
    found = match(targets.boxes, targets.valid, ANCHORS)
    for row, valid, boxes in zip(found, targets.valid, targets.boxes, strict=True):
        expected = torch.full((len(ANCHORS),), -1)
        if valid.any():
            expected = STOCK["l1"].proposal_matcher(box_iou(boxes[valid], ANCHORS))
        # The rows of the objects, without those of the padding between them.
        place = torch.cat([valid.nonzero().flatten(), torch.tensor([-2, -1])])
        assert torch.equal(row, place[expected])


def test_the_example_batches_hold_what_is_hard() -> None:
    """Empty images, ignored anchors, low-quality matches and equal overlaps all occur."""
    targets = random_targets(1, 200, 4, 16, torch.float32)
    found = match(targets.boxes, targets.valid, ANCHORS)
    iou = torch.stack([box_iou(boxes, ANCHORS) for boxes in targets.boxes])
    iou[~targets.valid] = -1
    best = iou.amax(dim=1)
    assert (~targets.valid).all(dim=1).any()
    assert (found == losses.IGNORED).any()
    assert ((found >= 0) & (best < 0.4)).any()
    assert ((iou == best[:, None]).sum(dim=1) > 1)[found >= 0].any()


def test_few_pairs_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = random_targets(1, 6, 11, 16, torch.float32)
    whole = match(targets.boxes, targets.valid, ANCHORS)
    for pairs in (1, 6 * len(ANCHORS) * 4):
        monkeypatch.setattr(losses, "_PAIRS_AT_ONCE", pairs)
        assert torch.equal(match(targets.boxes, targets.valid, ANCHORS), whole)


@batches
@settings(max_examples=40)
@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_losses_and_gradients_are_torchvisions(
    box_loss: str, seed: int, images: int, rows: int, step: int
) -> None:
    targets = random_targets(seed, images, rows, step)
    outputs = random_outputs(seed, images, spread=3.0, dtype=torch.float64)
    anchors = [ANCHORS.double()] * images
    expected = STOCK[box_loss].compute_loss(as_list(targets), outputs, anchors)
    found = ours(targets, outputs, box_loss=box_loss)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=0.0)
    for mine, theirs in zip(gradients(found, outputs), gradients(expected, outputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-15)


@batches
@settings(max_examples=40)
def test_losses_in_float32_are_torchvisions_to_one_in_a_million(
    seed: int, images: int, rows: int, step: int
) -> None:
    targets = random_targets(seed, images, rows, step, torch.float32)
    outputs = random_outputs(seed, images, spread=3.0, dtype=torch.float32)
    expected = STOCK["l1"].compute_loss(as_list(targets), outputs, [ANCHORS] * images)
    found = ours(targets, outputs)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=0.0)


def test_extreme_logits_keep_losses_and_gradients_finite() -> None:
    targets = random_targets(3, 2, 4, 8, torch.float32)
    outputs = random_outputs(0, 2, spread=1e4, dtype=torch.float32)
    expected = STOCK["l1"].compute_loss(as_list(targets), outputs, [ANCHORS] * 2)
    found = ours(targets, outputs)
    torch.testing.assert_close(found, expected)
    assert all(gradient.isfinite().all() for gradient in gradients(found, outputs))


@batches
@settings(max_examples=20)
def test_the_batch_normalizer_divides_sums_by_all_matched_anchors(
    seed: int, images: int, rows: int, step: int
) -> None:
    targets = random_targets(seed, images, rows, step)
    outputs = random_outputs(seed, images, spread=1.0, dtype=torch.float64)
    matched = (match(targets.boxes, targets.valid, ANCHORS.double()) >= 0).sum(dim=1).tolist()
    sums = dict.fromkeys(("classification", "bbox_regression"), 0.0)
    for index, target in enumerate(as_list(targets)):
        one = {name: output[index, None] for name, output in outputs.items()}
        for name, loss in STOCK["l1"].compute_loss([target], one, [ANCHORS.double()]).items():
            sums[name] += loss.item() * max(1, matched[index])
    found = ours(targets, outputs, normalizer="batch")
    for name, total in sums.items():
        assert found[name].item() == pytest.approx(total / max(1, sum(matched)), rel=1e-10)


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_a_box_without_area_takes_no_anchor_and_breaks_nothing(box_loss: str) -> None:
    """torchvision refuses one, which takes a look at the values."""
    empty, full = [20.0, 20.0, 20.0, 40.0], [8.0, 8.0, 40.0, 40.0]
    with_it = Targets(
        torch.tensor([[empty, full]]), torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    )
    without = Targets(torch.tensor([[full]]), torch.tensor([[1]]), torch.tensor([[True]]))
    outputs = random_outputs(0, 1, 1.0, torch.float32)
    found = ours(with_it, outputs, box_loss=box_loss)
    assert found == ours(without, outputs, box_loss=box_loss)
    assert all(gradient.isfinite().all() for gradient in gradients(found, outputs))


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_whatever_stands_in_padding_changes_nothing(box_loss: str) -> None:
    targets = random_targets(3, 4, 5, 8, torch.float32)
    outputs = random_outputs(0, 4, 1.0, torch.float32)
    inside = targets.valid[..., None]
    results = []
    for filler in (0.0, torch.nan):
        boxes = torch.where(inside, targets.boxes, filler)
        found = ours(Targets(boxes, targets.labels, targets.valid), outputs, box_loss=box_loss)
        results.append([*found.values(), *gradients(found, outputs)])
    assert not targets.valid[:, 0].all()
    for zero, nan in zip(*results, strict=True):
        assert torch.equal(zero, nan)
