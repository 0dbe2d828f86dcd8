"""Crops, flips and normalisation against literal versions and their distributions."""

import os
import random
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import functional as tv

from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data import augment
from pretrain.data.augment import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    ResidentImages,
    crop_and_flip_draws,
    draw_crop,
    eval_image,
    normalize,
    train_image,
)
from pretrain.data.image_sets import PixelSet

CPU = torch.device("cpu")


def random_pixels(num_images: int, height: int, width: int) -> PixelSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (num_images, height, width, 3), np.uint8)  # 0 is the border
    return PixelSet(pixels, rng.integers(0, 10, num_images), tuple("abcdefghij"))


# ---- sets on the device ----


def literal_crop_and_flip(
    image: NDArray[np.uint8], padding: int, top: int, left: int, flip: int
) -> NDArray[np.uint8]:
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, 3), np.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    crop = padded[top : top + height, left : left + width]
    return crop[:, ::-1] if flip else crop


@settings(max_examples=30, deadline=None)
@given(
    num_images=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 4),
    seed=st.integers(-3, 2**40),
    epoch=st.integers(0, 300),
)
def test_train_batch_is_pad_slice_flip(
    num_images: int, height: int, width: int, padding: int, seed: int, epoch: int
) -> None:
    data = random_pixels(num_images, height, width)
    draws = crop_and_flip_draws(num_images, padding, seed, epoch)
    order = np.random.default_rng(epoch).permutation(num_images)
    images, labels = ResidentImages(data, padding, seed, CPU).train_batch(epoch, order)
    assert images.shape == (num_images, 3, height, width)
    for image, index in zip(images, order, strict=True):
        expected = literal_crop_and_flip(data.pixels[index], padding, *draws[index].tolist())
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert labels.tolist() == data.labels[order].tolist()


def test_eval_batch_is_the_images() -> None:
    data = random_pixels(20, 6, 8)
    indices = np.array([3, 0, 19, 3])
    images, labels = ResidentImages(data, 4, 0, CPU).eval_batch(indices)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), data.pixels[indices])
    assert labels.tolist() == data.labels[indices].tolist()


def test_batches_are_bytes_channels_last() -> None:
    resident = ResidentImages(random_pixels(8, 5, 5), 2, 0, CPU)
    indices = np.arange(8)
    for images, labels in (resident.train_batch(0, indices), resident.eval_batch(indices)):
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


def test_a_crop_does_not_depend_on_batch_order_or_history() -> None:
    data, order = random_pixels(30, 8, 8), np.random.default_rng(1).permutation(30)
    resident = ResidentImages(data, 2, 5, CPU)
    whole, _ = resident.train_batch(3, order)
    next_epoch, _ = resident.train_batch(4, order)
    parts = [resident.train_batch(3, part)[0] for part in np.array_split(order, 7)]
    assert torch.equal(whole, torch.cat(parts))
    resumed, _ = ResidentImages(data, 2, 5, CPU).train_batch(4, order)
    assert torch.equal(next_epoch, resumed)
    other_seed, _ = ResidentImages(data, 2, 6, CPU).train_batch(3, order)
    assert not torch.equal(whole, next_epoch)
    assert not torch.equal(whole, other_seed)


def test_an_image_keeps_its_draws_in_a_larger_set() -> None:
    small, large = (crop_and_flip_draws(count, 4, 0, 0) for count in (10, 1000))
    np.testing.assert_array_equal(small, large[:10])


def test_draws_are_the_same_everywhere() -> None:
    """Integers that no process, machine or version of numpy may change: a run must resume."""
    draws = [[8, 0, 0], [2, 6, 1], [3, 7, 0], [8, 4, 1]]
    assert crop_and_flip_draws(4, 4, 0, 0).tolist() == draws


