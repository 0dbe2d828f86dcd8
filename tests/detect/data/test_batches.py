"""Sizes, padding and batches against torchvision's transform and slow literal versions."""

from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, uniform
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detect.data.batches import (
    Item,
    batches_of_one_shape,
    collate,
    draw_factor,
    draw_size,
    padded_shape,
    resize,
    resized_shape,
    to_device,
    to_original,
)

SIDES = st.integers(1, 90)


def item(height: int, width: int, objects: int = 1, seed: int = 0) -> Item:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = rng.uniform(0, 0.4, (objects, 2)), rng.uniform(0.6, 1, (objects, 2))
    boxes = np.hstack(corners) * [width, height, width, height]
    return pixels, boxes.astype(np.float32), rng.integers(0, 20, objects)


def stock(made: Item, short_side: int, max_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize pixels and boxes as torchvision's detectors do."""
    transform = GeneralizedRCNNTransform(short_side, max_size, [0.0] * 3, [1.0] * 3).eval()
    pixels = torch.from_numpy(made[0]).permute(2, 0, 1).float()
    resized, target = transform.resize(pixels, {"boxes": torch.from_numpy(made[1])})
    return resized, target["boxes"]


@settings(max_examples=200)
@given(SIDES, SIDES, st.integers(20, 200), st.integers(20, 260))
def test_the_shape_is_torchvisions(height: int, width: int, short: int, longest: int) -> None:
    scale = min(short / min(height, width), longest / max(height, width))
    shape = resized_shape((height, width), short, longest)
    if min(height, width) * scale < 1:  # there it would fail
        assert min(shape) == 1
        return
    pixels = np.zeros((height, width, 3), np.uint8)
    expected, _ = stock((pixels, np.empty((0, 4), np.float32), np.empty(0)), short, longest)
    assert shape == expected.shape[1:]


@pytest.mark.parametrize(
    ("shape", "short", "longest", "expected"),
    [
        ((375, 500), 600, 1000, (600, 800)),
        ((333, 500), 800, 1333, (800, 1201)),  # 1201.2
        ((500, 300), 600, 1000, (1000, 600)),
        ((500, 200), 600, 1000, (1000, 400)),  # the long side decides
    ],
)
def test_shapes_worked_out_by_hand(shape, short, longest, expected) -> None:
    assert resized_shape(shape, short, longest) == expected


@settings(max_examples=60)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(16, 120), st.integers(0, 4))
def test_pixels_and_boxes_are_torchvisions(
    height: int, width: int, short: int, objects: int
) -> None:
    made = item(height, width, objects)
    pixels, boxes = stock(made, short, 150)
    resized = resize(made, resized_shape((height, width), short, 150))
    assert resized[0].dtype == np.uint8
    # torchvision's values are not rounded; OpenCV's weights have 11 bits.
    difference = np.abs(resized[0].transpose(2, 0, 1) - pixels.numpy())
    assert difference.max() <= 1.0
    np.testing.assert_allclose(resized[1], boxes.numpy(), rtol=1e-6)
    assert resized[2] is made[2]


def test_nothing_is_done_to_an_image_of_the_right_size() -> None:
    made = item(32, 48)
    assert resize(made, (32, 48)) is made


def test_the_short_side_is_drawn_evenly_from_seed_epoch_and_index() -> None:
    sizes = (480, 512, 544)
    drawn = {
        (seed, epoch, index): draw_size(sizes, seed, epoch, index)
        for seed in range(5)
        for epoch in range(5)
        for index in range(120)
    }
    assert drawn == {key: draw_size(sizes, *key) for key in reversed(drawn)}
    counts = Counter(drawn.values())
    assert set(counts) == set(sizes)
    assert all(count == pytest.approx(1000, abs=130) for count in counts.values())  # 5 sigma
    for part in range(3):  # each of seed, epoch and index matters
        others = {key[:part] + key[part + 1 :] for key in drawn}
        changing = [
            {drawn[key] for key in drawn if key[:part] + key[part + 1 :] == other}
            for other in sorted(others)[:20]
        ]
        assert sum(len(values) > 1 for values in changing) > 10


def test_the_factor_is_drawn_evenly_over_its_range() -> None:
    drawn = [
        draw_factor((0.1, 2.0), s, e, i) for s in range(5) for e in range(5) for i in range(80)
    ]
    assert len(set(drawn)) == 2000
    assert kstest(drawn, uniform(0.1, 1.9).cdf).pvalue > 1e-3
    assert draw_factor((0.5, 0.5), 1, 2, 3) == 0.5


