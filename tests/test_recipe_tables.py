"""Every number of every recipe, once more, to be read beside the source that it is from.

A recipe must be its rows of these tables and nothing else: whatever of it changes, a row changes.
Sources, by the name that stands beside a row:

paper       Xie et al., arXiv 2103.15425
BP          bearpaw/pytorch-classification: defaults of cifar.py, and TRAINING.md by network
CT          TianshuXie/Cut-Thumbnail (the paper's first author), defaults of train.py
CM          clovaai/CutMix-PyTorch, whose ResNet-50 has the paper's 76.32%
torchvision its references (classification, detection) and its defaults of RetinaNet
mmdet       open-mmlab/mmdetection, configs/pascal_voc/retinanet_r50_fpn_1x_voc0712.py
d2          facebookresearch/detectron2, configs/PascalVOC-Detection
seetadet    seetaresearch/seetadet, voc_retinanet_R_50_FPN_120e.yml
ours        chosen here; nothing outside says so
"""

import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from inspect import Parameter, signature
from typing import Any

import pytest

from detect.recipes import RECIPES as DETECT
from detect.recipes import Augmentation, Detector, describe
from pretrain.recipes import RECIPES as PRETRAIN
from pretrain.recipes import mean_decay
from pretrain.recipes.recipe import Dropout, Images

Rows = Mapping[str, tuple[Any, str]]
"""The value of each field, and where it is from."""

METHOD: Rows = {
    "focus.after": (None, "off"),
    "focus.gamma": ((0.3, 0.6), "paper, sections 4, 5.1.1 and 5.2.2"),
    "focus.gamma_per": ("image", "paper, section 3: images differ in their number of features"),
    "focus.opposite": (False, "paper, Table 4: another arm"),
    "focus.reference": ("strongest", "paper, Algorithm 1, lines 4 and 5"),
    "focus.places": ("focused", "paper, Algorithm 1, line 8"),
    "focus.participation_rate": (0.1, "paper, section 5.1.1"),
    "focus.exact": (False, "CT: a draw for each batch"),
    "focus.weight_decay": (None, "off"),
    "focus.freeze_bn_stats": (False, "paper: says nothing of it"),
}
TRAINING: Rows = {
    "optimization.optimizer": ("sgd", "BP"),
    "optimization.momentum": (0.9, "BP; mmdet; d2"),
    "optimization.nesterov": (False, "BP, CT"),
    "optimization.weight_decay": (1e-4, "BP, ResNet and DenseNet; CT; mmdet; d2"),
    "optimization.accumulate": (1, "ours"),
    "optimization.schedule": ("step", "paper, section 5.1.1"),
    "optimization.milestones": ((), "none"),
    "optimization.lr_factor": (0.1, "paper, section 5.1.1"),
    "optimization.warmup_steps": (0, "BP, CT: none"),
    "optimization.warmup_start": (1e-3, "torchvision, references/detection"),
    "optimization.clip_norm": (None, "BP, CT, mmdet: none"),
    "optimization.ema_decay": (None, "BP, CT, mmdet: none"),
    "optimization.precision": ("auto", "ours"),
    "optimization.channels_last": (True, "ours"),
    "optimization.compile": (False, "ours"),
    "optimization.cuda_graphs": (False, "ours"),
}
CLASSIFIER: Rows = {
    **METHOD,
    **TRAINING,
    "stem": ("imagenet", "torchvision"),
    "block": (None, "of cifar-resnets alone"),
    "label_smoothing": (0.0, "BP, CT: none"),
    "class_weights": (None, "BP, CT: none"),
    "images.padding": (4, "BP: RandomCrop(32, padding=4)"),
    "images.min_scale": (0.08, "torchvision: RandomResizedCrop"),
    "images.decode": ("cpu", "ours"),
    "images.num_classes": (None, "all"),
    "images.sampling": ("uniform", "BP, CT"),
    "images.split_by": (0.2, "ours"),
    "images.held_out": (0, "paper: the test images choose"),
    "images.held_out_by_seed": (False, "ours"),
    "dropout.kind": ("none", "off"),
    "dropout.after": ((), "off"),
    "dropout.steps": ("all", "paper, Tables 1 to 3"),
    "dropout.rate": (0.1, "ours: the paper's are not stated"),
    "dropout.block_size": (7, "Ghiasi et al., arXiv 1810.12890, section 4"),
    "dropout.linear": (True, "Ghiasi et al., arXiv 1810.12890, section 3: scheduled"),
}

