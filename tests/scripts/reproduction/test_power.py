"""`reproduce.py power`: of a deviation, of the rows, and wrong arguments."""

from collections.abc import Callable

import pytest
import reproduce
from reproduction import claims

Call = Callable[..., tuple[int, str, str]]


def test_power_of_a_deviation(call_command: Call) -> None:
    given = "--deviation 0.25 --difference 0.3 --seeds 3 8".split()
    code, out, _ = call_command(reproduce, "power", *given)
    assert code == 0
    assert out.splitlines() == [
        "  deviation of the paired differences 0.25",
        "  a difference of 0.3: 8 seeds see it with a chance of 80%, 12 with 95%",
        "  3 seeds: could have seen 0.82 with a chance of 80%, 1.12 with 95%; 0.3 with 23%",
        "  8 seeds: could have seen 0.29 with a chance of 80%, 0.37 with 95%; 0.3 with 83%",
    ]


def test_power_of_the_rows(call_command: Call) -> None:
    code, out, _ = call_command(reproduce, "power")
    assert code == 0
    for claim in (claims.WHOLE, claims.TENTH_SHORT, claims.DETECTOR):
        assert f"{claim.what}; {claim.measure}: " in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--deviation", "0"), "deviation must be above 0"),
        (("--seeds", "1"), "seeds must be at least 2"),
        (("--deviation", "1", "--difference", "1e-9"), "more than 100,000 seeds"),
    ],
)
def test_wrong_arguments(call_command: Call, given: tuple[str, ...], message: str) -> None:
    code, _, err = call_command(reproduce, "power", *given)
    assert code == 2
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
