"""What was published of each data set: archives and their digests, files, numbers of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from downloads.fetching import Archive
from pretrain.data import cifar

_THOR = "https://thor.robots.ox.ac.uk/pascal/VOC"  # where the official server moved in 2025
_COPY = "https://data.pjreddie.com/files"
_KRIZ = "https://www.cs.toronto.edu/~kriz"

ImageKind = Literal["cifar10", "cifar100", "tiny-imagenet", "imagenet"]
Counts = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a data set that is published as one archive."""

    archive: Archive | None = None
    """None: it cannot be fetched by a program."""
    split: str = ""
    """YEAR:SET of VOC."""
    published: Mapping[str, int]
    """Numbers of images and the like."""
    unpacked: int = 0
    """Bytes on the disk, generously; 0: the archive is read as it is."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set."""

    kind: ImageKind | Literal["voc"]
    """Who reads it."""
    folder: str
    """The folder that its archives unpack to."""
    parts: tuple[Part, ...]
    """What it consists of."""
    trees: tuple[tuple[str, ...], ...]
    """Patterns of its files below that folder; any one of the trees is enough."""

    def home(self, root: Path) -> Path:
        """Return the folder of the patterns: the one given, or the one in it."""
        return root / self.folder if (root / self.folder).is_dir() else root


def _voc_tree(year: int, *sets: str) -> tuple[str, ...]:
    lists = (f"VOC{year}/ImageSets/Main/{name}.txt" for name in sets)
    return f"VOC{year}/Annotations/*.xml", *lists, f"VOC{year}/JPEGImages/*.jpg"


def _voc_part(
    year: int, name: str, file: str, size: int, md5: str, sha256: str, published: Counts
) -> Part:
    return Part(
        archive=Archive(
            name=file,
            urls=(f"{_THOR}/voc{year}/{file}", f"{_COPY}/{file}"),
            size=size,
            md5=md5,
            sha256=sha256,
        ),
        split=f"{year}:{name}",
        published=published,
        unpacked=size + size // 10,
    )


def _cifar(published: cifar.Published, kind: ImageKind, size: int, per_class: int) -> DataSet:
    binary, python = published.versions
    batches = (*published.train, *published.test)
    return DataSet(
        kind=kind,
        folder="",
        parts=(
            Part(
                archive=Archive(
                    name=python.archive,
                    urls=(f"{_KRIZ}/{python.archive}",),
                    size=size,
                    md5=python.md5,
                    sha256=python.sha256,
                ),
                published=_class_counts(len(published.classes), per_class, 10_000),
            ),
        ),
        trees=(
            (python.archive,),
            (binary.archive,),
            *(
                tuple(f"{version.folder}/{name}" for name in version.files(batches))
                for version in (python, binary)
            ),
            ("train/*/*", "test/*/*"),
        ),
    )


def _class_counts(classes: int, per_class: int, val: int) -> Counts:
    return {
        "classes": classes,
        "train images": classes * per_class,
        "train images, fewest of a class": per_class,
        "train images, most of a class": per_class,
        "val images": val,
    }


DATA_SETS: dict[str, DataSet] = {
    "voc2007": DataSet(
        kind="voc",
        folder="VOCdevkit",
        parts=(
            _voc_part(
                2007,
                "trainval",
                "VOCtrainval_06-Nov-2007.tar",
                460_032_000,
                "c52e279531787c972589f7e41ab4ae64",
                "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
                {"images": 5_011, "objects": 15_662, "objects not difficult": 12_608},
            ),
            _voc_part(
                2007,
                "test",
                "VOCtest_06-Nov-2007.tar",
                451_020_800,
                "b6e924de25625d8de591ea690078ad9f",
                "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
                {"images": 4_952, "objects": 14_976, "objects not difficult": 12_032},
            ),
        ),
        trees=(_voc_tree(2007, "trainval", "test"),),
    ),
    "voc2012": DataSet(
        kind="voc",
        folder="VOCdevkit",
        parts=(
            _voc_part(
                2012,
                "trainval",
                "VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "6cd6e144f989b92b3379bac3b3de84fd",
                "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                {"images": 11_540},
            ),
        ),
        trees=(_voc_tree(2012, "trainval"),),
    ),
    "cifar10": _cifar(cifar.CIFAR10, "cifar10", 170_498_071, 5_000),
    "cifar100": _cifar(cifar.CIFAR100, "cifar100", 169_001_437, 500),
    "tiny-imagenet": DataSet(
        kind="tiny-imagenet",
        folder="tiny-imagenet-200",
        parts=(
            Part(
                archive=Archive(
                    name="tiny-imagenet-200.zip",
                    urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
                    size=248_100_043,
                    md5="90528d7ca1a48142e341f4ef8d21d0de",
                    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
                ),
                published=_class_counts(200, 500, 10_000),
                unpacked=600_000_000,
            ),
        ),
        trees=(("train/*/images/*.JPEG", "val/images/*.JPEG", "val/val_annotations.txt"),),
    ),
    "imagenet": DataSet(
        kind="imagenet",
        folder="imagenet",
        parts=(
            Part(
                published={
                    "classes": 1_000,
                    "train images": 1_281_167,
                    "train images, fewest of a class": 732,
                    "train images, most of a class": 1_300,
                    "val images": 50_000,
                }
            ),
        ),
        trees=(("train/*/*.JPEG", "val/*/*.JPEG"), ("train/index.json", "val/index.json")),
    ),
}

IMAGENET_STEPS = """ImageNet is given out to registered users only:

1. Register at https://image-net.org, ask for access, and open the downloads of ILSVRC2012.
2. Fetch these files to {folder}:
     ILSVRC2012_img_train.tar       147,897,477,120 bytes  MD5 1d675b47d978889d74fa0da5fadfb00e
     ILSVRC2012_img_val.tar           6,744,924,160 bytes  MD5 29b22e2961454d5413ddabcf34fc5622
     ILSVRC2012_devkit_t12.tar.gz           about 2.5 MB   MD5 fa75699e90414af021442c21a62c3abf
3. Unpack them, which needs as much room again: torchvision checks the digests, makes the class
   folders train/<wnid> and val/<wnid>, and puts the validation images into theirs:
     python -c "from torchvision.datasets import ImageNet; ImageNet('{folder}', 'train')"
     python -c "from torchvision.datasets import ImageNet; ImageNet('{folder}', 'val')"
   If one is interrupted, delete {folder}/train or {folder}/val before you repeat it.
4. Compare the numbers:
     {program} counts imagenet --data {folder}
"""
