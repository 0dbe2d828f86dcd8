"""Errors of the public re-implementations, each with what would show it here.

yuranusduke/FocusedDropoutCNN is called R1, yuranusduke/FocusedDropout R0.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout, focus_mask, focused_dropout
from common.command.flags import Options
from common.method.focused_training import participates
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.training.loop import train
from common.training.task import Task
from pretrain.data.augment import ResidentImages
from pretrain.data.image_sets import PixelSet
from pretrain.data.splits import Split
from pretrain.networks import GROUPS, build_network, penultimate
from pretrain.recipes import RECIPES
from pretrain.results import row_of
from pretrain.task import evaluate
from pretrain.train import build_model

CPU = World(device=torch.device("cpu"))


def active(layer: FocusedDropout) -> FocusedDropout:
    layer.active = True
    return layer.train()


# ---- the layer ----------------------------------------------------------------------------------


def test_r1_draws_gamma_on_the_cpu() -> None:
    x = torch.empty(4, 3, 5, 5, device="meta")
    layer = active(FocusedDropout()).to("meta")
    assert layer(x).device.type == "meta"  # a gamma from elsewhere could not be compared


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_r1_returns_float32_for_half_precision(dtype: torch.dtype) -> None:
    assert active(FocusedDropout())(torch.rand(2, 3, 4, 4, dtype=dtype)).dtype == dtype


def test_r1_zeroes_images_without_a_positive_peak() -> None:
    x = -1 - torch.rand(2, 3, 4, 4)
    assert torch.equal(active(FocusedDropout())(x), x)


def test_r1_and_r0_draw_gamma_for_every_unit() -> None:
    """One gamma an image keeps every place above the lowest kept one; gammas of units do not."""
    torch.manual_seed(0)
    x = torch.rand(64, 1, 16, 16) + 0.01
    y = active(FocusedDropout())(x)
    for before, after in zip(x.flatten(1), y.flatten(1), strict=True):
        kept = after > 0
        assert 0 < kept.sum() < len(kept)
        assert before[kept].min() > before[~kept].max()


def test_r1_and_r0_draw_gamma_from_another_range() -> None:
    x = torch.linspace(0.001, 1, 1000).reshape(1, 1, 10, 100).expand(2000, 1, 10, 100)
    kept = (active(FocusedDropout())(x) > 0).flatten(1).float().mean(1)
    # A ramp up to 1 keeps 1 - gamma of its places.
    assert 0.4 - 1e-2 <= kept.min() < 0.41 and 0.69 < kept.max() <= 0.7 + 1e-2


def test_r0_sums_channels_that_tie() -> None:
    x = torch.tensor([[[[4.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 4.0]]]])
    assert focus_mask(x, 0.5).flatten().tolist() == [True, False, False, False]


def test_r0_gives_each_channel_its_own_mask() -> None:
    x = torch.tensor([[[[4.0, 3.0, 1.0, 1.0]], [[0.1, 0.2, 0.3, 0.4]]]])
    assert torch.equal(focused_dropout(x, 0.5), x * torch.tensor([1.0, 1.0, 0, 0]))


def test_r0_stays_on_in_evaluation_and_switches_the_module_to_training() -> None:
    layer = active(FocusedDropout()).eval()
    x = torch.rand(2, 3, 4, 4)
    assert layer(x) is x
    assert not layer.training


def test_a_public_version_rescales_what_is_kept() -> None:
    x = torch.rand(4, 3, 8, 8)
    y = focused_dropout(x, 0.5)
    assert torch.equal(y[y > 0], x[y > 0])


def test_a_public_version_scrambles_channels_last() -> None:
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert torch.equal(focused_dropout(x, 0.0), x)


# ---- participation ------------------------------------------------------------------------------


def test_r1_spends_all_participation_at_the_start_of_an_epoch() -> None:
    """Its last of 40 in 391 steps is the 95th at the latest; an even draw ends near the end."""
    epochs = [[s for s in range(391) if participates(0.1, 0, 391 * e + s)] for e in range(100)]
    assert np.mean([np.mean(steps) for steps in epochs]) == pytest.approx(195, abs=10)
    assert np.mean([steps[-1] for steps in epochs]) > 370


def test_r1_draws_from_an_unseeded_generator() -> None:
    before = [participates(0.1, 5, step) for step in range(500)]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that it uses
    torch.manual_seed(1)
    assert [participates(0.1, 5, step) for step in range(500)] == before


def test_r0_rounds_the_rate_to_no_image_of_a_batch() -> None:
    """int(0.01 * 64) is 0. Whole batches take part here, one in a hundred."""
    taken = sum(participates(0.01, 0, step) for step in range(10_000))
    assert taken == pytest.approx(100, abs=5 * 10)
    x = torch.rand(64, 3, 8, 8)
    y = active(FocusedDropout())(x)
    assert ((y == 0).flatten(1).any(1)).all()


# ---- the training -------------------------------------------------------------------------------


class Counting(nn.Module):
    """A linear network that knows how often and how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.calls: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(torch.is_grad_enabled())
        logits: Tensor = self.fc(x)
        return logits


