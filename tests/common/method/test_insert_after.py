"""The layer inside a network: at its place, in copies, compiled and exported."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torchvision.models import densenet121, resnet18, vgg

from common import FocusedDropout, focused_dropout, insert_after
from common.method.placement import insert_layer_after


def active(layer: FocusedDropout) -> FocusedDropout:
    layer.active = True
    return layer


def vgg11_bn_with_a_small_head() -> nn.Module:
    with torch.device("meta"):  # the real head has 100 million weights
        network: nn.Module = vgg.VGG(nn.Identity())
    network.features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    network.classifier = nn.Linear(512 * 7 * 7, 5)
    return network


def small_sequential() -> nn.Sequential:
    block = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(block, nn.Conv2d(6, 4, 3), nn.Flatten(1), nn.LazyLinear(5))


PLACES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (lambda: resnet18(num_classes=5), "layer3"),
    "resnet18 block": (lambda: resnet18(num_classes=5), "layer3.1"),
    "densenet121": (lambda: densenet121(num_classes=5), "features.denseblock2"),
    "vgg11_bn": (vgg11_bn_with_a_small_head, "features.20"),
    "sequential": (small_sequential, "0"),
    "sequential, plain module": (small_sequential, "1"),
}
every_place = pytest.mark.parametrize("place", PLACES)


def twins(place: str) -> tuple[nn.Module, nn.Module, str]:
    """Build the same network twice, with the same weights."""
    build, name = PLACES[place]
    network = build()
    network(torch.rand(2, 3, 32, 32))  # gives lazy layers their shapes
    return network, copy.deepcopy(network), name


@every_place
def test_placed_layer_acts_at_its_place_and_keeps_the_state_dict(place: str) -> None:
    network, plain, name = twins(place)
    layer = FocusedDropout(0.5)
    insert_after(network, name, layer)

    assert [m for m in network.modules() if isinstance(m, FocusedDropout)] == [layer]
    assert list(network.state_dict()) == list(plain.state_dict())
    assert not network.load_state_dict(plain.state_dict(), strict=True).missing_keys
    assert not plain.load_state_dict(network.state_dict(), strict=True).unexpected_keys

    x = torch.rand(2, 3, 32, 32)
    network.train(), plain.train()
    torch.manual_seed(1)  # VGG and its kin may hold other dropouts
    off = network(x)
    torch.manual_seed(1)
    assert torch.equal(off, plain(x))

    active(layer)
    by_hand = plain.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: focused_dropout(output, 0.5)
    )
    y, expected = network(x), plain(x)
    assert torch.equal(y, expected) and not torch.equal(y, off)
    assert layer.statistics()["images"] == 2
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)

    by_hand.remove()
    network.eval(), plain.eval()
    assert torch.equal(network(x), plain(x))
    assert layer.statistics()["images"] == 2


def test_resnet18_written_out() -> None:
    network = resnet18(num_classes=5).train()
    x = torch.rand(4, 3, 64, 64)
    twin = copy.deepcopy(network)  # BatchNorm's running statistics move in every forward
    seen: list[Tensor] = []
    twin.layer3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    twin(x)
    masked = focused_dropout(seen[0], 0.5)
    assert 0.2 < (masked == 0).float().mean() < 1
    expected = twin.fc(twin.avgpool(twin.layer4(masked)).flatten(1))

    insert_after(network, "layer3", active(FocusedDropout(0.5)))
    assert torch.equal(network(x), expected)


def hooked_and_held() -> nn.Sequential:
    """A network with a layer inside a Sequential and one behind a plain module."""
    stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    network = nn.Sequential(OrderedDict(stem=stem, conv=nn.Conv2d(6, 6, 3), head=nn.Flatten()))
    insert_after(network, "stem", FocusedDropout(0.5))
    insert_after(network, "conv", FocusedDropout(0.5))
    return network


def layers_of(network: nn.Module) -> list[FocusedDropout]:
    return [module for module in network.modules() if isinstance(module, FocusedDropout)]


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_has_working_layers_of_its_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    network = hooked_and_held()
    x = torch.rand(2, 3, 8, 8)
    plain = network(x)
    twin = copied(network)
    assert len(layers_of(twin)) == 2
    assert not set(layers_of(twin)) & set(layers_of(network))
    for layer in layers_of(twin):
        active(layer)
    masked = twin(x)
    assert torch.equal(network(x), plain) and not torch.equal(masked, plain)
    assert [layer.statistics()["images"] for layer in layers_of(twin)] == [2, 2]
    assert [layer.statistics()["images"] for layer in layers_of(network)] == [0, 0]
    for layer in layers_of(network):
        active(layer)
    assert torch.equal(network(x), masked)
    network(x)
    assert [layer.statistics()["images"] for layer in layers_of(twin)] == [2, 2]
    assert [layer.statistics()["images"] for layer in layers_of(network)] == [4, 4]


def test_unknown_place() -> None:
    network = resnet18()
    for name in ("layer5", "", "layer3.9"):
        with pytest.raises(ValueError, match=f"no submodule '{name}'; it has .*layer3, layer3.0"):
            insert_after(network, name, FocusedDropout())
    assert not layers_of(network)


def test_second_layer_at_one_place_and_one_layer_at_two_places() -> None:
    for place in ("layer3", "relu"):
        network = resnet18()
        layer = FocusedDropout()
        insert_after(network, place, layer)
        with pytest.raises(ValueError, match=f"follows '{place}' already"):
            insert_after(network, place, FocusedDropout())
        with pytest.raises(ValueError, match="build one for each place"):
            insert_after(network, "layer2", layer)
        assert layers_of(network) == [layer]
        insert_after(network, "layer2", FocusedDropout())
        assert len(layers_of(network)) == 2


@pytest.mark.parametrize("place", ["layer3", "relu"])
@pytest.mark.parametrize(("given", "shown"), [(FocusedDropout, "the class F"), (nn.ReLU(), "ReLU")])
def test_what_is_no_layer_leaves_the_network_as_it_was(place: str, given: Any, shown: str) -> None:
    network = resnet18()
    before = repr(network)
    with pytest.raises(TypeError, match=rf"such as FocusedDropout\(\), not {shown}"):
        insert_after(network, place, given)
    assert repr(network) == before


def test_nothing_but_containers() -> None:
    network = nn.Sequential(nn.ModuleDict({"a": nn.ReLU()}))
    with pytest.raises(ValueError, match="cannot follow '0'"):
        insert_after(network, "0", FocusedDropout())


def test_an_output_that_is_not_one_tensor() -> None:
    network = nn.Module()
    network.lstm = nn.LSTM(3, 3)
    insert_after(network, "lstm", active(FocusedDropout()))
    with pytest.raises(TypeError, match="needs one tensor, not tuple"):
        network.lstm(torch.rand(2, 1, 3))


# --------------------------------------------------------------------------- compile and export


def test_compile_makes_two_graphs_without_a_break() -> None:
    network = hooked_and_held()
    x = torch.rand(4, 3, 8, 8)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for toggle in range(10):
        for layer in layers_of(network):
            layer.active = toggle % 2 == 0
        masked = compiled(x)
        assert torch.equal(masked, network(x))
    assert counter.frame_count == 2
    assert [layer.statistics()["images"] for layer in layers_of(network)] == [5 * 4 * 2] * 2


@pytest.mark.parametrize("is_active", [True, False])
def test_placed_layers_break_no_graph(is_active: bool) -> None:
    network = hooked_and_held()
    for layer in layers_of(network):
        layer.active = is_active
    torch._dynamo.reset()
    explanation = torch._dynamo.explain(network)(torch.rand(2, 3, 8, 8))
    assert explanation.graph_break_count == 0 and explanation.graph_count == 1


def test_compiled_training_equals_eager_training() -> None:
    layer = active(FocusedDropout())
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    results = []
    for call in (layer, compiled):
        torch.manual_seed(3)
        y = call(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(eager, other) for eager, other in zip(*results, strict=True))


def test_export_in_eval_mode_holds_nothing() -> None:
    exported = torch.export.export(active(FocusedDropout()).eval(), (torch.rand(2, 3, 4, 4),))
    assert [node.op for node in exported.graph.nodes] == ["placeholder", "output"]


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@every_place
def test_any_layer_acts_once_on_the_output_of_its_place(place: str) -> None:
    network, plain, name = twins(place)
    insert_layer_after(network, name, Doubled(), "doubled")
    plain.get_submodule(name).register_forward_hook(lambda module, inputs, output: 2 * output)
    x = torch.rand(2, 3, 32, 32)
    for one in (network, copy.deepcopy(network)):
        torch.testing.assert_close(one.eval()(x), plain.eval()(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="a layer follows .* already"):
        insert_layer_after(network, name, Doubled(), "doubled")


def test_names_are_listed_level_by_level_as_far_as_they_can_be_read() -> None:
    """Forty at most; and only what has convolutions in it, or stands in a sequence."""

    def of(**members: nn.Module) -> nn.Module:
        module = nn.Module()
        for name, member in members.items():
            module.add_module(name, member)
        return module

    def block(convolutions: int) -> nn.Module:
        members = {f"conv{number}": nn.Conv2d(1, 1, 1) for number in range(convolutions)}
        return of(**members, norm=nn.BatchNorm2d(1))

    def names(convolutions: int) -> str:
        halves = {half: of(**{x: block(convolutions) for x in "xy"}) for half in "ab"}
        with pytest.raises(ValueError, match="it has ") as raised:
            insert_after(of(**halves), "c", FocusedDropout())
        return str(raised.value).partition("it has ")[2]

    assert names(10) == "a, a.x, a.y, b, b.x, b.y, ... (40 more)"
    assert names(1) == "a, a.x, a.x.conv0, a.y, a.y.conv0, b, b.x, b.x.conv0, b.y, b.y.conv0"


def holder(network: nn.Module, layer: nn.Module) -> tuple[str, str]:
    """Name the module that holds a layer, and what it calls it."""
    ((name, label),) = (
        (name, label)
        for name, module in network.named_modules()
        for label, inner in module._modules.items()
        if inner is layer
    )
    return name, label


class Backwards(nn.Sequential):
    """A container with a forward of its own, which would call a member that it does not know."""

    def forward(self, x: Tensor) -> Tensor:
        for member in reversed(self):
            x = member(x)
        return x


@pytest.mark.parametrize(
    ("place", "owner", "label", "hooked"),
    [
        ("stem", "stem", "focused_dropout", False),  # a Sequential, which calls it last
        ("stem.1", "stem.1", "focused_dropout", True),
        ("body", "", "focused_dropout_body", True),
        ("body.0", "", "focused_dropout_body_0", True),
        ("body.0.0", "body.0.0", "focused_dropout", True),
        ("deep.a.0", "deep", "focused_dropout_deep_a_0", True),
    ],
)
def test_who_holds_the_layer_and_under_which_name(
    place: str, owner: str, label: str, hooked: bool
) -> None:
    """The module itself, or the nearest around it that does not call its members by itself."""
    network = nn.Module()
    network.stem = nn.Sequential(nn.ReLU(), nn.ReLU())
    network.body = Backwards(Backwards(nn.ReLU()))
    network.deep = nn.Module()
    network.deep.a = nn.ModuleDict({"0": Backwards(nn.ReLU())})
    insert_after(network, place, layer := FocusedDropout())
    assert holder(network, layer) == (owner, label)
    assert layer._hooked is hooked and layer.place == place
    insert_layer_after(network, place, other := Doubled(), "doubled")
    assert holder(network, other) == (owner, label.replace("focused_dropout", "doubled"))
    assert len(network.get_submodule(place)._forward_hooks) == 2 * hooked


def named(network: nn.Module) -> str:
    with pytest.raises(ValueError, match="it has ") as raised:
        insert_after(network, "nothing", FocusedDropout())
    return str(raised.value).partition("it has ")[2]


@pytest.mark.parametrize(("count", "more"), [(40, ""), (41, ", ... (1 more)")])
def test_forty_names_are_the_most(count: int, more: str) -> None:
    flat = nn.Sequential(*(nn.ReLU() for _ in range(count)))
    assert named(flat) == ", ".join(map(str, range(40))) + more
    deep = nn.Module()
    deep.a = nn.Module()
    for label, convolutions in (("x", 18), ("y", count - 21)):
        part = nn.Module()
        for number in range(convolutions):
            part.add_module(f"c{number}", nn.Conv2d(1, 1, 1))
        deep.a.add_module(label, part)
    names = named(deep).split(", ")
    assert len(names) == (40 if count == 40 else 4)
    assert names[:3] == (["a", "a.x", "a.x.c0"] if count == 40 else ["a", "a.x", "a.y"])
    assert names[-1] == ("a.y.c18" if count == 40 else "... (38 more)")


def test_two_levels_are_listed_though_they_are_too_many() -> None:
    """Of a and b with 25 each, the first forty names, in their order."""
    network = nn.Module()
    for label in "ab":
        part = nn.Module()
        for number in range(25):
            part.add_module(f"c{number}", nn.Conv2d(1, 1, 1))
        network.add_module(label, part)
    *names, more = named(network).split(", ")
    assert names == ["a", *(f"a.c{n}" for n in range(25)), "b", *(f"b.c{n}" for n in range(13))]
    assert more == "... (12 more)"


def test_names_go_six_levels_deep() -> None:
    network: nn.Module = nn.Conv2d(1, 1, 1)
    for _ in range(8):
        outer = nn.Module()
        outer.a = network
        network = outer
    assert named(network) == "a, a.a, a.a.a, a.a.a.a, a.a.a.a.a, a.a.a.a.a.a, ... (2 more)"
