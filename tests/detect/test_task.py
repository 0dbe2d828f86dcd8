"""What goes into the detector, and what is kept of what comes out."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import faults
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.transform import resize_boxes

from common.images.loading import Reading
from common.images.sampling import MicroBatch
from common.processes import ranks
from common.processes.ranks import World, gather_rows
from common.processes.signals import Terminated
from detect.data.batches import ImageBatch, draw_size, resized_shape
from detect.data.dataset import Annotation, LabelledImage
from detect.inference import measure_latency
from detect.network.retinanet import build_retinanet
from detect.recipes import Augmentation, Recipe, toy_retinanet, voc_retinanet_parity
from detect.scoring.detections import Detections
from detect.task import EvaluationSet, aspect_groups, detect, evaluate, training_batches

CPU = torch.device("cpu")
WORLD = World(CPU)
READING = Reading(workers=0, device=CPU)
TOY = toy_retinanet()
SHAPES = [(20, 30), (30, 20), (20, 30), (25, 30), (20, 30)]


def tiny(**detector: Any) -> Recipe:
    return replace(TOY, detector=replace(TOY.detector, fpn_channels=16, **detector))


TWICE = tiny(train_sizes=(40,), test_size=40, max_size=60)
"""Resizes images of 20 x 30 to twice that."""


class Recorder:
    """Stands in for a detector: notes its inputs and gives the scripted detections."""

    def __init__(self, scripted: list[list[dict[str, Tensor]]]) -> None:
        self.scripted = iter(scripted)
        self.seen: list[ImageBatch] = []

    def __call__(self, images: ImageBatch, targets: None) -> list[dict[str, Tensor]]:
        self.seen.append(images)
        return next(self.scripted)


def found(*boxes: list[float]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "scores": torch.linspace(0.9, 0.5, len(boxes)),
        "labels": torch.arange(len(boxes)),
    }


def voc_images(
    folder: Path, shapes: list[tuple[int, int]], boxes: list[list[float]] | None = None
) -> list[LabelledImage]:
    made = []
    corners = np.array(boxes or [], np.float32).reshape(-1, 4)
    about = corners, np.arange(len(corners)), np.zeros(len(corners), np.bool_)
    for number, (height, width) in enumerate(shapes):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.full((height, width, 3), (0, 51, 10 * number + 5), np.uint8))
        made.append(LabelledImage(path, Annotation(str(number), width, height, *about)))
    return made


def test_set(folder: Path, shapes: list[tuple[int, int]]) -> EvaluationSet:
    return EvaluationSet.of(voc_images(folder, shapes), ("a", "b", "c"))


test_set.__test__ = False  # type: ignore[attr-defined]


def test_detections_are_in_original_pixels_and_in_the_order_of_the_images(tmp_path: Path) -> None:
    # Resized: 40 x 60, 60 x 40, 40 x 60, 40 x 48, 40 x 60; padded 64 x 64 but for none.
    network = Recorder(
        [
            [
                found([0, 0, 10, 10], [14, 4, 14, 18], [2, 2, 8, 8]),  # the second has no width
                found([0, 0, 40, 60]),
                found(),
                found([6, 16, 18, 16], [4, 4, 48, 40]),  # the first has no height
                found([-3, 2, 61, 39]),
            ]
        ]
    )
    test = test_set(tmp_path, SHAPES)
    detections = detect(network, test, TWICE, WORLD, workers=0)  # type: ignore[arg-type]
    assert detections.image.tolist() == [0, 0, 1, 3, 4]
    assert detections.label.tolist() == [0, 2, 0, 1, 0]
    np.testing.assert_allclose(detections.score, [0.9, 0.5, 0.9, 0.5, 0.9], rtol=1e-6)
    assert detections.box.tolist() == [
        [0, 0, 5, 5],
        [1, 1, 4, 4],
        [0, 0, 20, 30],
        [2.5, 2.5, 30, 25],
        [0, 1, 30, 19.5],
    ]


def test_boxes_are_rounded_to_float32(tmp_path: Path) -> None:
    network = Recorder([[found([1, 2, 10, 20])]])
    recipe = tiny(test_size=70, max_size=105)  # 3.5 times as large
    test = test_set(tmp_path, [(20, 30)])
    (box,) = detect(network, test, recipe, WORLD, workers=0).box  # type: ignore[arg-type]
    assert box.dtype == np.float64
    assert box.tolist() == np.divide([2, 4, 20, 40], 7).astype(np.float32).tolist()


def test_detecting_ends_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Recorder([[found([0, 0, 2, 2])]] * 3)
    monkeypatch.setattr("detect.task.stop_asked", lambda: len(network.seen) == 2)
    test = test_set(tmp_path, [(20, 30)] * 3)
    with pytest.raises(Terminated):
        detect(network, test, tiny(test_batch_size=1), WORLD, workers=0)  # type: ignore[arg-type]
    assert len(network.seen) == 2


def test_batches_hold_images_of_one_padded_shape(tmp_path: Path) -> None:
    shapes = [(20, 30), (20, 80), (20, 30), (20, 30), (20, 80)]
    network = Recorder(
        [[found([0, 0, 2, 2])] * 2, [found([0, 0, 4, 4])], [found([0, 0, 6, 6])] * 2]
    )
    recipe = tiny(test_size=20, max_size=80, test_batch_size=2)
    detections = detect(network, test_set(tmp_path, shapes), recipe, WORLD, workers=0)  # type: ignore[arg-type]
    assert [tuple(images.pixels.shape) for images in network.seen] == [
        (2, 3, 32, 32),
        (1, 3, 32, 32),
        (2, 3, 32, 96),
    ]
    assert detections.image.tolist() == [0, 1, 2, 3, 4]
    assert detections.box[:, 2].tolist() == [2, 6, 2, 4, 6]


def test_images_are_rgb_bytes_at_the_test_size(tmp_path: Path) -> None:
    network = Recorder([[found(), found()]])
    test = test_set(tmp_path, [(20, 30)] * 2)
    detect(network, test, TWICE, WORLD, workers=0)  # type: ignore[arg-type]
    (images,) = network.seen
    assert images.pixels.dtype == torch.uint8
    assert images.sizes.tolist() == [[40, 60]] * 2
    for number, image in enumerate(images.pixels):
        colour = torch.tensor([10 * number + 5, 51, 0], dtype=torch.uint8)  # cv2 wrote BGR
        expected = colour[:, None, None].expand(3, 40, 60)
        assert torch.equal(image[:, :40, :60], expected)


def test_training_images_are_resized_with_their_boxes(tmp_path: Path) -> None:
    sizes = (20, 30, 40)
    images = voc_images(tmp_path, [(20, 30), (40, 20)], [[2, 4, 10, 12]])
    recipe = replace(tiny(train_sizes=sizes, max_size=70), augmentation=Augmentation(flip=0.0))
    batches = training_batches(images, recipe, READING, seed=3)
    plan = [MicroBatch(epoch, np.array([0, 1]), 1.0) for epoch in range(6)]
    drawn = set()
    for epoch, (resized, targets) in enumerate(batches(plan)):
        for i, shape in enumerate([(20, 30), (40, 20)]):
            short = draw_size(sizes, 3, epoch, i)
            drawn.add((i, short))
            height, width = resized_shape(shape, short, 70)
            assert resized.sizes[i].tolist() == [height, width]
            x, y = width / shape[1], height / shape[0]
            expected = torch.tensor([2 * x, 4 * y, 10 * x, 12 * y])
            torch.testing.assert_close(targets.boxes[i, 0], expected)
    assert len(drawn) == 6


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=0.5),
        Augmentation(flip=0.0, crop=True),
        Augmentation(flip=0.0, colour=1.0),
        Augmentation(flip=0.0, scale=(0.5, 2.0)),
        Augmentation(flip=0.0, scale=(2.0, 2.0)),  # the window alone is drawn
        Augmentation(flip=0.0),  # the short side alone is drawn
    ],
    ids=["flip", "crop", "colour", "scale", "window", "size"],
)
def test_the_seed_the_epoch_and_the_image_decide_every_draw(
    tmp_path: Path, augmentation: Augmentation
) -> None:
    """All images are the same: what differs was drawn by one of the three."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    images = voc_images(tmp_path, [(48, 64)] * 12, [[16, 8, 48, 40]])
    for image in images:
        cv2.imwrite(str(image.path), pixels)
    sizes = (64,) if augmentation.scale or augmentation.flip or augmentation.colour else (40, 64)
    sizes = (64,) if augmentation.crop else sizes
    recipe = replace(tiny(train_sizes=sizes, max_size=96), augmentation=augmentation)

    def drawn(seed: int, epoch: int) -> list[bytes]:
        batches = training_batches(images, recipe, READING, seed=seed)
        plan = [MicroBatch(epoch, np.array([index]), 1.0) for index in range(12)]
        return [batch.pixels.numpy().tobytes() for batch, _ in batches(plan)]

    one = drawn(0, 0)
    assert len(set(one)) > 1
    assert drawn(0, 0) == one
    assert drawn(1, 0) != one and drawn(0, 1) != one and drawn(1, 0) != drawn(0, 1)


