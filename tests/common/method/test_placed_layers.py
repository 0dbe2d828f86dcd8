"""A placed layer, in a Sequential and behind a hook, in all that a network is put through."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torchvision.models import mobilenet_v2, resnet18

from common import (
    FocusedDropout,
    FocusedTraining,
    focused_dropout,
    insert_after,
    remove_focused_dropout,
)
from common.method.focused_training import participates

PLACES = ["stem", "conv"]
"""A Sequential, whose last member the layer becomes, and a module that is hooked."""
every_place = pytest.mark.parametrize("place", PLACES)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.conv = nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(self.stem(x)).mean(dim=(2, 3)))
        return logits


def placed(place: str, gamma: float = 0.5) -> tuple[Net, FocusedDropout]:
    network, layer = Net(), FocusedDropout(gamma, signed=True)
    insert_after(network, place, layer)
    layer.active = True
    return network, layer


def by_hand(network: Net, place: str, x: Tensor, gamma: float = 0.5) -> Tensor:
    """Run the network with the function in the place of the layer."""
    plain = copy.deepcopy(network)
    remove_focused_dropout(plain)
    stem = plain.stem(x)
    stem = focused_dropout(stem, gamma) if place == "stem" else stem
    maps = plain.conv(stem)
    maps = focused_dropout(maps, gamma) if place == "conv" else maps
    logits: Tensor = plain.head(maps.mean(dim=(2, 3)))
    return logits


def structure(network: nn.Module) -> list[tuple[str, str, int]]:
    """Every module with its name, its text and its number of forward hooks."""
    return [(name, repr(m), len(m._forward_hooks)) for name, m in network.named_modules()]


# --------------------------------------------------------------------------- removing


@pytest.mark.parametrize(
    "through",
    [lambda network: network, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))],
    ids=["itself", "deepcopy", "pickle"],
)
def test_removed_without_a_trace(through: Callable[[nn.Module], nn.Module]) -> None:
    for build in (Net, lambda: mobilenet_v2(num_classes=3), lambda: resnet18(num_classes=3)):
        network = build()
        before, state = structure(network), copy.deepcopy(network.state_dict())
        x = torch.rand(2, 3, 33, 33)
        torch.manual_seed(1)  # MobileNet ends with a dropout of its own
        expected = copy.deepcopy(network)(x)
        for place in ("stem", "conv") if build is Net else ("penultimate",):
            layer = FocusedDropout()
            insert_after(network, place, layer)
            layer.active = True
        assert structure(network) != before
        twin = through(network)
        remove_focused_dropout(twin)
        assert structure(twin) == before
        assert list(twin.state_dict()) == list(state)
        assert all(torch.equal(v, state[k]) for k, v in twin.state_dict().items())
        assert "focused_dropout" not in str(vars(twin))
        torch.manual_seed(1)
        assert torch.equal(twin(x), expected)
        remove_focused_dropout(twin)
        assert structure(twin) == before
        if build is Net:  # and the place is free again
            insert_after(twin, "conv", FocusedDropout())


def test_a_removed_layer_can_be_placed_anew() -> None:
    network, layer = placed("conv")
    assert layer.place == "conv"
    remove_focused_dropout(network)
    assert layer.place is None
    insert_after(network, "stem", layer)
    x = torch.rand(2, 3, 9, 9)
    assert torch.equal(network(x), by_hand(network, "stem", x))
    assert layer.statistics()["images"] == 2


def test_removal_leaves_what_others_wrote() -> None:
    written = FocusedDropout()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), written, nn.Conv2d(4, 4, 3))
    calls: list[int] = []
    network[2].register_forward_hook(lambda module, inputs, output: calls.append(1))
    insert_after(network, "2", FocusedDropout())
    remove_focused_dropout(network)
    assert [m for m in network.modules() if isinstance(m, FocusedDropout)] == [written]
    network(torch.rand(1, 3, 9, 9))
    assert calls == [1]


# --------------------------------------------------------------------------- through a training


@every_place
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_channels_last_and_autocast(place: str, memory_format: torch.memory_format) -> None:
    network, layer = placed(place)
    network = network.to(memory_format=memory_format)
    x = torch.rand(3, 3, 9, 9).to(memory_format=memory_format)
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    for enabled in (False, True):
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, expected = network(x), by_hand(network, place, x)
        maps, masked = seen
        assert torch.equal(y, expected) and not torch.equal(maps, masked)
        assert masked.dtype == maps.dtype == (torch.bfloat16 if enabled else torch.float32)
        assert masked.is_contiguous(memory_format=memory_format)
        y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@every_place
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(place: str, use_reentrant: bool) -> None:
    network, layer = placed(place)
    layer.gamma = (0.3, 0.6)
    x = torch.rand(4, 3, 9, 9, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(4)
        y = checkpoint(network, x, use_reentrant=use_reentrant) if checkpointed else network(x)
        assert isinstance(y, Tensor)
        y.square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        network.zero_grad()
    assert len(gradients[0]) == 6
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@every_place
def test_compiled_in_two_graphs(place: str) -> None:
    network, layer = placed(place)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    x = torch.rand(4, 3, 9, 9)
    for toggle in range(6):
        layer.active = toggle % 2 == 0
        expected = by_hand(network, place if layer.active else "", x)
        assert torch.equal(compiled(x), expected)
    assert counter.frame_count == 2


@every_place
def test_a_network_changed_after_it_was_compiled(place: str) -> None:
    network, layer = placed(place)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x = torch.rand(2, 3, 9, 9)
    masked = compiled(x)
    remove_focused_dropout(network)
    assert torch.equal(compiled(x), network(x)) and not torch.equal(masked, network(x))


@every_place
def test_an_exported_network_holds_nothing_of_the_layer(place: str) -> None:
    network, _ = placed(place)
    plain = copy.deepcopy(network)
    remove_focused_dropout(plain)
    x = torch.rand(2, 3, 9, 9)
    programs = [torch.export.export(n.eval(), (x,)) for n in (network, plain)]
    ours, theirs = ([(node.op, str(node.target)) for node in p.graph.nodes] for p in programs)
    assert ours == theirs
    assert list(programs[0].state_dict) == list(plain.state_dict())


# --------------------------------------------------------------------------- two processes


def train_rank(rank: int, place: str, store: str, out: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Net()
    insert_after(network, place, FocusedDropout(0.5, signed=True))
    wrapped = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    focus = FocusedTraining(wrapped, optimizer, 0.5, weight_decay=0.2)
    torch.manual_seed(rank)
    images = torch.rand(6, 2, 3, 9, 9)
    for step, x in enumerate(images):
        with focus.step(step):
            optimizer.zero_grad()
            wrapped(x).square().sum().backward()
            optimizer.step()
    torch.save((network.state_dict(), images, focus.end_epoch()), f"{out}.{rank}")
    dist.destroy_process_group()


@every_place
def test_two_ranks_train_as_one_process_by_hand(place: str, tmp_path: Path) -> None:
    arguments = (place, str(tmp_path / "store"), str(tmp_path / "out"))
    mp.start_processes(train_rank, arguments, nprocs=2, start_method="fork")
    (first, x0, report), (second, x1, _) = (
        torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in (0, 1)
    )
    torch.manual_seed(0)
    network = Net()
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    taken = [participates(0.5, 0, step) for step in range(6)]
    assert 0 < sum(taken) < 6 and report["participating_steps"] == sum(taken)
    for step, takes_part in enumerate(taken):
        masked = place if takes_part else ""
        parts = []
        for x in (x0[step], x1[step]):
            stem = network.stem(x)
            stem = focused_dropout(stem, 0.5) if masked == "stem" else stem
            maps = network.conv(stem)
            maps = focused_dropout(maps, 0.5) if masked == "conv" else maps
            loss = network.head(maps.mean(dim=(2, 3))).square().sum()
            parts.append(torch.autograd.grad(loss, list(network.parameters())))
        with torch.no_grad():
            for p, v, a, b in zip(network.parameters(), velocity, *parts, strict=True):
                v.mul_(0.9).add_((a + b) / 2 + (0.2 if takes_part else 1e-2) * p)
                p -= 0.1 * v
    for key, value in network.state_dict().items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value)
