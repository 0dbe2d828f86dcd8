"""Augmentation against painted pictures: a box is right if it frames its colour in the result."""

import colorsys
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from detect.data import augment as module
from detect.data.augment import augment

LIBRARIES = ("albumentations", "torchvision")
make_augmentation = module.make_augmentation
"""By the library that a test is run for."""


@pytest.fixture(scope="module", params=LIBRARIES, autouse=True)
def library(request):
    """Run every test for either library."""
    global make_augmentation
    make_augmentation = partial(module.make_augmentation, library=request.param)


def crop_only():
    return make_augmentation(crop=True, flip=0.0, colour=0.0)


def everything():
    return make_augmentation(crop=True, flip=0.5, colour=1.0)


def noise(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def painted(boxes, height=80, width=100):
    """Black, with box number k filled by grey value 100 + k."""
    image = np.zeros((height, width, 3), np.uint8)
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 100 + k
    return image


def frame_of(image, value):
    ys, xs = np.nonzero(image[:, :, 0] == value)
    return [] if len(xs) == 0 else [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_flip_worked_out_by_hand():
    image = noise(height=40, width=60)
    boxes, labels = np.array([[10, 5, 30, 20], [0, 0, 60, 40]], np.float32), np.array([3, 14])
    flip = make_augmentation(crop=False, flip=1.0, colour=0.0)
    flipped, new_boxes, new_labels = augment(flip, image, boxes, labels, 0, 0, 0)
    assert np.array_equal(flipped, image[:, ::-1])
    assert np.allclose(new_boxes, [[30, 5, 50, 20], [0, 0, 60, 40]], rtol=0, atol=1e-4)
    assert new_labels.tolist() == [3, 14]


def test_nothing_asked_nothing_changed():
    image, boxes = noise(), np.array([[1, 2, 59.5, 40]], np.float32)
    nothing = make_augmentation(crop=False, flip=0.0, colour=0.0)
    same, new_boxes, labels = augment(nothing, image, boxes, np.array([7]), 0, 0, 0)
    assert np.array_equal(same, image)
    assert np.allclose(new_boxes, boxes, rtol=0, atol=1e-4)
    assert labels.tolist() == [7]


def test_crop_and_flip_keep_boxes_on_their_pixels():
    boxes = [(2, 3, 10, 13), (40, 20, 70, 60), (85, 70, 99, 79)]
    image, labels = painted(boxes), np.array([100, 101, 102])
    compose = make_augmentation(crop=True, flip=0.5, colour=0.0)
    sizes, dropped = set(), 0
    for index in range(200):
        result = augment(compose, image, np.array(boxes, np.float32), labels, 0, 0, index)
        sizes.add(result[0].shape)
        for box, label in zip(result[1], result[2], strict=True):
            assert np.allclose(box, frame_of(result[0], label), rtol=0, atol=1e-3)
        for k in set(labels) - set(result[2]):
            dropped += 1
            whole, left = ((picture[:, :, 0] == k).sum() for picture in (image, result[0]))
            assert left <= 0.1 * whole
    assert len(sizes) > 100
    assert dropped > 0


def test_a_window_lies_anywhere_and_keeps_boxes_on_their_pixels():
    boxes = [(2, 3, 10, 13), (40, 20, 70, 60), (85, 70, 99, 79)]
    image, labels = painted(boxes), np.array([100, 101, 102])
    compose = make_augmentation(crop=False, flip=0.0, colour=0.0, window=50)
    rows = np.arange(80, dtype=np.uint8)[:, None]
    image[:, :, 1], image[:, :, 2] = rows, np.arange(100, dtype=np.uint8)
    corners = Counter()
    for index in range(3100):
        cut, found, kept = augment(compose, image, np.array(boxes, np.float32), labels, 0, 0, index)
        assert cut.shape == (50, 50, 3)
        y, x = cut[0, 0, 1:].tolist()
        assert np.array_equal(cut, image[y : y + 50, x : x + 50])
        corners["y", y] += 1
        corners["x", x] += 1
        for box, label in zip(found, kept, strict=True):
            assert np.allclose(box, frame_of(cut, label), rtol=0, atol=1e-3)
        for k in set(labels) - set(kept):  # gone only where less than a tenth of it is left
            whole, left = ((picture[:, :, 0] == k).sum() for picture in (image, cut))
            assert left <= 0.1 * whole
    # Each of 31 rows has 100 expected with a deviation of 9.8, each of 51 columns 61 with 7.7.
    assert {key for key, _ in corners.items()} == {("y", n) for n in range(31)} | {
        ("x", n) for n in range(51)
    }
    assert all(50 < n < 150 for (axis, _), n in corners.items() if axis == "y")
    assert all(22 < n < 100 for (axis, _), n in corners.items() if axis == "x")


@pytest.mark.parametrize("shape", [(30, 40), (30, 90), (90, 30), (50, 50)])
def test_a_window_leaves_a_smaller_side_alone(shape):
    compose = make_augmentation(crop=False, flip=0.0, colour=0.0, window=50)
    box, label = np.array([[1, 2, 20, 29]], np.float32), np.array([3])
    for index in range(20):
        cut, _, _ = augment(compose, noise(*shape), box, label, 0, 0, index)
        assert cut.shape[:2] == tuple(min(side, 50) for side in shape)


def test_a_person_who_leaves_the_crop_goes_with_his_label():
    # The eroded common rectangle is x 10..90 of 100: a crop may leave out the person at the edge.
    boxes, labels = np.array([[0, 30, 8, 50], [30, 20, 100, 70]], np.float32), np.array([14, 6])
    image = painted(boxes.astype(int))
    change = crop_only()
    results = [augment(change, image, boxes, labels, 0, 0, index) for index in range(100)]
    without = [r for r in results if 100 not in r[0]]
    assert len(without) > 5
    assert all(r[2].tolist() == [6] and r[1].shape == (1, 4) for r in without)


def test_a_crop_takes_a_tenth_off_the_boxes_rectangle_at_each_side_at_most():
    """Of 100 columns, all in the rectangle: 10 to 90 stay; where the crop ends is spread evenly."""
    image = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (80, 100, 3)).copy()
    boxes, labels = np.array([[0, 0, 60, 80], [40, 0, 100, 80]], np.float32), np.array([1, 2])
    change = crop_only()
    rows = [augment(change, image, boxes, labels, 0, 0, index)[0][0, :, 0] for index in range(200)]
    first, last = np.array([[row[0], row[-1] + 1] for row in rows]).T
    assert 7 < first.max() <= 10 and 90 <= last.min() < 93


def test_a_box_beyond_the_image_is_cut_and_an_empty_one_dropped():
    boxes = np.array([[-0.5, 3, 60.5, 41], [7, 7, 7, 20]], np.float32)
    nothing = make_augmentation(crop=False, flip=0.0, colour=0.0)
    _, new_boxes, labels = augment(nothing, noise(40, 60), boxes, np.array([1, 2]), 0, 0, 0)
    assert np.allclose(new_boxes, [[0, 3, 60, 40]], rtol=0, atol=1e-4)
    assert labels.tolist() == [1]


@pytest.mark.parametrize("make", [crop_only, everything])
def test_an_image_without_boxes(make):
    compose = make()
    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for index in range(20):
        image, boxes, labels = augment(compose, noise(), no_boxes, no_labels, 0, 0, index)
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
        assert (boxes.dtype, boxes.shape) == (np.float32, (0, 4))
        assert (labels.dtype, labels.shape) == (np.int64, (0,))


@given(
    size=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    fractions=st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5),
    index=st.integers(0, 10**9),
)
@settings(deadline=None, max_examples=80)
def test_any_boxes_give_a_valid_result(size, fractions, index):
    height, width = size
    corners = [
        (a * (width - 1), b * (height - 1), a * (width - 1) + 1 + c, b * (height - 1) + 1 + d)
        for a, b, c, d in fractions
    ]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    boxes = np.minimum(boxes, np.array([width, height] * 2, np.float32))
    labels = np.arange(len(boxes))
    image, new_boxes, new_labels = augment(
        everything(), noise(height, width), boxes, labels, 1, 2, index
    )
    new_height, new_width = image.shape[:2]
    assert 2 * new_height >= height and 2 * new_width >= width
    assert new_boxes.dtype == np.float32 and new_labels.dtype == np.int64
    assert new_boxes.shape == (len(new_labels), 4)
    assert set(new_labels) <= set(labels)
    assert (new_boxes[:, :2] < new_boxes[:, 2:]).all()
    assert (new_boxes >= 0).all()
    assert (new_boxes <= np.array([new_width, new_height] * 2)).all()


