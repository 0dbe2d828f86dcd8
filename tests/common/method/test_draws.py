"""Keys of images, and the draws that are made from them."""

from hashlib import blake2b

import numpy as np
import pytest
import torch
from torch import Tensor

from common import FocusedDropout, FocusedTraining
from common.method.controls import ControlDropout
from common.method.draws import derived, image_keys, uniform

MASK = 2**32 - 1


def mixed(x: int) -> int:
    """Hash as the constants' author writes it in C: uint32, in Python's whole numbers."""
    x ^= x >> 16
    x = x * 0x21F0AAAD & MASK
    x ^= x >> 15
    x = x * 0x735A2D97 & MASK
    return x ^ (x >> 15)


def test_keys_belong_to_positions_in_the_batch() -> None:
    whole = image_keys(3, 7, 0, 100)
    for first, count in ((0, 1), (5, 20), (16, 16), (31, 2), (99, 1)):
        torch.testing.assert_close(image_keys(3, 7, first, count), whole[first : first + count])
    assert len(set(whole.tolist())) == 100
    for other in (image_keys(4, 7, 0, 100), image_keys(3, 8, 0, 100)):
        assert not set(other.tolist()) & set(whole.tolist())


def test_keys_are_the_same_for_ever() -> None:
    """Else a run of before could not be repeated, nor resumed with the same masks."""
    digests = [blake2b(f"3 7 {n}".encode(), person=b"images").digest() for n in range(2)]
    expected = [int.from_bytes(d[i : i + 4], "little") for d in digests for i in range(0, 64, 4)]
    assert image_keys(3, 7, 0, 32).tolist() == expected
    assert expected[:2] == [2671735004, 1984503620]


def test_draws_are_the_hash_written_out() -> None:
    keys = image_keys(0, 0, 0, 5)
    expected = [[mixed(k + mixed(j) & MASK) >> 8 for j in range(7)] for k in keys.tolist()]
    assert (uniform(keys, 7) * 2**24).tolist() == expected
    assert (uniform(keys) * 2**24).tolist() == [mixed(k) >> 8 for k in keys.tolist()]
    assert derived(keys, -2).tolist() == [mixed(k - 2 * 0x9E3779B9 & MASK) for k in keys.tolist()]


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def test_draws_are_uniform_and_of_images_places_layers_and_steps_independent() -> None:
    """Each within five deviations of chance."""
    keys = torch.cat([image_keys(0, step, 0, 64) for step in range(64)])
    draws = uniform(keys, 64)
    assert 0 <= draws.min() < draws.max() < 1
    counts = torch.histc(draws, 64, 0, 1)
    expected = draws.numel() / 64
    assert (counts - expected).square().sum() / expected < 63 + 5 * (2 * 63) ** 0.5
    limit = 5 / (draws.numel() / 2) ** 0.5
    pairs = [
        (draws[1:], draws[:-1]),
        (draws[64:], draws[:-64]),
        (draws[:, 1:], draws[:, :-1]),
        (draws, uniform(derived(keys, 1), 64)),
        (draws, uniform(derived(keys, -1), 64)),
    ]
    assert max(abs(correlation(*pair)) for pair in pairs) < limit
    one = uniform(keys)
    assert abs(correlation(one[1:], one[:-1])) < 5 / len(one) ** 0.5


def active(layer: FocusedDropout) -> FocusedDropout:
    layer.active = True
    return layer


@pytest.mark.parametrize("per", ["image", "unit"])
@pytest.mark.parametrize("kind", [FocusedDropout, ControlDropout])
def test_a_mask_is_of_the_image_alone(per: str, kind: type[FocusedDropout]) -> None:
    """Whatever batch it stands in, and wherever the generator does."""
    more = {"reference": "random", "places": "shuffled"} if kind is ControlDropout else {}
    layer = active(kind(gamma_per=per, signed=True, **more))  # type: ignore[arg-type]
    x, keys = torch.rand(8, 4, 5, 6) + 0.01, image_keys(0, 0, 0, 8)
    layer.keys = keys
    whole = layer(x)
    torch.manual_seed(99)
    layer.keys = keys[3:5]
    assert torch.equal(layer(x[3:5]), whole[3:5])
    layer.keys = keys.roll(1)
    assert not torch.equal(layer(x), whole)


def test_gamma_is_the_draw_of_the_key() -> None:
    layer, keys = active(FocusedDropout((0.2, 0.8), signed=True)), image_keys(0, 0, 0, 50)
    layer.keys = keys
    ramp = torch.linspace(0, 1, 1001).expand(50, 1, 1, 1001)
    kept = layer(ramp).count_nonzero(dim=(1, 2, 3)) / 1000
    gamma = 0.2 + 0.6 * uniform(derived(keys, 0))
    torch.testing.assert_close(kept, 1 - gamma, rtol=0, atol=0.0011)


def test_layers_of_a_network_draw_for_themselves_and_no_longer_than_the_step() -> None:
    model = torch.nn.Sequential(FocusedDropout(signed=True), FocusedDropout(signed=True))
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], 0.1, weight_decay=1e-4)
    focus = FocusedTraining(model, optimizer, 1.0)
    x, keys = torch.rand(4, 2, 6, 6), image_keys(0, 0, 0, 4)
    first, second = focus.layers
    with focus.step(0):
        focus.draw_from(keys)
        assert not torch.equal(first(x), second(x))
        assert torch.equal(first(x), first(x))
        with pytest.raises(ValueError, match=r"got keys of shape \(4,\) for 3 images"):
            first(x[:3])
    assert first.keys is second.keys is None


def test_keys_end_with_a_step_that_does_not_take_part_as_well() -> None:
    model = torch.nn.Sequential(FocusedDropout())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], 0.1, weight_decay=1e-4)
    focus = FocusedTraining(model, optimizer, 0.0)
    with focus.step(0) as participating:
        focus.draw_from(image_keys(0, 0, 0, 4))
    assert not participating
    assert focus.layers[0].keys is None
