"""The method card: each of its Python blocks runs, and its trainings do what they say."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Which weight decay: shares of a weight of 1, and what momentum makes of the extra decay."""

    def share_taken(kind: type[Optimizer], lr: float, decay: float) -> float:
        weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        weight.grad = torch.zeros_like(weight)
        kind([weight], lr=lr, weight_decay=decay).step()  # type: ignore[call-arg]
        return 1 - weight.item()

    assert share_taken(torch.optim.SGD, 0.1, 1e-4) == pytest.approx(1e-5)
    assert share_taken(torch.optim.SGD, 0.1, 1e-3) == pytest.approx(1e-4)
    assert share_taken(torch.optim.AdamW, 1e-3, 0.05) == pytest.approx(5e-5)
    assert share_taken(torch.optim.AdamW, 1e-3, 1e-3) == pytest.approx(1e-6)
    assert share_taken(torch.optim.AdamW, 1e-3, 0.5) == pytest.approx(5e-4)
    assert sum(0.9**step for step in range(10)) == pytest.approx(6.5, abs=0.02)
    assert pytest.approx(1.9) == (1e-4 + 0.1 * (1e-3 - 1e-4)) / 1e-4
    assert pytest.approx(1.2) == (0.05 + 0.1 * (0.15 - 0.05)) / 0.05
