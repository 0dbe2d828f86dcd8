"""RetinaNet's matching and losses over a whole batch at once (Lin et al., arXiv 1708.02002).

Shapes follow from the shapes of the arguments alone, never from values, and nothing is read back:
a GPU is not waited for. B images, M rows of objects, N anchors, K classes.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detect.data.batches import Targets
from detect.network.boxes import decode, encode, giou_loss, pairwise_iou

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4
BACKGROUND = -1
IGNORED = -2
FOCAL_ALPHA = 0.25
_PAIRS_AT_ONCE = 2**24
"""Overlaps held at a time: 64 MB in float32, some five times that at the peak."""


@torch.no_grad()
def match(boxes: Tensor, valid: Tensor, anchors: Tensor) -> Tensor:
    """Assign an object to each anchor, by the rules of torchvision's Matcher.

    An anchor takes the object that it overlaps most, the first of equals, if their IoU is at least
    0.5; below 0.4 it is background, between the two it is ignored. Whatever the IoU, an anchor that
    overlaps some object as much as any anchor does takes the object that it overlaps most itself
    ("low quality" matches): mostly that very object, but not where it lies nearer to another.

    An object without area takes no anchor. In torchvision it would take every one that it does not
    overlap.

    Args:
        boxes: (B, M, 4).
        valid: (B, M), false for padding.
        anchors: (N, 4).

    Returns:
        (B, N): a row of `boxes`, BACKGROUND or IGNORED.
    """
    shape = len(boxes), len(anchors)
    best = anchors.new_full(shape, -1.0)
    row = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    best_of_an_object = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    at_once = max(1, _PAIRS_AT_ONCE // (shape[0] * shape[1]))
    for start in range(0, boxes.shape[1], at_once):
        chunk = slice(start, start + at_once)
        iou = pairwise_iou(boxes[:, chunk], anchors).masked_fill_(~valid[:, chunk, None], -1.0)
        value, place = iou.max(dim=1)
        row = torch.where(value > best, place + start, row)
        best = torch.maximum(value, best)
        top = iou.amax(dim=2, keepdim=True)
        best_of_an_object |= ((iou == top) & (top > 0)).any(dim=1)
    matched = (best >= FOREGROUND_IOU) | best_of_an_object
    unmatched = torch.where(best < BACKGROUND_IOU, BACKGROUND, IGNORED)
    return torch.where(matched, row, unmatched)


class _FocalLoss(torch.autograd.Function):
    """The weighted sum of the focal loss with gamma 2, and its gradient in the same pass.

    With s the logit, negated where the class is the anchor's, and p its sigmoid, every element
    costs p^2 softplus(s), times 1 - alpha, or alpha where it was negated. Automatic
    differentiation would keep about ten tensors of the logits' size; this keeps one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, matched: Tensor, weight: Tensor) -> Tensor:
        foreground = (matched >= 0).unsqueeze(-1)
        own = logits.gather(2, label.unsqueeze(-1))
        negated = torch.where(foreground, -own, own)
        s = logits.scatter(2, label.unsqueeze(-1), negated)
        p = s.sigmoid()
        softplus = F.softplus(s)
        square = p * p
        loss = (square * softplus).sum(dim=2)
        # p^2 (2 (1 - p) softplus + p), in the memory of what is no longer needed.
        slope = softplus.mul_(2).mul_(1 - p).add_(p).mul_(square)
        own_p = negated.sigmoid()
        own_loss = own_p * own_p * F.softplus(negated)
        own_slope = slope.gather(2, label.unsqueeze(-1))
        scale = weight * (matched != IGNORED)
        slope.mul_(((1 - FOCAL_ALPHA) * scale).unsqueeze(-1))
        own_scale = torch.where(foreground, -FOCAL_ALPHA, 1 - FOCAL_ALPHA) * scale.unsqueeze(-1)
        slope.scatter_(2, label.unsqueeze(-1), own_scale * own_slope)
        ctx.save_for_backward(slope)
        # The elements of the anchors' classes stand in `loss` with 1 - alpha in place of alpha.
        surplus = torch.where(foreground, (1 - 2 * FOCAL_ALPHA) * own_loss, 0.0).squeeze(-1)
        return (((1 - FOCAL_ALPHA) * loss - surplus) * scale).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient, None, None, None


def retinanet_losses(
    targets: Targets,
    logits: Tensor,
    regression: Tensor,
    anchors: Tensor,
    *,
    box_loss: Literal["l1", "giou"],
    normalizer: Literal["image", "batch"],
) -> dict[str, Tensor]:
    """Return the focal loss (alpha 0.25, gamma 2) and the box loss of a batch.

    Args:
        targets: The objects.
        logits: (B, N, K) float32.
        regression: (B, N, 4) float32, as `encode` gives it.
        anchors: (N, 4).
        box_loss: L1 on the encoded boxes, or 1 - GIoU of the decoded ones.
        normalizer: "image" divides each image's sums by its number of matched anchors and takes the
            mean over images, as torchvision; "batch" divides the sums over the batch by the number
            of matched anchors in it, as detectron2 and mmdetection do up to averages over time and
            ranks. Where there are none, both divide by 1.

    Returns:
        "classification" and "bbox_regression", two scalars.
    """
    matched = match(targets.boxes, targets.valid, anchors)
    foreground = matched >= 0
    row = matched.clamp(min=0)
    label = torch.where(foreground, targets.labels.gather(1, row), 0)
    count = foreground.sum(dim=1)
    if normalizer == "image":
        divisor = count.clamp(min=1) * len(count)
    else:
        divisor = count.sum().clamp(min=1).expand(len(count))
    weight = divisor.to(logits.dtype).reciprocal().unsqueeze(-1)
    classification = _FocalLoss.apply(logits, label, matched, weight)
    # Anchors without an object stand in for one, so that their cost, which is dropped, is finite.
    objects = targets.boxes.gather(1, row.unsqueeze(-1).expand(-1, -1, 4))
    objects = torch.where(foreground.unsqueeze(-1), objects, anchors)
    if box_loss == "l1":
        cost = (regression - encode(objects, anchors)).abs().sum(dim=-1)
    else:
        cost = giou_loss(decode(regression, anchors), objects)
    return {
        "classification": classification,
        "bbox_regression": (torch.where(foreground, cost, 0.0) * weight).sum(),
    }
