"""What can be fine-tuned: one function a recipe, every choice in it.

The first line of a docstring is what `python -m detect list` shows. The paper does not state its
detector settings; use one recipe unchanged for both backbones and compare differences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from common.settings import Optimization, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """RetinaNet-FPN (Lin et al., arXiv 1708.02002) on a ResNet body."""

    fpn_channels: int = 256
    """Channels of the feature pyramid and of the heads."""
    trainable_stages: int = 3
    """Stages of the body that are trained, from the last; BatchNorm is frozen in all of them."""
    anchor_scale: float = 4.0
    """Smallest anchor of a level, in strides; 4 gives torchvision's 32 pixels on P3."""
    train_sizes: tuple[int, ...] = (600,)
    """Short side in training, pixels; of several one is drawn for each image."""
    test_size: int = 600
    """Short side in evaluation, pixels."""
    max_size: int = 1000
    """Longest side, pixels."""
    score_threshold: float = 0.05
    """Detections below this score are dropped."""
    nms_iou: float = 0.5
    """Overlap at which the weaker of two detections of a class goes."""
    detections_per_image: int = 100
    """At most so many detections are kept."""

    def __post_init__(self) -> None:
        if not self.train_sizes:
            raise ValueError("train_sizes must hold at least one size")
        sizes = "train_sizes test_size max_size fpn_channels detections_per_image"
        check_range(self, sizes, low=1)
        check_range(self, "trainable_stages", high=5)
        check_range(self, "anchor_scale", above=True)
        check_range(self, "score_threshold nms_iou", high=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random changes to training images; boxes follow."""

    crop: bool = False
    """Crop, keeping most of the boxes."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    colour: float = 0.0
    """Strength of the colour jitter, 0 to 1."""

    def __post_init__(self) -> None:
        check_range(self, "flip colour", high=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One detector, its data, one way to train."""

    body: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Architecture of the backbone file."""
    train_split: str = "2007:trainval,2012:trainval"
    """Training images, YEAR:SET, comma-separated."""
    val_split: str = "2007:test"
    """Images of the evaluation that chooses the best checkpoint."""
    difficult: bool = False
    """Train on objects marked difficult, too."""
    detector: Detector
    augmentation: Augmentation
    optimization: Optimization


def toy_retinanet() -> Recipe:
    """RetinaNet-FPN, ResNet-18, on drawn scenes; two minutes on a laptop CPU."""
    return Recipe(
        body="resnet18",
        train_split="2007:trainval",
        detector=Detector(
            fpn_channels=64,
            trainable_stages=2,
            anchor_scale=3.0,
            train_sizes=(128,),
            test_size=128,
            max_size=128,
        ),
        augmentation=Augmentation(flip=0.5),
        optimization=Optimization(
            optimizer="adamw",
            lr=1e-3,
            weight_decay=1e-4,
            batch_size=8,
            epochs=4,
            schedule="cosine",
            warmup_steps=50,
            clip_norm=10.0,
        ),
    )


def voc_retinanet_small() -> Recipe:
    """RetinaNet-FPN on images of 320 pixels, for small data and small machines; ours."""
    return Recipe(
        train_split="2012:train",
        val_split="2012:val",
        detector=Detector(train_sizes=(256,), test_size=256, max_size=320),
        augmentation=Augmentation(crop=True, colour=1.0),
        optimization=Optimization(
            lr=0.01,
            batch_size=16,
            epochs=24,
            milestones=(16, 21),
            warmup_steps=200,
            clip_norm=10.0,
        ),
    )


def voc_retinanet_parity() -> Recipe:
    """VOC07+12, RetinaNet-FPN R50, the public 12-epoch recipe (79.2 mAP elsewhere); not yet run.

    Settings of mmdetection's configs/pascal_voc: 1000x600, 16 images, SGD 0.01, step at epoch 9.
    """
    return Recipe(
        detector=Detector(),
        augmentation=Augmentation(),
        optimization=Optimization(lr=0.01, batch_size=16, epochs=12, milestones=(9,)),
    )


def voc_retinanet_paper() -> Recipe:
    """Table 5, VOC07+12, RetinaNet-FPN R50; the paper: 70.14 -> 71.05 mAP; not yet run.

    The paper's settings are unknown; these are stated choices close to public code: multi-scale
    480 to 800, about 18,000 steps of 16 images, steps at 2/3 and 8/9, warm-up, clipping.
    """
    return Recipe(
        difficult=True,
        detector=Detector(
            train_sizes=tuple(range(480, 801, 32)),
            test_size=800,
            max_size=1333,
            detections_per_image=300,
        ),
        augmentation=Augmentation(colour=1.0),
        optimization=Optimization(
            lr=0.01,
            batch_size=16,
            epochs=18,
            milestones=(12, 16),
            warmup_steps=500,
            clip_norm=10.0,
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        toy_retinanet,
        voc_retinanet_small,
        voc_retinanet_parity,
        voc_retinanet_paper,
    )
}
