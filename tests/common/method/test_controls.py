"""The controls: what they leave to chance, what they keep, and when they act."""

import copy
import math
from inspect import signature
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from common import FocusedDropout, FocusedTraining, focus_mask, insert_after
from common.method.controls import ControlDropout, InParticipatingSteps
from common.method.draws import derived, image_keys, uniform
from common.method.focused_training import participates
from common.recipe import Focus
from common.training.network import insert_layer


def active(layer: FocusedDropout) -> FocusedDropout:
    layer.active = True
    return layer


def kept(layer: FocusedDropout, x: Tensor) -> Tensor:
    """Return the mask (N, H, W) of an active step, and check that all channels share it."""
    y = active(layer)(x)
    mask = (y != 0) | (x == 0)
    shared = mask.all(dim=1)
    assert torch.equal(y, x * shared[:, None])
    return shared


positive = st.integers(0, 2**31).map(
    lambda seed: torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(seed)) + 0.01
)


@given(positive, st.floats(0.05, 0.95), st.booleans())
def test_shuffling_keeps_as_many_places_of_each_image(
    x: Tensor, gamma: float, opposite: bool
) -> None:
    layer = ControlDropout(gamma, opposite, places="shuffled")
    found = kept(layer, x)
    expected = focus_mask(x, gamma, opposite)[:, 0]
    assert torch.equal(found.sum(dim=(1, 2)), expected.sum(dim=(1, 2)))
    assert layer.statistics()["keep_ratio"] == pytest.approx(expected.float().mean().item())


def test_shuffled_places_are_any_places_alike() -> None:
    """A quarter of the places is kept: each equally often, and two of them independently."""
    x = torch.ones(20_000, 2, 4, 4) * 0.1
    x[:, :, 0] = 1.0  # the focused area is the first row
    torch.manual_seed(0)
    found = kept(ControlDropout(0.5, places="shuffled"), x).flatten(1).float()
    assert torch.equal(found.sum(dim=1), torch.full((20_000,), 4.0))
    deviation = math.sqrt(0.25 * 0.75 / 20_000)
    assert (found.mean(dim=0) - 0.25).abs().max() < 4 * deviation
    # Without replacement: the second place is kept in 3 of the other 15.
    both = (found[:, 0] * found[:, 5]).mean().item()
    assert both == pytest.approx(0.25 * 3 / 15, abs=4 * math.sqrt(0.05 * 0.95 / 20_000))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("dead", [-1.0, -0.5, 0.0])
def test_the_random_reference_is_any_channel_with_a_positive_value(dead: float) -> None:
    """Channel c of 5 is positive at place c alone, but for channel 2, which is dead."""
    images = 6000
    x = torch.zeros(images, 5, 1, 5)
    for channel, value in enumerate((1.0, 9.0, 0.0, 2.0, 3.0)):
        x[:, channel, 0, channel] = value
    x[:, 2] = dead
    torch.manual_seed(0)
    layer = active(ControlDropout(0.5, reference="random", signed=True))
    mask = layer._find_mask(x, 0.5)[0][:, 0, 0]
    assert torch.equal(mask.sum(dim=1), torch.ones(images, dtype=torch.int64))
    shares = mask.float().mean(dim=0)
    assert shares[2] == 0
    others = shares[[0, 1, 3, 4]]
    assert (others - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / images)


def test_the_area_is_that_of_the_drawn_channel() -> None:
    """Against each channel alone: the mask of an image is that of one of its channels."""
    x = torch.rand(200, 4, 6, 6)
    torch.manual_seed(1)
    mask = ControlDropout(reference="random")._find_mask(x, 0.6)[0]
    of_channel = [focus_mask(x[:, [channel]], 0.6) for channel in range(4)]
    matches = torch.stack([(mask == one).flatten(1).all(dim=1) for one in of_channel])
    assert matches.any(dim=0).all()
    assert (matches.float().mean(dim=1) > 0.1).all()


def test_keys_decide_the_reference_and_the_places_each_by_draws_of_its_own() -> None:
    """Written out from the hash of the keys: 0 is for gamma, 1 for the reference, 2 for places."""
    x, keys = torch.rand(40, 5, 4, 6) + 0.01, image_keys(3, 7, 0, 40)
    layer = active(ControlDropout(0.5, reference="random", places="shuffled"))
    layer.keys = keys
    channel = uniform(derived(keys, 1), 5).argmax(dim=1)
    mask = torch.cat([focus_mask(x[n : n + 1, [c]], 0.5) for n, c in enumerate(channel.tolist())])
    order = uniform(derived(keys, 2), 24).argsort(dim=1, stable=True)
    expected = mask.flatten(1).gather(1, order).view_as(mask)
    assert torch.equal(layer(x), x * expected)


