"""Metrics of an evaluation, against a plain loop over the same logits."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from common.command.flags import RunFlags
from common.images.loading import Reading
from common.images.sampling import MicroBatch
from common.processes.ranks import World
from pretrain import task, train
from pretrain.data.splits import Split, open_split
from pretrain.recipes import RECIPES, Recipe
from pretrain.task import balancing_weights, classification_loss, evaluate

CPU = World(device=torch.device("cpu"))
RECIPE = RECIPES["cifar10-resnet20"]()
READING = Reading(workers=0, device=CPU.device)


class Lookup(nn.Module):
    """Return given logits, in the order in which images come."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.seen = logits, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.logits[self.seen - len(images) : self.seen]


def split_of(labels: Tensor) -> Split:
    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in micro_batches:
            yield torch.zeros(len(batch.indices), 3, 1, 1, dtype=torch.uint8), labels[batch.indices]

    classes = tuple(f"class{number}" for number in range(int(labels.max()) + 1))
    return Split(num_images=len(labels), classes=classes, source="drawn", load=load)


def plain_loop(logits: list[list[float]], labels: list[int]) -> dict[str, float]:
    """Count one image after the other; in Python's floats."""
    right = in_top5 = 0
    loss = 0.0
    for scores, label in zip(logits, labels, strict=True):
        order = sorted(range(len(scores)), key=lambda c: -scores[c])
        right += order[0] == label
        in_top5 += label in order[:5]
        largest = max(scores)
        total = sum(math.exp(score - largest) for score in scores)
        loss += largest + math.log(total) - scores[label]
    count = len(labels)
    return {"val_loss": loss / count, "val_accuracy": right / count, "val_top5": in_top5 / count}


