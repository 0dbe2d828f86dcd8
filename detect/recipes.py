"""What can be fine-tuned: one function a recipe, every choice in it.

The first line of a docstring is what `python -m detect list` shows. The paper does not state its
detector settings; use one recipe unchanged for both backbones and compare differences.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from common.recipe import AT_LEAST_ONE, POSITIVE, SHARE, Focus, Optimization, Range, check

SCRATCH = "scratch"
"""What is given, and said, in place of a backbone where a run begins with random weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """RetinaNet-FPN (Lin et al., arXiv 1708.02002) on a ResNet body."""

    fpn_channels: Annotated[int, AT_LEAST_ONE] = 256
    """Channels of the feature pyramid and of the heads."""
    trainable_stages: Annotated[int, Range(high=5)] = 3
    """Stages of the body that are trained, from the last."""
    norm: Literal["frozen", "batch"] = "frozen"
    """BatchNorm of the body: frozen statistics and affine, or trained in the trained stages."""
    head_norm: Literal["none", "group"] = "none"
    """GroupNorm(32) in the towers of the heads, or none."""
    box_loss: Literal["l1", "giou"] = "l1"
    """L1 on the encoded boxes, or 1 - GIoU (Rezatofighi et al., arXiv 1902.09630)."""
    loss_normalizer: Literal["image", "batch"] = "image"
    """What losses are divided by: for each image the anchors matched to its objects, before the
    mean over images; or the matched anchors of the whole local batch."""
    anchor_scale: Annotated[float, POSITIVE] = 4.0
    """Smallest anchor of a level, in strides; 4 gives torchvision's 32 pixels on P3."""
    train_sizes: Annotated[tuple[int, ...], AT_LEAST_ONE] = (600,)
    """Short side in training, pixels; of several one is drawn for each image."""
    test_size: Annotated[int, AT_LEAST_ONE] = 600
    """Short side in evaluation, pixels."""
    max_size: Annotated[int, AT_LEAST_ONE] = 1000
    """Longest side, pixels."""
    score_threshold: Annotated[float, SHARE] = 0.05
    """Only detections above this score are kept."""
    nms_iou: Annotated[float, SHARE] = 0.5
    """Overlap above which the weaker of two detections of a class is dropped."""
    detections_per_image: Annotated[int, AT_LEAST_ONE] = 100
    """At most this many detections are kept."""
    test_batch_size: Annotated[int, AT_LEAST_ONE] = 8
    """Images of one padded shape that go through at once in evaluation."""

    def __post_init__(self) -> None:
        if not self.train_sizes:
            raise ValueError("train_sizes must hold at least one size")
        check(self)
        # With a channel a group, a map of one pixel and one image would be a single value.
        if self.head_norm == "group" and (self.fpn_channels % 32 or self.fpn_channels == 32):
            raise ValueError(
                f"fpn_channels {self.fpn_channels} does not suit GroupNorm(32): "
                "choose a multiple of 32 above 32"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random changes to training images; boxes follow."""

    crop: bool = False
    """Crop, keeping most of the boxes."""
    flip: Annotated[float, SHARE] = 0.5
    """Probability of a horizontal flip."""
    colour: Annotated[float, SHARE] = 0.0
    """Strength of the colour jitter, 0 to 1."""
    scale: tuple[float, float] | None = None
    """Large-scale jitter (Ghiasi et al., arXiv 2012.07177): resize by a factor from this range, and
    cut out or fill up a square of max_size; all batches have its shape. None: none."""
    library: Literal["albumentations", "torchvision"] = "albumentations"
    """Who crops, flips and changes colours: the same draws, colours equal up to rounding."""

    def __post_init__(self) -> None:
        check(self)
        if self.scale and not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"scale must satisfy 0 < low <= high, not {self.scale}")
        if self.scale and self.crop:
            raise ValueError("scale cuts out a square already: choose it or crop")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One detector, its data, one way to train."""

    body: Literal[
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ] = "resnet50"
    """Architecture of the backbone file, a ResNet of torchvision."""
    train_split: str = "2007:trainval,2012:trainval"
    """Training images, YEAR:SET, comma-separated."""
    val_split: str = "2007:test"
    """Images of the evaluation that chooses the best checkpoint."""
    difficult: bool = False
    """Train on objects marked difficult, too; on COCO's crowds never."""
    group_by_aspect: bool = True
    """Form batches of landscape or of portrait images, as far as they go: less padding."""
    detector: Detector
    augmentation: Augmentation
    optimization: Optimization
    focus: Focus = field(default_factory=Focus)
    """FocusedDropout in the body during fine-tuning (the paper's future work)."""

    @property
    def tied_to_epochs(self) -> str | None:
        """What in the training depends on the number of its epochs; None: nothing does."""
        return self.optimization.tied_to_epochs

    def from_scratch(self) -> "Recipe":
        """Return the recipe for random weights: all of the body is trained, BatchNorm too."""
        return replace(self, detector=replace(self.detector, norm="batch", trainable_stages=5))

    def focused(self, after: str, weight_decay: str | None) -> "Recipe":
        """Return the recipe with FocusedDropout after a stage of the body, and MWD.

        Args:
            after: The stage, such as layer3.
            weight_decay: Of the steps that do not take part, as it was typed; None: the recipe's.
                In the others it is ten times as much, as in our classification recipes.
        """
        base = self.optimization.weight_decay
        if weight_decay is not None:
            with contextlib.suppress(ValueError):  # what is no number, the parser refuses
                base = float(weight_decay)
        return replace(self, focus=replace(self.focus, after=after, weight_decay=10 * base))


def toy_retinanet() -> Recipe:
    """RetinaNet-FPN, ResNet-18, on drawn scenes; two minutes on a laptop CPU."""
    return Recipe(
        body="resnet18",
        train_split="2007:trainval",
        group_by_aspect=False,  # the scenes are square
        detector=Detector(
            fpn_channels=64,
            loss_normalizer="image",
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
        detector=Detector(train_sizes=(256,), test_size=256, max_size=320, loss_normalizer="image"),
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
    Losses are divided by the matched anchors of the whole batch, as there: torchvision's division
    image by image gives an image with few of them a larger weight.
    """
    return Recipe(
        detector=Detector(loss_normalizer="batch"),
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
            loss_normalizer="image",
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


def voc_retinanet_strong() -> Recipe:
    """VOC07+12, RetinaNet-FPN R50, what lifts it: scales, GroupNorm, GIoU, averages; not yet run.

    Sizes 480 to 800, 24 epochs with steps at 2/3 and 8/9, an average of the weights (0.9998),
    GroupNorm in the heads and the GIoU loss, both as in torchvision's second RetinaNet. Losses are
    divided by the matched anchors of the whole batch, as in the public recipes of that strength: no
    image weighs more for having few.
    """
    return Recipe(
        difficult=True,
        detector=Detector(
            head_norm="group",
            box_loss="giou",
            loss_normalizer="batch",
            train_sizes=tuple(range(480, 801, 32)),
            test_size=800,
            max_size=1333,
            detections_per_image=300,
        ),
        augmentation=Augmentation(colour=1.0),
        optimization=Optimization(
            lr=0.01,
            batch_size=16,
            epochs=24,
            milestones=(16, 21.33),
            warmup_steps=500,
            clip_norm=10.0,
            ema_decay=0.9998,
        ),
    )


def voc_retinanet_best() -> Recipe:
    """VOC07+12, RetinaNet-FPN R50, 512 px, large-scale jitter (82.5 mAP elsewhere); not yet run.

    Size, jitter, schedule and rate are those of seetadet's voc_retinanet_R_50_FPN_120e: longest
    side 512, factors 0.1 to 2, 120,000 steps of 16 images (116 epochs of the 16,551), SGD 0.01 and
    1e-4, warm-up of 3,000 steps, steps at 80,000 and 100,000, difficult objects trained on,
    suppression at 0.45. Ours: bf16, an average of the weights (0.9998), boxes dropped of which less
    than a tenth is left. One shape, so `--optimization.compile --optimization.cuda-graphs` fit.
    """
    return Recipe(
        difficult=True,
        group_by_aspect=False,  # all batches are squares
        detector=Detector(
            train_sizes=(512,), test_size=512, max_size=512, nms_iou=0.45, loss_normalizer="batch"
        ),
        augmentation=Augmentation(colour=1.0, scale=(0.1, 2.0)),
        optimization=Optimization(
            lr=0.01,
            batch_size=16,
            epochs=116,
            milestones=(77.33, 96.67),
            warmup_steps=3000,
            ema_decay=0.9998,
            precision="bf16",
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        toy_retinanet,
        voc_retinanet_small,
        voc_retinanet_parity,
        voc_retinanet_paper,
        voc_retinanet_strong,
        voc_retinanet_best,
    )
}


def describe(recipe: Recipe) -> str:
    """Say what is trained on what, for how long: the groups of `python -m detect list`."""
    years = (part.partition(":")[0] for part in recipe.train_split.split(","))
    data = " and ".join(f"VOC{year}" for year in years)
    detector, epochs = recipe.detector, recipe.optimization.epochs
    side = "-".join(map(str, sorted({detector.train_sizes[0], detector.train_sizes[-1]})))
    return f"{data}, {recipe.body}, short side {side} px: {epochs} epochs"