@pytest.mark.parametrize("argument", ["reference", "places", "gamma_per"])
def test_an_unknown_choice_is_no_control(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be one of .*, not 'suffled'"):
        ControlDropout(**{argument: "suffled"})  # type: ignore[arg-type]


def test_what_a_control_leaves_to_chance_is_printed() -> None:
    assert repr(ControlDropout((0.25, 0.5), reference="random", places="shuffled")) == (
        "ControlDropout(gamma=(0.25, 0.5), opposite=False, reference='random', places='shuffled')"
    )


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "control",
    [{"reference": "random"}, {"places": "shuffled"}],
    ids=lambda control: next(iter(control)),
)
def test_an_image_without_an_area_passes_whole(
    control: dict[str, Literal["random", "shuffled"]], value: float
) -> None:
    x = torch.full((3, 2, 4, 4), value)
    layer = active(ControlDropout(signed=True, **control))  # type: ignore[arg-type]
    torch.testing.assert_close(layer(x), x, equal_nan=True)
    assert layer.statistics()["unmasked_images"] == 3


def test_a_control_is_built_as_the_method_is() -> None:
    ours, theirs = (signature(kind).parameters for kind in (ControlDropout, FocusedDropout))
    assert {name: ours[name] for name in theirs} == dict(theirs)
    with pytest.warns(UserWarning, match="meets signed maps"):
        layer = active(ControlDropout())
        layer(torch.randn(8, 4, 6, 6))
        layer.warn_if_signed()


def test_without_a_control_it_is_the_method() -> None:
    x = torch.randn(8, 4, 6, 6)
    torch.manual_seed(3)
    expected = active(FocusedDropout())(x)
    torch.manual_seed(3)
    assert torch.equal(active(ControlDropout())(x), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_draws_are_those_of_the_default_generator(dtype: torch.dtype, channels_last: bool) -> None:
    """So a resumed run draws the same ones; and the dtype of the maps changes none."""
    layer = active(ControlDropout(reference="random", places="shuffled"))
    x = torch.rand(8, 4, 6, 6).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert first.dtype == dtype and first.is_contiguous() == x.is_contiguous()
    torch.manual_seed(5)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(layer(x), first)
    finally:
        torch.set_default_dtype(torch.float32)


class NoReading(TorchDispatchMode):
    """Refuses operators that would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func)
        assert "_local_scalar_dense" not in name and "nonzero" not in name, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("control", [{"reference": "random"}, {"places": "shuffled"}], ids=str)
def test_nothing_waits_for_the_device(control: dict[str, Literal["random", "shuffled"]]) -> None:
    layer = active(ControlDropout(**control))  # type: ignore[arg-type]
    x = torch.rand(4, 3, 6, 6)
    with NoReading():
        layer(x)


def test_a_control_compiles_to_two_graphs() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    layer = ControlDropout(reference="random", places="shuffled")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x = torch.rand(4, 3, 6, 6)
    for step in range(6):
        layer.active = step % 2 == 1
        compiled(x)
    assert counter.frame_count == 2


@pytest.mark.parametrize("per", ["image", "unit", "batch"])
def test_the_layer_of_a_recipe(per: Literal["image", "unit", "batch"]) -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())
    focus = Focus(after="0", opposite=True, gamma_per=per, reference="random", places="shuffled")
    insert_layer(network, focus)
    (layer,) = (part for part in network.modules() if isinstance(part, FocusedDropout))
    assert isinstance(layer, ControlDropout)
    assert (layer.reference, layer.places, layer.opposite) == ("random", "shuffled", True)
    assert (layer.gamma, layer.gamma_per, layer.place) == ((0.3, 0.6), per, "0")
    assert repr(layer).endswith("reference='random', places='shuffled')")


def test_one_gamma_for_a_batch() -> None:
    """A ramp from 0 to 1: the number of units kept tells the gamma of an image."""
    ramp = torch.arange(1, 101).view(1, 1, 1, -1).expand(50, 2, 1, -1) / 100
    layer = FocusedDropout(gamma_per="batch")
    counts = [kept(layer, ramp).sum(dim=(1, 2)) for _ in range(40)]
    for count in counts:
        assert (count == count[0]).all()
    shares = [1 - count[0].item() / 100 for count in counts]
    assert min(shares) < 0.36 and max(shares) > 0.54
    assert all(0.29 <= share <= 0.61 for share in shares)


# ---- other dropouts, in participating steps -----------------------------------------------------


class Double(nn.Module):
    """Stands for a dropout: what it did can be seen."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("decay_only", [False, True])
def test_a_rival_is_on_where_the_method_is(decay_only: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), InParticipatingSteps(Double()))
    if not decay_only:
        insert_after(network, "0", FocusedDropout())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, weight_decay=1e-4)
    focus = FocusedTraining(network, optimizer, 0.3, 1e-3, seed=2, decay_only=decay_only)
    rival = network[1]
    x = torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        plain = network[0](x)
    for step in range(40):
        with focus.step(step) as participating, torch.no_grad():
            assert participating == participates(0.3, 2, step)
            assert torch.equal(rival(plain), plain * (1 + participating))
        assert rival(plain) is plain
    with pytest.raises(KeyError), focus.step(next(s for s in range(40) if participates(0.3, 2, s))):
        raise KeyError
    assert rival(plain) is plain
    assert len(focus.layers) == (not decay_only)  # it has no statistics


def test_a_rival_leaves_no_keys_and_copies_with_its_network() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), InParticipatingSteps(Double()))
    assert list(network.state_dict()) == ["0.weight", "0.bias"]
    other = copy.deepcopy(network)
    other[1].active = True
    assert not network[1].active