# ---- Tables 1 to 4 ------------------------------------------------------------------------------

SMALL: Rows = {
    "images.crop": ("pad", "paper, section 5.1; BP"),
    "optimization.lr": (0.1, "BP"),
    "optimization.batch_size": (128, "BP"),
    "optimization.epochs": (300, "BP"),
    "optimization.milestones": ((150, 225), "paper, section 5.1.1"),
}
DATA: dict[str, Rows] = {
    "cifar10": {"images.dataset": ("cifar10", "Table 1"), "images.size": (32, "its images")},
    "cifar100": {"images.dataset": ("cifar100", "Table 2"), "images.size": (32, "its images")},
    "tiny-imagenet": {
        "images.dataset": ("tiny-imagenet", "Table 3"),
        "images.size": (64, "its images"),
        "images.padding": (8, "ours: as 4 is to 32"),
    },
}
NETWORKS: dict[str, Rows] = {
    "resnet20": {
        "network": ("cifar-resnet20", "paper, Table 1"),
        "block": ("basic", "BP: basic below a depth of 44"),
    },
    "resnet56": {
        "network": ("cifar-resnet56", "paper, Table 1"),
        "block": ("bottleneck", "paper, section 3: 256 channels in the last layer; CM: 9n+2"),
    },
    "resnet110": {
        "network": ("cifar-resnet110", "paper, Table 1"),
        "block": ("bottleneck", "as resnet56"),
    },
    "vgg19": {
        "network": ("vgg19-bn", "paper, Table 1; BP"),
        "optimization.weight_decay": (5e-4, "BP, TRAINING.md"),
    },
    "densenet100": {
        "network": ("densenet100-bc", "paper, Table 1; BP"),
        "optimization.batch_size": (64, "BP, TRAINING.md"),
    },
    "wrn28": {
        "network": ("wrn-28-10", "paper, Table 1; BP"),
        "optimization.epochs": (200, "BP, TRAINING.md"),
        "optimization.milestones": ((60, 120, 160), "paper, section 5.1.1"),
        "optimization.weight_decay": (5e-4, "BP, TRAINING.md"),
    },
}
GROUPS = {
    "resnet20": ("layer1", "layer2"),
    "resnet56": ("layer1", "layer2"),
    "resnet110": ("layer1", "layer2"),
    "vgg19": ("group1", "group2", "group3", "group4"),
    "densenet100": ("block1", "block2"),
    "wrn28": ("group1", "group2"),
}
"""All but the last. FocusedDropout, Dropout and SpatialDropout stand after the last of these, the
penultimate group; DropBlock after the first two (paper, section 5.1.1)."""
MEAN_DECAY = {1e-4: 1.9e-4, 5e-4: 5.5e-4}
"""With a tenth of the steps at 1e-3: 0.9 x 1e-4 + 0.1 x 1e-3, and 0.9 x 5e-4 + 0.1 x 1e-3."""
MAGNIFIED: Rows = {"focus.weight_decay": (1e-3, "paper, section 5.1.1; best in Figure 6c")}
LAST: Rows = {"focus.after": ("PENULTIMATE", "paper, section 5.1.1")}
RIVAL: Rows = {"dropout.after": (("PENULTIMATE",), "paper, section 5.1.1")}
SAME_STEPS: Rows = {**MAGNIFIED, **RIVAL, "dropout.steps": ("participating", "ours: a control")}
ARMS: dict[str, Rows] = {
    "baseline": {},
    "fd": {**LAST, **MAGNIFIED},
    "mwd": {**MAGNIFIED},
    "fd-no-mwd": {**LAST},
    "opposite": {**LAST, **MAGNIFIED, "focus.opposite": (True, "paper, Table 4")},
    "opposite-no-mwd": {**LAST, "focus.opposite": (True, "paper, Table 4")},
    "dropout": {**RIVAL, "dropout.kind": ("dropout", "paper, Table 1")},
    "spatial-dropout": {**RIVAL, "dropout.kind": ("spatial-dropout", "paper, Table 1")},
    "dropblock": {
        "dropout.kind": ("dropblock", "paper, Table 1"),
        "dropout.after": ("FIRST TWO", "paper, section 5.1.1"),
    },
    "constant-decay": {"optimization.weight_decay": ("MEAN", "ours: a control")},
    "constant-decay-5e-4": {"optimization.weight_decay": (5e-4, "ours: BP's for all networks")},
    "shuffled": {**LAST, **MAGNIFIED, "focus.places": ("shuffled", "ours: a control")},
    "shuffled-no-mwd": {**LAST, "focus.places": ("shuffled", "ours: a control")},
    "any-channel": {**LAST, **MAGNIFIED, "focus.reference": ("random", "ours: a control")},
    "any-channel-no-mwd": {**LAST, "focus.reference": ("random", "ours: a control")},
    "fd-every-step": {**LAST, **MAGNIFIED, "focus.participation_rate": (1.0, "ours: a control")},
    "fd-gamma-per-batch": {**LAST, **MAGNIFIED, "focus.gamma_per": ("batch", "ours: a control")},
    "dropout-mwd": {**SAME_STEPS, "dropout.kind": ("dropout", "ours: a control")},
    "spatial-dropout-mwd": {**SAME_STEPS, "dropout.kind": ("spatial-dropout", "ours: a control")},
    "dropblock-mwd": {**SAME_STEPS, "dropout.kind": ("dropblock", "ours: a control")},
}
CELLS = [
    (dataset, network, arm)
    for dataset in DATA
    for network in (NETWORKS if dataset != "tiny-imagenet" else ["resnet110"])
    for arm in ARMS
    # Their baselines have this decay already.
    if not (arm == "constant-decay-5e-4" and network in ("vgg19", "wrn28"))
]