def test_flip_and_colour_are_drawn_independently():
    compose = make_augmentation(crop=False, flip=0.5, colour=1.0)
    image, boxes, labels = noise(), np.array([[0, 0, 20, 20]], np.float32), np.array([0])
    seen = Counter()
    for index in range(400):
        result = augment(compose, image, boxes, labels, 0, 0, index)
        flipped = bool(result[1][0, 0] > 1)
        upright = result[0][:, ::-1] if flipped else result[0]
        seen[flipped, bool((upright != image).any())] += 1
    # Each of the four has 100 expected with a standard deviation of 8.7; 60 is 4.6 of them away.
    assert len(seen) == 4
    assert min(seen.values()) > 60


def test_colour_strength_bounds_the_change():
    grey = np.full((4, 4, 3), 100, np.uint8)  # only brightness moves a flat grey
    compose = make_augmentation(crop=False, flip=0.0, colour=1.0)
    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    values = [augment(compose, grey, no_boxes, no_labels, 0, 0, k)[0][0, 0, 0] for k in range(300)]
    assert 85 <= min(values) < 92
    assert 108 < max(values) <= 115


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_hue_is_turned_by_a_twentieth_of_the_circle(strength):
    """Told by Python's own colorsys: contrast, brightness and saturation leave the hue."""
    colour = np.full((4, 4, 3), (150, 75, 75), np.uint8)  # a hue of 0, far from any limit
    compose = make_augmentation(crop=False, flip=0.0, colour=strength)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    turned = []
    for index in range(400):
        pixel = augment(compose, colour, *nothing, 0, 0, index)[0][0, 0]
        if (pixel != colour[0, 0]).any() and len(set(pixel.tolist())) > 1:
            hue = colorsys.rgb_to_hsv(*(pixel / 255.0))[0]
            turned.append((hue + 0.5) % 1 - 0.5)
    most = 0.05 * strength
    assert -most - 0.01 <= min(turned) < -0.7 * most  # a step of 1 in 255 is 0.006 here
    assert 0.7 * most < max(turned) <= most + 0.01


