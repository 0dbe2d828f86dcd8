"""What the tables and figures are made of, and the flags that make `train` run it."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from reproduction.experiments import EXPERIMENTS, Run, cells, plan, shortened

from common.command import cli
from pretrain import paper
from pretrain.recipes import RECIPES, Recipe


def test_tables_compare_what_the_paper_compares() -> None:
    counts = {name: len(cells(experiment)) for name, experiment in EXPERIMENTS.items()}
    assert counts == {
        "table1": 30,
        "table2": 30,
        "table3": 5,
        "table4": 7,
        "controls": 15,
        "rates": 2 + 6 * 4,
        "figure2": 1,
        "figure4": 3,
        "figure5": 3,
        "figure6a": 6,
        "figure6b": 6,
        "figure6c": 7,
    }
    for number in range(1, 5):
        table = getattr(paper, f"TABLE_{number}")
        found = {cell.reported for cell in cells(EXPERIMENTS[f"table{number}"]) if cell.reported}
        # Of the baseline that Tables 2 and 4 both have, the deviation of Table 2 is shown.
        assert {mean for mean, _ in found} == {mean for mean, _ in table.values()}


def test_experiments_are_of_the_papers_data_and_networks() -> None:
    of_tables = ("resnet20", "resnet56", "resnet110", "vgg19", "densenet100", "wrn28")
    expected = {
        "table1": ("Table 1", "cifar10", of_tables),
        "table2": ("Table 2", "cifar100", of_tables),
        "table3": ("Table 3", "tiny-imagenet", ("resnet110",)),
        "table4": ("Table 4", "cifar100", ("resnet56",)),
        "controls": ("Controls", "cifar100", ("resnet56",)),
        "rates": ("Rates of the other dropouts", "cifar100", ("resnet56",)),
        "figure2": ("Figure 2", "cifar10", ("resnet56",)),
        "figure4": ("Figure 4", "tiny-imagenet", ("resnet110",)),
        "figure5": ("Figure 5", "cifar100", ("resnet110",)),
        "figure6a": ("Figure 6a", "cifar100", ("resnet56",)),
        "figure6b": ("Figure 6b", "cifar100", ("resnet56",)),
        "figure6c": ("Figure 6c", "cifar100", ("resnet56",)),
    }
    assert {name: (e.title, e.dataset, e.networks) for name, e in EXPERIMENTS.items()} == expected
    assert [name for name, e in EXPERIMENTS.items() if e.one_seed] == ["figure2", "figure4"]
    assert EXPERIMENTS["rates"].values == (0.05, 0.1, 0.2, 0.4)
    sweeps = {name: e.varied for name, e in EXPERIMENTS.items() if e.varied}
    assert sweeps == {
        "rates": "dropout.rate",
        "figure6a": "focus.participation_rate",
        "figure6b": "focus.gamma",
        "figure6c": "focus.weight_decay",
    }


def test_a_cell_says_what_is_varied_and_whose() -> None:
    def labels(name: str) -> list[tuple[str, str, str]]:
        return [(c.label, c.arm, c.name) for c in cells(EXPERIMENTS[name]) if c.value]

    method = "cifar100-resnet56-fd"
    assert labels("figure6a")[0] == ("participation rate 0.05", "0.05", method)
    assert labels("figure6b")[3:] == [
        ("gamma 0.3 to 0.6", "0.3-0.6", method),
        ("gamma 0.6 to 0.9", "0.6-0.9", method),
    ]
    assert labels("figure6c")[0] == ("weight decay 0.0002", "0.0002", method)
    last = f"{paper.ARMS['dropblock-mwd']}, rate 0.4"
    assert labels("rates")[-1] == (last, "dropblock-mwd-0.4", "cifar100-resnet56-dropblock-mwd")
    for cell in cells(EXPERIMENTS["rates"])[2:]:
        assert f"{cell.recipe.dropout.rate:g}" == cell.value
        assert cell.recipe == replace(
            RECIPES[cell.name](),
            dropout=replace(RECIPES[cell.name]().dropout, rate=cell.recipe.dropout.rate),
        )
        assert cell.reported is None and not cell.is_baseline


def test_flags_and_folder_by_hand() -> None:
    def change(recipe: Recipe) -> Recipe:
        odd = replace(
            recipe.optimization, nesterov=True, channels_last=False, milestones=(1.0, 2.5)
        )
        return replace(recipe, optimization=odd)

    run = plan(cells(EXPERIMENTS["figure6b"])[-1:], [3], Path("out"), change)[0]
    assert run.flags() == [
        *("--optimization.nesterov", "--optimization.milestones", "1.0", "2.5"),
        *("--optimization.no-channels-last", "--focus.gamma", "0.6", "0.9"),
    ]
    changed = (
        "optimization.nesterov=True,optimization.milestones=1.0,2.5,"
        "optimization.channels_last=False,focus.gamma=0.6,0.9"
    )
    assert run.folder == Path("out") / f"cifar100-resnet56-fd,{changed}" / "seed-3"
    (plain,) = plan(cells(EXPERIMENTS["figure2"]), [0], Path("out"))
    assert plain.flags() == [] and plain.folder == Path("out/cifar10-resnet56/seed-0")


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
        varied = [cell for cell in cells(experiment) if cell.value]
        for cell, field in zip(varied, fields, strict=True):
            value = field if len(field) == 2 else field[0]
            name = experiment.varied.removeprefix("focus.")
            focus = replace(method.focus, **{name: value})  # type: ignore[arg-type]
            assert cell.recipe == replace(method, focus=focus)
    assert [cell.value for cell in cells(EXPERIMENTS["figure6b"])] == [
        *(None, "0.3", "0.6", "0.9", "0.3 to 0.6", "0.6 to 0.9")
    ]


def test_every_figure_shows_what_the_paper_says_of_it() -> None:
    """Tables have the paper's numbers instead; what is ours has neither."""
    said = {name for name, experiment in EXPERIMENTS.items() if experiment.claim}
    assert said == {name for name in EXPERIMENTS if name.startswith("figure")}
    assert "9,392 of 10,000" in EXPERIMENTS["figure2"].claim
    for name, highest in (("figure6a", 0.1), ("figure6c", 1e-3)):  # sections 5.2.1 and 5.2.3
        assert f"highest at {highest}" in EXPERIMENTS[name].claim
        assert highest in EXPERIMENTS[name].values


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