def test_large_scale_jitter_gives_squares_and_boxes_on_their_pixels(tmp_path: Path) -> None:
    shapes = [(48, 64), (64, 48)]
    images = voc_images(tmp_path, shapes, [[16, 8, 48, 40]])
    for image in images:  # a white object on black, so that where it is can be seen
        pixels = np.zeros((image.annotation.height, image.annotation.width, 3), np.uint8)
        pixels[8:40, 16:48] = 255
        cv2.imwrite(str(image.path.with_suffix(".png")), pixels)
    images = [replace(image, path=image.path.with_suffix(".png")) for image in images]
    recipe = replace(
        tiny(train_sizes=(128,), max_size=128), augmentation=Augmentation(scale=(0.1, 2.0))
    )
    batches = training_batches(images, recipe, READING, seed=3)
    plan = [MicroBatch(epoch, np.array([0, 1]), 1.0) for epoch in range(100)]
    longest, moved = [], 0
    for resized, targets in batches(plan):
        assert resized.pixels.shape == (2, 3, 128, 128)
        assert targets.boxes.shape == (2, 1, 4)
        for i in range(2):
            side = resized.sizes[i].max().item()
            longest.append(side)
            white = (resized.pixels[i, 0] > 127).nonzero()
            if not targets.valid[i, 0] or len(white) < 30:
                continue
            (top, left), (bottom, right) = white.amin(0).tolist(), (white.amax(0) + 1).tolist()
            box = targets.boxes[i, 0]
            assert box.tolist() == pytest.approx([left, top, right, bottom], abs=1.01)
            moved += side == 128 and box[0] > 0
    assert sum(side < 128 for side in longest) == pytest.approx(
        200 * 0.9 / 1.9, abs=32
    )  # 4.5 sigma
    assert min(longest) < 20 and moved > 20