def test_contrast_and_saturation_change_by_a_half():
    """Brightness and contrast scale all differences alike; saturation those of channels alone."""
    image = np.zeros((60, 20, 3), np.uint8)
    image[:20], image[20:40], image[40:] = 95, 145, (140, 100, 100)
    grey = image[:40]
    compose = make_augmentation(crop=False, flip=0.0, colour=1.0)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    contrast, saturation = [], []
    for index in range(400):
        dark, light = augment(compose, grey, *nothing, 0, 0, index)[0][[0, -1], 0, 0].astype(float)
        contrast.append((light - dark) / (light + dark) / (50 / 240))  # brightness cancels out
        changed = augment(compose, image, *nothing, 0, 0, index)[0].astype(float)
        saturation.append(np.ptp(changed[50, 0]) / (changed[30, 0, 0] - changed[0, 0, 0]) / 0.8)
    for seen in (contrast, saturation):
        assert 0.45 < min(seen) < 0.6 and 1.4 < max(seen) < 1.6


class Painted(Dataset):
    """Eight times the same image, so that equal results mean equal augmentation."""

    def __init__(self, epoch):
        self.compose = make_augmentation(crop=True, flip=0.5, colour=1.0)
        self.epoch = epoch

    def __len__(self):
        return 8

    def __getitem__(self, index):
        boxes, labels = np.array([[20, 10, 40, 30]], np.float32), np.array([1])
        result = augment(self.compose, noise(), boxes, labels, 5, self.epoch, index)
        return [torch.from_numpy(array) for array in result]


def epoch_of(epoch, workers):
    loader = DataLoader(
        Painted(epoch),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
        multiprocessing_context="fork" if workers else None,
    )
    return [tuple(t.numpy().tobytes() for t in item) for item in loader]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # threads of the test process
def test_workers_and_epochs_never_repeat_and_their_number_does_not_matter():
    alone = [epoch_of(epoch, workers=0) for epoch in (0, 1)]
    assert [epoch_of(epoch, workers=2) for epoch in (0, 1)] == alone
    images = [item[0] for epoch in alone for item in epoch]
    assert len(set(images)) == 16


def test_seed_epoch_and_index_are_not_exchangeable():
    boxes, labels = np.array([[20, 10, 40, 30]], np.float32), np.array([1])
    keys = [(1, 2, 3), (3, 2, 1), (2, 1, 3), (12, 3, 0), (1, 23, 0), (-1, 0, 0)]
    change = everything()
    images = {augment(change, noise(), boxes, labels, *key)[0].tobytes() for key in keys}
    assert len(images) == len(keys)