# ---- backbones and drawn shapes -----------------------------------------------------------------

TINY_IMAGENET: Rows = {
    "network": ("resnet50", "paper, section 5.3: the body of Table 5"),
    "stem": ("no-pool", "ours: layer3 then has 8x8 places"),
    "images.dataset": ("tiny-imagenet", "ours"),
    "images.size": (64, "its images"),
    "images.crop": ("pad", "as Table 3"),
    "images.padding": (8, "as Table 3"),
    "optimization.lr": (0.1, "as Table 3"),
    "optimization.batch_size": (128, "as Table 3"),
    "optimization.epochs": (60, "ours"),
    "optimization.milestones": ((30, 45), "ours: a half and three quarters, as Table 3"),
}
IMAGENET: Rows = {
    "network": ("resnet50", "paper, section 5.3"),
    "images.dataset": ("imagenet", "paper, section 5.3"),
    "images.size": (224, "CM, torchvision"),
    "images.crop": ("resized", "CM, torchvision"),
    "optimization.lr": (0.1, "CM, CT"),
    "optimization.batch_size": (256, "CM, CT"),
    "optimization.epochs": (300, "CM, CT; paper, section 5.3"),
    "optimization.milestones": ((75, 150, 225), "CM, CT"),
}
IMAGENET_90: Rows = {
    **IMAGENET,
    "optimization.epochs": (90, "torchvision, references/classification"),
    "optimization.milestones": ((30, 60, 80), "ours; torchvision has 30 and 60"),
}
FOLDERS: Rows = {
    "network": ("resnet50", "ours"),
    "images.dataset": ("folders", "ours"),
    "images.size": (224, "torchvision"),
    "images.crop": ("resized", "torchvision"),
    "optimization.lr": (0.025, "a quarter of CM's, as the batch is"),
    "optimization.batch_size": (64, "ours"),
    "optimization.epochs": (90, "torchvision, references/classification"),
    "optimization.schedule": ("cosine", "ours"),
    "optimization.warmup_steps": (20, "ours"),
}
TOY: Rows = {
    "network": ("resnet18", "ours"),
    "images.dataset": ("folders", "ours"),
    "images.size": (64, "ours"),
    "images.crop": ("pad", "ours"),
    "optimization.optimizer": ("adamw", "ours"),
    "optimization.lr": (1e-3, "torch: AdamW's default"),
    "optimization.weight_decay": (0.05, "ours"),
    "optimization.batch_size": (32, "ours"),
    "optimization.epochs": (3, "ours"),
    "optimization.schedule": ("cosine", "ours"),
    "optimization.warmup_steps": (20, "ours"),
}
LAYER3: Rows = {
    "focus.after": ("layer3", "the penultimate of four groups, as in the paper's others"),
    "focus.weight_decay": (1e-3, "paper, section 5.1.1"),
}
BACKBONES: dict[str, Rows] = {
    "toy-resnet18": TOY,
    "toy-resnet18-fd": {**TOY, **LAYER3, "focus.weight_decay": (0.5, "ten times 0.05")},
    "tiny-imagenet-resnet50": TINY_IMAGENET,
    "tiny-imagenet-resnet50-fd": {**TINY_IMAGENET, **LAYER3},
    "tiny-imagenet-resnet18": {**TINY_IMAGENET, "network": ("resnet18", "ours")},
    "tiny-imagenet-resnet18-fd": {**TINY_IMAGENET, **LAYER3, "network": ("resnet18", "ours")},
    "imagenet-resnet50": IMAGENET,
    "imagenet-resnet50-fd": {**IMAGENET, **LAYER3},
    "imagenet-resnet50-90": IMAGENET_90,
    "imagenet-resnet50-90-fd": {**IMAGENET_90, **LAYER3},
    "folders-resnet50": FOLDERS,
    "folders-resnet50-fd": {**FOLDERS, **LAYER3},
}

