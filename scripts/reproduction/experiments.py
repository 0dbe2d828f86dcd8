"""The tables and figures of the paper as runs to be made, and the tables made from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from common.recipe import Focus
from pretrain import paper
from pretrain.recipes import RECIPES, Dataset, Recipe, arms_of, mean_decay
from pretrain.results import changes, describe_changes


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One arm of one network: all seeds of a recipe, changed or not."""

    network: str
    """As in the paper's tables."""
    arm: str
    """What the name of its recipe ends in, "baseline", or the value that Figure 6 varies."""
    label: str
    name: str
    """Of the recipe that it starts from."""
    recipe: Recipe
    value: str | None = None
    """What Figure 6 varies."""
    reported: paper.Result | None = None
    is_baseline: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A table or figure of the paper."""

    title: str
    dataset: Dataset
    networks: tuple[str, ...]
    arms: tuple[str, ...] = ("baseline",)
    varied: str = ""
    """Dotted field of the recipe that is varied, such as focus.gamma in Figure 6b."""
    values: tuple[float | tuple[float, float], ...] = ()
    varied_arms: tuple[str, ...] = ("fd",)
    """Whose field it is."""
    claim: str = ""
    """Of the paper, on what is drawn."""
    one_seed: bool = False
    """Whether it draws a single seed, which is then the only one to be trained."""


EXPERIMENTS = {
    "table1": Experiment(
        title="Table 1",
        dataset="cifar10",
        networks=("resnet20", "resnet56", "resnet110", "vgg19", "densenet100", "wrn28"),
        arms=paper.METHODS,
    ),
    "table2": Experiment(
        title="Table 2",
        dataset="cifar100",
        networks=("resnet20", "resnet56", "resnet110", "vgg19", "densenet100", "wrn28"),
        arms=paper.METHODS,
    ),
    "table3": Experiment(
        title="Table 3",
        dataset="tiny-imagenet",
        networks=("resnet110",),
        arms=paper.METHODS,
    ),
    "table4": Experiment(
        title="Table 4",
        dataset="cifar100",
        networks=("resnet56",),
        arms=paper.ABLATION,
    ),
    "controls": Experiment(
        title="Controls",
        dataset="cifar100",
        networks=("resnet56",),
        arms=("baseline", "mwd", "fd-no-mwd", "fd", *paper.CONTROLS),
    ),
    "rates": Experiment(
        title="Rates of the other dropouts",
        dataset="cifar100",
        networks=("resnet56",),
        arms=("baseline", "fd"),
        varied="dropout.rate",
        values=(0.05, 0.1, 0.2, 0.4),
        varied_arms=(
            *("dropout", "spatial-dropout", "dropblock"),
            *("dropout-mwd", "spatial-dropout-mwd", "dropblock-mwd"),
        ),
    ),
    "figure2": Experiment(
        title="Figure 2",
        dataset="cifar10",
        networks=("resnet56",),
        claim="in a class one or two channels are the strongest of all images; "
        f"{paper.FIGURE_2_CORRECT:,} of 10,000 are classified correctly",
        one_seed=True,
    ),
    "figure4": Experiment(
        title="Figure 4",
        dataset="tiny-imagenet",
        networks=("resnet110",),
        arms=("baseline", "dropblock", "fd"),
        claim="with FocusedDropout the maps meet the target and its outline more closely",
        one_seed=True,
    ),
    "figure5": Experiment(
        title="Figure 5",
        dataset="cifar100",
        networks=("resnet110",),
        arms=("baseline", "mwd", "fd"),
        claim="FocusedDropout and MWD alone are behind the baseline until epoch 150, ahead after",
    ),
    "figure6a": Experiment(
        title="Figure 6a",
        dataset="cifar100",
        networks=("resnet56",),
        varied="focus.participation_rate",
        values=(0.05, 0.1, 0.2, 0.3, 0.4),
        claim="accuracy rises from rate 0 to its highest at 0.1, then falls, little below 0.3",
    ),
    "figure6b": Experiment(
        title="Figure 6b",
        dataset="cifar100",
        networks=("resnet56",),
        varied="focus.gamma",
        values=(0.3, 0.6, 0.9, (0.3, 0.6), (0.6, 0.9)),
        claim="a gamma drawn from 0.3 to 0.6 is better than any fixed one; far more units are "
        "dropped than by other dropouts",
    ),
    "figure6c": Experiment(
        title="Figure 6c",
        dataset="cifar100",
        networks=("resnet56",),
        arms=("baseline", "fd-no-mwd"),
        varied="focus.weight_decay",
        values=(2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
        claim="accuracy rises with the decay to its highest at 0.001, then falls",
    ),
}
"""What each is made of. The values of Figure 6 are ours where the paper prints none; its last pair
for gamma is the range that Algorithm 1 gives. Rate 0 of Figure 6a is the baseline, and the base
decay of Figure 6c the mask alone."""


def cells(experiment: Experiment) -> list[Cell]:
    """List what an experiment compares."""
    return [
        cell
        for network in experiment.networks
        for cell in (
            *(
                _arm(experiment.dataset, network, a)
                for a in experiment.arms
                if a in arms_of(network)
            ),
            *(
                _varied(experiment, network, arm, value)
                for arm in experiment.varied_arms
                for value in experiment.values
            ),
        )
    ]


def _arm(dataset: Dataset, network: str, arm: str) -> Cell:
    name = f"{dataset}-{network}" + ("" if arm == "baseline" else f"-{arm}")
    found = paper.reported(dataset, network, arm)
    return Cell(
        network=network,
        arm=arm,
        label=paper.ARMS[arm],
        name=name,
        recipe=RECIPES[name](),
        reported=found[1] if found else None,
        is_baseline=arm == "baseline",
    )


def _varied(
    experiment: Experiment, network: str, arm: str, value: float | tuple[float, float]
) -> Cell:
    name = f"{experiment.dataset}-{network}-{arm}"
    recipe = RECIPES[name]()
    part, _, field = experiment.varied.partition(".")
    low, high = value if isinstance(value, tuple) else (value, value)
    setting: dict[str, Any] = {field: (low, high) if field == "gamma" else low}
    shown = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    what = f"{field.replace('_', ' ')} {shown}"
    only = len(experiment.varied_arms) == 1
    return Cell(
        network=network,
        arm=shown.replace(" to ", "-") if only else f"{arm}-{shown}",
        label=what if only else f"{paper.ARMS[arm]}, {what}",
        name=name,
        recipe=replace(recipe, **{part: replace(getattr(recipe, part), **setting)}),
        value=shown,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training of a cell; its recipe is that of the cell, shortened or changed further."""

    cell: Cell
    recipe: Recipe
    seed: int
    folder: Path

    def flags(self) -> list[str]:
        """Return the flags that make `train` take this recipe."""
        flags = []
        for field, value in changes(self.cell.name, self.recipe).items():
            flag = field.replace("_", "-")
            if isinstance(value, bool):
                head, _, tail = flag.rpartition(".")
                flags += [f"--{head}.{tail}" if value else f"--{head}.no-{tail}"]
            else:
                values = value if isinstance(value, tuple) else (value,)
                flags += [f"--{flag}", *map(str, values)]
        return flags


