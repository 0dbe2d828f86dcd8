"""From what a RetinaNet predicts to detections, for all images of a batch at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detect.network.boxes import decode


def select_detections(
    logits: Sequence[Tensor],
    regression: Sequence[Tensor],
    anchors: Sequence[Tensor],
    sizes: Tensor,
    *,
    score_threshold: float,
    candidates: int,
    nms_iou: float,
    limit: int,
) -> list[dict[str, Tensor]]:
    """Choose the detections of each image.

    They are those of torchvision's RetinaNet: the best `candidates` scores of a level, those above
    the threshold, boxes cut to the image, non-maximum suppression (NMS) within a class.

    Args:
        logits: A level each, (B, N, K) float32.
        regression: A level each, (B, N, 4) float32.
        anchors: A level each, (N, 4).
        sizes: (B, 2), height and width of each image.
        score_threshold: Scores must lie above it.
        candidates: At most this many of an image and level go to NMS.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        limit: At most this many detections per image.

    Returns:
        For each image "boxes" (n, 4), "scores" (n) and "labels" (n), best first.
    """
    num_images, _, num_classes = logits[0].shape
    scores, labels, boxes = [], [], []
    for level_logits, level_regression, level_anchors in zip(
        logits, regression, anchors, strict=True
    ):
        flat = level_logits.flatten(1)
        # Logits order candidates as scores do, and tell apart those whose scores round to the same.
        best, place = flat.topk(min(candidates, flat.shape[1]), dim=1)
        anchor = place.div(num_classes, rounding_mode="floor")
        codes = level_regression.gather(1, anchor.unsqueeze(-1).expand(-1, -1, 4))
        scores.append(best.sigmoid())
        labels.append(place % num_classes)
        boxes.append(decode(codes, level_anchors[anchor]))
    score, label = torch.cat(scores, dim=1), torch.cat(labels, dim=1)
    edge = sizes.flip(1).repeat(1, 2).unsqueeze(1)  # width, height, width, height
    box = torch.cat(boxes, dim=1).clamp(min=0).minimum(edge)
    image, place = torch.where(score > score_threshold)
    score, label, box = score[image, place], label[image, place], box[image, place]
    # In float64, since NMS may tell groups apart by shifting them far to the right.
    kept = batched_nms(box.double(), score.double(), image * num_classes + label, nms_iou)
    kept = kept[image[kept].argsort(stable=True)]
    counts = image[kept].bincount(minlength=num_images).tolist()
    return [
        {"boxes": box[mine], "scores": score[mine], "labels": label[mine]}
        for mine in (part[:limit] for part in kept.split(counts))
    ]
