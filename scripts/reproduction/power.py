"""How many seeds a difference takes, and what a number of seeds could have seen; see `--help`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from common.command import cli
from common.errors import InputError
from common.recipe import POSITIVE, Range, check
from common.runs.over_seeds import detectable, power, seeds_needed
from reproduction.claims import CLAIMS, MATTERS, read_rows

PROGRAM = "python scripts/reproduce.py power"


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
        PROGRAM,
        "How many seeds does a difference take, and what can a given number of seeds see?\n"
        "Paired t test, two-sided at 5%, exact by the noncentral t distribution.\n\n"
        f"example: {PROGRAM} --deviation 0.25 --difference 0.6 --seeds 3 8",
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