def train_counting(precision: str = "fp32", **settings: float) -> Counting:
    network = Counting()
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    optimization = Optimization(
        **{"lr": 0.01, "batch_size": 4, "epochs": 2} | settings,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
    )

    def load(micro_batches: object) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in micro_batches:  # type: ignore[attr-defined]
            yield x[batch.indices], y[batch.indices]

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        logits = network(batch[0]).float()
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": accuracy}

    stage = Task(
        model=network,
        num_images=10,
        load=load,
        loss=loss,
        evaluate=lambda network: {"val_accuracy": 0.0},
        metric="val_accuracy",
    )
    train(stage, Training(optimization, Focus()), Options(), CPU, None)
    return network


def test_r1_runs_every_batch_twice_for_the_accuracy() -> None:
    assert train_counting().calls == [True] * 6  # two epochs of 4, 4 and 2 images


def test_r1_trains_half_precision_weights() -> None:
    network = train_counting("bf16")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_r1s_half_precision_weights_do_not_decay() -> None:
    """Decay only: a step of 2e-4 is lost on an fp16 weight of 1, whose neighbour is at 1 - 4.9e-4.

    Its rate of 0.01 takes 5e-5 at most, and as many more steps.
    """

    class Idle(nn.Module):
        """Its gradient is 0: the decay alone changes its weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return 0 * self.weight * x

    network = Idle()
    settings = Optimization(lr=0.04, weight_decay=5e-4, batch_size=1, epochs=1, precision="bf16")
    stage = Task(
        model=network,
        num_images=300,
        load=lambda micro_batches: (torch.zeros(1) for _ in micro_batches),
        loss=lambda network, batch: {"loss": network(batch).sum()},
        evaluate=lambda network: {"val_accuracy": 0.0},
        metric="val_accuracy",
    )
    train(stage, Training(settings, Focus()), Options(), CPU, None)
    weight, velocity = 1.0, 0.0
    for _ in range(300):
        velocity = 0.9 * velocity + 5e-4 * weight
        weight -= 0.04 * velocity
    assert weight < 0.95
    assert network.weight.item() == pytest.approx(weight, abs=1e-5)


def test_r1_averages_the_accuracies_of_batches() -> None:
    """Of 251 images, 250 in the first batch, the last is wrong: 250/251, not a half."""
    labels = torch.zeros(251, dtype=torch.int64)
    labels[250] = 1
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.copy_(torch.tensor([1.0, 0.0]))
    split = Split(
        num_images=251,
        classes=("a", "b"),
        source="drawn",
        load=lambda batches: (
            (torch.zeros(len(b.indices), 3, 2, 2, dtype=torch.uint8), labels[b.indices])
            for b in batches
        ),
    )
    metrics = evaluate(network.eval(), split, RECIPES["cifar10-resnet20"](), CPU)
    assert metrics["val_accuracy"] == 250 / 251


def test_r1_builds_a_graph_in_validation() -> None:
    network = Counting()
    split = Split(
        num_images=3,
        classes=("a", "b", "c"),
        source="drawn",
        load=lambda batches: (
            (torch.zeros(len(b.indices), 3, 2, 4, dtype=torch.uint8), torch.arange(3))
            for b in batches
        ),
    )

    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(x.mean((1, 2)))
            return logits

    evaluate(Pooled().eval(), split, RECIPES["cifar10-resnet20"](), CPU)
    assert network.calls == [False]


def test_r1_rotates_the_images() -> None:
    """Crops and flips copy pixels; a rotation would make new ones."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 4, (8, 32, 32, 3), dtype=np.uint8) * 60
    resident = ResidentImages(PixelSet(pixels, np.zeros(8, np.int64), ("a",)), 4, 0, CPU.device)
    images, _ = resident.train_batch(0, np.arange(8))
    assert set(images.unique().tolist()) <= {0, 60, 120, 180}


