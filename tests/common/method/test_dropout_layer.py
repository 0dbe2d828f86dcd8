"""The layer: when it acts, what it draws and counts, and that it never waits for the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common import FocusedDropout, focused_dropout
from common.method.draws import derived, uniform

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
NAN = float("nan")


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
    assert (kept[:, 1:] >= kept[:, :-1]).all()  # one threshold per image, not one per unit
    gamma = 1 - kept.sum(dim=1) / units
    assert gamma.min() >= 0.3 - 1e-3 and gamma.max() <= 0.6 + 1e-3
    assert gamma.min() < 0.302 and gamma.max() > 0.598
    # Mean and deviation of U(0.3, 0.6): 0.45 and 0.3 / sqrt(12); four standard errors.
    assert abs(gamma.mean() - 0.45) < 4 * 0.0866 / 4000**0.5
    assert abs(gamma.std() - 0.0866) < 0.004


def test_gamma_is_drawn_for_every_unit_where_that_is_asked_for() -> None:
    # Of equal units a share of (0.6 - 0.45) / 0.3 lies above a threshold drawn from (0.3, 0.6).
    maps = torch.full((50, 2, 40, 40), 0.45)
    maps[:, :, 0, 0] = 1.0
    layer = active(FocusedDropout(gamma_per="unit"))
    assert repr(layer) == "FocusedDropout(gamma=(0.3, 0.6), opposite=False, gamma_per='unit')"
    kept = layer(maps) > 0
    assert torch.equal(kept[:, 0], kept[:, 1])  # one mask for all channels
    assert kept[:, :, 0, 0].all()
    share = kept[:, 0].float()
    assert abs(share.mean() - 0.5) < 4 * 0.5 / (50 * 1600) ** 0.5
    # Neither images nor rows nor columns share a draw; four standard errors of one of them.
    inner = share[:, 1:, 1:]
    for axes, units in (((1, 2), 39 * 39), ((0, 1), 50 * 39), ((0, 2), 50 * 39)):
        assert (inner.mean(dim=axes) - 0.5).abs().max() < 4 * 0.5 / units**0.5
    assert layer.statistics()["keep_ratio"] == pytest.approx(share.mean().item())


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


def test_a_fixed_gamma_draws_nothing() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for gamma in (0, 0.45, (0.45, 0.45)):
        layer = active(FocusedDropout(gamma))
        assert layer.gamma == (0, 0) if gamma == 0 else layer.gamma == (0.45, 0.45)
        assert [type(end) for end in layer.gamma] == [float, float]
        layer(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_gamma_of_a_batch_is_one_draw() -> None:
    """Of the generator; or of the key of the batch's first image."""
    layer, x = active(FocusedDropout((0.2, 0.8), gamma_per="batch")), torch.rand(8, 3, 6, 6)
    torch.manual_seed(5)
    drawn = layer(x)
    torch.manual_seed(5)
    assert torch.equal(drawn, focused_dropout(x, 0.2 + (0.8 - 0.2) * torch.rand(())))
    layer.keys = torch.arange(8) + 3
    gamma = 0.2 + (0.8 - 0.2) * uniform(derived(torch.tensor([3]), 0))[0]
    assert torch.equal(layer(x), focused_dropout(x, gamma))


def test_a_gamma_of_each_unit_is_drawn_by_rows() -> None:
    layer, x = active(FocusedDropout((0.2, 0.8), gamma_per="unit")), torch.rand(4, 3, 5, 6)
    torch.manual_seed(5)
    drawn = layer(x)
    torch.manual_seed(5)
    assert torch.equal(drawn, focused_dropout(x, 0.2 + (0.8 - 0.2) * torch.rand(4, 5, 6)))
    layer.keys = torch.arange(4)
    gamma = 0.2 + (0.8 - 0.2) * uniform(derived(torch.arange(4), 0), 30).view(4, 5, 6)
    assert torch.equal(layer(x), focused_dropout(x, gamma))


def test_activation_checkpointing_draws_the_same_mask_again() -> None:
    layer = active(FocusedDropout())
    x = torch.rand(16, 3, 8, 8, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda x: layer(x) * x, x, use_reentrant=False)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, 2 * x * (y != 0))
    assert layer.statistics()["images"] == 2 * 16  # the recomputation counts too


@pytest.mark.parametrize("gamma", [(0.6, 0.3), (-0.1, 0.5), (0.5, 1.0), 1.0, -1, (NAN, 0.5), NAN])
def test_layer_with_a_bad_range(gamma: Any) -> None:
    with pytest.raises(ValueError, match="gamma must satisfy 0 <= low <= high < 1"):
        FocusedDropout(gamma)


def test_layer_with_an_unknown_choice() -> None:
    """A misspelt word once meant the last of the choices, without a word."""
    with pytest.raises(ValueError, match="gamma_per must be one of image, unit, batch, not 'uni'"):
        FocusedDropout(gamma_per="uni")  # type: ignore[arg-type]


def test_what_is_meant_to_stand_on_signed_maps_is_printed() -> None:
    assert repr(FocusedDropout(signed=True)) == (
        "FocusedDropout(gamma=(0.3, 0.6), opposite=False, signed=True)"
    )


# --------------------------------------------------------------------------- statistics


def test_statistics_against_a_hand_count() -> None:
    layer = active(FocusedDropout(0.5))
    assert layer.statistics()["keep_ratio"] is None and layer.statistics()["zeros_ratio"] is None
    layer(torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]]))  # 2 of 4 kept
    layer(torch.tensor([[[[4.0, 0.0, 0.0, 0.0]]], [[[-1.0, -1.0, -1.0, -1.0]]]]))  # 1, and unmasked
    layer(torch.full((1, 7, 2, 2), NAN))  # unmasked; channels do not count
    layer(torch.ones(1, 1, 2, 2))  # all 4 kept, yet not for lack of an area
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
