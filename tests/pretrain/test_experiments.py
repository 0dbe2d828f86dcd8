"""What the tables and figures are made of, and the flags that make `train` run it."""

from dataclasses import replace
from pathlib import Path

import pytest

from common import cli
from pretrain import paper
from pretrain.experiments import EXPERIMENTS, cells, plan, shortened
from pretrain.recipes import RECIPES, Recipe


def test_tables_compare_what_the_paper_compares() -> None:
    counts = {name: len(cells(experiment)) for name, experiment in EXPERIMENTS.items()}
    assert counts == {
        "table1": 30,
        "table2": 30,
        "table3": 5,
        "table4": 7,
        "figure2": 1,
        "figure4": 3,
        "figure5": 3,
        "figure6a": 6,
        "figure6b": 6,
        "figure6c": 6,
    }
    for number in range(1, 5):
        table = getattr(paper, f"TABLE_{number}")
        found = {cell.reported for cell in cells(EXPERIMENTS[f"table{number}"]) if cell.reported}
        # Of the baseline that Tables 2 and 4 both have, the deviation of Table 2 is shown.
        assert {mean for mean, _ in found} == {mean for mean, _ in table.values()}


def test_every_experiment_has_one_baseline_a_network() -> None:
    for experiment in EXPERIMENTS.values():
        baselines = [cell.network for cell in cells(experiment) if cell.is_baseline]
        assert baselines == list(experiment.networks)


def test_figure_6_varies_one_thing() -> None:
    for name, fields in (
        ("figure6a", [(0.05,), (0.1,), (0.2,), (0.3,), (0.4,)]),
        ("figure6c", [(2e-4,), (5e-4,), (1e-3,), (2e-3,), (5e-3,)]),
        ("figure6b", [(0.3, 0.3), (0.6, 0.6), (0.9, 0.9), (0.3, 0.6), (0.6, 0.9)]),
    ):
        experiment = EXPERIMENTS[name]
        method = RECIPES["cifar100-resnet56-fd"]()
        varied = cells(experiment)[1:]
        for cell, field in zip(varied, fields, strict=True):
            value = field if len(field) == 2 else field[0]
            focus = replace(method.focus, **{experiment.varied: value})  # type: ignore[arg-type]
            assert cell.recipe == replace(method, focus=focus)
    assert [cell.value for cell in cells(EXPERIMENTS["figure6b"])] == [
        *(None, "0.3", "0.6", "0.9", "0.3 to 0.6", "0.6 to 0.9")
    ]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_flags_lead_train_to_the_planned_recipe(name: str) -> None:
    def change(recipe: Recipe) -> Recipe:
        recipe = shortened(recipe, 0.02)
        odd = replace(recipe.optimization, nesterov=True, channels_last=False, precision="bf16")
        return replace(recipe, optimization=odd, images=replace(recipe.images, held_out=100))

    for run in plan(cells(EXPERIMENTS[name]), [3], Path("out"), change):
        parsed = cli.parse(Recipe, run.flags(), "train", "", default=RECIPES[run.cell.name]())
        assert parsed == run.recipe


def test_the_same_training_has_one_folder_for_all_experiments() -> None:
    out = Path("out")
    table, other, sweep = (
        {run.folder for run in plan(cells(EXPERIMENTS[name]), [0, 1], out)}
        for name in ("table2", "table4", "figure6b")
    )
    assert len(table) == 60
    baseline, method = "cifar100-resnet56", "cifar100-resnet56-fd"
    assert table & other == {out / n / f"seed-{s}" for n in (baseline, method) for s in (0, 1)}
    # The default gamma of the sweep is the method itself.
    assert len(sweep) == 12 and {out / method / "seed-0", out / baseline / "seed-1"} <= sweep


def test_seeds_come_one_after_the_other_so_that_pairs_fill_up_first() -> None:
    runs = plan(cells(EXPERIMENTS["table4"]), [5, 6], Path("out"))
    assert [run.seed for run in runs] == [5] * 7 + [6] * 7


@pytest.mark.parametrize(
    ("scale", "epochs", "milestones"),
    [
        (1.0, 300, (150, 225)),
        (0.5, 150, (75, 112.5)),
        (0.01, 3, (1.5, 2.25)),
        (1e-6, 1, (0.5, 0.75)),
    ],
)
def test_scaled_milestones_keep_their_place(
    scale: float, epochs: int, milestones: tuple[float, ...]
) -> None:
    before = RECIPES["cifar10-resnet20"]()
    after = shortened(before, scale)
    assert (after.optimization.epochs, after.optimization.milestones) == (epochs, milestones)
    assert replace(after, optimization=before.optimization) == before
