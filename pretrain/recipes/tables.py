"""Recipes of the paper's Tables 1 to 4, with the controls: every data set, network and arm."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from common.recipe import Focus, Optimization
from pretrain import paper
from pretrain.recipes.recipe import (
    GROUPS,
    Block,
    Dataset,
    Dropout,
    Images,
    NetworkName,
    Recipe,
    focused,
)


@dataclass(frozen=True, slots=True)
class _Column:
    """A network of Tables 1 to 4: how it is built, the places of the methods, what speaks for it.

    The paper puts DropBlock after the first two groups, all other methods after the last but one.
    """

    network: NetworkName
    block: Block | None
    weight_decay: float
    evidence: str


_COLUMNS = {
    "resnet20": _Column(
        "cifar-resnet20",
        "basic",
        1e-4,
        "ResNet-20 of basic blocks, 0.27 million parameters. The paper names no block; its\n"
        "numbers, low on CIFAR-10 and high on CIFAR-100, would fit --block bottleneck as well.",
    ),
    "resnet56": _Column(
        "cifar-resnet56",
        "bottleneck",
        1e-4,
        "ResNet-56 of bottlenecks, depth 9n+2: the 256 channels of its last layer (paper,\n"
        "section 2) exclude basic blocks. --block bottleneck-6n has nine blocks a group.",
    ),
    "resnet110": _Column(
        "cifar-resnet110",
        "bottleneck",
        1e-4,
        "ResNet-110 of bottlenecks, depth 9n+2, as ResNet-56, whose last layer has 256 channels\n"
        "(paper, section 2). --block bottleneck-6n has eighteen blocks a group.",
    ),
    "vgg19": _Column(
        "vgg19-bn",
        None,
        5e-4,
        "VGG-19 with BatchNorm and one linear layer, 20.0 million parameters, as public code.",
    ),
    "densenet100": _Column(
        "densenet100-bc",
        None,
        1e-4,
        "DenseNet-BC, depth 100, growth rate 12. With a decay of 5e-4 public code reaches 94.05%\n"
        "on CIFAR-10, with 1e-4 95.46%; the paper's baseline has 95.30%.",
    ),
    "wrn28": _Column(
        "wrn-28-10",
        None,
        5e-4,
        "WideResNet-28, ten times as wide (its accuracy excludes less), no dropout in its blocks.\n"
        "The rate falls by 0.1, as the paper says; other code has --optimization.lr-factor 0.2.",
    ),
}


def small_images(dataset: Dataset, network: str, arm: str = "baseline") -> Recipe:
    """Return the recipe of a cell of Tables 1 to 4.

    Of the training the paper states the milestones, and that images are flipped and cropped. The
    rest are the defaults of the code bases that its first author's public code builds on: 300
    epochs (WideResNet 200) at a rate of 0.1, batches of 128 (DenseNet 64), momentum 0.9 without
    Nesterov, crops out of 4 pixels of zeros (8 around 64). The base decay is theirs as well, and
    the least certain choice. The rates of the other dropouts are not stated: 0.1 for all; with
    "-mwd" they have FocusedDropout's place, its steps and its magnified decay.

    Args:
        dataset: "cifar10", "cifar100" or "tiny-imagenet".
        network: A column of the paper's Table 1.
        arm: A key of `pretrain.paper.ARMS`.
    """
    column = _COLUMNS[network]
    size, padding = (64, 8) if dataset == "tiny-imagenet" else (32, 4)
    wide = network == "wrn28"
    baseline = Recipe(
        network=column.network,
        block=column.block,
        images=Images(dataset=dataset, size=size, crop="pad", padding=padding),
        optimization=Optimization(
            lr=0.1,
            batch_size=64 if network == "densenet100" else 128,
            epochs=200 if wide else 300,
            milestones=(60, 120, 160) if wide else (150, 225),
            weight_decay=column.weight_decay,
        ),
    )
    return _with_arm(baseline, arm, GROUPS[column.network])


def _with_arm(baseline: Recipe, arm: str, groups: tuple[str, ...]) -> Recipe:
    """Add what an arm of Tables 1 to 4 changes, or a control."""
    after, magnified = groups[-2], 1e-3
    if arm in ("dropout", "spatial-dropout"):
        return replace(baseline, dropout=Dropout(kind=arm, after=(after,)))  # type: ignore[arg-type]
    if arm == "dropblock":
        return replace(baseline, dropout=Dropout(kind="dropblock", after=groups[:2]))
    if arm in ("dropout-mwd", "spatial-dropout-mwd", "dropblock-mwd"):
        kind = arm.removesuffix("-mwd")
        dropout = Dropout(kind=kind, after=(after,), steps="participating")  # type: ignore[arg-type]
        return replace(baseline, focus=Focus(weight_decay=magnified), dropout=dropout)
    if arm.startswith("constant-decay"):
        decay = 5e-4 if arm.endswith("-5e-4") else mean_decay(focused(baseline, after))
        return replace(baseline, optimization=replace(baseline.optimization, weight_decay=decay))
    focus = {
        "baseline": Focus(),
        "fd": Focus(after=after, weight_decay=magnified),
        "fd-every-step": Focus(after=after, participation_rate=1.0, weight_decay=magnified),
        "fd-gamma-per-batch": Focus(after=after, gamma_per="batch", weight_decay=magnified),
        "fd-no-mwd": Focus(after=after),
        "mwd": Focus(weight_decay=magnified),
        "opposite": Focus(after=after, opposite=True, weight_decay=magnified),
        "opposite-no-mwd": Focus(after=after, opposite=True),
        "shuffled": Focus(after=after, places="shuffled", weight_decay=magnified),
        "shuffled-no-mwd": Focus(after=after, places="shuffled"),
        "any-channel": Focus(after=after, reference="random", weight_decay=magnified),
        "any-channel-no-mwd": Focus(after=after, reference="random"),
    }
    return replace(baseline, focus=focus[arm])


def mean_decay(recipe: Recipe) -> float:
    """Return the weight decay of a recipe with MWD, averaged over all steps."""
    base, focus = recipe.optimization.weight_decay, recipe.focus
    magnified = base if focus.weight_decay is None else focus.weight_decay
    return round(base + focus.participation_rate * (magnified - base), 12)


def _cell(dataset: Dataset, network: str, arm: str) -> Callable[[], Recipe]:
    """Make the function of a cell of Tables 1 to 4: its name and docstring say what it is."""

    def cell() -> Recipe:
        return small_images(dataset, network, arm)

    name = f"{dataset}-{network}" + (f"-{arm}" if arm != "baseline" else "")
    found = paper.reported(dataset, network, arm)
    value = "not in the paper"
    if found:
        table, (mean, deviation) = found
        value = f"Table {table}: {mean:.2f} +- {deviation:.2f}%"
    cell.__name__ = name.replace("-", "_")
    cell.__doc__ = (
        f"{paper.ARMS[arm]}; {value}.\n\n{_COLUMNS[network].evidence}\n\n"
        "Not run at full length. Settings: `pretrain.recipes.small_images`."
    )
    return cell


def arms_of(network: str) -> list[str]:
    """List the arms of a column of Table 1: all except a control that is its baseline."""
    same = _COLUMNS[network].weight_decay == 5e-4
    return [arm for arm in paper.ARMS if not (same and arm == "constant-decay-5e-4")]


def cells() -> Iterator[Callable[[], Recipe]]:
    """Yield every data set, network and arm of Tables 1 to 4, with the controls."""
    columns: list[tuple[Dataset, str]] = [("cifar10", network) for network in _COLUMNS]
    columns += [("cifar100", network) for network in _COLUMNS]
    for dataset, network in (*columns, ("tiny-imagenet", "resnet110")):
        for arm in arms_of(network):
            yield _cell(dataset, network, arm)
