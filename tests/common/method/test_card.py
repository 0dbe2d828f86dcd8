"""The method card: each of its Python blocks runs, and its trainings do what they say."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import common
from common.method.dropout import FocusedDropout
from common.method.focused_training import FocusedTraining, participates
from pretrain.recipes import RECIPES, mean_decay

CARD = Path(common.__file__).parent / "method" / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", CARD.read_text(encoding="utf-8"), re.DOTALL | re.M)
TRAININGS = [block for block in BLOCKS if "FocusedTraining(" in block]
RATE, SEED = 0.5, 2
"""Of the first four steps some take part and some rest, unlike at a rate of 0.1."""


def title(block: str) -> str:
    """Name a training by the library that it shows."""
    for library in ("lightning", "accelerate", "timm", "GradScaler"):
        if library in block:
            return library
    return "plain"


def test_the_card_has_its_blocks() -> None:
    assert len(BLOCKS) == 7
    assert [title(b) for b in TRAININGS] == [
        "plain",
        "GradScaler",
        "lightning",
        "accelerate",
        "timm",
    ]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in TRAININGS])
def test_block_of_the_card_runs(block: str) -> None:
    run(block)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, CARD.name, "exec"), names)
    return names


class Seen:
    """What the updates of a training were made with, from hooks on all of torch."""

    def __init__(self) -> None:
        self.focus: list[FocusedTraining] = []
        self.forwards: list[bool] = []
        self.updates: list[tuple[list[float], list[bool]]] = []
        self.optimizers: set[Optimizer] = set()
        self._in_step = False

    def forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, FocusedDropout):
            self.forwards.append(module.active)

    def before(self, optimizer: Optimizer, *_: Any) -> None:
        if type(optimizer).__module__.startswith(("torch.", "timm.")):
            self.optimizers.add(optimizer)

    def after(self, optimizer: Optimizer, *_: Any) -> None:
        if optimizer in self.optimizers:
            self.updates.append(
                ([g["weight_decay"] for g in optimizer.param_groups], self.forwards)
            )
            self.forwards = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            register_module_forward_hook(self.forward),
            register_optimizer_step_pre_hook(self.before),
            register_optimizer_step_post_hook(self.after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@pytest.mark.parametrize("block", TRAININGS, ids=title)
def test_training_of_the_card(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update: the layer in all its micro-batches and the decay are as `participates` says."""
    for library in ("lightning", "accelerate"):
        if f"import {library}" in block or f"from {library}" in block:
            pytest.importorskip(library, reason="an optional test dependency")
    seen = Seen()

    class Watched(FocusedTraining):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings | {"participation_rate": RATE, "seed": SEED})
            self.base = [group["weight_decay"] for group in self.optimizer.param_groups]
            seen.focus.append(self)

    monkeypatch.setattr(common, "FocusedTraining", Watched, raising=False)
    with seen.watching(), warnings.catch_warnings():
        if title(block) == "lightning":
            ignore_lightnings_warnings()
        run(block)

    (focus,) = seen.focus
    takes = [participates(RATE, SEED, step) for step in range(len(seen.updates))]
    assert set(takes[:4]) == {True, False}, "both kinds of step were watched"
    assert len(takes) >= 4
    micro_batches = 1 if title(block) in ("plain", "timm") else 2
    assert isinstance(focus, Watched) and any(focus.base)
    for taking, (decays, active) in zip(takes, seen.updates, strict=True):
        assert decays == [focus.weight_decay if taking and base else base for base in focus.base]
        assert active == [taking] * micro_batches
    assert [group["weight_decay"] for group in focus.optimizer.param_groups] == focus.base
    assert not any(layer.active for layer in focus.layers)
    assert seen.optimizers == {focus.optimizer}
    report = focus.end_epoch()
    if title(block) != "plain":  # which has read its report itself
        assert (report["steps"], report["participating_steps"]) == (len(takes), sum(takes))