def test_arms_have_the_names_of_the_recipes() -> None:
    arms = {
        name: list(dict.fromkeys(cell.arm for cell in cells(experiment)))
        for name, experiment in EXPERIMENTS.items()
    }
    assert arms["table4"] == [
        *("baseline", "mwd", "fd-no-mwd", "opposite-no-mwd", "opposite", "fd", "constant-decay")
    ]
    assert arms["table1"] == ["baseline", "dropout", "spatial-dropout", "dropblock", "fd"]
    assert arms["figure6a"] == ["baseline", "0.05", "0.1", "0.2", "0.3", "0.4"]
    assert arms["figure6b"] == ["baseline", "0.3", "0.6", "0.9", "0.3-0.6", "0.6-0.9"]
    decays = ["0.0002", "0.0005", "0.001", "0.002", "0.005"]
    assert arms["figure6c"] == ["baseline", "fd-no-mwd", *decays]
    assert arms["rates"][:4] == ["baseline", "fd", "dropout-0.05", "dropout-0.1"]
    assert arms["rates"][-1] == "dropblock-mwd-0.4"


def adapted(flags: str, name: str = "table4") -> dict[str, Run]:
    """Plan an experiment on ResNet-20 with flags for every recipe; runs by arm."""
    experiment = replace(EXPERIMENTS[name], dataset="cifar10", networks=("resnet20",))

    def change(recipe: Recipe) -> Recipe:
        return cli.parse(Recipe, flags.split(), "", "", default=recipe)

    return {run.cell.arm: run for run in plan(cells(experiment), [0], Path("out"), change)}


def test_a_layer_is_moved_only_where_there_is_one() -> None:
    flags = "--focus.after layer1 --focus.gamma-per unit --focus.freeze-bn-stats"
    before, after = adapted(""), adapted(flags)
    for arm in ("baseline", "mwd", "constant-decay"):
        assert after[arm] == before[arm]
    for arm in ("fd", "fd-no-mwd", "opposite", "opposite-no-mwd"):
        recipe = asdict(before[arm].recipe)
        recipe["focus"] |= {"after": "layer1", "gamma_per": "unit", "freeze_bn_stats": True}
        assert asdict(after[arm].recipe) == recipe
        assert after[arm].folder != before[arm].folder


