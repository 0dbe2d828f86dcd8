"""What a recipe holds: a classifier, a data set, one way to train."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from common.recipe import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, Focus, Optimization, Range, check

Dataset = Literal["cifar10", "cifar100", "tiny-imagenet", "imagenet", "folders"]
NetworkName = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "cifar-resnet20",
    "cifar-resnet56",
    "cifar-resnet110",
    "vgg19-bn",
    "densenet100-bc",
    "wrn-28-10",
]
GROUPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("resnet18", "resnet34", "resnet50", "resnet101"),
        ("layer1", "layer2", "layer3", "layer4"),
    ),
    **dict.fromkeys(
        ("cifar-resnet20", "cifar-resnet56", "cifar-resnet110"), ("layer1", "layer2", "layer3")
    ),
    "vgg19-bn": ("group1", "group2", "group3", "group4", "group5"),
    "densenet100-bc": ("block1", "block2", "block3"),
    "wrn-28-10": ("group1", "group2", "group3"),
}
"""The networks, and the names of their groups from the first to the last."""
Block = Literal["basic", "bottleneck", "bottleneck-6n"]
Stem = Literal["imagenet", "no-pool", "small"]
"""First layers of a torchvision ResNet: stride 4; stride 2, without the pooling; stride 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Training images and their augmentation."""

    dataset: Dataset
    """What the images are; folders: your own, in class folders or beside a list of classes."""
    size: Annotated[int, AT_LEAST_ONE]
    """Side of the network's input, pixels."""
    crop: Literal["pad", "resized"]
    """Random crop: of the zero-padded image, or RandomResizedCrop read from files."""
    padding: Annotated[int, NOT_NEGATIVE] = 4
    """Zeros around the image before a pad crop, pixels."""
    min_scale: Annotated[float, Range(high=1, above=True)] = 0.08
    """Smallest share of the area that a resized crop takes."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """Who decodes training images for a resized crop: the workers, or nvJPEG, to other pixels."""
    num_classes: Annotated[int | None, AT_LEAST_ONE] = None
    """Use the first N classes only; None: all."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """Each image once an epoch, or as many of each class: rare ones several times."""
    split_by: Annotated[float | None, Range(high=0.9, above=True)] = 0.2
    """Share of the training images that validates where the data has no images for it, chosen by a
    hash of the file names; None: there must be some."""
    held_out: Annotated[int, NOT_NEGATIVE] = 0
    """Training images kept back to choose the epoch by; 0: the validation images choose."""
    held_out_by_seed: bool = False
    """Choose them by the run's seed; otherwise every run keeps back the same ones."""

    def __post_init__(self) -> None:
        check(self)
        if self.decode == "gpu" and self.crop != "resized":
            raise ValueError("images.decode gpu goes with images.crop resized")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropout:
    """A dropout that the paper compares with; off by default."""

    kind: Literal["none", "dropout", "spatial-dropout", "dropblock"] = "none"
    """Drops single units, whole channels, or square blocks of a channel."""
    after: tuple[str, ...] = ()
    """Submodules whose output it acts on, such as layer2, pool4 or transition2."""
    steps: Literal["all", "participating"] = "all"
    """All steps, or those alone whose weight decay is magnified: a control, not in the paper."""
    rate: Annotated[float, SHARE] = 0.1
    """Share of the units that is dropped."""
    block_size: Annotated[int, AT_LEAST_ONE] = 7
    """Side of DropBlock's blocks, units."""
    linear: bool = True
    """DropBlock's rate rises linearly from 0 over the whole training."""

    @property
    def rises(self) -> bool:
        """Whether the rate rises over the training."""
        return self.kind == "dropblock" and self.linear

    def __post_init__(self) -> None:
        check(self)
        if (self.kind == "none") != (not self.after):
            raise ValueError("a dropout needs both a kind and the groups it stands after")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One classifier, one data set, one way to train."""

    network: NetworkName
    """Architecture."""
    stem: Stem = "imagenet"
    """First layers of resnet18 to resnet101: stride 4, 2 (no pooling) or 1."""
    block: Block | None = None
    """Blocks of a cifar-resnet: depth 6n+2, 9n+2, or bottlenecks counted 6n+2; None: as usual."""
    label_smoothing: Annotated[float, SHARE] = 0.0
    """Share of the target spread over all classes."""
    class_weights: Literal["balanced"] | None = None
    """Weigh the loss of each training image: balanced, by images / (classes * images of its class),
    so that all classes count alike; None: all images do. The other way: --images.sampling."""
    images: Images
    optimization: Optimization
    focus: Focus = field(default_factory=Focus)
    dropout: Dropout = field(default_factory=Dropout)

    @property
    def tied_to_epochs(self) -> str | None:
        """What in the training depends on the number of its epochs; None: nothing does."""
        return self.optimization.tied_to_epochs or (
            "the rate of DropBlock" if self.dropout.rises else None
        )

    def __post_init__(self) -> None:
        check(self)
        if self.class_weights and self.images.sampling == "balanced":
            raise ValueError(
                "class_weights and images.sampling balanced both make up for rare classes: give one"
            )
        if self.dropout.steps == "participating" and not self.focus.enabled:
            raise ValueError(
                "a dropout in the participating steps needs steps that take part: give "
                "--focus.weight-decay as well"
            )


def focused(recipe: Recipe, after: str) -> Recipe:
    """Add the paper's method: FocusedDropout and magnified weight decay, 10% of the steps."""
    return replace(recipe, focus=Focus(after=after, weight_decay=1e-3))