# ---- detectors ----------------------------------------------------------------------------------

DETECTOR: Rows = {
    **METHOD,
    **TRAINING,
    "body": ("resnet50", "paper, section 5.3"),
    "train_split": ("2007:trainval,2012:trainval", "mmdet, d2"),
    "val_split": ("2007:test", "mmdet, d2"),
    "difficult": (False, "mmdet: ignored"),
    "group_by_aspect": (True, "torchvision, references/detection; d2"),
    "detector.fpn_channels": (256, "Lin et al., arXiv 1708.02002, section 4"),
    "detector.trainable_stages": (3, "torchvision; mmdet: frozen_stages=1; d2: FREEZE_AT 2"),
    "detector.norm": ("frozen", "torchvision, mmdet, d2"),
    "detector.head_norm": ("none", "torchvision's first RetinaNet, mmdet, d2"),
    "detector.box_loss": ("l1", "torchvision's first RetinaNet, mmdet"),
    "detector.loss_normalizer": ("image", "torchvision"),
    "detector.anchor_scale": (4.0, "torchvision: 32 pixels on a stride of 8"),
    "detector.train_sizes": ((600,), "mmdet"),
    "detector.test_size": (600, "mmdet"),
    "detector.max_size": (1000, "mmdet"),
    "detector.score_threshold": (0.05, "torchvision, mmdet, d2"),
    "detector.nms_iou": (0.5, "torchvision, mmdet, d2"),
    "detector.detections_per_image": (100, "mmdet, d2"),
    "detector.test_batch_size": (8, "ours"),
    "augmentation.crop": (False, "mmdet, d2"),
    "augmentation.flip": (0.5, "torchvision, mmdet, d2"),
    "augmentation.colour": (0.0, "mmdet, d2"),
    "augmentation.scale": (None, "mmdet, d2"),
    "augmentation.library": ("albumentations", "ours"),
}
SIXTEEN: Rows = {
    "optimization.lr": (0.01, "mmdet, for 16 images"),
    "optimization.batch_size": (16, "mmdet, d2"),
}
SCALES: Rows = {
    "difficult": (True, "d2"),
    "detector.train_sizes": (
        (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        "d2: MIN_SIZE_TRAIN",
    ),
    "detector.test_size": (800, "d2: MIN_SIZE_TEST"),
    "detector.max_size": (1333, "d2: MAX_SIZE_TRAIN and _TEST; torchvision"),
    "detector.detections_per_image": (300, "torchvision"),
    "augmentation.colour": (1.0, "ours"),
    "optimization.warmup_steps": (500, "mmdet's RetinaNet on COCO"),
    "optimization.clip_norm": (10.0, "ours"),
}
DETECTORS: dict[str, Rows] = {
    "toy-retinanet": {
        "body": ("resnet18", "ours"),
        "train_split": ("2007:trainval", "ours"),
        "group_by_aspect": (False, "ours: the scenes are square"),
        "detector.fpn_channels": (64, "ours"),
        "detector.trainable_stages": (2, "ours"),
        "detector.anchor_scale": (3.0, "ours"),
        "detector.train_sizes": ((128,), "ours"),
        "detector.test_size": (128, "ours"),
        "detector.max_size": (128, "ours"),
        "optimization.optimizer": ("adamw", "ours"),
        "optimization.lr": (1e-3, "torch: AdamW's default"),
        "optimization.batch_size": (8, "ours"),
        "optimization.epochs": (4, "ours"),
        "optimization.schedule": ("cosine", "ours"),
        "optimization.warmup_steps": (50, "ours"),
        "optimization.clip_norm": (10.0, "ours"),
    },
    "voc-retinanet-small": {
        **SIXTEEN,
        "train_split": ("2012:train", "ours"),
        "val_split": ("2012:val", "ours"),
        "detector.train_sizes": ((256,), "ours"),
        "detector.test_size": (256, "ours"),
        "detector.max_size": (320, "ours"),
        "augmentation.crop": (True, "ours"),
        "augmentation.colour": (1.0, "ours"),
        "optimization.epochs": (24, "ours"),
        "optimization.milestones": ((16, 21), "ours: 2/3 and 7/8"),
        "optimization.warmup_steps": (200, "ours"),
        "optimization.clip_norm": (10.0, "ours"),
    },
    "voc-retinanet-parity": {
        **SIXTEEN,
        "detector.loss_normalizer": ("batch", "mmdet: avg_factor over the batch"),
        "optimization.epochs": (12, "mmdet: 4 of a set repeated 3 times"),
        "optimization.milestones": ((9,), "mmdet: 3 of a set repeated 3 times"),
    },
    "voc-retinanet-paper": {
        **SIXTEEN,
        **SCALES,
        "optimization.epochs": (18, "d2: 18,000 steps of 16 images are 17.4"),
        "optimization.milestones": ((12, 16), "d2: 2/3 and 8/9"),
    },
    "voc-retinanet-strong": {
        **SIXTEEN,
        **SCALES,
        "detector.head_norm": ("group", "torchvision's second RetinaNet"),
        "detector.box_loss": ("giou", "torchvision's second RetinaNet"),
        "detector.loss_normalizer": ("batch", "mmdet"),
        "optimization.epochs": (24, "mmdet, d2: twice the short schedule"),
        "optimization.milestones": ((16, 21.33), "2/3 and 8/9 of 24"),
        "optimization.ema_decay": (0.9998, "ours"),
    },
    "voc-retinanet-best": {
        **SIXTEEN,
        "difficult": (True, "seetadet"),
        "group_by_aspect": (False, "ours: all batches are squares"),
        "detector.loss_normalizer": ("batch", "seetadet"),
        "detector.train_sizes": ((512,), "seetadet"),
        "detector.test_size": (512, "seetadet"),
        "detector.max_size": (512, "seetadet"),
        "detector.nms_iou": (0.45, "seetadet"),
        "augmentation.colour": (1.0, "ours"),
        "augmentation.scale": ((0.1, 2.0), "seetadet"),
        "optimization.epochs": (116, "seetadet: 120,000 steps of 16 of 16,551 images"),
        "optimization.milestones": ((77.33, 96.67), "seetadet: 80,000 and 100,000 of the steps"),
        "optimization.warmup_steps": (3000, "seetadet"),
        "optimization.ema_decay": (0.9998, "ours"),
        "optimization.precision": ("bf16", "ours; seetadet: fp16"),
    },
}


def values_of(recipe: Any, before: str = "") -> dict[str, Any]:
    """Write a recipe as a flat table of its fields."""
    values: dict[str, Any] = {}
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if is_dataclass(value):
            values |= values_of(value, f"{before}{field.name}.")
        else:
            values[before + field.name] = value
    return values


def stated(*tables: Rows) -> dict[str, Any]:
    """Take the last value of each field."""
    return {name: value for rows in tables for name, (value, _) in rows.items()}


def name_of(dataset: str, network: str, arm: str) -> str:
    return "-".join([dataset, network, *([] if arm == "baseline" else [arm])])


def test_there_is_a_row_for_every_recipe_and_none_besides() -> None:
    cells = {name_of(*cell) for cell in CELLS}
    assert set(PRETRAIN) == cells | set(BACKBONES)
    assert set(DETECT) == set(DETECTORS)
    tables = [*DATA.values(), *NETWORKS.values(), *ARMS.values(), *BACKBONES.values()]
    assert all(source for rows in [*tables, *DETECTORS.values()] for _, source in rows.values())


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: name_of(*cell))
def test_a_cell_of_tables_1_to_4(cell: tuple[str, str, str]) -> None:
    dataset, network, arm = cell
    expected = stated(CLASSIFIER, SMALL, DATA[dataset], NETWORKS[network], ARMS[arm])
    groups = GROUPS[network]
    base = NETWORKS[network].get("optimization.weight_decay", (1e-4, ""))[0]
    written = {
        "PENULTIMATE": groups[-1],
        ("PENULTIMATE",): (groups[-1],),
        "FIRST TWO": groups[:2],
        "MEAN": pytest.approx(MEAN_DECAY[base], rel=1e-12),
    }
    expected = {name: written.get(value, value) for name, value in expected.items()}
    assert values_of(PRETRAIN[name_of(*cell)]()) == expected