@pytest.mark.parametrize("difficult", [False, True])
def test_objects_marked_difficult_are_trained_on_as_the_recipe_says(
    tmp_path: Path, difficult: bool
) -> None:
    (image,) = voc_images(tmp_path, [(20, 30)], [[2, 4, 10, 12], [14, 4, 28, 18]])
    annotation = replace(image.annotation, difficult=np.array([True, False]))
    recipe = replace(tiny(), difficult=difficult)
    images = [replace(image, annotation=annotation)]
    batches = training_batches(images, recipe, READING, seed=0)
    ((_, targets),) = batches([MicroBatch(0, np.array([0]), 1.0)])
    assert targets.labels[targets.valid].tolist() == ([0, 1] if difficult else [1])


def test_groups_are_landscape_and_portrait(tmp_path: Path) -> None:
    images = voc_images(tmp_path, [(20, 30), (30, 20), (20, 20)])
    assert aspect_groups(images) == [1, 0, 1]


# ---- the real network ---------------------------------------------------------------------------


def scenes(folder: Path, shapes: list[tuple[int, int]]) -> EvaluationSet:
    """Noise images: a fresh detector finds something else in each."""
    made = []
    rng = np.random.default_rng(0)
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.bool_)
    for number, (height, width) in enumerate(shapes):
        path = folder / f"{number}.png"
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (width, height)))
        made.append(LabelledImage(path, Annotation(str(number), width, height, *nothing)))
    return EvaluationSet.of(made, ("a", "b", "c"))


