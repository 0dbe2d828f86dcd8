"""A detector as one graph of tensors, from pixels to boxes: what torch.export and ONNX write down.

torchvision's own detectors do not export (pytorch/vision#9306 and #9462, both open). Around what
stands in the way there:

- Images come as one tensor, not as a list whose length and sizes would be constants of the graph.
- Anchors are made from the shapes of the feature maps by operations; torchvision, and the cache of
  ours, put them together in Python from numbers.
- `min(candidates, n)` of a level is a symbolic minimum, no comparison that is decided only once.
- `batched_nms` chooses between two ways by the number of boxes, which is data; here the classes are
  always set apart by shifting, in float64. ONNX has an operator for classes (detect.export.onnx).
- torchvision tells torch.export that NMS keeps two boxes at least, which a program checks: two that
  always stay, outside of every image, go in and are taken out again.
- Frozen BatchNorm is folded into plain convolutions: ours chooses by the size of the maps.
"""

import copy
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from detect.data.batches import SHAPE_MULTIPLE, SMALLEST_SIDE
from detect.network.boxes import decode
from detect.network.frozen_norm import without_frozen_norms
from detect.network.retinanet import BatchedRetinaNet
from detect.recipes import Detector

Detections = tuple[Tensor, Tensor, Tensor, Tensor]
"""Boxes (n, 4), scores (n,), labels (n,), and the image of each (n,), a position in the batch."""
_EXAMPLE = (2, 3, 300, 420)
"""No side and no map of it is 1, which would be taken for a constant."""
_OUTSIDE = [[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]]
"""Two boxes that meet no other."""


