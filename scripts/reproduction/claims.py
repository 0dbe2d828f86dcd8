"""What is compared with and without the method, in which rows, and what an interval decides."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.runs.over_seeds import Difference, paired_difference

ROOT = Path(__file__).resolve().parents[2]
PLANNED_PAIRS, MATTERS = 8, 0.60
"""Of pretrain/plan-tenth-of-cifar10.md: the pairs, and the difference that matters, points."""

Row = Mapping[str, str]
Values = dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison with and without the method, over seeds."""

    name: str
    """Of its picture."""
    what: str
    program: Literal["pretrain", "detect"]
    column: str
    """What is measured: a share, shown in percent."""
    measure: str
    chosen: Callable[[Row], bool]
    """Whether a row belongs to it."""
    focused: Callable[[Row], bool]
    """Whether a row has the method."""
    paper: float
    """The paper's gain, points."""

    def values(self, rows: Sequence[Row]) -> tuple[Values, Values]:
        """Return percent by seed, without and with the method."""
        mine = [row for row in rows if self.chosen(row)]
        arms = ([row for row in mine if self.focused(row) == on] for on in (False, True))
        before, after = (
            {int(row["seed"]): 100 * float(row[self.column]) for row in arm} for arm in arms
        )
        return before, after

    def difference(self, rows: Sequence[Row]) -> Difference | None:
        """Compare the two arms."""
        before, after = self.values(rows)
        return paired_difference(after, before)


def _classifier(changes: str) -> Callable[[Row], bool]:
    words = set(changes.split())
    names = ("cifar10-resnet20", "cifar10-resnet20-fd")
    return lambda row: row["recipe"] in names and set(row["changes"].split()) == words


WHOLE = Claim(
    name="cifar10-15-epochs",
    what="ResNet-20 on CIFAR-10, 15 of 300 epochs",
    program="pretrain",
    column="best_accuracy",
    measure="test images, best epoch",
    chosen=_classifier(
        "optimization.epochs=15 optimization.milestones=7.5,11.25 optimization.precision=bf16"
    ),
    focused=lambda row: row["recipe"].endswith("-fd"),
    paper=0.60,
)
TENTH_SHORT = Claim(
    name="cifar10-tenth-60-epochs",
    what="ResNet-20 on a tenth of CIFAR-10 (one choice of images), 60 of 300 epochs",
    program="pretrain",
    column="last_accuracy",
    measure="held-out images, last epoch",
    chosen=_classifier(
        "images.held_out=45000 optimization.epochs=60 optimization.milestones=30.0,45.0 "
        "optimization.precision=bf16"
    ),
    focused=lambda row: row["recipe"].endswith("-fd"),
    paper=0.60,
)
PLANNED = "images.held_out=45000 images.held_out_by_seed=True optimization.precision=bf16"
TENTH = Claim(
    name="cifar10-tenth-300-epochs",
    what="ResNet-20 on a tenth of CIFAR-10, all 300 epochs",
    program="pretrain",
    column="last_accuracy",
    measure="held-out images, last epoch",
    chosen=_classifier(PLANNED),
    focused=lambda row: row["recipe"].endswith("-fd"),
    paper=0.60,
)
DETECTOR = Claim(
    name="detector-miniature",
    what="RetinaNet on a part of VOC2012, backbones of 50 classes of Tiny ImageNet, in miniature",
    program="detect",
    column="map_11point",
    measure="mAP, 11-point",
    chosen=lambda row: (
        row["backbone"] in ("tiny-imagenet-resnet18", "tiny-imagenet-resnet18-fd")
        and not row["participating_steps"]
    ),
    focused=lambda row: row["backbone"].endswith("-fd"),
    paper=0.91,
)
CLAIMS = (WHOLE, TENTH_SHORT, TENTH, DETECTOR)

ARMS = (
    ("baseline", "", ""),
    ("FocusedDropout", "-fd", ""),
    ("randomly MWD", "-mwd", ""),
    ("FocusedDropout without MWD", "-fd-no-mwd", ""),
    ("constant decay of the same mean", "-constant-decay", ""),
    ("FocusedDropout", "-fd", "--focus.gamma 0.6 0.9"),
    ("FocusedDropout", "-fd", "--focus.after layer3"),
    ("baseline", "", "--optimization.precision fp32"),
)
"""Of the planned trainings: name, what the recipe's name ends in, and flags."""
_CHANGES = {
    "": PLANNED,
    "--focus.gamma 0.6 0.9": f"{PLANNED} focus.gamma=0.6,0.9",
    "--focus.after layer3": f"{PLANNED} focus.after=layer3",
    "--optimization.precision fp32": PLANNED.replace("=bf16", "=fp32"),
}


def read_rows(program: str) -> list[Row]:
    """Read the results.csv of a program."""
    with (ROOT / program / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def planned_rows(rows: Sequence[Row], ending: str, flags: str) -> list[Row]:
    """Choose the rows of an arm; see `ARMS`."""
    words = set(_CHANGES[flags].split())
    name = f"cifar10-resnet20{ending}"
    return [r for r in rows if r["recipe"] == name and set(r["changes"].split()) == words]


def verdict(claim: Claim, found: Difference) -> str:
    """Say what an interval decides; of the planned trainings in the words of their plan."""
    assert found.low is not None and found.high is not None
    if found.low > 0:
        small = claim is TENTH and found.high < MATTERS
        return "a gain" + (", less than the paper's" if small else "")
    if found.high < 0:
        return "a loss"
    if claim is TENTH and found.high < MATTERS:
        return "no gain of the paper's size; a smaller one is undecided"
    return "undecided"
