"""A network made ready for its training."""

from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch
import torchvision.models as models
from torch import Tensor, nn

from common import FocusedDropout
from common.errors import InputError
from common.method.controls import ControlDropout, InParticipatingSteps
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.training import network as made_ready
from common.training.network import (
    compile_network,
    eager_if,
    insert_layer,
    move_network,
    over_ranks,
    prepare,
    takes_single_images,
    try_layers,
)

CPU = torch.device("cpu")
SIGNED = torch.tensor([9.0, -9.0, 1.0, 0.0]).expand(2, 4, 4).reshape(2, 4, 2, 2)
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=2)


@pytest.mark.parametrize(("size", "takes"), [(32, False), (64, True)])
def test_a_resnet_takes_single_images_if_its_last_maps_are_larger(size: int, takes: bool) -> None:
    """A ResNet halves five times: what is left of 32 pixels is one, which has no variance."""
    network = models.resnet18(num_classes=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert takes_single_images(network.eval(), size) is takes
    assert not network.training
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


def test_a_network_without_batchnorm_takes_single_images() -> None:
    assert takes_single_images(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 2)


class Watched(nn.Module):
    """Keeps what it is called with, in all copies; and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.focus = FocusedDropout((0.4, 0.4))
        self.block = InParticipatingSteps(nn.Identity())
        self.weight = nn.Parameter(torch.ones(1))

    calls: ClassVar[list[tuple[Any, ...]]]

    def forward(self, x: Tensor) -> Tensor:
        on = self.focus.active, self.block.active
        self.calls.append((x.shape, on, torch.is_grad_enabled(), self.training))
        if self.error:
            raise self.error
        return x * self.weight


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Watched, "calls", calls, raising=False)
    return calls


def test_single_images_are_tried_in_training(calls: list[tuple[Any, ...]]) -> None:
    network = Watched().eval()
    assert takes_single_images(network, 5)
    assert calls == [((1, 3, 5, 5), (False, False), False, True)]
    with pytest.raises(ValueError, match="^of another kind$"):
        takes_single_images(Watched(ValueError("of another kind")), 5)


def test_layers_are_tried_in_a_copy_where_they_are_on(calls: list[tuple[Any, ...]]) -> None:
    network = Watched()
    try_layers(network, 5, "--focus.after focus")
    assert calls == [((2, 3, 5, 5), (True, True), False, True)]
    assert not (network.focus.active or network.block.active)


@pytest.mark.parametrize("error", [TypeError("no maps"), ValueError("no maps")])
def test_layers_that_cannot_stand_there_name_their_flags(
    error: Exception, calls: list[tuple[Any, ...]]
) -> None:
    with pytest.raises(InputError, match=r"^--focus.after x: no maps$"):
        try_layers(Watched(error), 5, "--focus.after x")
    with pytest.raises(type(error), match="^no maps$") as caught:
        try_layers(Watched(error), 5, "")
    assert not isinstance(caught.value, InputError)


def inserted(focus: Focus) -> tuple[nn.Sequential, str | None]:
    network = nn.Sequential()
    network.add_module("a", nn.Conv2d(3, 4, 1))
    network.add_module("b", nn.ReLU())
    return network, insert_layer(network, focus)


def test_the_layer_of_the_recipe_is_inserted() -> None:
    network, place = inserted(Focus(after="a", gamma=(0.1, 0.2), opposite=True, gamma_per="unit"))
    (layer,) = (m for m in network.modules() if isinstance(m, FocusedDropout))
    assert type(layer) is FocusedDropout and (place, layer.place) == ("a", "a")
    assert (layer.gamma, layer.opposite, layer.gamma_per) == ((0.1, 0.2), True, "unit")
    layer.active = True
    layer(SIGNED)
    layer.warn_if_signed()  # the recipe means it
    assert inserted(Focus())[1] is None
    assert not any(isinstance(m, FocusedDropout) for m in inserted(Focus())[0].modules())
    with pytest.raises(InputError, match=r"^--focus\.after c: "):
        inserted(Focus(after="c"))


@pytest.mark.parametrize(
    ("reference", "places"),
    [("random", "focused"), ("strongest", "shuffled"), ("random", "shuffled")],
)
def test_a_control_of_the_recipe_is_inserted(reference: Any, places: Any) -> None:
    focus = Focus(
        after="b",
        gamma=(0.1, 0.2),
        opposite=True,
        gamma_per="batch",
        reference=reference,
        places=places,
    )
    network, place = inserted(focus)
    (layer,) = (m for m in network.modules() if isinstance(m, FocusedDropout))
    assert isinstance(layer, ControlDropout) and place == "b"
    assert (layer.gamma, layer.opposite, layer.gamma_per) == ((0.1, 0.2), True, "batch")
    assert (layer.reference, layer.places) == (reference, places)
    layer.active = True
    layer(SIGNED)
    layer.warn_if_signed()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("make", [move_network, prepare])
def test_a_network_is_put_in_its_memory_format(make: Any, channels_last: bool) -> None:
    network = nn.Conv2d(3, 4, 3)
    settings = Optimization(lr=0.1, batch_size=8, epochs=2, channels_last=channels_last)
    make(network, settings, CPU)
    weight = network.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert weight.is_contiguous() is not channels_last
    make(network, settings, torch.device("meta"))
    assert network.weight.device.type == "meta"


class Compiled(nn.Linear):
    """Notes how it is compiled."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.compiled: list[Any] = []

    def compile(self, *given: Any, **options: Any) -> None:
        self.compiled.append((given, options))


class OfParts(Compiled):
    """Knows which of its parts are worth it."""

    def compile_parts(self) -> None:
        self.compiled.append("parts")


def test_a_network_is_compiled_if_asked_for() -> None:
    network, parts, plain = Compiled(), OfParts(), Compiled()
    compile_network(network)
    assert network.compiled == [((), {"dynamic": False})]
    prepare(parts, Optimization(lr=0.1, batch_size=8, epochs=2, compile=True), CPU)
    assert parts.compiled == ["parts"]
    prepare(plain, SETTINGS, CPU)
    assert plain.compiled == []


def test_short_batches_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What that does to graphs is in test_compiled_training.py."""
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: nullcontext(stance))
    with eager_if(True) as short, eager_if(False) as full:
        assert (short, full) == ("force_eager", None)


class Wrapped(nn.Module):
    """In place of DistributedDataParallel."""

    broadcast_buffers = True

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__()
        self.network, self.options = network, options


@pytest.mark.parametrize("ordered", [True, False])
def test_gradients_are_averaged_over_ranks(monkeypatch: pytest.MonkeyPatch, ordered: bool) -> None:
    """By DDP, or in order: then all ranks begin with the tensors of the first."""
    shared: list[Tensor] = []
    monkeypatch.setattr(made_ready, "DistributedDataParallel", Wrapped)
    monkeypatch.setattr(made_ready, "share", lambda tensors: shared.extend(tensors))
    monkeypatch.setattr(made_ready, "in_order", lambda world: ordered)
    network = nn.BatchNorm2d(3)
    assert over_ranks(network, World(CPU)) is network and not shared
    for device, devices in ((CPU, None), (torch.device("cuda", 1), [torch.device("cuda", 1)])):
        whole = over_ranks(network, World(device, rank=1, size=2))
        if ordered:
            assert whole is network
            places = [tensor.data_ptr() for tensor in network.state_dict().values()]
            assert [tensor.data_ptr() for tensor in shared] == places
            assert not any(tensor.requires_grad for tensor in shared)
            shared.clear()
        else:
            assert isinstance(whole, Wrapped) and whole.network is network and not shared
            assert whole.options == {"device_ids": devices, "gradient_as_bucket_view": True}
            assert whole.broadcast_buffers is False
