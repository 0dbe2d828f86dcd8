"""Every recipe can be built and trained, with its method on and off, and says what it should."""

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchvision.models.resnet import BasicBlock, Bottleneck

import common.method.dropout
from common.command.flags import Options
from common.method.controls import InParticipatingSteps
from common.method.dropout import FocusedDropout
from common.method.focused_training import participates
from common.processes.ranks import World
from common.training.loop import train
from common.training.task import Task
from pretrain import paper
from pretrain.networks import GROUPS, Stem, build_network, penultimate
from pretrain.networks.cifar_resnet import CifarResNet
from pretrain.networks.densenet import DenseNet
from pretrain.networks.wide_resnet import WideResNet
from pretrain.recipes import RECIPES, Block, Dropout
from pretrain.task import classification_loss
from pretrain.train import build_model

PAPER = [name for name in RECIPES if name.split("-")[0] in ("cifar10", "cifar100")] + [
    name for name in RECIPES if name.startswith("tiny-imagenet-resnet110")
]


def split(name: str) -> tuple[str, str, str]:
    """Cut a name into data set, network and arm."""
    dataset = next(d for d in sorted(paper.DATASETS, key=len) if name.startswith(f"{d}-"))
    network, _, arm = name.removeprefix(f"{dataset}-").partition("-")
    return dataset, network, arm or "baseline"


def test_every_cell_of_tables_1_to_4_has_a_recipe() -> None:
    cells = {split(name) for name in PAPER}
    for dataset, (_, table) in paper.TABLES.items():
        for network, arm in table:
            assert (dataset, network, arm) in cells
    assert {("cifar100", "resnet56", arm) for _, arm in paper.TABLE_4} <= cells
    # VGG and WRN have a base decay of 5e-4, so that one constant decay is their baseline.
    assert len(PAPER) == (6 + 6 + 1) * 20 - 4
    assert len(RECIPES) == len(PAPER) + 12


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_those_of_the_table(name: str) -> None:
    """Against a second list of the settings, laid out by network and arm."""
    dataset, network, arm = split(name)
    recipe = RECIPES[name]()
    size = 64 if dataset == "tiny-imagenet" else 32
    assert (recipe.images.dataset, recipe.images.size) == (dataset, size)
    assert (recipe.images.crop, recipe.images.padding) == ("pad", 8 if size == 64 else 4)
    o = recipe.optimization
    assert (o.optimizer, o.lr, o.momentum, o.nesterov, o.lr_factor) == ("sgd", 0.1, 0.9, False, 0.1)
    wide = network == "wrn28"
    assert (o.epochs, o.milestones) == ((200, (60, 120, 160)) if wide else (300, (150, 225)))
    assert o.batch_size == (64 if network == "densenet100" else 128)
    base = 5e-4 if network in ("vgg19", "wrn28") else 1e-4
    constant = {"constant-decay": base + 0.1 * (1e-3 - base), "constant-decay-5e-4": 5e-4}
    assert o.weight_decay == constant.get(arm, base)
    f, d = recipe.focus, recipe.dropout
    focused = arm.startswith(("fd", "opposite", "shuffled", "any-channel"))
    assert f.after == (penultimate(recipe.network) if focused else None)
    assert f.opposite == arm.startswith("opposite")
    assert f.places == ("shuffled" if arm.startswith("shuffled") else "focused")
    assert f.reference == ("random" if arm.startswith("any-channel") else "strongest")
    assert f.gamma_per == ("batch" if arm == "fd-gamma-per-batch" else "image")
    assert (f.gamma, f.participation_rate) == ((0.3, 0.6), 1.0 if "every-step" in arm else 0.1)
    magnified = (focused or arm.endswith("mwd")) and not arm.endswith("no-mwd")
    assert f.weight_decay == (1e-3 if magnified else None)
    if arm == "dropblock":
        assert d == Dropout(kind="dropblock", after=GROUPS[recipe.network][:2])
    elif arm in ("dropout-mwd", "spatial-dropout-mwd", "dropblock-mwd"):
        assert d.kind == arm.removesuffix("-mwd")
        assert (d.after, d.rate) == ((penultimate(recipe.network),), 0.1)
        assert d.steps == "participating"
    elif "dropout" in arm:
        assert d == Dropout(kind=arm, after=(penultimate(recipe.network),))  # type: ignore[arg-type]
    else:
        assert d.kind == "none"


def test_docstrings_give_the_papers_values() -> None:
    def said(name: str) -> str:
        return (RECIPES[name].__doc__ or "").splitlines()[0]

    assert said("cifar10-resnet20-dropblock") == "DropBlock; Table 1: 92.15 +- 0.14%."
    assert said("cifar100-wrn28-fd") == "FocusedDropout; Table 2: 81.90 +- 0.11%."
    assert said("tiny-imagenet-resnet110") == "Baseline; Table 3: 62.42 +- 0.25%."
    assert said("cifar100-resnet56-opposite") == "Opposite approach; Table 4: 74.31 +- 0.14%."
    assert said("cifar10-vgg19-mwd") == "Randomly MWD; not in the paper."
    assert all(len((RECIPES[name].__doc__ or "").splitlines()) > 2 for name in PAPER)


