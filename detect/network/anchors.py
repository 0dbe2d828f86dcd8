"""RetinaNet's anchors, made once for each shape of a batch."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

_STRIDES = (8, 16, 32, 64, 128)
_KEPT = 32
"""The anchors of this many shapes are kept, the last ones used; 2 MB each at 1000x600."""


class CachedAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's anchors, kept for the shapes used last, and float32 under autocast as well.

    Copies and pickles start without any.
    """

    def __init__(
        self, sizes: tuple[tuple[int, ...], ...], aspect_ratios: tuple[tuple[float, ...], ...]
    ) -> None:
        super().__init__(sizes, aspect_ratios)
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image of a batch, all levels in one tensor (N, 4)."""
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        key = (
            tuple(tuple(feature_map.shape[-2:]) for feature_map in feature_maps),
            tuple(image_list.tensors.shape[-2:]),
            dtype,
            feature_maps[0].device,
        )
        anchors = self._kept.pop(key, None)
        if anchors is None:
            # A tensor made in inference mode could not take part in training afterwards.
            with torch.inference_mode(False), torch.no_grad():
                one = ImageList(image_list.tensors, image_list.image_sizes[:1])
                maps = [torch.empty_like(level, dtype=dtype) for level in feature_maps]
                (anchors,) = super().forward(one, maps)
        self._kept[key] = anchors  # now the newest
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return [anchors] * len(image_list.image_sizes)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": {}}


def make_anchors(scale: float) -> CachedAnchors:
    """Return three sizes by three shapes a level, P3 to P7.

    Args:
        scale: Smallest size of a level over its stride; sizes are cut to whole pixels as
            torchvision does.
    """
    sizes = tuple(
        tuple(int(scale * stride * 2 ** (octave / 3)) for octave in range(3)) for stride in _STRIDES
    )
    return CachedAnchors(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