def test_draws_are_even_and_independent() -> None:
    num_images, offsets = 81_000, 9
    draws = crop_and_flip_draws(num_images, 4, 0, 0)
    top, left, flip = draws.T
    cells = np.bincount((top * offsets + left) * 2 + flip, minlength=2 * offsets**2)
    assert len(cells) == 2 * offsets**2
    expected = num_images / len(cells)
    chi_square = ((cells - expected) ** 2 / expected).sum()
    # 161 degrees of freedom: mean 161, standard deviation 18.
    assert abs(chi_square - 161) < 4 * 18
    # Nor does an image's draw tell the next image's, or its own in the next epoch.
    after = crop_and_flip_draws(num_images, 4, 0, 1)
    for column in range(3):
        first = draws[:, column]
        for second in (np.roll(first, 1), after[:, column]):
            assert abs(np.corrcoef(first, second)[0, 1]) < 4 / num_images**0.5


def test_images_are_made_by_operations_on_the_device_alone() -> None:
    """What is traced from one table serves for any other, as a CUDA graph does."""
    resident = ResidentImages(random_pixels(30, 8, 8), 2, 5, CPU)
    first, second = np.arange(10), np.arange(29, 19, -1)
    traced = make_fx(lambda table: resident.take(table))(resident.draw(3, first))
    for epoch, indices in ((3, first), (4, second), (3, second)):
        expected = resident.train_batch(epoch, indices)
        for found, wanted in zip(traced(resident.draw(epoch, indices)), expected, strict=True):
            assert torch.equal(found, wanted)


def test_an_epoch_is_drawn_once_and_anew_when_it_changes() -> None:
    resident = ResidentImages(random_pixels(30, 8, 8), 2, 5, CPU)
    indices = np.array([7, 0, 29])
    for epoch in (0, 1, 0):
        draws = crop_and_flip_draws(30, 2, 5, epoch)[indices]
        assert resident.draw(epoch, indices).T.tolist() == np.c_[indices, draws].tolist()


OUTCOMES = np.array(list(product(range(9), range(9), range(2))))
"""Every top, left and flip with a padding of 4."""


def by_torchvision(image: NDArray[np.uint8], top: int, left: int, flip: int) -> Tensor:
    height, width, _ = image.shape
    padded = tv.pad(torch.from_numpy(image).permute(2, 0, 1), [4])
    crop = tv.crop(padded, top, left, height, width)
    result: Tensor = tv.hflip(crop) if flip else crop
    return result


def test_every_outcome_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_pixels(len(OUTCOMES), 32, 32)
    monkeypatch.setattr(augment, "crops_and_flips", lambda *arguments: OUTCOMES)
    images, _ = ResidentImages(data, 4, 0, CPU).train_batch(0, np.arange(len(OUTCOMES)))
    for image, pixels, outcome in zip(images, data.pixels, OUTCOMES, strict=True):
        assert torch.equal(image, by_torchvision(pixels, *outcome)), outcome


def test_outcomes_are_as_likely_as_torchvisions() -> None:
    """Both leave a picture of which each outcome is another: counts of equal distributions."""
    picture = np.arange(1, 82, dtype=np.uint8).reshape(9, 9, 1).repeat(3, axis=2)
    number = {
        by_torchvision(picture, *outcome).numpy().tobytes(): i for i, outcome in enumerate(OUTCOMES)
    }
    assert len(number) == 162
    count = 50 * 162
    pixels = np.broadcast_to(picture, (count, 9, 9, 3)).copy()
    data = PixelSet(pixels, np.zeros(count, np.int64), ("one",))
    ours, _ = ResidentImages(data, 4, 0, CPU).train_batch(0, np.arange(count))
    usual = transforms.Compose(
        [transforms.RandomCrop(9, padding=4), transforms.RandomHorizontalFlip()]
    )
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    theirs = [usual(tensor) for _ in range(count)]
    counts = [
        np.bincount(
            [number[image.contiguous().numpy().tobytes()] for image in images], minlength=162
        )
        for images in (ours, theirs)
    ]
    chi_square = ((counts[0] - counts[1]) ** 2 / (counts[0] + counts[1])).sum()
    # 161 degrees of freedom: mean 161, standard deviation 18.
    assert abs(chi_square - 161) < 4 * 18


