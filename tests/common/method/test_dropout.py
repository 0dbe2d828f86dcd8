"""The function against Algorithm 1 written out unit by unit."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common import FocusedDropout, focus_mask, focused_dropout

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
INF, NAN = float("inf"), float("nan")

# --------------------------------------------------------------------------- Algorithm 1


def algorithm_1(x: Tensor, gammas: list[Any], opposite: bool) -> Tensor:
    """Return the mask for every unit, shape (N, C, H, W), from loops over images and units.

    The gamma of an image is a number, or rows of a number for every unit. Means are exact
    fractions; the threshold is one float32 product.
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
        area = set()
        for i in range(height):  # lines 6 to 11
            for j in range(width):
                gamma = gammas[b][i][j] if isinstance(gammas[b], list) else gammas[b]
                if np.float32(image[k][i][j]) > np.float32(gamma) * np.float32(peak):
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
@given(x=feature_maps(), seed=st.integers(0, 2**32 - 1), opposite=st.booleans())
def test_a_gamma_for_every_unit_equals_algorithm_1(x: Tensor, seed: int, opposite: bool) -> None:
    gamma = torch.rand(
        (len(x), *x.shape[2:]), generator=torch.Generator().manual_seed(seed)
    )  # below 1
    expected = algorithm_1(x, gamma.tolist(), opposite)
    assert torch.equal(focused_dropout(x, gamma, opposite), x * expected)


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
    assert torch.equal(y[0], focused_dropout(x[:1], 0.5, opposite)[0])  # the others continue
    assert not torch.equal(y[0], x[0])


def test_minus_inf_outside_the_area_becomes_nan() -> None:
    x = torch.tensor([[[[4.0, 1.0]], [[-INF, -INF]]]])
    for y in (focused_dropout(x, 0.5), active(FocusedDropout(0.5))(x)):
        assert y[0, 1, 0, 0] == -INF
        assert y[0, 1, 0, 1].isnan()
        assert y[0, 0].tolist() == [[4, 0]]


# --------------------------------------------------------------------------- clear errors


def active(layer: FocusedDropout) -> FocusedDropout:
    layer.active = True
    return layer


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
    with pytest.raises(ValueError, match=r"one per image, shape \(3,\), or .* not"):
        focused_dropout(torch.rand(3, 2, 2, 2), torch.full(shape, 0.5))


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
