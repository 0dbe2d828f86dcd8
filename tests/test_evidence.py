"""The results in the READMEs are those of the rows in both results.csv."""

import csv
import gzip
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.results import log_path

ROOT = Path(__file__).parents[1]
README, PRETRAIN = ((ROOT / name).read_text() for name in ("README.md", "pretrain/README.md"))
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5% by the number of pairs, from a printed table."""
FD = "FocusedDropout"
Row = dict[str, str]
Values = dict[int, float]
ARMS = {
    "baseline": "",
    "randomly MWD": "-mwd",
    "FocusedDropout without MWD": "-fd-no-mwd",
    "opposite approach without MWD": "-opposite-no-mwd",
    "opposite approach": "-opposite",
    "FocusedDropout": "-fd",
    "constant decay of the same mean": "-constant-decay",
    "DropBlock": "-dropblock",
}
DETECTORS = {
    "baseline": ("tiny-imagenet-resnet18", False),
    "FocusedDropout in pretraining": ("tiny-imagenet-resnet18-fd", False),
    "FocusedDropout in fine-tuning alone": ("tiny-imagenet-resnet18", True),
    "from random weights": ("scratch", False),
}


def rows_of(stage: str) -> list[Row]:
    with (ROOT / stage / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(heading: str, text: str = README) -> list[list[str]]:
    """Return the rows of the first table below a heading, as cells."""
    lines = text[text.index(heading) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line[1:-1].split("|")])
    return rows


def as_changes(flags: str) -> set[str]:
    """Turn `--focus.gamma 0.6 0.9` into the words of the column of changes."""
    words: list[str] = []
    for word in shlex.split(flags.strip("`")):
        if word.startswith("--"):
            words.append(word[2:].replace("-", "_") + "=")
        else:
            word = str(float(word)) if "e-" in word else word  # 5e-4 is 0.0005 there
            words[-1] += word if words[-1].endswith("=") else f",{word}"
    return {word + "True" if word.endswith("=") else word for word in words}


def classifiers(arm: str, flags: str, epochs: int) -> list[Row]:
    """Find the runs of an arm of ResNet-20 on CIFAR-10, of so many epochs."""
    found = []
    for row in rows_of("pretrain"):
        words = set(row["changes"].split())
        schedule = {w for w in words if w.split("=")[0].startswith("optimization.epochs")}
        schedule |= {w for w in words if w.startswith(("optimization.mile", "optimization.prec"))}
        wanted = row["recipe"] == f"cifar10-resnet20{ARMS[arm]}" and int(row["epochs"]) == epochs
        if wanted and words - schedule == as_changes(flags):
            found.append(row)
    return found


def detectors(name: str) -> list[Row]:
    backbone, focused = DETECTORS[name]
    return [
        row
        for row in rows_of("detect")
        if row["backbone"] == backbone and bool(row["participating_steps"]) == focused
    ]


def values(rows: Sequence[Row], column: str) -> Values:
    """Return percent by seed."""
    found = {int(row["seed"]): 100 * float(row[column]) for row in rows if row[column]}
    assert len(found) in (0, len(rows)), "two runs of one seed"
    return found


def spread(found: Values) -> str:
    if not found:
        return "-"
    mean = f"{statistics.fmean(found.values()):.2f}"
    return f"{mean} ± {statistics.stdev(found.values()):.2f}" if len(found) > 1 else mean


def difference(ours: Values, baseline: Values) -> str:
    gaps = [ours[seed] - baseline[seed] for seed in ours.keys() & baseline.keys()]
    if not gaps:
        return "-"
    mean = statistics.fmean(gaps)
    if len(gaps) == 1:
        return f"{mean:+.2f}"
    half = T[len(gaps)] * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def classifier_cells(arm: str, flags: str, epochs: int) -> list[str]:
    """Return what the README says of an arm: best epoch, last epoch, each less the baseline; n."""
    rows = classifiers(arm, flags, epochs)
    if not rows:
        return ["not run", "", "", "", "0"]
    # What changes the method alone is compared with the unchanged baseline.
    own = "" if flags.strip("`").startswith("--focus.") else flags
    baseline = classifiers("baseline", own, epochs)
    cells = []
    for column in ("best_accuracy", "last_accuracy"):
        ours = values(rows, column)
        cells.append(spread(ours))
        cells.append("" if arm == "baseline" else difference(ours, values(baseline, column)))
    return [*cells, str(len(rows))]


def held_out_cells(arm: str) -> list[str]:
    """Return what the README says of a small training set.

    Held-out and test images and the cross-entropy of the former, each less the baseline; the
    training images; n.
    """
    rows, baseline = (
        [r for r in rows_of("pretrain") if r["recipe"] == f"cifar10-resnet20{ARMS[a]}"]
        for a in (arm, "baseline")
    )
    rows, baseline = ([r for r in of_arm if int(r["held_out"])] for of_arm in (rows, baseline))
    cells = []
    for column in ("last_accuracy", "test_accuracy", "last_loss"):
        ours = values(rows, column)
        cells.append(spread(ours))
        cells.append("" if arm == "baseline" else difference(ours, values(baseline, column)))
    return [*cells, spread(values(rows, "train_accuracy")), str(len(rows))]


def detector_cells(name: str) -> list[str]:
    """Top-1 of the backbone, mAP (11-point), less the baseline, mAP (area), the same, AP; n."""
    rows, baseline = detectors(name), detectors("baseline")
    if not rows:
        return ["", "not run", "", "", "", "", "0"]
    cells = [spread(values(rows, "backbone_accuracy"))]
    for column in ("map_11point", "map_area"):
        ours = values(rows, column)
        cells.append(spread(ours))
        cells.append("" if name == "baseline" else difference(ours, values(baseline, column)))
    return [*cells, spread(values(rows, "coco_ap")), str(len(rows))]


@pytest.mark.parametrize(("epochs", "text"), [(15, README), (2, PRETRAIN)], ids=["15", "2"])
def test_classifiers(epochs: int, text: str) -> None:
    rows = table(f"**ResNet-20 on CIFAR-10, {epochs} of 300 epochs", text)
    assert rows[0][0] == "baseline"
    for arm, flags, _, *cells in rows:
        assert cells == classifier_cells(arm, flags, epochs), (arm, flags)
    shown = sum(int(row[-1]) for row in rows)
    ours = [r for r in rows_of("pretrain") if r["recipe"].startswith("cifar10-resnet20")]
    assert shown == sum(int(row["epochs"]) == epochs for row in ours), "not all runs are shown"


def test_few_images() -> None:
    rows = table("**ResNet-20 on 5,000 images of CIFAR-10")
    for arm, *cells in rows:
        assert cells == held_out_cells(arm), arm
    (claim,) = (row for row in table("## Does it work?") if "overfits" in row[0])
    before, after = rows[0], rows[-1]
    means = " -> ".join(row[1].split()[0] for row in (before, after))
    assert claim[2] == f"{means}, {after[2]}; cross-entropy x 100 {after[6]}"
    assert claim[3].startswith(f"{after[-1]} seeds,")
    of_few = [row for row in rows_of("pretrain") if row["train_images"] == "5000"]
    assert sum(int(row[-1]) for row in rows) == len(of_few)


def test_detectors() -> None:
    rows = table("**Table 5 in miniature")
    assert [row[0] for row in rows] == list(DETECTORS)
    for name, *cells in rows:
        assert cells == detector_cells(name), name
    assert sum(int(row[-1]) for row in rows) == len(rows_of("detect"))


def test_summary_of_classifiers() -> None:
    """Its first two rows: the gain, and how it develops, both of the runs of 15 epochs."""
    baseline, ours = classifiers("baseline", "", 15), classifiers(FD, "", 15)
    gain, course = table("## Does it work?")[:2]
    before, after = (values(rows, "best_accuracy") for rows in (baseline, ours))
    means = " -> ".join(f"{statistics.fmean(found.values()):.2f}" for found in (before, after))
    assert gain[2] == f"{means}, {difference(after, before)}"
    assert gain[3].startswith(f"{len(baseline)} seeds,")
    for first, last in ((1, 7), (8, 11), (12, 15)):
        gap = difference(*(mean_accuracy(rows, first, last) for rows in (ours, baseline)))
        assert f"{gap} over epochs {first} to {last}" in course[2]


def test_summary_of_causes() -> None:
    """What the paper leaves open, each of the first seed, and how much the defaults scatter."""
    (row,) = (row for row in table("## Does it work?") if "leaves open" in row[0])

    def gaps(ours: str, baseline: str = "") -> Values:
        before, after = classifiers("baseline", baseline, 15), classifiers(FD, ours, 15)
        old, new = values(before, "best_accuracy"), values(after, "best_accuracy")
        return {seed: new[seed] - old[seed] for seed in new.keys() & old.keys()}

    decay, block = "--optimization.weight-decay 5e-4", "--block bottleneck"
    causes = [gaps(decay, decay), gaps(block, block)]
    causes += [gaps("--focus.gamma-per unit"), gaps("--focus.after layer3")]
    usual = gaps("")
    shown = "; ".join(f"{cause[0]:+.2f}" for cause in causes)
    assert row[2] == f"{shown}, where the defaults lose {-usual[0]:.2f}"
    scatter = statistics.stdev(usual.values())
    assert row[4].endswith(f"three pairs of the defaults scatter by {scatter:.2f}")
    assert len(usual) == 3


def mean_accuracy(rows: Sequence[Row], first: int, last: int) -> Values:
    """Average the accuracy over epochs, in percent by seed, from the logs."""
    found = {}
    for row in rows:
        log = log_path(ROOT / "pretrain" / "results.csv", row)
        epochs = [json.loads(line) for line in gzip.decompress(log.read_bytes()).splitlines()]
        accuracy = [100 * epoch["val_accuracy"] for epoch in epochs[first - 1 : last]]
        found[int(row["seed"])] = statistics.fmean(accuracy)
    return found


def test_summary_of_two_epochs() -> None:
    (row,) = (row for row in table("## Does it work?") if "(Table 4)" in row[0])
    arms = ("baseline", "randomly MWD", "FocusedDropout without MWD", "FocusedDropout")
    found = [values(classifiers(arm, "", 2), "best_accuracy") for arm in arms]
    first, *rest = (f"{statistics.fmean(of_arm.values()):.2f}" for of_arm in found)
    assert row[2] == f"{first}; {', '.join(rest)}"
    assert row[3].startswith(f"{len(found[0])} seeds,")


@pytest.mark.parametrize(
    ("claim", "name", "column"),
    [
        ("(Table 5)", "FocusedDropout in pretraining", "map_11point"),
        ("ImageNet, ResNet-50", "FocusedDropout in pretraining", "backbone_accuracy"),
        ("fine-tuning alone", "FocusedDropout in fine-tuning alone", "map_11point"),
        ("random weights", "from random weights", "map_11point"),
    ],
)
def test_summary_of_detectors(claim: str, name: str, column: str) -> None:
    (row,) = (row for row in table("## Does it work?") if claim in row[0])
    before, after = detectors("baseline"), detectors(name)
    if name == "from random weights":  # there the baseline is what is claimed to be better
        before, after = after, before
    old, new = values(before, column), values(after, column)
    means = f"{statistics.fmean(old.values()):.2f} -> {statistics.fmean(new.values()):.2f}"
    gain = difference(new, old)
    if column == "backbone_accuracy":
        assert row[2] == f"{means}, {gain}"
        return
    area = difference(values(after, "map_area"), values(before, "map_area"))
    assert row[2] == f"{means} mAP, {gain} (11-point); by area {area}"
    assert row[3].startswith(f"{len(old)} seeds,")
