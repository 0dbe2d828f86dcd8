"""The results in the READMEs, and the pictures, are those of the rows in both results.csv."""

import csv
import gzip
import itertools
import json
import re
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from reproduction import claims, evidence
from scipy.stats import ncf, t

from common.runs.results import log_path

ROOT = Path(__file__).parents[1]
README, EVIDENCE = ((ROOT / name).read_text() for name in ("README.md", "pretrain/evidence.md"))
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Student's t at 97.5% by the number of pairs, from a printed table."""
FD = "FocusedDropout"
CLAIMS = "`tests/test_evidence.py` holds"
"""Before the table of claims."""
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
LEARNT = {60: "5,000 images of CIFAR-10, 60 of 300", 300: "5,000 images of CIFAR-10, all 300"}
"""Trainings on a tenth of CIFAR-10: epochs, and how their table is called."""
DETECTORS = {
    "baseline": ("tiny-imagenet-resnet18", False),
    "FocusedDropout in pretraining": ("tiny-imagenet-resnet18-fd", False),
    "FocusedDropout in fine-tuning alone": ("tiny-imagenet-resnet18", True),
    "FocusedDropout in both": ("tiny-imagenet-resnet18-fd", True),
    "from random weights": ("scratch", False),
}


def rows_of(program: str) -> list[Row]:
    with (ROOT / program / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(heading: str, text: str = EVIDENCE) -> list[list[str]]:
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
        if row["backbone"] == backbone
        and bool(row["participating_steps"]) == focused
        and "detector.test_size=192" in row["changes"].split()
    ]