def test_a_decay_is_magnified_only_where_it_was() -> None:
    after = adapted("--focus.weight-decay 0.004 --focus.opposite")
    found = {arm: run.recipe.focus.weight_decay for arm, run in after.items()}
    assert found == {
        **dict.fromkeys(("mwd", "fd", "opposite"), 0.004),
        **dict.fromkeys(("baseline", "constant-decay", "fd-no-mwd", "opposite-no-mwd")),
    }
    opposite = [arm for arm, run in after.items() if run.recipe.focus.opposite]
    assert opposite == ["opposite-no-mwd", "opposite"]


def test_a_rate_reaches_only_arms_that_draw() -> None:
    before, after = adapted(""), adapted("--focus.participation-rate 0.3")
    same = {arm for arm in after if after[arm].recipe.focus == before[arm].recipe.focus}
    assert same == {"baseline", "constant-decay"}
    assert {after[a].recipe.focus.participation_rate for a in after.keys() - same} == {0.3}


@pytest.mark.parametrize(
    ("flags", "others", "constant"),
    [
        ("", 1e-4, 0.9 * 1e-4 + 0.1 * 1e-3),
        ("--optimization.weight-decay 5e-4", 5e-4, 0.9 * 5e-4 + 0.1 * 1e-3),
        ("--focus.participation-rate 0.3", 1e-4, 0.7 * 1e-4 + 0.3 * 1e-3),
        ("--focus.weight-decay 4e-3", 1e-4, 0.9 * 1e-4 + 0.1 * 4e-3),
    ],
)
def test_a_constant_decay_stays_the_mean(flags: str, others: float, constant: float) -> None:
    found = {arm: run.recipe.optimization.weight_decay for arm, run in adapted(flags).items()}
    assert found.pop("constant-decay") == pytest.approx(constant, rel=1e-9)
    assert set(found.values()) == {others}


def test_a_dropout_is_changed_only_where_there_is_one() -> None:
    before, after = adapted("", "table1"), adapted("--dropout.rate 0.2", "table1")
    changed = {arm for arm in after if after[arm].recipe != before[arm].recipe}
    assert changed == {"dropout", "spatial-dropout", "dropblock"}
    assert {after[arm].recipe.dropout.rate for arm in changed} == {0.2}


def test_what_makes_a_control_stays() -> None:
    """A flag reaches every arm but the one that is made by the same field."""
    flags = "--focus.gamma-per unit --focus.participation-rate 0.3 --focus.places shuffled"
    before, after = adapted("", "controls"), adapted(f"{flags} --dropout.rate 0.2", "controls")
    assert len({run.folder for run in after.values()}) == 15

    def of(name: str) -> dict[str, object]:
        return {arm: getattr(run.recipe.focus, name) for arm, run in after.items()}

    rates, gammas = of("participation_rate"), of("gamma_per")
    assert rates.pop("fd-every-step") == 1.0
    unchanged = ("baseline", "constant-decay", "constant-decay-5e-4")
    assert {rates.pop(arm) for arm in unchanged} == {0.1}
    assert set(rates.values()) == {0.3}
    assert gammas["fd-gamma-per-batch"] == "batch"
    layered = ("fd", "fd-every-step", "fd-no-mwd", "any-channel", "shuffled")
    assert {gammas[arm] for arm in layered} == {"unit"}
    assert {gammas[arm] for arm in ("mwd", "dropout-mwd", *unchanged)} == {"image"}
    assert [arm for arm, kept in of("places").items() if kept == "shuffled"] == [
        *("shuffled", "shuffled-no-mwd")
    ]
    rivals = {arm for arm in after if after[arm].recipe.dropout != before[arm].recipe.dropout}
    assert rivals == {"dropout-mwd", "spatial-dropout-mwd", "dropblock-mwd"}
    assert {after[arm].recipe.dropout.rate for arm in rivals} == {0.2}
    assert {after[arm].recipe.dropout.steps for arm in rivals} == {"participating"}
    decays = {arm: run.recipe.optimization.weight_decay for arm, run in after.items()}
    assert decays["constant-decay-5e-4"] == 5e-4
    assert decays["constant-decay"] == pytest.approx(0.7 * 1e-4 + 0.3 * 1e-3)


@pytest.mark.parametrize(
    ("scale", "epochs", "milestones"),
    [
        (1.0, 300, (150, 225)),
        (0.5, 150, (75, 112.5)),
        (0.01, 3, (1.5, 2.25)),
        (0.0059, 2, (1.0, 1.5)),
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