@given(
    images=st.integers(1, 40),
    classes=st.integers(2, 12),
    batch=st.integers(1, 15),
    seed=st.integers(0, 2**16),
)
def test_metrics_equal_a_plain_loop(images: int, classes: int, batch: int, seed: int) -> None:
    """Whatever the batches, a short last one included."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator) * 3
    labels = torch.randint(classes, (images,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "_EVAL_BATCH", batch)
        found = evaluate(Lookup(logits).eval(), split_of(labels), RECIPE, CPU)
    expected = plain_loop(logits.double().tolist(), labels.tolist())
    assert found["val_accuracy"] == expected["val_accuracy"]
    assert found["val_top5"] == expected["val_top5"]
    assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-5, abs=1e-6)


def test_small_images_on_a_gpu_come_in_larger_batches() -> None:
    """The factor alone is tried here; without a GPU `open_split` leaves it at 1."""
    sizes: list[int] = []

    class Sizes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return torch.zeros(len(images), 3)

    split = replace(split_of(torch.arange(20) % 3), batch_factor=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "_EVAL_BATCH", 4)
        evaluate(Sizes().eval(), split, RECIPE, CPU)
    assert sizes == [8, 8, 4]


def test_a_limit_counts_just_these() -> None:
    logits = torch.eye(4)[[0, 1, 2, 2]] * 9
    found = evaluate(Lookup(logits).eval(), split_of(torch.arange(4)), RECIPE, CPU, limit=3)
    assert found["val_accuracy"] == 1


@pytest.mark.parametrize("by_seed", [False, True])
def test_what_is_kept_back_follows_the_seed_only_where_asked(tmp_path: Path, by_seed: bool) -> None:
    for number in range(40):  # an image is known by its shade of grey
        folder = tmp_path / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:02}.png"), np.full((32, 32, 3), number, np.uint8))
    images = replace(RECIPE.images, held_out=20, held_out_by_seed=by_seed)

    def shades(seed: int, part: str) -> set[int]:
        split = open_split(images, tmp_path, part, READING, training=False, seed=seed)
        every = np.arange(split.num_images)
        (batch,) = split.load([MicroBatch(epoch=0, indices=every, share=1.0)])
        return set(batch[0][:, 0, 0, 0].tolist())

    first, again, other = (shades(seed, "held-out") for seed in (1, 1, 2))
    assert first == again
    assert (first == other) is not by_seed
    assert shades(1, "train") == set(range(40)) - first


@pytest.mark.parametrize("recipe", ["cifar10-resnet20", "imagenet-resnet50"])
def test_validation_images_are_seen_whole_or_at_their_centre_in_every_epoch(
    tmp_path: Path, recipe: str
) -> None:
    """Left to right in greys: a flip, or another crop, would show in the first and last column."""
    photo = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, axis=0).repeat(
        3, axis=2
    )
    for name in ("train/a/0.png", "train/b/1.png", "val/a/0.png", "val/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), photo)
    size = 64 if RECIPES[recipe]().images.crop == "pad" else 56  # 56 of 64: resized to itself
    images = replace(RECIPES[recipe]().images, dataset="folders", size=size)
    split = open_split(images, tmp_path, "val", READING, training=False, seed=0)
    expected = photo[4:60, 4:60] if size == 56 else photo
    for epoch in range(3):
        (loaded,) = split.load([MicroBatch(epoch=epoch, indices=np.arange(2), share=1.0)])
        pixels, _ = split.finish(loaded)
        for found in pixels:
            assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


class Channels(nn.Module):
    """Take the means of the channels for logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_a_compiled_network_keeps_to_its_graph() -> None:
    """Batches of 4, 4 and 2: the last one runs as the code is written."""
    sizes: list[int] = []

    def count(module: fx.GraphModule, inputs: list[Tensor], **options: Any) -> Callable[..., Any]:
        sizes.append(inputs[0].shape[0])
        return module

    recipe = replace(RECIPE, optimization=replace(RECIPE.optimization, compile=True))
    labels = torch.arange(10) % 3
    network = Channels().eval()
    network.compile(backend=count, dynamic=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "_EVAL_BATCH", 4)
        for _ in range(2):
            evaluate(network, split_of(labels), recipe, CPU)
    assert sizes == [4]


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (("shards", "shards"), "shards"),
        ((".JPEG files", "shards of 256 px"), ".JPEG files, scored on shards of 256 px"),
    ],
)
def test_a_run_says_what_it_is_trained_and_scored_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sources: tuple[str, str], said: str
) -> None:
    recipe, found = RECIPES["toy-resnet18"](), dict(zip(("train", "val"), sources, strict=True))

    def opened(flags: RunFlags[Recipe], split: str, world: World) -> Split:
        return replace(split_of(torch.arange(10) % 2), source=found[split])

    monkeypatch.setattr(train, "_open", opened)
    _, facts = train._build(RunFlags(data=tmp_path, out=tmp_path, recipe=recipe), CPU)
    assert facts["source"] == said


def test_class_weights_make_all_classes_count_alike() -> None:
    labels = np.array([0] * 6 + [2] * 3 + [3])
    weights = balancing_weights(labels, 4)
    # images / (classes that there are * images of the class)
    assert weights.tolist() == pytest.approx([10 / (3 * 6), 0, 10 / (3 * 3), 10 / 3])
    assert weights[labels].mean().item() == pytest.approx(1)


def test_the_weighed_loss_by_its_formula_in_whole_and_in_parts() -> None:
    recipe = replace(RECIPES["cifar10-resnet20"](), label_smoothing=0.1)
    logits = torch.randn(6, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    weights = torch.tensor([0.5, 1.0, 3.0])
    loss = classification_loss(recipe, class_weights=weights)

    def of(part: slice) -> float:
        def network(_: Tensor) -> Tensor:
            return logits[part]

        batch = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), labels[part]
        return loss(network, batch)["loss"].item()  # type: ignore[arg-type]

    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        logs = [value - math.log(sum(math.exp(other) for other in row)) for value in row]
        smooth = 0.9 * -logs[label] + 0.1 * -sum(logs) / 3
        total += weights[label].item() * smooth
    assert of(slice(6)) == pytest.approx(total / 6, rel=1e-6)
    parts = [of(slice(0, 2)) * 2 / 6, of(slice(2, 6)) * 4 / 6]
    assert sum(parts) == pytest.approx(total / 6, rel=1e-6)