def detectors_of_recipes() -> dict[str, Row]:
    """Return the rows that set one recipe beside another, at 128 pixels, by recipe."""
    rows = [r for r in rows_of("detect") if "detector.test_size=128" in r["changes"].split()]
    found = {row["recipe"]: row for row in rows}
    assert len(found) == len(rows)
    return found


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
    text = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
    if len(gaps) < 6:
        return text
    flips = [
        abs(sum(sign * gap for sign, gap in zip(signs, gaps, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    as_far = sum(flip > abs(sum(gaps)) - 1e-9 for flip in flips)
    return f"{text} (p {as_far / len(flips):.2g})"


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


def few_images(arm: str, flags: str, epochs: int) -> list[Row]:
    """Find the runs of an arm on a tenth of CIFAR-10."""
    fixed = {"images.held_out=45000"}
    if epochs == 300:
        fixed.add("images.held_out_by_seed=True")
    precision = set() if "precision" in flags else {"optimization.precision=bf16"}
    wanted = fixed | precision | as_changes(flags)
    return [
        row
        for row in rows_of("pretrain")
        if row["recipe"] == f"cifar10-resnet20{ARMS[arm]}"
        and int(row["held_out"]) == 45000
        and int(row["epochs"]) == epochs
        and {
            w
            for w in row["changes"].split()
            if not w.startswith(("optimization.epochs", "optimization.mile"))
        }
        == wanted
    ]


def held_out_cells(arm: str, flags: str, epochs: int) -> list[str]:
    """Return what the README says of a small training set.

    Held-out and test images and the cross-entropy of the former, each less the baseline; the
    training images; n.
    """
    rows, baseline = few_images(arm, flags, epochs), few_images("baseline", "", epochs)
    if not rows:
        return ["not run", *[""] * 6, "0"]
    cells = []
    for column in ("last_accuracy", "test_accuracy", "last_loss"):
        ours = values(rows, column)
        cells.append(spread(ours))
        cells.append("" if rows == baseline else difference(ours, values(baseline, column)))
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


@pytest.mark.parametrize("epochs", [15, 2])
def test_classifiers(epochs: int) -> None:
    rows = table(f"**ResNet-20 on CIFAR-10, {epochs} of 300 epochs")
    assert rows[0][0] == "baseline"
    for arm, flags, _, *cells in rows:
        assert cells == classifier_cells(arm, flags, epochs), (arm, flags)
    shown = sum(int(row[-1]) for row in rows)
    ours = [r for r in rows_of("pretrain") if r["recipe"].startswith("cifar10-resnet20")]
    assert shown == sum(int(row["epochs"]) == epochs for row in ours), "not all runs are shown"


def test_few_images() -> None:
    rows = table(f"**ResNet-20 on {LEARNT[60]}")
    for arm, *cells in rows:
        assert cells == held_out_cells(arm, "", 60), arm
    (claim,) = (row for row in table(CLAIMS) if "overfits" in row[0])
    before, after = rows[0], rows[-1]
    means = " -> ".join(row[1].split()[0] for row in (before, after))
    assert claim[2] == f"{means}, {after[2]}; cross-entropy x 100 {after[6]}"
    assert claim[3].startswith(f"{after[-1]} seeds,")


def test_the_planned_trainings() -> None:
    rows = table(f"**ResNet-20 on {LEARNT[300]}")
    assert len(rows) == 8
    for arm, flags, *cells in rows:
        assert cells == held_out_cells(arm, flags, 300), (arm, flags)


def test_summary_of_the_planned_trainings() -> None:
    (row,) = (row for row in table(CLAIMS) if "the plan" in row[0] or "[plan]" in row[0])
    pairs = [few_images(arm, "", 300) for arm in ("baseline", FD)]
    before, after = (values(rows, "last_accuracy") for rows in pairs)
    means = " -> ".join(f"{statistics.fmean(found.values()):.2f}" for found in (before, after))
    entropy = difference(*(values(rows, "last_loss") for rows in reversed(pairs)))
    assert row[2] == f"{means}, {difference(after, before)}; cross-entropy x 100 {entropy}"
    assert row[3].startswith(f"{len(after)} seeds,")


def test_all_runs_on_few_images_are_shown() -> None:
    shown = sum(int(row[-1]) for name in LEARNT.values() for row in table(f"**ResNet-20 on {name}"))
    assert shown == sum(row["train_images"] == "5000" for row in rows_of("pretrain"))


# ---- the short answer ---------------------------------------------------------------------------


def pairs_of(name: str) -> tuple[Values, Values, float]:
    """Return the values of a picture, without and with the method, and the paper's gain."""
    if name == "detector-miniature":
        arms = ("baseline", "FocusedDropout in pretraining")
        before, after = (values(detectors(arm), "map_11point") for arm in arms)
        return before, after, 0.91
    if name == "cifar10-15-epochs":
        before, after = (
            values(classifiers(arm, "", 15), "best_accuracy") for arm in ("baseline", FD)
        )
        return before, after, 0.60
    epochs = 60 if "60" in name else 300
    before, after = (
        values(few_images(arm, "", epochs), "last_accuracy") for arm in ("baseline", FD)
    )
    return before, after, 0.60


def found_power(effect: float, n: int) -> float:
    """By another distribution than the code: the square of t is F."""
    return float(ncf.sf(t.ppf(0.975, n - 1) ** 2, 1, n - 1, n * effect**2))


def test_the_short_answer() -> None:
    done = sorted(pairs_of("cifar10-tenth-300-epochs")[0].keys())
    both = [seed for seed in done if seed in pairs_of("cifar10-tenth-300-epochs")[1]]
    tenth = "cifar10-tenth-300-epochs" if len(both) == 8 else "cifar10-tenth-60-epochs"
    names = ("cifar10-15-epochs", tenth, "detector-miniature")
    rows = table("<!-- short answer -->", README)
    assert len(rows) == 3
    for name, (what, says, unseen) in zip(names, rows, strict=True):
        before, after, gain = pairs_of(name)
        gaps = [after[seed] - before[seed] for seed in before.keys() & after.keys()]
        n, deviation = len(gaps), statistics.stdev(gaps)
        assert what.endswith(f"; {n} seeds")
        said, _, verdict = says.partition(": ")
        assert said == difference(after, before)
        low, high = map(float, re.findall(r"[+-][\d.]+", said)[1:3])
        kind = "a gain" if low > 0 else "a loss" if high < 0 else "undecided"
        assert kind in verdict
        seen, chance, needed = re.findall(
            r"could have seen: ([\d.]+);.* (\d+)%, .* (\d+) seeds", unseen
        )[0]
        assert found_power((float(seen) - 0.051) / deviation, n) < 0.8
        assert found_power((float(seen) + 0.051) / deviation, n) > 0.8
        assert f"the paper's {gain:.2f} with" in unseen
        assert float(chance) == pytest.approx(100 * found_power(gain / deviation, n), abs=0.6)
        assert found_power(gain / deviation, int(needed)) > 0.8
        if int(needed) > 2:
            assert found_power(gain / deviation, int(needed) - 1) < 0.8
        assert f"(scripts/evidence/{name}.png)" in README
    before, after, _ = pairs_of("cifar10-tenth-60-epochs")
    assert f"{len(after)} seeds: {difference(after, before)}, a loss" in README
    assert (f"epochs: {len(both)} of 8\npairs" in README) == (len(both) < 8)


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.name)
def test_pictures(claim: claims.Claim) -> None:
    """A picture carries the numbers that it was drawn from; they are those of the rows."""
    picture = ROOT / evidence.PICTURES / f"{claim.name}.png"
    before, after, gain = pairs_of(claim.name)
    seeds = sorted(before.keys() & after.keys())
    assert claim.paper == gain
    if not seeds:
        assert not picture.exists()
        return
    text = picture.with_suffix(".csv").read_text()
    with Image.open(picture) as image:
        assert image.info["Description"] == text
    lines = list(csv.DictReader(text.splitlines()))
    assert [line["seed"] for line in lines] == [*map(str, seeds), "mean", "low", "high"]
    for line, seed in zip(lines, seeds, strict=False):
        shown = [float(line[name]) for name in ("baseline", "focused_dropout", "difference")]
        expected = [before[seed], after[seed], after[seed] - before[seed]]
        assert shown == pytest.approx(expected, abs=1e-4)
    if len(seeds) > 1:
        mean, low, high = (f"{float(line['difference']):+.2f}" for line in lines[-3:])
        assert difference(after, before).startswith(f"{mean} [{low}, {high}]")


def test_the_readme_is_what_the_command_writes() -> None:
    rows = {program: claims.read_rows(program) for program in ("pretrain", "detect")}
    for text, name, part in (
        (README, "short answer", evidence.short_answer(rows)),
        (EVIDENCE, "planned trainings", evidence.planned_table(rows["pretrain"])),
    ):
        assert evidence.replace_part(text, name, part, ROOT) == text


# ---- the claims one by one ----------------------------------------------------------------------


def test_detectors() -> None:
    rows = table("**Table 5 in miniature")
    assert [row[0] for row in rows] == list(DETECTORS)
    for name, *cells in rows:
        assert cells == detector_cells(name), name
    assert sum(int(row[-1]) for row in rows) + len(detectors_of_recipes()) == len(rows_of("detect"))


def test_recipes_of_detectors() -> None:
    """The two that detect's README compares: the same images, backbone and epochs."""
    rows = detectors_of_recipes()
    best, small = (rows[f"voc-retinanet-{name}"] for name in ("best", "small"))
    for column in ("backbone", "data", "train_images", "scored_images", "seed", "epochs"):
        assert best[column] == small[column], column
    shown = [f"{100 * float(row['map_11point']):.2f}" for row in (best, small)]
    text = " ".join((ROOT / "detect" / "README.md").read_text().split())
    assert f"`-best` reached {shown[0]} mAP and `-small` {shown[1]}" in text
    assert f"{best['epochs']} epochs of the {int(best['train_images']):,} photos" in text


def test_summary_of_classifiers() -> None:
    """Its first two rows: the gain, and how it develops, both of the runs of 15 epochs."""
    baseline, ours = classifiers("baseline", "", 15), classifiers(FD, "", 15)
    gain, course = table(CLAIMS)[:2]
    before, after = (values(rows, "best_accuracy") for rows in (baseline, ours))
    means = " -> ".join(f"{statistics.fmean(found.values()):.2f}" for found in (before, after))
    assert gain[2] == f"{means}, {difference(after, before)}"
    assert gain[3].startswith(f"{len(baseline)} seeds,")
    for first, last in ((1, 7), (8, 11), (12, 15)):
        gap = difference(*(mean_accuracy(rows, first, last) for rows in (ours, baseline)))
        assert f"{gap} over epochs {first} to {last}" in course[2]


def test_summary_of_causes() -> None:
    """What the paper leaves open, each of the first seed, and how much the defaults scatter."""
    (row,) = (row for row in table(CLAIMS) if "leaves open" in row[0])

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
    (row,) = (row for row in table(CLAIMS) if "(Table 4)" in row[0])
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
    (row,) = (row for row in table(CLAIMS) if claim in row[0])
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