def test_border_is_zero() -> None:
    data = random_pixels(200, 6, 6)  # no pixel of an image is zero
    images, _ = ResidentImages(data, 3, 0, CPU).train_batch(0, np.arange(200))
    top, left, flip = crop_and_flip_draws(200, 3, 0, 0).T
    kept = (6 - abs(top - 3)) * (6 - abs(left - 3))
    np.testing.assert_array_equal((images > 0).sum(dim=(1, 2, 3)).numpy(), 3 * kept)
    assert kept.min() == 9
    assert 0 < flip.mean() < 1


@pytest.mark.parametrize(
    ("mean", "std"), [(CIFAR10_MEAN, CIFAR10_STD), (IMAGENET_MEAN, IMAGENET_STD)]
)
def test_normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(2, 1, 1, 3)
    images = every_value.permute(0, 3, 1, 2)
    result = normalize(images, mean, std)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(result[:, channel].double(), expected, rtol=0, atol=1e-6)


# ---- files ----


@pytest.fixture
def ramps() -> NDArray[np.uint8]:
    """Red tells the column, green the row, so a crop shows where it was cut."""
    pixels = np.zeros((200, 240, 3), np.uint8)
    pixels[..., 0] = np.arange(240)
    pixels[..., 1] = np.arange(200)[:, None]
    return pixels


def seen_part(crop: NDArray[np.uint8]) -> tuple[float, float, bool]:
    """Width and height of the part of `ramps` in a crop, about, and whether it is flipped."""
    size = len(crop)
    red, green = crop[:, :, 0].astype(float).mean(0), crop[:, :, 1].astype(float).mean(1)
    stretch = size / (size - 1)  # outermost pixels stand for their centres
    return abs(red[-1] - red[0]) * stretch, (green[-1] - green[0]) * stretch, red[-1] < red[0]


