"""`reproduce.py evidence`: verdicts, texts and arguments; the rows in tests/test_evidence.py."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import reproduce
from PIL import Image, ImageColor
from reproduction import claims, evidence

from common.errors import InputError
from common.runs.over_seeds import Difference
from pretrain.figures.style import COLOURS

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("low", "high", "planned", "other"),
    [  # the table of pretrain/plan-tenth-of-cifar10.md
        (0.05, 0.55, "a gain, less than the paper's", "a gain"),
        (0.05, 0.65, "a gain", "a gain"),
        (-0.50, -0.01, "a loss", "a loss"),
        (-0.1, 0.59, "no gain of the paper's size; a smaller one is undecided", "undecided"),
        (-0.1, 0.61, "undecided", "undecided"),
    ],
)
def test_verdicts_are_those_of_the_plan(low: float, high: float, planned: str, other: str) -> None:
    found = Difference((low + high) / 2, low, high, 8)
    assert claims.verdict(claims.TENTH, found) == planned
    assert claims.verdict(claims.WHOLE, found) == other


def rows(*accuracies: tuple[float, float]) -> list[dict[str, str]]:
    """Pairs of the planned trainings, without and with the method, in the order of the seeds."""
    made = []
    for seed, pair in enumerate(accuracies):
        for ending, value in zip(("", "-fd"), pair, strict=True):
            made.append(
                {
                    "recipe": f"cifar10-resnet20{ending}",
                    "changes": claims.PLANNED,
                    "seed": str(seed),
                    **dict.fromkeys(("last_accuracy", "best_accuracy"), str(value)),
                    **dict.fromkeys(("test_accuracy", "train_accuracy", "last_loss"), str(value)),
                }
            )
    return made


def test_the_planned_trainings_are_shown_once_all_are_done() -> None:
    known = {program: claims.read_rows(program) for program in ("pretrain", "detect")}
    others = [r for r in known["pretrain"] if r["changes"] != claims.PLANNED]
    pairs = [(0.70, 0.701 + seed / 1000) for seed in range(8)]
    for n in (0, 7):
        some = known | {"pretrain": [*others, *rows(*pairs[:n])]}
        text = evidence.short_answer(some)
        assert f"epochs: {n} of 8\npairs are done. No verdict before all are." in text
        assert "all 300 epochs; held-out" not in text
    text = evidence.short_answer(known | {"pretrain": [*others, *rows(*pairs)]})
    # Differences 0.1, 0.2, .. 0.8: mean 0.45, deviation 0.2449, 2.3646 * 0.2449 / sqrt(8) = 0.2048.
    assert "8 seeds | +0.45 [+0.25, +0.65] (p 0.0078): a gain |" in text
    assert "No verdict" not in text
    assert text.count("\n| ") == 3  # a row a claim, behind the header
    assert re.search(r"In 60 epochs, 3 seeds: -1\.26 \[.*\], a loss\.", text)  # beside the gain


def test_the_table_of_the_planned_trainings() -> None:
    lines = evidence.planned_table(rows((0.70, 0.71), (0.72, 0.71))).splitlines()
    assert lines[2].startswith("| baseline |  | 71.00 ± 1.41 |  | 71.00 ± 1.41 |  | ")
    assert "| FocusedDropout |  | 71.00 ± 0.00 | +0.00 [-12.71, +12.71] | " in lines[3]
    assert lines[4] == "| randomly MWD |  | not run | | | | | | | 0 |"
    assert len(lines) == 2 + len(claims.ARMS)


def test_a_picture_carries_its_numbers(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.png"
    evidence.draw(claims.TENTH, rows((0.70, 0.71), (0.72, 0.715)), out)
    text = out.with_suffix(".csv").read_text()
    assert text.splitlines()[:4] == [
        *("seed,baseline,focused_dropout,difference", "0,70.0000,71.0000,1.0000"),
        *("1,72.0000,71.5000,-0.5000", "mean,,,0.2500"),
    ]
    with Image.open(out) as image:
        assert image.info["Description"] == text
    assert has_a_mean(out)
    evidence.draw(claims.TENTH, rows((0.70, 0.71)), out)  # one pair: no interval
    assert out.with_suffix(".csv").read_text().splitlines()[-2:] == ["low,,,", "high,,,"]
    assert not has_a_mean(out)


def has_a_mean(picture: Path) -> bool:
    """Look for the colour of the mean and its interval."""
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    return ImageColor.getrgb(COLOURS[1]) in colours


def test_a_part_is_put_between_its_marks() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert (
        evidence.replace_part(text, "x", "new\n", Path("a.md"))
        == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    )
    with pytest.raises(InputError, match=r"a\.md must have <!-- y -->"):
        evidence.replace_part(text, "y", "new\n", Path("a.md"))


def test_the_command_writes_a_readme_and_its_pictures(call_command: Call, tmp_path: Path) -> None:
    readme, planned = (tmp_path / name for name in ("README.md", "planned.md"))
    for path, name in ((readme, "short answer"), (planned, "planned trainings")):
        path.write_text(f"head\n<!-- {name} -->\n<!-- /{name} -->\n")
    given = ["--readme", str(readme), "--planned", str(planned)]
    given += ["--pictures", str(tmp_path / "pictures")]
    code, out, err = call_command(reproduce, "evidence", *given)
    assert (code, err) == (0, "")
    assert readme.read_text().startswith("head\n<!-- short answer -->\n| what we ran")
    assert planned.read_text().startswith("head\n<!-- planned trainings -->\n| arm |")
    pictures = sorted(path.name for path in (tmp_path / "pictures").glob("*.png"))
    assert pictures == sorted(
        f"{path.name}" for path in (claims.ROOT / evidence.PICTURES).glob("*.png")
    )
    assert all(f"wrote {tmp_path / 'pictures' / name}" in out for name in pictures)


@pytest.mark.parametrize("missing", [True, False], ids=["no file", "no marks"])
def test_nothing_is_written_where_the_readme_cannot_be(
    call_command: Call, tmp_path: Path, missing: bool
) -> None:
    readme = tmp_path / "README.md"
    if not missing:
        readme.write_text("no marks\n")
    given = ["--readme", str(readme), "--pictures", str(tmp_path / "pictures")]
    code, out, err = call_command(reproduce, "evidence", *given)
    assert (code, out) == (2, "")
    assert str(readme) in err
    assert not (tmp_path / "pictures").exists()


def test_a_claim_without_pairs_is_an_error() -> None:
    lonely = {"pretrain": [], "detect": []}
    with pytest.raises(InputError, match="no two pairs of ResNet-20 on CIFAR-10"):
        evidence.short_answer(lonely)
    assert replace(claims.WHOLE, name="a").difference([]) is None