def test_the_mean_decay_is_that_of_all_digits_that_a_person_would_give() -> None:
    fd = PRETRAIN["cifar10-resnet20-fd"]()
    changed = replace(fd, focus=replace(fd.focus, participation_rate=0.12345678))
    assert mean_decay(changed) == 0.000211111102  # 1e-4 + 0.12345678 x 9e-4
    assert mean_decay(PRETRAIN["cifar10-resnet20"]()) == 1e-4


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone(name: str) -> None:
    assert values_of(PRETRAIN[name]()) == stated(CLASSIFIER, BACKBONES[name])


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector(name: str) -> None:
    assert values_of(DETECT[name]()) == stated(DETECTOR, DETECTORS[name])


def test_numbers_that_are_told_in_steps() -> None:
    """Of d2 and seetadet, whose schedules are steps of 16 images of the 16,551 of VOC07+12."""
    epoch = 16_551 / 16
    best = DETECT["voc-retinanet-best"]().optimization
    assert best.epochs == round(120_000 / epoch)
    assert [round(m * epoch, -3) for m in best.milestones] == [80_000, 100_000]
    paper = DETECT["voc-retinanet-paper"]().optimization
    assert paper.epochs * epoch == pytest.approx(18_000, rel=0.04)
    for name in ("paper", "strong"):
        o = DETECT[f"voc-retinanet-{name}"]().optimization
        assert [m / o.epochs for m in o.milestones] == pytest.approx([2 / 3, 8 / 9], abs=2e-4)