def plan(
    compared: Sequence[Cell],
    seeds: Sequence[int],
    out: Path,
    change: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> list[Run]:
    """List the trainings of cells, all arms of a seed before the next seed.

    Args:
        compared: The cells.
        seeds: One training each.
        out: Their folders are made in it. The same training has the same folder whatever the
            experiment, so that a baseline is trained once for all tables.
        change: Applied to every recipe; what would make another arm of it is left out.
    """
    runs = []
    for seed in seeds:
        for cell in compared:
            recipe = _changed(cell, change)
            changed = describe_changes(cell.name, recipe)
            label = cell.name + (f",{changed.replace(' ', ',')}" if changed else "")
            runs.append(
                Run(cell=cell, recipe=recipe, seed=seed, folder=out / label / f"seed-{seed}")
            )
    return runs


def _changed(cell: Cell, change: Callable[[Recipe], Recipe]) -> Recipe:
    """Change the recipe of a cell within its arm.

    What makes the arm stays: all in which it differs from the method, so a layer is moved only
    where there is one and a baseline stays one; likewise the magnified decay and the other
    dropouts. A constant decay stays the mean of the method's, or what it was.
    """
    recipe = change(cell.recipe)
    method = RECIPES[f"{cell.recipe.images.dataset}-{cell.network}-fd"]()
    old, arm = cell.recipe.focus, RECIPES[cell.name]().focus
    kept = {f.name for f in fields(Focus) if getattr(arm, f.name) != getattr(method.focus, f.name)}
    kept |= {"opposite", "reference", "places"}
    if old.after is None:  # what is said of the layer stays as it was
        kept |= {"after", "gamma", "gamma_per", "freeze_bn_stats"}
    focus = replace(recipe.focus, **{name: getattr(old, name) for name in kept})
    if not old.enabled:
        focus = old
    dropout = cell.recipe.dropout
    if dropout.kind != "none":
        dropout = replace(recipe.dropout, kind=dropout.kind, steps=dropout.steps)
    optimization = recipe.optimization
    if cell.arm.startswith("constant-decay"):
        fixed = cell.recipe.optimization.weight_decay
        decay = mean_decay(change(method)) if cell.arm == "constant-decay" else fixed
        optimization = replace(optimization, weight_decay=decay)
    return replace(recipe, focus=focus, dropout=dropout, optimization=optimization)


def shortened(recipe: Recipe, scale: float) -> Recipe:
    """Return a recipe of a share of the epochs, at least one; milestones move in proportion."""
    before = recipe.optimization
    epochs = max(1, round(before.epochs * scale))
    milestones = tuple(round(m * epochs / before.epochs, 3) for m in before.milestones)
    return replace(recipe, optimization=replace(before, epochs=epochs, milestones=milestones))
