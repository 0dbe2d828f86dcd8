"""The results of the paper, arXiv 2103.15425, and what is compared in it and beside it."""

CONTROLS = {
    "constant-decay": "Constant decay of the same mean",
    "constant-decay-5e-4": "Constant decay of 5e-4",
    "shuffled": "Shuffled places",
    "shuffled-no-mwd": "Shuffled places without MWD",
    "any-channel": "Any channel as reference",
    "any-channel-no-mwd": "Any channel as reference without MWD",
    "fd-every-step": "FocusedDropout in every step",
    "fd-gamma-per-batch": "FocusedDropout, one gamma a batch",
    "dropout-mwd": "Dropout, same steps and MWD",
    "spatial-dropout-mwd": "SpatialDropout, same steps and MWD",
    "dropblock-mwd": "DropBlock, same steps and MWD",
}
"""What the paper lacks. Is it the decay, however it is given? Does it matter which places are kept,
which channel decides, how often? Do other dropouts gain as much if they are treated alike?"""

ARMS = {
    "baseline": "Baseline",
    "dropout": "Dropout",
    "spatial-dropout": "SpatialDropout",
    "dropblock": "DropBlock",
    "fd": "FocusedDropout",
    "mwd": "Randomly MWD",
    "fd-no-mwd": "FocusedDropout without MWD",
    "opposite-no-mwd": "Opposite approach without MWD",
    "opposite": "Opposite approach",
    **CONTROLS,
}
"""What is compared: the end of a recipe's name, and the name in the paper's tables.

A baseline's recipe has no such end.
"""

METHODS = ("baseline", "dropout", "spatial-dropout", "dropblock", "fd")
"""The rows of Tables 1 to 3."""

ABLATION = ("baseline", "mwd", "fd-no-mwd", "opposite-no-mwd", "opposite", "fd", "constant-decay")
"""The rows of Table 4, and the control."""

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny ImageNet"}

Result = tuple[float, float]
"""Accuracy in percent: mean and deviation of three runs (the kind of deviation is not stated)."""


def _read(table: str) -> dict[tuple[str, str], Result]:
    """Read a table of "mean deviation" pairs to {(network, arm): result}."""
    header, *rows = (line.split() for line in table.strip().splitlines())
    return {
        (network, arm): (float(mean), float(deviation))
        for arm, *numbers in rows
        for network, mean, deviation in zip(header, numbers[::2], numbers[1::2], strict=True)
    }


TABLE_1 = _read("""
                 resnet20    resnet56    resnet110   vgg19       densenet100 wrn28
baseline         91.48 0.21  93.84 0.23  94.32 0.16  93.55 0.24  95.30 0.12  96.16 0.06
dropout          91.51 0.31  93.74 0.11  94.52 0.23  93.14 0.30  95.32 0.08  96.07 0.04
spatial-dropout  91.98 0.13  94.28 0.20  94.76 0.15  93.19 0.12  95.40 0.16  96.13 0.02
dropblock        92.15 0.14  94.01 0.08  94.92 0.07  93.50 0.04  95.40 0.31  96.21 0.03
fd               92.08 0.17  94.67 0.07  95.24 0.15  93.74 0.19  95.57 0.16  96.48 0.13
""")
"""CIFAR-10."""

TABLE_2 = _read("""
                 resnet20    resnet56    resnet110   vgg19       densenet100 wrn28
baseline         69.85 0.20  73.71 0.28  74.71 0.23  73.14 0.16  77.25 0.20  81.27 0.20
dropout          69.81 0.12  73.81 0.27  74.69 0.33  73.01 0.21  77.45 0.12  81.21 0.11
spatial-dropout  69.71 0.05  74.38 0.17  74.76 0.12  72.84 0.21  77.97 0.16  81.40 0.30
dropblock        70.03 0.11  73.92 0.10  74.92 0.07  73.01 0.04  77.33 0.09  81.15 0.09
fd               70.27 0.06  74.97 0.16  76.43 0.17  73.91 0.19  78.35 0.16  81.90 0.11
""")
"""CIFAR-100."""

TABLE_3 = _read("""
                 resnet110
baseline         62.42 0.25
dropout          62.32 0.05
spatial-dropout  62.55 0.10
dropblock        63.13 0.29
fd               64.58 0.16
""")
"""Tiny ImageNet."""

TABLE_4 = _read("""
                 resnet56
baseline         73.71 0.23
mwd              74.27 0.15
fd-no-mwd        74.32 0.11
opposite-no-mwd  73.96 0.08
opposite         74.31 0.14
fd               74.97 0.16
""")
"""CIFAR-100. The baseline's deviation is 0.28 in Table 2."""

TABLE_5 = {"baseline": (70.14, 0.17), "fd": (71.05, 0.13)}
"""VOC 2007 test, mAP of a RetinaNet: from a backbone without and with FocusedDropout."""

IMAGENET = {"baseline": 76.32, "fd": 76.84}
"""ResNet-50, the backbones of Table 5 (section 5.3); no deviation is given."""

FIGURE_2_CORRECT = 9392
"""Of the 10,000 test images of CIFAR-10, ResNet-56 (section 2)."""

TABLES = {"cifar10": (1, TABLE_1), "cifar100": (2, TABLE_2), "tiny-imagenet": (3, TABLE_3)}


def reported(dataset: str, network: str, arm: str) -> tuple[int, Result] | None:
    """Return the table that holds a result, and the result, if the paper has it.

    Args:
        dataset: One of `DATASETS`.
        network: A column of Table 1.
        arm: One of `ARMS`.
    """
    number, table = TABLES[dataset]
    if (network, arm) in table:
        return number, table[network, arm]
    if dataset == "cifar100" and (network, arm) in TABLE_4:
        return 4, TABLE_4[network, arm]
    return None