PARTS = {
    type(value): value
    for recipe in (PRETRAIN["toy-resnet18"](), DETECT["toy-retinanet"]())
    for value in (recipe, *(getattr(recipe, field.name) for field in fields(recipe)))
    if is_dataclass(value)
}


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_part_of_a_recipe_is_written_by_names_and_stays(kind: type) -> None:
    """Numbers in a row could change places unseen; what is shared could change under a run."""
    assert {p.kind for p in signature(kind).parameters.values()} == {Parameter.KEYWORD_ONLY}
    name = fields(kind)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(PARTS[kind], name, getattr(PARTS[kind], name))


def test_there_are_parts() -> None:
    assert sorted(kind.__name__ for kind in PARTS) == sorted(
        "Recipe Images Optimization Focus Dropout Recipe Detector Augmentation".split()
    )


def test_a_detector_without_sizes_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="^train_sizes must hold at least one size$"):
        Detector(train_sizes=())


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_from_scratch_trains_all_of_its_body(name: str) -> None:
    """There are no statistics to be kept: He et al., arXiv 1811.08883."""
    recipe = DETECT[name]()
    rows = {"detector.norm": "batch", "detector.trainable_stages": 5}
    assert values_of(recipe.from_scratch()) == values_of(recipe) | rows


def test_what_a_longer_detector_run_would_change() -> None:
    assert DETECT["voc-retinanet-paper"]().tied_to_epochs is None
    assert DETECT["toy-retinanet"]().tied_to_epochs == "the cosine schedule"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("toy-retinanet", "VOC2007, resnet18, short side 128 px: 4 epochs"),
        ("voc-retinanet-small", "VOC2012, resnet50, short side 256 px: 24 epochs"),
        (
            "voc-retinanet-paper",
            "VOC2007 and VOC2012, resnet50, short side 480-800 px: 18 epochs",
        ),
    ],
)
def test_the_words_of_a_detector(name: str, told: str) -> None:
    assert describe(DETECT[name]()) == told


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (Detector, {"head_norm": "group", "fpn_channels": 32}, "fpn_channels 32 does not suit"),
    (Detector, {"head_norm": "group", "fpn_channels": 65}, "fpn_channels 65 does not suit"),
    (Detector, {"trainable_stages": 6}, "trainable_stages must be at least 0 and at most 5"),
    (Augmentation, {"scale": (0.0, 1.0)}, "scale must satisfy"),
    (Augmentation, {"scale": (-0.5, 1.0)}, "scale must satisfy"),
    (Augmentation, {"scale": (1.0, 0.9)}, "scale must satisfy"),
    (Augmentation, {"scale": (1.0, math.inf)}, "scale must satisfy"),
    (Augmentation, {"scale": (0.5, 1.0), "crop": True}, "scale cuts out a square already"),
    (Augmentation, {"flip": 1.1}, "flip must be at least 0 and at most 1"),
    (Images, {"decode": "gpu", "crop": "pad"}, "images.decode gpu goes with"),
    (Images, {"crop": "pad", "min_scale": 0}, "min_scale must be above 0 and at most 1"),
    (Images, {"crop": "pad", "split_by": 0.91}, "split_by must be above 0 and at most 0.9"),
    (Images, {"crop": "pad", "split_by": 0}, "split_by must be above 0 and at most 0.9"),
    (Dropout, {"kind": "dropout"}, "a dropout needs both a kind and the groups"),
    (Dropout, {"after": ("layer1",)}, "a dropout needs both a kind and the groups"),
    (Dropout, {"kind": "dropblock", "after": ("a",), "block_size": 0}, "block_size must be at"),
]
TAKEN: list[tuple[Any, dict[str, Any]]] = [
    (Detector, {"head_norm": "group", "fpn_channels": 64}),
    (Detector, {"head_norm": "none", "fpn_channels": 33, "trainable_stages": 5}),
    (Detector, {"trainable_stages": 0}),
    (Augmentation, {"scale": (1e-3, 1e-3)}),
    (Augmentation, {"scale": (0.1, 2.0)}),
    (Augmentation, {"crop": True, "flip": 1.0, "colour": 1.0}),
    (Images, {"decode": "gpu", "crop": "resized", "min_scale": 1.0}),
    (Images, {"decode": "cpu", "crop": "resized", "split_by": 0.9}),
    (Images, {"crop": "pad", "split_by": None}),
    (Dropout, {"kind": "dropblock", "after": ("layer1",), "block_size": 1}),
    (Dropout, {}),
]
NEEDED: dict[Any, dict[str, Any]] = {Images: {"dataset": "folders", "size": 32}}


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED, ids=str)
def test_what_no_part_of_a_recipe_can_be(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        kind(**NEEDED.get(kind, {}), **values)


@pytest.mark.parametrize(("kind", "values"), TAKEN, ids=str)
def test_what_a_part_of_a_recipe_can_just_be(kind: Any, values: dict[str, Any]) -> None:
    kind(**NEEDED.get(kind, {}), **values)


def test_what_goes_together_in_a_classifier() -> None:
    recipe = PRETRAIN["toy-resnet18"]()
    balanced = replace(recipe, images=replace(recipe.images, sampling="balanced"))
    replace(recipe, class_weights="balanced")
    with pytest.raises(ValueError, match="^class_weights and images.sampling balanced both"):
        replace(balanced, class_weights="balanced")
    control = Dropout(kind="dropout", after=("layer1",), steps="participating")
    with pytest.raises(ValueError, match="^a dropout in the participating steps needs"):
        replace(recipe, dropout=control)
    replace(recipe, dropout=replace(control, steps="all"))
    replace(recipe, dropout=control, focus=replace(recipe.focus, weight_decay=1e-3))


@pytest.mark.parametrize(
    ("typed", "magnified"), [(None, 1e-3), ("2e-4", 2e-3), ("0", 0.0), ("much", 1e-3)]
)
def test_a_detector_with_the_method(typed: str | None, magnified: float) -> None:
    recipe = DETECT["toy-retinanet"]()
    focused = recipe.focused("layer3", typed)
    assert replace(focused, focus=recipe.focus) == recipe
    assert focused.focus.after == "layer3"
    assert focused.focus.weight_decay == pytest.approx(magnified)


def test_the_rate_of_dropblock_depends_on_the_epochs() -> None:
    recipe = PRETRAIN["toy-resnet18"]()
    steps = replace(recipe, optimization=replace(recipe.optimization, schedule="step"))
    block = Dropout(kind="dropblock", after=("layer1",))
    assert steps.tied_to_epochs is None
    assert replace(steps, dropout=block).tied_to_epochs == "the rate of DropBlock"
    assert replace(steps, dropout=replace(block, linear=False)).tied_to_epochs is None
    assert replace(steps, dropout=replace(block, kind="dropout")).tied_to_epochs is None
