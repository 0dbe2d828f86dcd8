"""What the rows of both results.csv say, and what they could not have seen; see `--help`."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from common.command import cli
from common.errors import InputError
from common.recipe import POSITIVE, Range, check
from common.runs.over_seeds import (
    Difference,
    detectable,
    mean_and_deviation,
    paired_difference,
    power,
    seeds_needed,
)
from common.storage import write_atomically, write_text

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "python scripts/reproduce.py"
PICTURES = "scripts/evidence"
"""Folder of the pictures, from the root."""
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


# ---- evidence -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EvidenceFlags:
    """What is written where."""

    readme: Path = ROOT / "README.md"
    """What it has between <!-- short answer --> and <!-- /short answer --> is rewritten."""
    planned: Path = ROOT / "pretrain" / "README.md"
    """Likewise, between <!-- planned trainings --> and <!-- /planned trainings -->."""
    pictures: Path = ROOT / PICTURES
    """Folder of the pictures and their numbers."""


def run_evidence(argv: list[str]) -> None:
    """Draw the picture of every claim, and write the README's short answer, from the rows."""
    flags = cli.parse(
        EvidenceFlags,
        argv,
        f"{PROGRAM} evidence",
        "Draw the paired differences of every claim, and write the README's short answer and the\n"
        f"table of the planned trainings, all from the rows.\n\nexample: {PROGRAM} evidence",
    )
    rows = {program: read_rows(program) for program in ("pretrain", "detect")}
    parts = (
        (flags.readme, "short answer", short_answer(rows)),
        (flags.planned, "planned trainings", planned_table(rows["pretrain"])),
    )
    # All are made before one is written: a file without its marks leaves nothing half done.
    texts = [(path, replace_part(path.read_text(), name, part, path)) for path, name, part in parts]
    for claim in CLAIMS:
        if claim.difference(rows[claim.program]):
            print(f"wrote {draw(claim, rows[claim.program], flags.pictures / f'{claim.name}.png')}")
    for path, text in texts:
        write_text(path, text)
        print(f"wrote {path}")


def replace_part(text: str, name: str, part: str, path: Path) -> str:
    """Put a part between its two marks; `path` is the file in question, for the message.

    Raises:
        InputError: If the marks are not there.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise InputError(f"{path} must have {start.strip()} and {end} once each: put them in")
    head, rest = text.split(start)
    return head + start + part + end + rest.split(end)[1]


def shown_claims(rows: Mapping[str, Sequence[Row]]) -> tuple[Claim, Claim, Claim]:
    """Choose the three of the short answer: the planned trainings once all are done."""
    found = TENTH.difference(rows["pretrain"])
    tenth = TENTH if found and found.n >= PLANNED_PAIRS else TENTH_SHORT
    return WHOLE, tenth, DETECTOR


def short_answer(rows: Mapping[str, Sequence[Row]]) -> str:
    """Write what was run, what it says, what it could not have seen; and the pictures."""
    claims = shown_claims(rows)
    lines = [
        "| what we ran, with and without | what it says, in points | what it could not have seen |",
        "|---|---|---|",
        *(_answer(claim, rows[claim.program]) for claim in claims),
        "",
    ]
    if TENTH not in claims:
        found = TENTH.difference(rows["pretrain"])
        lines += [
            "[Planned beforehand](pretrain/plan-tenth-of-cifar10.md), a tenth of CIFAR-10 at all "
            f"300 epochs: {found.n if found else 0} of {PLANNED_PAIRS}",
            "pairs are done. No verdict before all are.",
            "",
        ]
    lines += [f"![{_alternative(claim)}]({PICTURES}/{claim.name}.png)" for claim in claims]
    return "\n".join([*lines, ""])


def _answer(claim: Claim, rows: Sequence[Row]) -> str:
    found = claim.difference(rows)
    if found is None or found.deviation is None or found.low is None:
        raise InputError(f"there are no two pairs of {claim.what}: train them first")
    seen = detectable(found.deviation, found.n)
    needed = seeds_needed(claim.paper, found.deviation)
    chance = power(claim.paper, found.deviation, found.n)
    return (
        f"| {claim.what}; {claim.measure}; {found.n} seeds | {found}: {verdict(claim, found)} | "
        f"could have seen: {seen:.1f}; a gain of the paper's {claim.paper:.2f} with a chance of "
        f"{100 * chance:.0f}%, with 80% from {needed} seeds on |"
    )


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


def _alternative(claim: Claim) -> str:
    return f"Differences by seed: {claim.what}"


def planned_table(rows: Sequence[Row]) -> str:
    """Write the table of the planned trainings, whatever is done of them."""
    lines = [
        "| arm | flags behind `--` | held-out images | - baseline [95%] | test images "
        "| - baseline [95%] | held-out cross-entropy x 100 | - baseline [95%] "
        "| training images | n |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    baseline = _planned(rows, "", "")
    for label, ending, flags in ARMS:
        mine = _planned(rows, ending, flags)
        cells = [label, f"`{flags}`" if flags else ""]
        if not mine:
            lines.append(f"| {' | '.join(cells)} | not run | | | | | | | 0 |")
            continue
        for column in ("last_accuracy", "test_accuracy", "last_loss"):
            cells.append(_spread(_percent(mine, column)))
            gap = paired_difference(_percent(mine, column), _percent(baseline, column))
            cells.append("" if mine == baseline else str(gap or "-"))
        cells += [_spread(_percent(mine, "train_accuracy")), str(len(mine))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _planned(rows: Sequence[Row], ending: str, flags: str) -> list[Row]:
    words = set(_CHANGES[flags].split())
    name = f"cifar10-resnet20{ending}"
    return [r for r in rows if r["recipe"] == name and set(r["changes"].split()) == words]


def _percent(rows: Sequence[Row], column: str) -> Values:
    return {int(row["seed"]): 100 * float(row[column]) for row in rows}


def _spread(values: Values) -> str:
    mean, deviation = mean_and_deviation(values.values())
    return f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


def draw(claim: Claim, rows: Sequence[Row], out: Path) -> Path:
    """Draw the paired differences of a claim by seed, and their mean with its interval.

    The numbers go to a CSV beside it, and as text into the PNG: it can be held against them.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from pretrain.figures.drawings import COLOURS, DPI, OPTIONS, plain, wrapped

    before, after = claim.values(rows)
    found = claim.difference(rows)
    assert found is not None
    table = numbers(before, after, found)
    seeds = sorted(before.keys() & after.keys())
    with matplotlib.rc_context(OPTIONS):
        figure = Figure(figsize=(5, 2.6), layout="constrained")
        axes = figure.subplots()
        gaps = [after[seed] - before[seed] for seed in seeds]
        axes.plot(range(len(seeds)), gaps, "o", color=COLOURS[0], label="a pair")
        places = {float(place): f"seed {seed}" for place, seed in enumerate(seeds)}
        if found.low is not None:  # of one pair there is no mean to speak of
            place = len(seeds) + 0.2
            places[place] = "mean"
            axes.errorbar(
                [place],
                [found.mean],
                [found.mean - found.low],
                fmt="s",
                capsize=4,
                color=COLOURS[1],
                label="mean, 95% interval",
            )
        axes.axhline(0, color="#222222", linewidth=0.8)
        axes.axhline(claim.paper, color=COLOURS[2], linewidth=1, linestyle="--")
        axes.plot([], [], color=COLOURS[2], linestyle="--", label=f"the paper's +{claim.paper:.2f}")
        axes.set_xticks(list(places), list(places.values()))
        axes.set_xlim(-0.5, max(places) + 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel("points")
        plain(axes)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        title = f"FocusedDropout - baseline: {claim.what}; {claim.measure}"
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=9)
        out.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Software": None, "Description": table}
        write_atomically(
            out, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata=metadata)
        )
    write_text(out.with_suffix(".csv"), table)
    return out


