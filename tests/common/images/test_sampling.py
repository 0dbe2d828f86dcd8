"""Every image once an epoch, however the batch is cut and wherever a run starts again."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.images.sampling import MicroBatch, Sampling


def epoch_of(sampling: Sampling, epoch: int) -> list[MicroBatch]:
    steps = sampling.steps_per_epoch
    return list(sampling.micro_batches(epoch * steps, (epoch + 1) * steps))


@st.composite
def samplings(draw: st.DrawFn) -> list[Sampling]:
    """One sampling for each rank."""
    world_size, accumulate = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    parts = world_size * accumulate
    batch_size = draw(st.integers(parts, 4 * parts))
    num_images, seed = draw(st.integers(parts, 80)), draw(st.integers(0, 9))
    groups = st.lists(st.integers(0, 2), min_size=num_images, max_size=num_images)
    grouped = draw(st.none() | groups)
    return [
        Sampling(
            num_images=num_images,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
            groups=grouped,
        )
        for rank in range(world_size)
    ]


@given(samplings(), st.integers(0, 3))
def test_every_image_once_an_epoch(ranks: list[Sampling], epoch: int) -> None:
    one = ranks[0]
    parts = one.world_size * one.accumulate
    plans = [epoch_of(rank, epoch) for rank in ranks]
    seen = [int(i) for plan in plans for micro_batch in plan for i in micro_batch.indices]
    left_out = one.num_images % one.batch_size
    needed = max(parts, 2 if one.num_images >= one.batch_size else 1)
    left_out = left_out if left_out < needed else 0
    assert len(seen) == len(set(seen)) == one.num_images - left_out
    assert set(seen) <= set(range(one.num_images))
    for step in range(one.steps_per_epoch):
        cut = slice(step * one.accumulate, (step + 1) * one.accumulate)
        micro_batches = [micro_batch for plan in plans for micro_batch in plan[cut]]
        sizes = [len(micro_batch.indices) for micro_batch in micro_batches]
        assert len(sizes) == parts
        assert min(sizes) >= one.smallest_part >= 1
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == min(one.batch_size, one.num_images - step * one.batch_size)
        assert sum(m.share for m in micro_batches) == pytest.approx(1, abs=1e-12)
        for m, size in zip(micro_batches, sizes, strict=True):
            assert m.share == size / sum(sizes)
            assert m.epoch == epoch


@given(samplings())
def test_ranks_and_micro_batches_see_the_same_parts(ranks: list[Sampling]) -> None:
    one = ranks[0]
    alone = Sampling(
        num_images=one.num_images,
        batch_size=one.batch_size,
        seed=one.seed,
        accumulate=one.world_size * one.accumulate,
        groups=one.groups,
    )
    plans = [epoch_of(rank, 1) for rank in ranks]
    expected = epoch_of(alone, 1)
    together = [
        micro_batch
        for step in range(one.steps_per_epoch)
        for turn in range(step * one.accumulate, (step + 1) * one.accumulate)
        for micro_batch in (plan[turn] for plan in plans)
    ]
    assert len(together) == len(expected)
    for found, wanted in zip(together, expected, strict=True):
        np.testing.assert_array_equal(found.indices, wanted.indices)
        assert (found.share, found.part, found.first) == (wanted.share, wanted.part, wanted.first)


@given(samplings(), st.data())
def test_a_restart_gives_the_same_rest(ranks: list[Sampling], data: st.DataObject) -> None:
    sampling = ranks[-1]
    stop = 3 * sampling.steps_per_epoch
    start = data.draw(st.integers(0, stop))
    straight = list(sampling.micro_batches(0, stop))[start * sampling.accumulate :]
    again = list(sampling.micro_batches(start, stop))
    assert [(m.epoch, m.share, m.indices.tolist()) for m in again] == [
        (m.epoch, m.share, m.indices.tolist()) for m in straight
    ]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 60))
def test_without_groups_the_order_is_the_plain_permutation(
    seed: int, epoch: int, num_images: int
) -> None:
    sampling = Sampling(num_images=num_images, batch_size=1, seed=seed)
    expected = np.random.default_rng((seed, epoch)).permutation(num_images)
    np.testing.assert_array_equal(sampling.order(epoch), expected)
    part = Sampling(num_images=num_images, batch_size=1, seed=seed, drawn_from=70)
    chosen = np.random.default_rng(seed).permutation(70)
    np.testing.assert_array_equal(part.order(epoch), chosen[expected])


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(1, 80),
)
def test_batches_of_one_group_as_far_as_they_go(
    groups: list[int], batch_size: int, seed: int, num_images: int
) -> None:
    num_images = min(num_images, len(groups))
    sampling = Sampling(
        num_images=num_images,
        batch_size=batch_size,
        seed=seed,
        drawn_from=len(groups) if num_images < len(groups) else None,
        groups=groups,
    )
    order = sampling.order(3)
    plain = Sampling(num_images=num_images, batch_size=batch_size, seed=seed)
    if num_images == len(groups):
        assert sorted(order) == list(range(num_images))
    assert len(set(order)) == num_images
    assert sampling.steps_per_epoch == plain.steps_per_epoch
    batches = [order[i : i + batch_size] for i in range(0, num_images, batch_size)]
    pure = [len(b) == batch_size and len({groups[i] for i in b}) == 1 for b in batches]
    sizes = [sum(groups[i] == group for i in order) for group in range(4)]
    assert sum(pure) >= sum(size // batch_size for size in sizes)
    mixed = [batch for batch, is_pure in zip(batches, pure, strict=True) if not is_pure]
    assert sum(map(len, mixed)) <= sum(size % batch_size for size in sizes)


def test_batches_of_the_groups_come_in_any_order() -> None:
    groups = [0] * 40 + [1] * 42
    sampling = Sampling(num_images=82, batch_size=4, seed=0, groups=groups)
    places: set[int] = set()  # of the batches with images of both groups
    first = set()
    members = set()
    for epoch in range(30):
        order = sampling.order(epoch)
        full = order[:80].reshape(20, 4)
        kinds = [{groups[i] for i in batch} for batch in full]
        places |= {place for place, kind in enumerate(kinds) if len(kind) > 1}
        first.add(tuple(min(kind) for kind in kinds))
        members.add(frozenset(frozenset(batch.tolist()) for batch in full))
    assert places == set()  # 40 and 42 leave two over, which are the short batch
    assert len(first) == len(members) == 30
    mixed = Sampling(num_images=80, batch_size=4, seed=0, groups=[0] * 38 + [1] * 42)
    for epoch in range(60):
        kinds = [{int(i >= 38) for i in b} for b in mixed.order(epoch).reshape(20, 4)]
        (place,) = (place for place, kind in enumerate(kinds) if len(kind) > 1)
        places.add(place)
    assert len(places) > 12


def test_short_last_batch_is_kept_or_left_out() -> None:
    kept = Sampling(num_images=11, batch_size=4, seed=0, world_size=3)
    assert kept.steps_per_epoch == 3
    assert [len(m.indices) for m in epoch_of(kept, 0)] == [2, 2, 1]
    left_out = Sampling(num_images=10, batch_size=4, seed=0, world_size=3)
    assert left_out.steps_per_epoch == 2


def test_parts_of_a_step_by_hand() -> None:
    """Seven images a step over two ranks of two parts; the last step has five."""
    sampling = Sampling(num_images=12, batch_size=7, seed=0, rank=1, world_size=2, accumulate=2)
    order = np.random.default_rng((0, 1)).permutation(12)
    plan = [(m.epoch, m.indices.tolist(), m.share, m.part, m.first) for m in epoch_of(sampling, 1)]
    assert plan == [
        (1, order[2:4].tolist(), 2 / 7, 1, 2),
        (1, order[6:7].tolist(), 1 / 7, 3, 6),
        (1, order[9:10].tolist(), 1 / 5, 1, 2),
        (1, order[11:12].tolist(), 1 / 5, 3, 4),
    ]
    assert [sampling.is_full(step) for step in range(4)] == [True, False, True, False]
    whole = Sampling(num_images=14, batch_size=7, seed=0)
    assert [whole.is_full(step) for step in range(3)] == [True, True, True]


def test_orders_are_the_same_for_ever() -> None:
    """Golden: a checkpoint of one version must resume in the next with the same images."""
    kinds = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    settings = {"batch_size": 3, "seed": 5}
    for more, order in (
        ({"num_images": 10, "balanced_over": kinds}, [3, 9, 8, 7, 0, 1, 5, 9, 9, 6]),
        ({"num_images": 10, "groups": kinds}, [2, 4, 0, 8, 6, 7, 5, 3, 1, 9]),
        ({"num_images": 6, "groups": kinds, "drawn_from": 10}, [2, 4, 3, 7, 6, 1]),
        # Of a part of the data nothing is balanced.
        ({"num_images": 6, "balanced_over": kinds, "drawn_from": 10}, [7, 2, 4, 3, 6, 1]),
    ):
        assert Sampling(**settings, **more).order(2).tolist() == order  # type: ignore[arg-type]


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = {
        tuple(Sampling(num_images=50, batch_size=5, seed=seed).order(epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "message"),
    [
        (100, 5, "batch size 5 cannot be cut into 6 parts (3 ranks x 2 micro-batches)"),
        (5, 8, "5 training images are too few for 6 ranks and micro-batches"),
        (0, 8, "0 training images are too few"),
    ],
)
def test_too_few_images(num_images: int, batch_size: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Sampling(num_images=num_images, batch_size=batch_size, seed=0, world_size=3, accumulate=2)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "parts", "steps", "fewest"),
    [
        (9, 4, 1, 2, 4),  # on one process as on two: a run may continue on more
        (9, 4, 2, 2, 2),
        (10, 4, 1, 3, 2),
        (10, 4, 2, 3, 1),
        (12, 8, 2, 2, 2),
        (3, 1, 1, 3, 1),
        (7, 3, 2, 2, 1),
        (1, 4, 1, 1, 1),
    ],
)
def test_a_last_batch_of_one_image_is_left_out(
    num_images: int, batch_size: int, parts: int, steps: int, fewest: int
) -> None:
    """Unless there is no other: BatchNorm may have no variance over one."""
    sampling = Sampling(num_images=num_images, batch_size=batch_size, seed=0, accumulate=parts)
    assert sampling.steps_per_epoch == steps
    assert min(len(m.indices) for m in sampling.micro_batches(0, steps)) == fewest
    assert sampling.smallest_part == fewest


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_a_balanced_epoch_has_as_many_images_of_each_class(
    classes: list[int], seed: int, epoch: int
) -> None:
    sampling = Sampling(num_images=len(classes), batch_size=1, seed=seed, balanced_over=classes)
    order = sampling.order(epoch).tolist()
    assert order == sampling.order(epoch).tolist()
    assert len(order) == len(classes)
    quotas = [sum(classes[i] == one for i in order) for one in set(classes)]
    assert max(quotas) - min(quotas) <= 1
    for one in set(classes):  # within a class, all images as often as the others, to one
        times = [order.count(i) for i, other in enumerate(classes) if other == one]
        assert max(times) - min(times) <= 1


def test_balanced_epochs_differ_and_are_shuffled() -> None:
    classes = [0] * 90 + [1] * 10
    sampling = Sampling(num_images=100, batch_size=10, seed=0, balanced_over=classes)
    epochs = [sampling.order(epoch).tolist() for epoch in range(40)]
    assert epochs[0] != epochs[1]
    frequent = {i for order in epochs for i in order if i < 90}
    assert len(frequent) == 90  # each 50 of 90: all come in time
    halves = [sum(classes[i] for i in order[:50]) for order in epochs]
    assert 20 < sum(halves) / len(halves) < 30  # 25 of the 50 rare ones in the first half


@pytest.mark.parametrize(
    ("num_images", "batch_size", "parts", "left_out"),
    [(13, 4, 1, 1), (12, 4, 1, 0), (14, 4, 1, 0), (3, 4, 1, 0), (11, 4, 2, 0), (10, 8, 4, 2)],
)
def test_what_an_epoch_leaves_out(
    num_images: int, batch_size: int, parts: int, left_out: int
) -> None:
    sampling = Sampling(num_images=num_images, batch_size=batch_size, seed=0, accumulate=parts)
    seen = {
        int(image)
        for micro_batch in sampling.micro_batches(0, sampling.steps_per_epoch)
        for image in micro_batch.indices
    }
    assert sampling.left_out == left_out == num_images - len(seen)
