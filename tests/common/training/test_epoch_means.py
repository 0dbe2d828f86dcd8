"""Means over the images of an epoch, by hand."""

import pytest
import torch

from common.training import epoch_means
from common.training.epoch_means import EpochSums

CPU = torch.device("cpu")


def sums_of(*batches: tuple[float, int], count: bool = True) -> EpochSums:
    """Take in batches of a mean loss and a number of images."""
    sums = EpochSums()
    for loss, images in batches:
        sums.add({"loss": torch.tensor(loss)}, images, count=count)
    return sums


def test_an_epoch_that_has_not_begun() -> None:
    sums = EpochSums()
    assert (sums.images, sums.means(), sums.means_over_ranks(), sums.non_finite()) == (
        0,
        {},
        {},
        [],
    )
    assert sums.state() == {"images": 0, "sums": {}}


def test_means_are_over_images_not_batches() -> None:
    sums = sums_of((1.0, 8), (4.0, 1))
    sums.add({"gradient_norm": torch.tensor(3.0), "loss": torch.tensor(0.0)}, 3)
    sums.add({"gradient_norm": torch.tensor(1.5)}, 12, count=False)  # images that are in already
    assert sums.images == 12
    expected = {"loss": 1.0, "gradient_norm": (9 + 18) / 12}
    assert sums.means() == sums.means_over_ranks() == expected
    assert list(sums.means()) == ["loss", "gradient_norm"]


def test_without_an_image_nothing_is_divided_by_zero() -> None:
    sums = sums_of((2.5, 1), count=False)
    assert sums.images == 0
    assert sums.means() == sums.means_over_ranks() == {"loss": 2.5}


def test_sums_are_exact_and_keep_no_graph() -> None:
    """In float64: a float32 sum of an epoch would swallow what its last images add."""
    sums, one = EpochSums(), torch.tensor(1.0, requires_grad=True)
    sums.add({"loss": one * 2**25}, 1)
    sums.add({"loss": one}, 1)
    assert sums.state() == {"images": 2, "sums": {"loss": 2.0**25 + 1}}
    assert not sums._sums["loss"].requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_named(value: float) -> None:
    sums = sums_of((1.0, 2))
    sums.add({"box": torch.tensor(value), "norm": torch.tensor(0.0)}, 2)
    assert sums.non_finite() == ["box"]
    assert sums_of((1.0, 2)).non_finite() == []


def test_sums_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another rank had three images of loss 5."""
    sums = sums_of((1.0, 8))
    other = torch.tensor([15.0, 3.0], dtype=torch.float64)
    monkeypatch.setattr(epoch_means, "sum_over_ranks", lambda mine: mine + other)
    assert sums.means() == {"loss": 1.0}
    assert sums.means_over_ranks() == {"loss": 23 / 11}
    state = sums.state()
    assert state == {"images": 11, "sums": {"loss": 23.0}} and type(state["images"]) is int
    monkeypatch.undo()
    main, rest = EpochSums(), EpochSums()
    main.restore(state, CPU, is_main=True)
    rest.restore(state, CPU, is_main=False)
    assert main.state() == state
    assert rest.state() == {"images": 0, "sums": {"loss": 0.0}}
    main.add({"loss": torch.tensor(1.0)}, 1)
    assert (main.images, main.means()) == (12, {"loss": 2.0})