class Candidates(nn.Module):
    """From normalised and padded pixels to the best candidates of each level, before NMS.

    Args:
        network: In eval mode; is not changed.
    """

    def __init__(self, network: BatchedRetinaNet) -> None:
        super().__init__()
        plain = without_frozen_norms(copy.deepcopy(network).float().cpu().eval())
        self.backbone: nn.Module = plain.get_submodule("backbone")
        self.head: nn.Module = plain.get_submodule("head")
        self.candidates: int = network.topk_candidates
        self.levels = len(network.anchor_generator.sizes)
        for level, cells in enumerate(network.anchor_generator.cell_anchors):
            self.register_buffer(f"cells{level}", cells.float().cpu().clone())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (B, M), labels (B, M) and boxes (B, M, 4) of pixels (B, 3, H, W)."""
        maps = list(self.backbone(pixels).values())
        outputs = self.head(maps)
        cells = [self.get_buffer(f"cells{level}") for level in range(self.levels)]
        counts = [
            len(cell) * level.shape[-2] * level.shape[-1]
            for cell, level in zip(cells, maps, strict=True)
        ]
        logits = outputs["cls_logits"].split(counts, dim=1)
        codes = outputs["bbox_regression"].split(counts, dim=1)
        scores, labels, boxes = [], [], []
        for level, cell in enumerate(cells):
            flat, classes = logits[level].flatten(1), logits[level].shape[2]
            best, place = flat.topk(torch.sym_min(self.candidates, flat.shape[1]), dim=1)
            anchor = place.div(classes, rounding_mode="floor")
            chosen = codes[level].gather(1, anchor.unsqueeze(-1).expand(-1, -1, 4))
            anchors = _anchors(cell, pixels, maps[level])
            scores.append(best.sigmoid())
            labels.append(place % classes)
            boxes.append(decode(chosen, anchors[anchor]))
        return torch.cat(scores, 1), torch.cat(labels, 1), torch.cat(boxes, 1)


def _anchors(cells: Tensor, pixels: Tensor, level: Tensor) -> Tensor:
    """Return the anchors of a level, as torchvision's AnchorGenerator."""
    rows, columns = (
        torch.arange(level.shape[side], device=cells.device)
        * (pixels.shape[side] // level.shape[side])
        for side in (-2, -1)
    )
    y, x = (grid.reshape(-1) for grid in torch.meshgrid(rows, columns, indexing="ij"))
    shifts = torch.stack([x, y, x, y], dim=1).to(cells.dtype)
    return (shifts[:, None] + cells).reshape(-1, 4)


class DetectionGraph(nn.Module):
    """A whole detector: pixels in, detections out, images in order and best first.

    Args:
        network: In eval mode; is not changed.
        detector: The recipe.
        preprocessing: Whether images come as they are, uint8, and are resized and normalised here;
            else they come resized and normalised, float32. They are padded here in any case.
    """

    def __init__(
        self, network: BatchedRetinaNet, detector: Detector, *, preprocessing: bool
    ) -> None:
        super().__init__()
        self.core = Candidates(network)
        self.detector, self.preprocessing = detector, preprocessing
        self.register_buffer("mean", network.pixel_mean.float().cpu().clone())
        self.register_buffer("std", network.pixel_std.float().cpu().clone())
        self.register_buffer("outside", torch.tensor(_OUTSIDE))
        self.classes = int(network.head.classification_head.num_classes)

    def forward(self, images: Tensor) -> Detections:
        """Detect on images (B, 3, H, W) of one size, RGB; boxes are in their pixels."""
        detector = self.detector
        pixels = images.float()
        height, width = images.shape[-2:]
        rows: Any = height
        columns: Any = width
        if self.preprocessing:
            # As `resized_shape`; in Python's floats, which are of 64 bits.
            scale = torch.sym_min(
                detector.test_size / torch.sym_min(height, width),
                detector.max_size / torch.sym_max(height, width),
            )
            rows, columns = (
                torch.sym_max(1, torch.sym_int(side * scale)) for side in (height, width)
            )
            pixels = F.interpolate(pixels, (rows, columns), mode="bilinear")
            pixels = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        pixels = F.pad(pixels, (0, -columns % SHAPE_MULTIPLE, 0, -rows % SHAPE_MULTIPLE))
        score, label, box = self.core(pixels)
        x1, y1, x2, y2 = box.unbind(-1)
        x1, x2 = x1.clamp(0, columns), x2.clamp(0, columns)
        y1, y2 = y1.clamp(0, rows), y2.clamp(0, rows)
        image, place = torch.where(score > detector.score_threshold)
        score, label = score[image, place], label[image, place]
        box = torch.stack([x1, y1, x2, y2], dim=-1)[image, place]
        kept = self._suppress(box, score, image, label, rows + columns)
        image, label, score, box = image[kept], label[kept], score[kept], box[kept].double()
        x1, y1, x2, y2 = box.unbind(-1)
        x1, x2 = ((x * (width / columns)).clamp(0, width) for x in (x1, x2))
        y1, y2 = ((y * (height / rows)).clamp(0, height) for y in (y1, y2))
        large = (x2 - x1 >= SMALLEST_SIDE) & (y2 - y1 >= SMALLEST_SIDE)
        box = torch.stack([x1, y1, x2, y2], dim=-1).float()
        return box[large], score[large], label[large], image[large]

    def _suppress(
        self, box: Tensor, score: Tensor, image: Tensor, label: Tensor, beyond: int
    ) -> Tensor:
        """Return which boxes stay, at most the limit of each image."""
        group = image * self.classes + label
        apart = box.double() + (group * (beyond + 1)).double()[:, None]
        corners = self.get_buffer("outside").to(apart)
        kept = nms(
            torch.cat([apart, corners]),
            torch.cat([score.double(), corners.new_full((2,), -1.0)]),
            self.detector.nms_iou,
        )
        kept = kept[kept < score.shape[0]]
        kept = kept[image[kept].argsort(stable=True)]
        of_image = image[kept]
        rank = torch.arange(of_image.shape[0], device=of_image.device) - torch.searchsorted(
            of_image, of_image
        )
        chosen: Tensor = kept[rank < self.detector.detections_per_image]
        return chosen


def export_program(graph: DetectionGraph) -> torch.export.ExportedProgram:
    """Export the graph for any number of images of any size.

    What torch.export guards against, that a map is a single pixel, holds for images that are very
    small; the program is right for them too: load it with `.module(check_guards=False)`.
    """
    images = torch.zeros(_EXAMPLE, dtype=torch.uint8 if graph.preprocessing else torch.float32)
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad(), warnings.catch_warnings():
        # torchvision's own description of its NMS, with torch 2.15.
        warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)
        return torch.export.export(
            graph.eval(), (images,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
        )