def fresh_network(recipe: Recipe) -> Any:
    torch.manual_seed(1)
    network = build_retinanet(recipe.detector, "resnet18", 3, [0.45] * 3, [0.25] * 3)
    with torch.no_grad():  # else all scores are near 0.01
        network.head.classification_head.cls_logits.weight.mul_(5)
    return network.eval()


SCENES = [(48, 64), (64, 48), (50, 64), (40, 64), (64, 64), (33, 40), (48, 60)]
ALL = tiny(test_size=64, max_size=90, score_threshold=0.02, detections_per_image=20)


def with_batches(size: int) -> Recipe:
    return replace(ALL, detector=replace(ALL.detector, test_batch_size=size))


def assert_equal_detections(a: Detections, b: Detections) -> None:
    assert len(a.image) > 0
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.label, b.label)
    np.testing.assert_allclose(a.score, b.score, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(a.box, b.box, rtol=1e-4, atol=1e-3)


def one_by_one(network: Any, test: EvaluationSet) -> Detections:
    """Detect as torchvision's own detector does: float images of any size, one after the other."""
    settings = ALL.detector
    generator = network.anchor_generator
    stock = RetinaNet(
        network.backbone,
        3,
        min_size=settings.test_size,
        max_size=settings.max_size,
        image_mean=[0.45] * 3,
        image_std=[0.25] * 3,
        anchor_generator=AnchorGenerator(generator.sizes, generator.aspect_ratios),
        head=network.head,
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_iou,
        detections_per_img=settings.detections_per_image,
    ).eval()
    results = []
    for image in test.images:
        pixels = cv2.imread(str(image.path))[:, :, ::-1]
        shape = pixels.shape[:2]
        height, width = resized_shape(shape, settings.test_size, settings.max_size)
        # As bytes beforehand: torchvision's pixels would differ by the rounding to them.
        resized = np.ascontiguousarray(cv2.resize(pixels, (width, height)))
        with torch.inference_mode():
            (result,) = stock([torch.from_numpy(resized).permute(2, 0, 1).float() / 255])
        result["boxes"] = resize_boxes(result["boxes"], (height, width), shape)
        results.append({name: value.double().numpy() for name, value in result.items()})
    columns = [np.concatenate([r[name] for r in results]) for name in ("labels", "scores", "boxes")]
    image = np.repeat(np.arange(len(results)), [len(r["scores"]) for r in results])
    return Detections(image, columns[0].astype(np.int64), columns[1], columns[2])


def test_detections_equal_those_of_torchvision_one_image_after_the_other(tmp_path: Path) -> None:
    test, network = scenes(tmp_path, SCENES), fresh_network(ALL)
    expected = one_by_one(network, test)
    assert_equal_detections(detect(network, test, ALL, WORLD, workers=0), expected)
    assert_equal_detections(detect(network, test, with_batches(1), WORLD, workers=0), expected)
    assert set(expected.image) == set(range(len(SCENES)))


def test_an_image_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    test, network = scenes(tmp_path, SCENES), fresh_network(ALL)
    everything = detect(network, test, ALL, WORLD, workers=0)
    order = [4, 2, 6]
    some = EvaluationSet.of([test.images[i] for i in order], ("a", "b", "c"))
    part = detect(network, some, ALL, WORLD, workers=0)
    rows = np.concatenate([np.flatnonzero(everything.image == i) for i in order])
    expected = Detections(
        np.array([order.index(i) for i in everything.image[rows]]),
        everything.label[rows],
        everything.score[rows],
        everything.box[rows],
    )
    assert_equal_detections(part, expected)


def on_a_rank(test: EvaluationSet, out: Path, rank: int) -> None:
    with ranks.start("cpu") as world:
        none = detect(fresh_network(ALL), EvaluationSet.of([], ("a",)), ALL, world, workers=0)
        assert len(none.image) == 0
        rows = torch.arange(6.0).reshape(3, 2)[: 3 * rank] + 10 * rank
        assert gather_rows(rows).tolist() == [[10, 11], [12, 13], [14, 15]]
        found = detect(fresh_network(ALL), test, with_batches(2), world, workers=0)
        columns = {name: getattr(found, name) for name in ("image", "label", "score", "box")}
        np.savez(out / f"{rank}.npz", **columns)


def test_two_ranks_find_what_one_finds_to_the_bit(tmp_path: Path) -> None:
    test = scenes(tmp_path, SCENES)
    one = detect(fresh_network(ALL), test, with_batches(2), WORLD, workers=0)
    printed = tmp_path / "printed"
    codes = faults.live_ranks(partial(on_a_rank, test, tmp_path), printed)
    assert codes == [0, 0], printed.read_text() + printed.with_suffix(".1").read_text()
    for rank in (0, 1):
        found = np.load(tmp_path / f"{rank}.npz")
        for name in ("image", "label", "score", "box"):
            np.testing.assert_array_equal(found[name], getattr(one, name))


def test_the_metrics_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two objects one is found: recall 1/2 at precision 1."""
    test = EvaluationSet.of(voc_images(tmp_path, SHAPES[:2], [[2, 4, 10, 12]]), ("a",))
    one = Detections(np.array([0]), np.array([0]), np.array([0.9]), test.truth.box[:1])
    monkeypatch.setattr("detect.task.detect", lambda *_: one)
    assert evaluate(fresh_network(ALL), test, ALL, WORLD, workers=0) == pytest.approx(
        {"val_map_11point": 6 / 11, "val_map_area": 1 / 2, "val_coco_ap": 51 / 101}
    )


# ---- speed --------------------------------------------------------------------------------------


def test_latency_is_of_single_images_spread_over_the_set(tmp_path: Path) -> None:
    network = Recorder([[found([0, 0, 2, 2])]] * 60)
    test = test_set(tmp_path, [(20, 20 + i) for i in range(55)])
    recipe = tiny(test_size=20, max_size=100)
    latency = measure_latency(network, test, recipe, CPU)  # type: ignore[arg-type]
    assert latency is not None
    assert (latency["batch_size"], latency["images"]) == (1, 50)
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] < 1000
    widths = [int(images.sizes[0, 1]) for images in network.seen]
    assert widths[:4] == [20] * 4  # three to warm up
    assert len(set(widths)) == 50 and widths[-1] == 74
    nothing = EvaluationSet.of([], ("a",))
    assert measure_latency(network, nothing, recipe, CPU) is None  # type: ignore[arg-type]


def test_latency_stops_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detect.inference.SECONDS", -1.0)
    network = Recorder([[found()]] * 60)
    test = test_set(tmp_path, [(20, 30)] * 9)
    latency = measure_latency(network, test, voc_retinanet_parity(), CPU)  # type: ignore[arg-type]
    assert latency is not None and latency["images"] == 1
