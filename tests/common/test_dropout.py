"""The layer against Algorithm 1 written out unit by unit, and its manners inside a network."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import densenet121, resnet18, vgg

from common import FocusedDropout, focus_mask, focused_dropout, insert_after

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
INF, NAN = float("inf"), float("nan")


# --------------------------------------------------------------------------- Algorithm 1


def algorithm_1(x: Tensor, gammas: list[float], opposite: bool) -> Tensor:
    """Return the mask for every unit, shape (N, C, H, W), from loops over images and units.

    Means are exact fractions; the threshold is one float32 product.
    """
    mask = torch.zeros(x.shape)
    channels, height, width = x.shape[1:]
    for b, image in enumerate(x.tolist()):
        means = []
        for c in range(channels):  # line 4
            total = Fraction(0)
            for i in range(height):
                for j in range(width):
                    total += Fraction(image[c][i][j])
            means.append(total / (height * width))
        k = means.index(max(means))  # the first of equal ones
        peak = max(max(row) for row in image[k])  # line 5
        threshold = np.float32(gammas[b]) * np.float32(peak)
        area = set()
        for i in range(height):  # lines 6 to 11
            for j in range(width):
                if np.float32(image[k][i][j]) > threshold:
                    area.add((i, j))
        for c in range(channels):  # line 12, and our rule for an empty area
            for i in range(height):
                for j in range(width):
                    inside = (i, j) in area
                    kept = True if not area else inside != opposite
                    mask[b, c, i, j] = float(kept)
    return mask


@st.composite
def feature_maps(draw: st.DrawFn) -> Tensor:
    """Maps of quarters, exact in every dtype, so that equal means and equal units abound."""
    images, channels = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = {
        "any": st.integers(-8, 8),
        "relu": st.integers(0, 4),
        "negative": st.integers(-8, -1),
        "binary": st.sampled_from([0, 8]),
    }
    maps: list[list[int]] = []
    for _ in range(images * channels):
        kind = draw(st.sampled_from([*values, "zero", "constant", "copy", "shuffled copy"]))
        if kind in values:
            one = draw(st.lists(values[kind], min_size=height * width, max_size=height * width))
        elif kind.endswith("copy") and maps:
            one = maps[-1] if kind == "copy" else draw(st.permutations(maps[-1]))
        else:
            one = [0 if kind == "zero" else draw(st.integers(-4, 8))] * (height * width)
        maps.append(one)
    return torch.tensor(maps, dtype=torch.float32).view(images, channels, height, width) / 4


GAMMAS = st.sampled_from([0.0, 0.125, 0.25, 0.3, 0.375, 0.5, 0.6, 0.75, 0.9])


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=80)
@given(x=feature_maps(), opposite=st.booleans(), per_image=st.booleans(), data=st.data())
def test_equals_algorithm_1_forward_and_backward(
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    x: Tensor,
    opposite: bool,
    per_image: bool,
    data: st.DataObject,
) -> None:
    x = x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    gammas = data.draw(st.lists(GAMMAS, min_size=len(x), max_size=len(x)))
    if not per_image:
        gammas = [gammas[0]] * len(x)
    gamma = torch.tensor(gammas) if per_image else gammas[0]

    expected = algorithm_1(x, gammas, opposite).to(dtype)
    y = focused_dropout(x, gamma, opposite)
    upstream = (torch.arange(x.numel()).view(x.shape) % 13 - 6).to(dtype)
    y.backward(upstream)

    assert y.dtype == dtype and y.shape == x.shape
    assert y.is_contiguous(memory_format=memory_format)
    assert torch.equal(y, x * expected)
    assert x.grad is not None
    assert torch.equal(x.grad, upstream * expected)
    assert torch.equal(focus_mask(x, gamma, opposite).expand_as(x), expected.bool()), (
        "one mask for all channels"
    )


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), gamma=st.floats(0, 0.99), opposite=st.booleans())
def test_equals_algorithm_1_on_random_maps(seed: int, gamma: float, opposite: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 4, 3, generator=generator)
    assert torch.equal(
        focused_dropout(x, gamma, opposite), x * algorithm_1(x, [gamma] * 2, opposite)
    )


def test_worked_example() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[9.0, -9.0], [0.0, 0.0]]]])
    # Means 2.5 and 0: the first channel is the reference; its peak 4 at 0.5 puts the threshold at
    # 2, and the unit that equals 2 is not greater.
    kept = torch.tensor([[[[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(focused_dropout(x, 0.5), kept)
    assert torch.equal(focused_dropout(x, 0.5, opposite=True), x - kept)


def test_the_first_of_equal_channels_is_the_reference() -> None:
    x = torch.tensor([[[[4.0, 0.0]], [[0.0, 4.0]]]])
    assert focus_mask(x, 0.5).flatten().tolist() == [True, False]
    assert focus_mask(x.flip(1), 0.5).flatten().tolist() == [False, True]


@pytest.mark.parametrize(
    ("image", "kept"),
    [
        ([[0.0, 0.0, 0.0]], [1, 1, 1]),  # all zero
        ([[-3.0, -1.0, -2.0]], [1, 1, 1]),  # peak below zero: gamma * peak lies above it
        ([[5.0, 5.0, 5.0]], [1, 1, 1]),  # constant
        ([[0.0, 0.0, 0.0], [-1.0, 9.0, -9.0]], [1, 1, 1]),  # the reference, not the largest unit
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_maps(image: list[list[float]], kept: list[int], dtype: torch.dtype) -> None:
    x = torch.tensor(image, dtype=dtype).view(1, len(image), 1, 3)
    assert focus_mask(x, 0.5).flatten().tolist() == [bool(unit) for unit in kept]


def test_an_empty_focused_area_is_kept_in_the_opposite_mode_too() -> None:
    x = torch.stack([-torch.ones(2, 3, 3), torch.ones(2, 3, 3)])
    y = focused_dropout(x, 0.5, opposite=True)
    assert torch.equal(y[0], x[0])
    assert not y[1].any()  # the focused area is the whole map


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reference_channel_is_found_in_float32(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    first, second = torch.ones(16), torch.ones(16)
    first[0], second[-1] = 2, 2 + 2 * eps
    x = torch.stack([first, second]).to(dtype).view(1, 2, 4, 4)
    # The two means differ by eps / 8: as half-precision numbers they are equal.
    assert x.mean(dim=(2, 3)).unique().numel() == 1
    assert focus_mask(x, 0.9).flatten().nonzero().tolist() == [[15]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_threshold_is_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, 0.3, 0.29, 0.0], dtype=dtype).view(1, 1, 2, 2)
    assert x[0, 0, 0, 1].item() > 0.3  # rounded up, to what 0.3 * peak would be as well
    assert focus_mask(x, 0.3).flatten().tolist() == [True, True, False, False]


def test_large_float16_maps_do_not_overflow() -> None:
    x = torch.full((1, 2, 64, 64), 30.0, dtype=torch.float16)
    x[0, 1, 0, 0] = 60
    assert x.sum(dim=(2, 3)).isinf().all()  # what a sum in float16 would give
    assert focus_mask(x, 0.75).sum() == 1


@pytest.mark.parametrize("gamma_dtype", [torch.float64, torch.float32, torch.float16])
def test_threshold_is_float32_whatever_the_dtype_of_gamma(gamma_dtype: torch.dtype) -> None:
    gammas = torch.tensor([0.3, 0.45, 0.6], dtype=gamma_dtype)
    peaks = torch.rand(3, 1, 1, 1) + 1
    units = peaks * torch.linspace(0, 1, 2001)
    below = peaks * gammas.float().view(3, 1, 1, 1)  # equal to the threshold in float32
    x = torch.cat([units, below, below.nextafter(torch.tensor(INF))], dim=3)
    expected = algorithm_1(x, gammas.tolist(), opposite=False)
    assert torch.equal(focus_mask(x, gammas), expected.bool())
    assert focus_mask(x, gammas)[:, 0, 0, -2:].tolist() == [[False, True]] * 3


def test_float64_stays_float64() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert focused_dropout(x, 0.5).dtype == torch.float64


def test_gamma_as_a_scalar_tensor_and_under_grad() -> None:
    x = torch.rand(2, 3, 4, 4)
    gamma = torch.tensor(0.5, requires_grad=True)
    y = focused_dropout(x, gamma)
    assert torch.equal(y, focused_dropout(x, 0.5))
    assert not y.requires_grad


# --------------------------------------------------------------------------- faults stay visible


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("fault", [NAN, INF])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_with_nan_or_inf_passes_unchanged(
    fault: float, dtype: torch.dtype, opposite: bool
) -> None:
    x = torch.rand(3, 4, 3, 3).to(dtype)
    x[1, 2, 0, 1] = fault
    y = focused_dropout(x, 0.5, opposite)
    assert torch.equal(y[1].view(torch.uint8), x[1].view(torch.uint8))  # bit by bit
    assert torch.equal(y[0], focused_dropout(x[:1], 0.5, opposite)[0])  # the others go on
    assert not torch.equal(y[0], x[0])


def test_minus_inf_outside_the_area_becomes_nan() -> None:
    x = torch.tensor([[[[4.0, 1.0]], [[-INF, -INF]]]])
    for y in (focused_dropout(x, 0.5), active(FocusedDropout(0.5))(x)):
        assert y[0, 1, 0, 0] == -INF
        assert y[0, 1, 0, 1].isnan()
        assert y[0, 0].tolist() == [[4, 0]]


# --------------------------------------------------------------------------- clear errors


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 4, 4), r"shape \(N, C, H, W\), not \(3, 4, 4\)"),
        ((1, 2, 3, 4, 4), r"shape \(N, C, H, W\), not \(1, 2, 3, 4, 4\)"),
        ((2, 3, 0, 4), r"at least one channel and one place, not \(2, 3, 0, 4\)"),
        ((2, 3, 4, 0), r"at least one channel and one place, not \(2, 3, 4, 0\)"),
        ((2, 0, 4, 4), r"at least one channel and one place, not \(2, 0, 4, 4\)"),
    ],
)
def test_wrong_shapes(shape: tuple[int, ...], message: str) -> None:
    for call in (focus_mask, focused_dropout):
        with pytest.raises(ValueError, match=message):
            call(torch.rand(shape), 0.5)
    layer = active(FocusedDropout())
    with pytest.raises(ValueError, match=message):
        layer(torch.rand(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integer_maps(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"floating point feature maps, not {dtype}"):
        focused_dropout(torch.ones(1, 1, 2, 2, dtype=dtype), 0.5)


@pytest.mark.parametrize("gamma", [-0.1, 1.0, 1, 2.5, NAN, INF])
def test_gamma_out_of_range(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\), not"):
        focused_dropout(torch.rand(1, 1, 2, 2), gamma)


@pytest.mark.parametrize("shape", [(2,), (3, 1), (3, 1, 1, 1), (0,)])
def test_gamma_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one per image, shape \(3,\), not"):
        focused_dropout(torch.rand(3, 2, 2, 2), torch.full(shape, 0.5))


@pytest.mark.parametrize("gamma", [(0.6, 0.3), (-0.1, 0.5), (0.5, 1.0), 1.0, -1, (NAN, 0.5), NAN])
def test_layer_with_a_bad_range(gamma: Any) -> None:
    with pytest.raises(ValueError, match="gamma must satisfy 0 <= low <= high < 1"):
        FocusedDropout(gamma)


def test_empty_batch() -> None:
    x = torch.rand(0, 3, 4, 5, requires_grad=True)
    layer = active(FocusedDropout())
    for y in (focused_dropout(x, 0.5), focused_dropout(x, torch.rand(0)), layer(x)):
        assert y.shape == x.shape
        y.sum().backward()
    assert focus_mask(x, 0.5).shape == (0, 1, 4, 5)
    assert layer.statistics() == {
        "images": 0,
        "unmasked_images": 0,
        "keep_ratio": None,
        "zeros_ratio": None,
    }


# --------------------------------------------------------------------------- the layer


def active(layer: FocusedDropout) -> FocusedDropout:
    layer.active = True
    return layer


def test_defaults_are_the_papers() -> None:
    layer = FocusedDropout()
    assert layer.gamma == (0.3, 0.6)
    assert layer.opposite is False
    assert layer.active is False
    assert repr(layer) == "FocusedDropout(gamma=(0.3, 0.6), opposite=False)"


@pytest.mark.parametrize(("training", "is_active"), [(True, False), (False, True), (False, False)])
def test_identity_returns_the_very_same_tensor(training: bool, is_active: bool) -> None:
    layer = FocusedDropout().train(training)
    layer.active = is_active
    x = torch.rand(2, 3, 4, 4)
    assert layer(x) is x
    assert layer.statistics()["images"] == 0


def test_holds_no_parameters_and_no_buffers() -> None:
    layer = active(FocusedDropout())
    layer(torch.rand(2, 3, 4, 4))
    assert not list(layer.parameters()) and not list(layer.buffers()) and not layer.state_dict()


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_with_a_fixed_gamma_is_the_function(
    dtype: torch.dtype, memory_format: torch.memory_format, opposite: bool
) -> None:
    layer = active(FocusedDropout(0.45, opposite))
    x = torch.randn(4, 3, 5, 6).to(dtype).contiguous(memory_format=memory_format)
    y = layer(x)
    assert torch.equal(y, focused_dropout(x, 0.45, opposite))
    assert not torch.equal(y, x)
    assert y.dtype == dtype and y.is_contiguous(memory_format=memory_format)


def test_gamma_is_drawn_once_per_image_and_uniformly_from_the_range() -> None:
    # A ramp from 0 to 1: the number of units kept tells the gamma of an image.
    units = 1000
    ramp = torch.arange(1, units + 1).view(1, 1, 1, -1).expand(4000, 2, 1, -1) / units
    y = active(FocusedDropout((0.3, 0.6)))(ramp)
    kept = y[:, 0, 0] > 0
    assert torch.equal(kept, y[:, 1, 0] > 0)
    assert (kept[:, 1:] >= kept[:, :-1]).all()  # one threshold an image, not one a unit
    gamma = 1 - kept.sum(dim=1) / units
    assert gamma.min() >= 0.3 - 1e-3 and gamma.max() <= 0.6 + 1e-3
    assert gamma.min() < 0.302 and gamma.max() > 0.598
    # Mean and deviation of U(0.3, 0.6): 0.45 and 0.3 / sqrt(12); four standard errors.
    assert abs(gamma.mean() - 0.45) < 4 * 0.0866 / 4000**0.5
    assert abs(gamma.std() - 0.0866) < 0.004


def test_gamma_comes_from_the_default_generator_in_float32() -> None:
    layer, x = active(FocusedDropout()), torch.rand(8, 3, 6, 6)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    gamma = 0.3 + (0.6 - 0.3) * torch.rand(8)
    assert torch.equal(focused_dropout(x, gamma), first)
    torch.manual_seed(5)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(layer(x), first)
    finally:
        torch.set_default_dtype(default)


def test_activation_checkpointing_draws_the_same_mask_again() -> None:
    layer = active(FocusedDropout())
    x = torch.rand(16, 3, 8, 8, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda x: layer(x) * x, x, use_reentrant=False)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, 2 * x * (y != 0))
    assert layer.statistics()["images"] == 2 * 16  # the recomputation counts too


# --------------------------------------------------------------------------- statistics


def test_statistics_against_a_hand_count() -> None:
    layer = active(FocusedDropout(0.5))
    assert layer.statistics()["keep_ratio"] is None and layer.statistics()["zeros_ratio"] is None
    layer(torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]]))  # 2 of 4 kept
    layer(torch.tensor([[[[4.0, 0.0, 0.0, 0.0]]], [[[-1.0, -1.0, -1.0, -1.0]]]]))  # 1, and unmasked
    layer(torch.full((1, 7, 2, 2), NAN))  # unmasked; channels do not count
    layer(torch.ones(1, 1, 2, 2))  # all 4 kept, yet not for want of an area
    statistics = layer.statistics()
    assert statistics["images"] == 5
    assert statistics["unmasked_images"] == 2
    assert statistics["keep_ratio"] == (2 + 1 + 4 + 4 + 4) / 20
    assert statistics["zeros_ratio"] == pytest.approx(5 / 20)
    layer.reset_statistics()
    assert layer.statistics() == {
        "images": 0,
        "unmasked_images": 0,
        "keep_ratio": None,
        "zeros_ratio": None,
    }
    layer(torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]]))
    assert layer.statistics()["images"] == 1


def test_statistics_of_the_opposite_mask() -> None:
    layer = active(FocusedDropout(0.5, opposite=True))
    layer(torch.tensor([[[[4.0, 0.0, 0.0, 0.0]]], [[[-1.0, -1.0, -1.0, -1.0]]]]))
    assert layer.statistics() == {
        "images": 2,
        "unmasked_images": 1,
        "keep_ratio": 7 / 8,
        "zeros_ratio": 1 / 8,
    }


def test_counts_survive_casts_and_follow_the_network() -> None:
    layer = active(FocusedDropout(0.5))
    layer(torch.ones(2, 1, 2, 2))
    nn.Sequential(layer).half().to(memory_format=torch.channels_last).double()
    assert layer.statistics()["images"] == 2
    nn.Sequential(layer).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        layer.statistics()  # the counts went along
    on_meta = torch.ones(2, 3, 4, 4, device="meta")
    assert layer(on_meta).device == on_meta.device
    assert active(FocusedDropout())(on_meta).device == on_meta.device  # built after the move


# --------------------------------------------------------------------------- placing it


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


# --------------------------------------------------------------------------- no wait for the device


class NoRead(TorchDispatchMode):
    """Fail on any operation that brings a value of the device to the host."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "item", "equal", "masked_select", "_unique")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 else ()
        by_mask = isinstance(indices, list | tuple) and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices
        )
        if by_mask or name.startswith(self.FORBIDDEN):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
    ],
)
def test_control_the_mode_sees_reads(read: Callable[[Tensor], Any]) -> None:
    x = torch.rand(2, 3)
    with (
        NoRead(),  # type: ignore[no-untyped-call]
        pytest.raises(AssertionError, match="waits for the device"),
    ):
        read(x)


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("gamma", [0.5, (0.3, 0.6)])
def test_forward_and_backward_never_wait_for_the_device(gamma: Any, opposite: bool) -> None:
    layer = active(FocusedDropout(gamma, opposite))
    x = torch.rand(4, 3, 5, 5, requires_grad=True)
    with NoRead():  # type: ignore[no-untyped-call]
        y = layer(x)
        y.sum().backward()
        layer.reset_statistics()
        focused_dropout(x, torch.full((4,), 0.5))
    # The mode does not see `tolist` on a CPU; meta tensors have no data that could be read.
    layer.to("meta")(torch.rand(4, 3, 5, 5, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        layer.statistics()