def ignore_lightnings_warnings() -> None:
    """Of the loaders that it is given, and of what torch renames in its own code."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*LeafSpec")


def test_lightning_restores_the_decay_when_a_step_fails() -> None:
    lightning = pytest.importorskip("lightning", reason="an optional test dependency")
    with warnings.catch_warnings():
        ignore_lightnings_warnings()
        names = run(next(block for block in TRAININGS if title(block) == "lightning"))
        callback = names["FocusedDropoutCallback"]()
        step = next(step for step in range(99) if participates(0.1, 0, step))

        class Failing(names["Classifier"]):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if batch_idx == step:
                    assert decays() == [1e-3] and callback.focus.layers[0].active
                    raise ArithmeticError("a step that fails")
                return super().training_step(batch, batch_idx)

        def decays() -> list[float]:
            return [group["weight_decay"] for group in callback.focus.optimizer.param_groups]

        data = torch.utils.data.TensorDataset(torch.rand(40, 3, 16, 16), torch.zeros(40).long())
        trainer = lightning.Trainer(
            max_epochs=1,
            callbacks=[callback],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with pytest.raises(ArithmeticError):
            trainer.fit(Failing(), torch.utils.data.DataLoader(data, batch_size=2))
    assert decays() == [1e-4] and not callback.focus.layers[0].active


def test_the_numbers_of_the_card() -> None:
    """Which weight decay: each number of the text, from an optimizer and FocusedTraining."""
    text = " ".join(CARD.read_text(encoding="utf-8").split())

    def weights(kind: Any, lr: float, decays: list[float], **settings: float) -> list[float]:
        """Return a weight of 1, with no gradient, after each of some steps."""
        weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = kind([weight], lr=lr, **settings)
        seen = []
        for decay in decays:
            weight.grad = torch.zeros_like(weight)
            optimizer.param_groups[0]["weight_decay"] = decay
            optimizer.step()
            seen.append(weight.item())
        return seen

    def told(value: float) -> str:
        """As the card writes it: 1e-5, 9e-5, 6.5, 10."""
        if value >= 1e-3:
            return f"{value:.2g}"
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"

    def takes(kind: Any, lr: float, decay: float) -> str:
        return told(1 - weights(kind, lr, [decay])[0])

    sgd, adamw = torch.optim.SGD, torch.optim.AdamW
    coupled = f"1e-4 takes {takes(sgd, 0.1, 1e-4)} of w; 1e-3 takes {takes(sgd, 0.1, 1e-3)}"
    assert f"| {coupled} | |" in text
    decoupled = f"0.05 takes {takes(adamw, 1e-3, 0.05)} of w; 1e-3 would take"
    assert f"| {decoupled} {takes(adamw, 1e-3, 1e-3)} |" in text
    assert f"(a step takes {takes(adamw, 1e-3, 0.5)} of w, more than SGD's)" in text

    none = [0.0] * 100  # the base decay, which would hide the rest of it
    plain = weights(sgd, 0.1, none, momentum=0.9)
    once = weights(sgd, 0.1, [1e-3 - 1e-4, *none[1:]], momentum=0.9)
    extra = [before - after for before, after in zip(plain, once, strict=True)]
    assert f"the extra {told(extra[0])} of the step acts on" in text
    after_ten, at_last = (max(extra[:steps]) / extra[0] for steps in (10, 100))
    assert f"{told(after_ten)} times that after 10 of them, {told(at_last)} times in" in text

    recipe = RECIPES["cifar10-resnet20-fd"]()
    decay, rate = recipe.optimization.weight_decay, recipe.focus.participation_rate
    magnified = recipe.focus.weight_decay
    assert magnified == pytest.approx(10 * decay)
    mean = mean_decay(recipe) / decay
    assert f"at a rate of {rate}, is ten times in a tenth of the steps, {told(mean)} times" in text
    milder = replace(
        recipe,
        optimization=replace(recipe.optimization, weight_decay=0.05),
        focus=replace(recipe.focus, weight_decay=0.15),
    )
    assert f"and 0.15 three times, {told(mean_decay(milder) / 0.05)} times in the mean" in text
    toy = RECIPES["toy-resnet18-fd"]()
    assert (toy.optimization.weight_decay, toy.focus.weight_decay) == (0.05, 0.5)
    assert "at wd 0.05, 0.5 is ten times" in text