def test_r1_reports_only_the_last_epoch(tmp_path: Path) -> None:
    recipe = RECIPES["cifar10-resnet20"]()
    recipe = replace(recipe, optimization=replace(recipe.optimization, epochs=3))
    description = {"stage": "pretrain", "name": "cifar10-resnet20", "seed": 4}
    (tmp_path / "recipe.json").write_text(json.dumps({**description, "recipe": asdict(recipe)}))
    known = dict.fromkeys(("started", "commit", "hardware", "torch", "source"), "known")
    counts = {"train_images": 80, "val_images": 20}
    (tmp_path / "environment.json").write_text(json.dumps({**known, **counts}))
    others = dict.fromkeys(("val_top5", "val_loss", "train_accuracy", "train_loss", "seconds"), 1.0)
    lines = [
        json.dumps({"epoch": epoch, "step": epoch, "val_accuracy": accuracy, **others}) + "\n"
        for epoch, accuracy in ((1, 0.25), (2, 0.75), (3, 0.5))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    row = row_of(tmp_path)
    assert row is not None
    assert (row.best_accuracy, row.best_epoch, row.last_accuracy) == (0.75, 2, 0.5)


# ---- the networks and the other dropouts --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"), [("densenet100-bc", 0.769), ("vgg19-bn", 20.04), ("wrn-28-10", 36.48)]
)
def test_r1_builds_other_networks_under_these_names(name: str, millions: float) -> None:
    """Its "densenet100" has 6.96 million parameters, its VGG-19 38.96."""
    with torch.device("meta"):
        network = build_network(name, 10)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", [name for name in GROUPS if "-" in name])
def test_r1s_baselines_hold_dropout(name: str) -> None:
    """Its WideResNet has rate 0.3 in every block, its VGG 0.5 in the head."""
    with torch.device("meta"):
        network = build_network(name, 10)
    assert not [m for m in network.modules() if "drop" in type(m).__name__.lower()]
    assert sum(isinstance(module, nn.Linear) for module in network.modules()) == 1


def test_r1_puts_the_layer_after_the_last_group() -> None:
    for name, build in RECIPES.items():
        recipe = build()
        if recipe.focus.after:
            assert recipe.focus.after == penultimate(recipe.network), name


def test_r1_never_switches_dropblock_on() -> None:
    recipe = RECIPES["cifar10-resnet20-dropblock"]()
    network, at_step = build_model(recipe, 10)
    assert at_step is not None
    network.train()
    x = torch.randn(8, 3, 32, 32)
    dropped: list[float] = []
    network.get_submodule("layer1").register_forward_hook(
        lambda module, inputs, output: dropped.append((output == 0).float().mean().item())
    )
    for done in (0.0, 0.5, 1.0):
        at_step(done)
        network(x)
    # ReLU's own zeros, then about half of and the whole of a tenth of what was left.
    left = 1 - dropped[0]
    assert dropped[1] - dropped[0] == pytest.approx(0.05 * left, abs=0.015)
    assert dropped[2] - dropped[0] == pytest.approx(0.1 * left, abs=0.025)


def test_r1_never_magnifies_the_decay_and_none_of_the_four_does() -> None:
    assert RECIPES["cifar100-resnet56-fd"]().focus.weight_decay == 1e-3
    assert replace(RECIPES["cifar100-resnet56-fd-no-mwd"]().focus, weight_decay=1e-3) == (
        RECIPES["cifar100-resnet56-fd"]().focus
    )