def test_the_papers_mean_gains() -> None:
    """The means that the tables' cells must give: 0.52, 0.98, and 12 wins of 12."""
    for table, mean in ((paper.TABLE_1, 0.5217), (paper.TABLE_2, 0.9833)):
        networks = {network for network, _ in table}
        gains = [table[n, "fd"][0] - table[n, "baseline"][0] for n in networks]
        assert len(gains) == 6 and min(gains) > 0
        assert sum(gains) / 6 == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize(
    "dropout", [{"kind": "dropout"}, {"after": ("layer1",)}, {"rate": 1.5}, {"block_size": 0}]
)
def test_wrong_dropouts_are_refused(dropout: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="dropout|rate|block_size"):
        Dropout(**dropout)  # type: ignore[arg-type]


def test_what_a_longer_run_would_change() -> None:
    plain, block = (RECIPES[f"cifar10-resnet20{arm}"]() for arm in ("", "-dropblock"))
    cosine = replace(plain.optimization, schedule="cosine")
    assert plain.tied_to_epochs is None
    assert RECIPES["cifar10-resnet20-dropout"]().tied_to_epochs is None
    assert block.tied_to_epochs == "the rate of DropBlock"
    assert replace(block, dropout=replace(block.dropout, linear=False)).tied_to_epochs is None
    for recipe in (plain, block):
        assert replace(recipe, optimization=cosine).tied_to_epochs == "the cosine schedule"


@lru_cache
def fresh(name: str, stem: Stem, block: Block | None) -> nn.Module:
    """Build a network with one layer or block a group, narrow where it can be: the same parts."""
    if name.startswith("cifar-resnet"):
        return CifarResNet(BasicBlock if block == "basic" else Bottleneck, 1, 3)
    if name == "densenet100-bc":
        return DenseNet(2, 12, 3)
    if name == "wrn-28-10":
        return WideResNet(1, 2, 3)
    network = build_network(name, 3, stem, block)
    for group in map(network.get_submodule, GROUPS[name]):
        assert isinstance(group, nn.Sequential)
        del group[3 if name == "vgg19-bn" else 1 :]  # all but the first convolution or block
    return network


def on_then_off(name: str) -> int:
    """Find a seed at whose first step the method is on, and at whose second it is off.

    Where it is on in all steps, any seed.
    """
    rate = RECIPES[name]().focus.participation_rate
    return next(
        seed
        for seed in range(1000)
        if participates(rate, seed, 0) and (rate == 1 or not participates(rate, seed, 1))
    )


def is_repeated(name: str) -> bool:
    """Whether it is a control of another network than ResNet-20 or the pre-activation WRN."""
    controls = tuple(f"-{arm}" for arm in paper.CONTROLS if arm != "constant-decay")
    return name.endswith(controls) and not any(n in name for n in ("-resnet20-", "-wrn28-"))


# Many recipes differ in their images alone, which this test draws: it takes one of those, and one
# of each data set, whose pixel statistics are its own.
BUILT = {name: make() for name, make in RECIPES.items()}
IMAGES = BUILT["toy-resnet18"].images
# What a control does to maps does not depend on the network: it is tried on two.
DIFFERENT = {
    replace(recipe, images=IMAGES): name for name, recipe in BUILT.items() if not is_repeated(name)
}
OF_EACH_SET = {recipe.images.dataset: name for name, recipe in BUILT.items()}


@pytest.mark.parametrize("name", sorted({*DIFFERENT.values(), *OF_EACH_SET.values()}))
def test_two_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step with the method and one without, on four images each."""
    recipe = RECIPES[name]()
    small = replace(recipe.optimization, batch_size=4, epochs=1, warmup_steps=0, precision="fp32")
    recipe = replace(recipe, optimization=small)
    base, magnified = recipe.optimization.weight_decay, recipe.focus.weight_decay
    monkeypatch.setattr("pretrain.train.build_network", lambda n, _, *how: deepcopy(fresh(n, *how)))
    network, at_step = build_model(recipe, 3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images, labels = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8) % 3
    decays: list[float] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: decays.append(optimizer.param_groups[0]["weight_decay"])
    )
    masked: list[int] = []
    rivals = [m for m in network.modules() if isinstance(m, InParticipatingSteps)]
    on: list[bool] = []
    for rival in rivals:
        rival.register_forward_hook(lambda rival, *_: on.append(rival.active))
    original = common.method.dropout._mask_and_flags
    monkeypatch.setattr(
        "common.method.dropout._mask_and_flags",
        lambda x, *rest: masked.append(len(x)) or original(x, *rest),
    )

    def batches(micro_batches: object) -> object:
        for micro_batch in micro_batches:  # type: ignore[attr-defined]
            yield images[micro_batch.indices], labels[micro_batch.indices]

    stage = Task(
        model=network,
        num_images=8,
        load=batches,  # type: ignore[arg-type]
        loss=classification_loss(recipe),
        evaluate=lambda network: {"val_accuracy": 0.0},
        metric="val_accuracy",
        at_step=at_step,
    )
    layers = [module for module in network.modules() if isinstance(module, FocusedDropout)]
    assert len(layers) == (recipe.focus.after is not None)
    world = World(device=torch.device("cpu"))
    try:
        train(stage, recipe, Options(seed=on_then_off(name)), world, None)
    finally:
        handle.remove()
    always = recipe.focus.participation_rate == 1
    assert decays == [magnified or base, (magnified or base) if always else base]
    assert masked == ([4] * (1 + always) if layers else [])
    assert len(rivals) == (recipe.dropout.steps == "participating")
    assert on == [True, False] * len(rivals)
    after = network.state_dict()
    assert list(after) == list(before)
    for key, value in after.items():
        assert torch.isfinite(value).all(), key
        if key.endswith("weight"):
            assert not torch.equal(value, before[key]), key