def numbers(before: Values, after: Values, found: Difference) -> str:
    """Write what a picture shows as CSV: the pairs, then mean, low and high of the interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("seed", "baseline", "focused_dropout", "difference"))
    for seed in sorted(before.keys() & after.keys()):
        pair = before[seed], after[seed]
        writer.writerow((seed, *(f"{v:.4f}" for v in (*pair, pair[1] - pair[0]))))
    for name in ("mean", "low", "high"):
        value = getattr(found, name)
        writer.writerow((name, "", "", "" if value is None else f"{value:.4f}"))
    return text.getvalue()


# ---- power --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PowerFlags:
    """What is asked; points, or any one unit."""

    deviation: Annotated[float | None, POSITIVE] = None
    """Of the paired differences over seeds; None: as measured in every comparison of the rows."""
    difference: Annotated[float, POSITIVE] = MATTERS
    """The true difference that is to be seen; 0.6 is the paper's gain for ResNet-20, CIFAR-10."""
    seeds: Annotated[tuple[int, ...], Range(low=2)] = (3, 6, 8, 10)
    """For these numbers of seeds: the difference that would be seen."""

    def __post_init__(self) -> None:
        check(self)


def run_power(argv: list[str]) -> None:
    """Print how many seeds a difference takes, and what a number of seeds could have seen."""
    flags = cli.parse(
        PowerFlags,
        argv,
        f"{PROGRAM} power",
        "How many seeds does a difference take, and what can a given number of seeds see?\n"
        "Paired t test, two-sided at 5%, exact by the noncentral t distribution.\n\n"
        f"example: {PROGRAM} power --deviation 0.25 --difference 0.6 --seeds 3 8",
    )
    if flags.deviation is not None:
        print(describe_power(flags.deviation, flags.difference, flags.seeds))
        return
    for claim in CLAIMS:
        found = claim.difference(read_rows(claim.program))
        if found and found.deviation:
            print(f"{claim.what}; {claim.measure}: {found}, {found.n} seeds")
            print(describe_power(found.deviation, flags.difference, (found.n, *flags.seeds)))


def describe_power(deviation: float, difference: float, seeds: Sequence[int]) -> str:
    """Write what a deviation of paired differences allows, in lines.

    Raises:
        InputError: If no number of seeds would do.
    """
    lines = [f"  deviation of the paired differences {deviation:.2f}"]
    try:
        needed = [seeds_needed(difference, deviation, wanted) for wanted in (0.8, 0.95)]
    except ValueError as error:
        raise InputError(f"--difference {difference:g}: {error}") from error
    lines.append(
        f"  a difference of {difference:g}: {needed[0]} seeds see it with a chance of 80%, "
        f"{needed[1]} with 95%"
    )
    for n in sorted(set(seeds)):
        eighty, ninety_five = (detectable(deviation, n, wanted) for wanted in (0.8, 0.95))
        lines.append(
            f"  {n} seeds: could have seen {eighty:.2f} with a chance of 80%, {ninety_five:.2f} "
            f"with 95%; {difference:g} with {100 * power(difference, deviation, n):.0f}%"
        )
    return "\n".join(lines)
