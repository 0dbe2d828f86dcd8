"""What the rows of both results.csv say, as pictures and tables of READMEs; see `--help`."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.command import cli
from common.errors import InputError
from common.runs.over_seeds import (
    Difference,
    detectable,
    paired_difference,
    power,
    seeds_needed,
    spread,
)
from common.storage import write_atomically, write_text
from reproduction.claims import (
    ARMS,
    CLAIMS,
    DETECTOR,
    PLANNED_PAIRS,
    ROOT,
    TENTH,
    TENTH_SHORT,
    WHOLE,
    Claim,
    Row,
    Values,
    planned_rows,
    read_rows,
    verdict,
)

PROGRAM = "python scripts/reproduce.py evidence"
PICTURES = "scripts/evidence"
"""Folder of the pictures, from the root."""


@dataclass(frozen=True, kw_only=True)
class EvidenceFlags:
    """What is written where."""

    readme: Path = ROOT / "README.md"
    """What it has between <!-- short answer --> and <!-- /short answer --> is rewritten."""
    planned: Path = ROOT / "pretrain" / "evidence.md"
    """Likewise, between <!-- planned trainings --> and <!-- /planned trainings -->."""
    pictures: Path = ROOT / PICTURES
    """Folder of the pictures and their numbers."""


def run_evidence(argv: list[str]) -> None:
    """Draw the picture of every claim, and write the README's short answer, from the rows."""
    flags = cli.parse(
        EvidenceFlags,
        argv,
        PROGRAM,
        "Draw the paired differences of every claim, and write the README's short answer and the\n"
        f"table of the planned trainings, all from the rows.\n\nexample: {PROGRAM}",
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
    else:
        lines += [
            "The second row was [planned beforehand](pretrain/plan-tenth-of-cifar10.md).",
            _shorter(rows),
            "",
        ]
    lines += [f"![{_alternative(claim)}]({PICTURES}/{claim.name}.png)" for claim in claims]
    return "\n".join([*lines, ""])


def _shorter(rows: Mapping[str, Sequence[Row]]) -> str:
    found = TENTH_SHORT.difference(rows["pretrain"])
    if found is None or found.low is None:
        return ""
    return f"In 60 epochs, {found.n} seeds: {found}, {verdict(TENTH_SHORT, found)}."


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
    baseline = planned_rows(rows, "", "")
    for label, ending, flags in ARMS:
        mine = planned_rows(rows, ending, flags)
        cells = [label, f"`{flags}`" if flags else ""]
        if not mine:
            lines.append(f"| {' | '.join(cells)} | not run | | | | | | | 0 |")
            continue
        for column in ("last_accuracy", "test_accuracy", "last_loss"):
            cells.append(spread(_percent(mine, column).values()))
            gap = paired_difference(_percent(mine, column), _percent(baseline, column))
            cells.append("" if mine == baseline else str(gap or "-"))
        cells += [spread(_percent(mine, "train_accuracy").values()), str(len(mine))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _percent(rows: Sequence[Row], column: str) -> Values:
    return {int(row["seed"]): 100 * float(row[column]) for row in rows}


def draw(claim: Claim, rows: Sequence[Row], out: Path) -> Path:
    """Draw the paired differences of a claim by seed, and their mean with its interval.

    The numbers go to a CSV beside it, and as text into the PNG: it can be held against them.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from pretrain.figures.style import COLOURS, DPI, OPTIONS, plain, wrapped

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
