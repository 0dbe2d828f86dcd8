"""Precision: where autocast is on, and what it keeps. An optimizer's state; a recipe's layer."""

from typing import Literal

import pytest
import torch

from common import FocusedDropout
from common.optimization.optimizer import build_optimizer, in_memory_order, load_optimizer
from common.optimization.precision import autocast
from common.recipe import Focus, Optimization
from common.training.network import insert_layer

Precision = Literal["auto", "fp32", "bf16"]


def settings(precision: Precision, *, cuda_graphs: bool = False) -> Optimization:
    return Optimization(
        lr=0.1, batch_size=8, epochs=1, precision=precision, cuda_graphs=cuda_graphs
    )


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_precision_on_a_cpu(precision: Precision, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(3, 3)
    with autocast(settings(precision), torch.device("cpu")):
        assert layer(torch.ones(2, 3)).dtype == dtype


@pytest.mark.parametrize(("precision", "dtype"), [("auto", "bfloat16"), ("fp16", "float16")])
def test_precision_on_a_gpu(
    precision: Precision, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("torch.autocast", lambda *arguments, **_: asked.extend(arguments))
    autocast(settings(precision), torch.device("cuda"))
    assert asked == ["cuda", getattr(torch, dtype)]


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_casts_of_weights_are_not_kept_for_graphs(cuda_graphs: bool) -> None:
    with autocast(settings("bf16", cuda_graphs=cuda_graphs), torch.device("cpu")):
        assert torch.is_autocast_cache_enabled() == (not cuda_graphs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("change", [("contiguous_format", "channels_last"), ("channels_last",) * 2])
def test_state_follows_the_memory_format_of_the_weights(
    optimizer: Literal["sgd", "adamw"], change: tuple[str, str]
) -> None:
    gradients = torch.randn(2, 4, 3, 3, 3)

    def trained(memory_formats: tuple[str, str]) -> torch.Tensor:
        """Take a step, move weights and state into another layer and optimizer, take another."""
        weight, state = torch.ones(4, 3, 3, 3), None
        for memory_format, gradient in zip(memory_formats, gradients, strict=True):
            layer = torch.nn.Conv2d(3, 4, 3, bias=False)
            layer.weight.data = weight.to(memory_format=getattr(torch, memory_format))
            made = Optimization(lr=0.1, batch_size=8, epochs=1, optimizer=optimizer)
            stepper = build_optimizer(layer, made)
            if state is not None:
                load_optimizer(stepper, state)
            layer.weight.grad = torch.empty_like(layer.weight).copy_(gradient)
            stepper.step()
            weight, state = layer.weight.detach().contiguous(), stepper.state_dict()
        return weight

    expected = trained(("contiguous_format", "contiguous_format"))
    assert torch.equal(trained((change[0], change[1])), expected)


@pytest.mark.parametrize(
    "focus",
    [
        Focus(after="0", gamma=(0.6, 0.9), opposite=True),
        Focus(after="0", gamma_per="unit"),
    ],
)
def test_the_layer_is_the_recipes(focus: Focus) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.ReLU())
    insert_layer(model, focus)
    (layer,) = (part for part in model.modules() if isinstance(part, FocusedDropout))
    assert (layer.place, layer.gamma, layer.opposite) == ("0", focus.gamma, focus.opposite)
    assert layer.gamma_per == focus.gamma_per
    assert type(layer) is FocusedDropout


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weights_in_channels_last_are_stepped_as_they_lie(name: Literal["sgd", "adamw"]) -> None:
    """As without the views, to the bit and in the same memory format, and without a copy."""
    optimization = Optimization(
        lr=0.1, batch_size=8, epochs=1, optimizer=name, momentum=0.9, weight_decay=0.01
    )
    networks = [
        torch.nn.Sequential(
            torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 2)
        ).to(memory_format=torch.channels_last)
        for _ in range(2)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    networks[0][2].bias.requires_grad_(False)
    plain, viewed = (build_optimizer(network, optimization) for network in networks)
    viewed_weights = list(networks[1].parameters())
    for _ in range(2):
        for weights in zip(networks[0].parameters(), viewed_weights, strict=True):
            gradient = torch.randn_like(weights[0])
            for weight in weights:
                weight.grad = gradient.clone()
        networks[0][2].bias.grad = viewed_weights[-1].grad = None
        plain.step()
        with torch.profiler.profile() as seen, in_memory_order(viewed):
            viewed.step()
        assert not any(event.key == "aten::contiguous" for event in seen.key_averages())
    for one, other in zip(networks[0].parameters(), viewed_weights, strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()
        for key, kept in plain.state[one].items():
            ours = viewed.state[other][key]
            assert torch.equal(kept, ours) and kept.stride() == ours.stride(), key
        if one.grad is not None:
            assert other.grad is not None and other.grad.stride() == one.grad.stride()