def test_draws_are_the_same_for_ever() -> None:
    """Written out, for a run of before is resumed with the same sizes."""
    for key in ((0, 0, 0), (3, 7, 41)):
        text = ",".join(map(str, key)).encode()
        number = int.from_bytes(blake2b(text, digest_size=8, person=b"short side").digest(), "big")
        assert draw_size((480, 512, 544), *key) == (480, 512, 544)[number % 3]
        jitter = blake2b(text, digest_size=8, person=b"scale jitter").digest()
        share = int.from_bytes(jitter, "big") / 2**64
        assert draw_factor((0.25, 2.0), *key) == 0.25 + 1.75 * share


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 1), (20, 20)), ((1000, 1), (30, 1)), ((10, 20), (15, 30))]
)
def test_no_side_is_cut_to_nothing(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_shape(shape, 20, 30) == expected


@pytest.mark.parametrize("each", [False, True])
def test_boxes_go_back_to_the_original_pixels(each: bool) -> None:
    """By hand: twice as wide, three times as high; what sticks out is cut, flat ones are told."""
    boxes = np.array(
        [
            [10, 10, 30, 40],
            [-5, -5, 120, 60],
            [20, 50, 30, 60],  # below the image
            [100, 10, 120, 20],  # beside it
            [1, 1, 1.0002, 40],  # 0.0004 wide
            [1, 1, 1.0006, 1.0004],  # 0.0012 by 0.0012
        ]
    )
    resized, original = np.array([100, 50]), np.array([200, 150])
    if each:  # of images that differ
        boxes, resized = np.vstack([boxes, boxes[:1]]), np.array([[100, 50]] * 6 + [[40, 50]])
        original = np.array([[200, 150]] * 6 + [[40, 100]])
    found, large = to_original(boxes, resized, original)
    expected = [[20, 30, 60, 120], [0, 0, 200, 150], [40, 150, 60, 150], [200, 30, 200, 60]]
    expected += [[2, 3, 2.0004, 120], [2, 3, 2.0012, 3.0012], *[[10, 20, 30, 80]] * each]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert large.tolist() == [True, True, False, False, False, True, *[True] * each]
    assert found.dtype == np.float64 and np.array_equal(found, found.astype(np.float32))


def test_a_batch_can_have_a_least_shape() -> None:
    few, most = (collate([item(40, 33, 2)], **least) for least in ({}, {"side": 90, "rows": 5}))
    assert few[0].shape == (1, 3, 64, 64)
    assert most[0].shape == (1, 3, 96, 96)
    assert torch.equal(most[0][:, :, :64, :64], few[0]) and most[0].sum() == few[0].sum()
    assert [field.shape for field in most[2:]] == [(1, 5, 4), (1, 5), (1, 5)]
    assert most[4].tolist() == [[True, True, False, False, False]]


@settings(max_examples=50)
@given(st.lists(st.tuples(SIDES, SIDES, st.integers(0, 5)), min_size=1, max_size=4))
def test_a_batch_holds_its_images_and_zeros(shapes: list[tuple[int, int, int]]) -> None:
    items = [item(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    images, targets = to_device(collate(items), torch.device("cpu"))
    height, width = (max(shape[i] for shape in shapes) for i in (0, 1))
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.shape[:2] == (len(items), 3)
    for side, least in zip(images.pixels.shape[2:], (height, width), strict=True):
        assert side % 32 == 0 and least <= side < least + 32
    assert images.pixels.is_contiguous(memory_format=torch.channels_last)
    assert images.sizes.tolist() == [[h, w] for h, w, _ in shapes]
    most = max(1, *(objects for _, _, objects in shapes))
    assert targets.boxes.shape == (len(items), most, 4)
    assert targets.labels.shape == targets.valid.shape == (len(items), most)
    for i, (pixels, boxes, labels) in enumerate(items):
        rest = images.pixels[i].clone()
        own = rest[:, : pixels.shape[0], : pixels.shape[1]]
        assert torch.equal(own, torch.from_numpy(pixels).permute(2, 0, 1))
        own.zero_()
        assert not rest.any()
        assert targets.valid[i].tolist() == [True] * len(labels) + [False] * (most - len(labels))
        assert np.array_equal(targets.boxes[i][targets.valid[i]].numpy(), boxes)
        assert np.array_equal(targets.labels[i][targets.valid[i]].numpy(), labels)
        assert not targets.boxes[i][~targets.valid[i]].any()


@given(st.lists(st.sampled_from([(32, 64), (64, 32), (96, 96)]), max_size=30), st.integers(1, 5))
def test_batches_of_one_shape(shapes: list[tuple[int, int]], size: int) -> None:
    batches = batches_of_one_shape(shapes, size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert all(len({shapes[i] for i in batch}) == 1 for batch in batches)
    short = Counter(shapes[batch[0]] for batch in batches if len(batch) < size)
    assert all(count == 1 for count in short.values())


def test_padded_sides_are_multiples() -> None:
    assert padded_shape((1, 32)) == (32, 32)
    assert padded_shape((33, 600)) == (64, 608)
