"""The markdown of a table, from rows made by hand."""

from dataclasses import replace
from pathlib import Path

from reproduction.experiments import EXPERIMENTS, Run, cells, plan, shortened
from reproduction.tables import render

from pretrain.recipes import Recipe
from pretrain.results import Row

EXPERIMENT = EXPERIMENTS["table4"]


def row(run: Run, best: float, last: float, test: float | None = None) -> Row:
    return Row(
        recipe=run.cell.name,
        changes="",
        data="cifar100 (archive)",
        train_images=50_000,
        scored_images=10_000,
        held_out=0,
        seed=run.seed,
        epochs=3,
        started="2026-01-02T03:04:05+00:00",
        commit="0123456789ab",
        hardware="a processor",
        torch="2.15.0",
        seconds=1800,
        best_accuracy=best,
        best_epoch=2,
        last_accuracy=last,
        last_top5=0.9,
        last_loss=1.0,
        train_accuracy=0.5,
        train_loss=1.0,
        keep_ratio=None,
        participating_steps=None,
        test_accuracy=test,
    )


def line(text: str, label: str) -> list[str]:
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_table_by_hand(tmp_path: Path) -> None:
    runs = plan(cells(EXPERIMENT), [0, 1, 2], tmp_path, lambda recipe: shortened(recipe, 0.01))
    best = {"Baseline": (0.70, 0.71, 0.72), "FocusedDropout": (0.71, 0.73, 0.75)}
    rows = {
        run.folder: row(run, best[run.cell.label][run.seed], best[run.cell.label][run.seed] - 0.1)
        for run in runs
        if run.cell.label in best
    }
    lonely = next(run for run in runs if run.cell.label == "Randomly MWD" and run.seed == 1)
    rows[lonely.folder] = row(lonely, 0.72, 0.6)
    text = render(EXPERIMENT, runs, rows)
    assert "# Table 4: CIFAR-100" in text
    assert "**Scaled: 3 of 300 epochs (1.0%).** Not the paper's training." in text
    assert line(text, "Baseline")[1:] == ["73.71 ± 0.28", "3", "71.00 ± 1.00", "61.00 ± 1.00"]
    # Differences 1, 2, 3 points: 2 +- 2.48 as in the test of the statistics.
    assert line(text, "FocusedDropout")[1:] == [
        *("74.97 ± 0.16 / +1.26", "3"),
        *("73.00 ± 2.00 / +2.00 [-0.48, +4.48]", "63.00 ± 2.00 / +2.00 [-0.48, +4.48]"),
    ]
    assert line(text, "Randomly MWD")[1:] == [
        *("74.27 ± 0.15 / +0.56", "1", "72.00 / +1.00", "60.00 / -1.00")
    ]
    assert line(text, "Opposite approach")[1:] == [
        *("74.31 ± 0.14 / +0.60", "0", "not run", "not run")
    ]
    assert line(text, "Constant decay of the same mean")[1] == "-"
    assert "7 of 21 runs; seeds 0, 1, 2; data cifar100 (archive), 50000 training images" in text
    assert "3.50 hours of training" in text


def test_held_out_images_choose_one_number(tmp_path: Path) -> None:
    def hold_out(recipe: Recipe) -> Recipe:
        return replace(recipe, images=replace(recipe.images, held_out=5000))

    held = plan(cells(EXPERIMENTS["figure2"]), [0], tmp_path, hold_out)
    rows = {held[0].folder: row(held[0], 0.9, 0.8, test=0.85)}
    text = render(EXPERIMENTS["figure2"], held, rows)
    assert line(text, "Baseline")[2:] == ["1", "85.00"]
    assert "5,000 training images that were kept back" in text
    assert "Scaled" not in text


def test_nothing_run(tmp_path: Path) -> None:
    runs = plan(cells(EXPERIMENT), [0], tmp_path)
    text = render(EXPERIMENT, runs, {})
    assert "None of 7 runs is done." in text
    assert text.count("not run") == 14


def test_the_whole_page_to_the_letter(tmp_path: Path) -> None:
    """A baseline of two seeds and an arm of one; one of the commits is not known."""
    experiment = replace(
        EXPERIMENTS["figure4"], networks=("resnet110",), arms=("baseline", "fd"), title="Figure 4"
    )
    runs = plan(cells(experiment), [1, 0], tmp_path, lambda recipe: shortened(recipe, 0.25))
    rows = {
        run.folder: replace(
            row(run, 0.5 + 0.1 * run.seed + 0.05 * (not run.cell.is_baseline), 0.5),
            commit=None if run.seed else "abc",
        )
        for run in runs
        if run.cell.is_baseline or run.seed == 1
    }
    assert (
        render(experiment, runs, rows)
        == """# Figure 4: Tiny ImageNet

## resnet110

**Scaled: 75 of 300 epochs (25.0%).** Not the paper's training.

| | paper | n | best epoch | last epoch |
|---|---|---|---|---|
| Baseline | 62.42 ± 0.25 | 2 | 55.00 ± 7.07 | 50.00 ± 0.00 |
| FocusedDropout | 64.58 ± 0.16 / +2.16 | 1 | 65.00 / +5.00 | 50.00 / +0.00 |

Accuracy in percent, mean ± sample standard deviation over n seeds. Behind a slash: the difference
to our baseline, mean over the seeds that both have, with its 95% interval (Student's t, paired by
seed; none from one seed), and from six seeds on the p-value of the sign-flip test.
Best epoch: the highest accuracy on the test images over all epochs, as the paper reports it; the
choice flatters every arm. Last epoch: after the whole training.

3 of 4 runs; seeds 0, 1; data cifar100 (archive), 50000 training images; a processor; \
torch 2.15.0; commit None, abc; 1.50 hours of training.
"""
    )


def test_an_arm_that_was_not_scored_on_test_images_is_no_error(tmp_path: Path) -> None:
    def hold_out(recipe: Recipe) -> Recipe:
        return replace(recipe, images=replace(recipe.images, held_out=1))

    held = plan(cells(EXPERIMENTS["figure2"]), [0], tmp_path, hold_out)
    text = render(EXPERIMENTS["figure2"], held, {held[0].folder: row(held[0], 0.9, 0.8)})
    assert line(text, "Baseline")[2:] == ["1", "0.00"]
    assert "| | paper | n | chosen epoch |\n|---|---|---|---|\n" in text