@pytest.mark.parametrize("min_scale", [0.08, 0.35])
def test_random_crops(ramps: NDArray[np.uint8], min_scale: float) -> None:
    count = 800
    crops = [train_image(ramps, 32, 0, 0, index, min_scale) for index in range(count)]
    assert all(crop.shape == (32, 32, 3) and crop.dtype == np.uint8 for crop in crops)
    widths, heights, flips = map(np.array, zip(*map(seen_part, crops), strict=True))
    areas, ratios = widths * heights / (240 * 200), widths / heights
    assert areas.min() > min_scale * 0.93  # sides are measured to about 2 pixels
    assert areas.min() < min_scale + 0.05
    assert 0.9 < areas.max() < 1.05
    assert 3 / 4 * 0.95 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 4 / 3 * 1.05
    half = 4 * 0.5 / count**0.5  # four standard deviations of a share of one half
    assert abs(flips.mean() - 0.5) < half
    # Among the smaller crops, too, half are flipped.
    assert abs(flips[areas < np.median(areas)].mean() - 0.5) < half * 2**0.5
    # Every area is as likely, as long as it fits with its ratio: nearly so up to one half.
    below_half = areas[areas < 0.5]
    assert abs(np.median(below_half) - (min_scale + 0.5) / 2) < 0.05


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    seed=st.integers(-3, 2**40),
    epoch=st.integers(0, 300),
    index=st.integers(0, 2**31),
    min_scale=st.floats(0.01, 1),
)
def test_crops_are_albumentations(
    height: int, width: int, seed: int, epoch: int, index: int, min_scale: float
) -> None:
    """Drawn from the same generator, so a training keeps the crops it has always had."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # read on import: ask the network for nothing
    import albumentations

    crop = albumentations.RandomResizedCrop((8, 8), scale=(min_scale, 1.0), ratio=(3 / 4, 4 / 3))
    flip = albumentations.HorizontalFlip(p=0.5)
    both = albumentations.Compose([crop, flip])
    key = augment._hash(seed, epoch, index)
    both.set_random_state(np.random.default_rng(key), random.Random(key))
    both(image=np.zeros((height, width, 3), np.uint8))
    expected = (*crop.params["crop_coords"], bool(flip.params))
    assert draw_crop(height, width, seed, epoch, index, min_scale) == expected


def test_crops_are_the_same_everywhere() -> None:
    """Integers that no process, machine or version may change: a run must resume."""
    drawn = [draw_crop(375, 500, seed=0, epoch=0, index=index) for index in range(3)]
    assert drawn == [
        (101, 102, 413, 363, True),
        (91, 67, 350, 356, True),
        (91, 141, 240, 309, False),
    ]
    assert draw_crop(10, 500, seed=0, epoch=0, index=0) == (243, 0, 256, 10, False)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(3, 90),
    width=st.integers(3, 90),
    size=st.integers(1, 40),
    index=st.integers(0, 2**31),
)
def test_random_crops_are_torchvisions(height: int, width: int, size: int, index: int) -> None:
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
    left, top, right, bottom, flip = draw_crop(height, width, 0, 0, index)
    place = top, left, bottom - top, right - left
    expected = tv.resized_crop(Image.fromarray(pixels), *place, [size, size])
    if flip:
        expected = tv.hflip(expected)
    ours = train_image(pixels, size, 0, 0, index)
    assert ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - np.asarray(expected)).max() <= 1  # rounded otherwise


def test_a_random_crop_is_a_function_of_its_counters(ramps: NDArray[np.uint8]) -> None:
    crop = partial(train_image, ramps, 16)
    first = crop(0, 0, 0)
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not np.array_equal(first, crop(*other))
    np.testing.assert_array_equal(first, crop(0, 0, 0))
    assert not np.array_equal(crop(1, 12, 3), crop(11, 2, 3))


def test_random_crops_do_not_depend_on_workers(ramps: NDArray[np.uint8]) -> None:
    crop = partial(train_image, ramps, 16, 7, 2)
    here = [crop(index) for index in range(12)]
    loader: DataLoader[int] = DataLoader(
        list(range(11, -1, -1)),  # type: ignore[arg-type]  # any sequence serves
        batch_size=3,
        num_workers=2,
        collate_fn=lambda indices: [crop(index) for index in indices],
    )
    there = [image for batch in loader for image in batch]
    np.testing.assert_array_equal(here, there[::-1])


def test_shrunk_crops_are_antialiased() -> None:
    checkerboard = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    board = np.repeat(checkerboard[..., None], 3, axis=2)
    for index in range(10):  # parts of at least 150 x 150 pixels
        crop = train_image(board, 16, 0, 0, index, min_scale=0.5)
        assert np.abs(crop.astype(float) - 127.5).max() < 20  # aliasing would leave 0 or 255


@pytest.mark.parametrize("shape", [(32, 48), (90, 61), (20, 20), (300, 401)])
def test_eval_image_is_torchvisions(shape: tuple[int, int]) -> None:
    """On Pillow, as the published accuracies are."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    usual = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56)])
    image = eval_image(pixels, 56)
    assert image.shape == (56, 56, 3)
    expected = np.asarray(usual(Image.fromarray(pixels)))
    assert np.abs(image.astype(int) - expected).max() <= 1  # rounded otherwise


def test_eval_image_of_the_usual_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 301, 3), np.uint8)
    np.testing.assert_array_equal(eval_image(pixels, 224), pixels[16:240, 38:262])


def test_statistics_are_those_that_are_published() -> None:
    """Of the training pixels, as bearpaw/pytorch-classification and others state them."""
    assert (augment.CIFAR10_MEAN, augment.CIFAR10_STD) == (
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    )
    assert (augment.CIFAR100_MEAN, augment.CIFAR100_STD) == (
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    )
