"""Boxes against anchors: overlap, and the four numbers that a detector predicts.

Boxes are [x1, y1, x2, y2] in pixels. All functions take any leading dimensions that broadcast.
"""

import math

import torch
from torch import Tensor

_LARGEST_LOG_SCALE = math.log(1000 / 16)
"""Largest predicted logarithm of a side over its anchor's, as in torchvision: exp stays finite."""
_EPSILON = 1e-7
"""Square pixels, as in torchvision: keeps divisions by an area of 0 defined."""


def pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the intersection over union of each box with each anchor.

    torchvision's `box_iou` needs four times the memory, for pairs of corners.

    Args:
        boxes: (..., M, 4).
        anchors: (N, 4), of positive area.

    Returns:
        (..., M, N).
    """
    x1, y1, x2, y2 = boxes.unsqueeze(-2).unbind(-1)
    left, top, right, bottom = anchors.unbind(-1)
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    overlap = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)).sub_(overlap)
    return overlap.div_(union)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Describe boxes relative to anchors (Girshick et al., arXiv 1311.2524, appendix C).

    Args:
        boxes: (..., 4), of positive area.
        anchors: (..., 4), of positive area.

    Returns:
        (..., 4): shift of the centre in sides of the anchor, logarithm of the sides over its sides.
    """
    centre, sides = _centre_and_sides(boxes)
    anchor_centre, anchor_sides = _centre_and_sides(anchors)
    return torch.cat(
        [(centre - anchor_centre) / anchor_sides, (sides / anchor_sides).log()], dim=-1
    )


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes that `encode` describes; huge sides are clamped, and stay finite.

    Args:
        codes: (..., 4).
        anchors: (..., 4).

    Returns:
        Boxes, (..., 4).
    """
    anchor_centre, anchor_sides = _centre_and_sides(anchors.to(codes.dtype))
    centre = codes[..., :2] * anchor_sides + anchor_centre
    half = codes[..., 2:].clamp(max=_LARGEST_LOG_SCALE).exp() * anchor_sides * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def giou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """Return 1 - GIoU of pairs of boxes (Rezatofighi et al., arXiv 1902.09630).

    torchvision's own selects the pairs that overlap, for which it waits for the device.

    Args:
        boxes: (..., 4).
        others: (..., 4).

    Returns:
        (...), from 0 for equal boxes to 2.
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    common = torch.cat([low, high], dim=-1)
    # Not a clamp: boxes that only touch would get a gradient; torchvision's get none.
    overlap = torch.where((high > low).all(dim=-1), _area(common), 0.0)
    union = _area(boxes) + _area(others) - overlap
    low = torch.minimum(boxes[..., :2], others[..., :2])
    high = torch.maximum(boxes[..., 2:], others[..., 2:])
    hull = _area(torch.cat([low, high], dim=-1))
    return 1 - overlap / (union + _EPSILON) + (hull - union) / (hull + _EPSILON)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _centre_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides
