"""What goes into the detector, and what is kept of what comes out."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from torch import Tensor

from common.distributed import World
from detect.recipes import toy_retinanet
from detect.task import EvaluationSet, detect
from detect.voc import Annotation, VocImage

WORLD = World(torch.device("cpu"))


class Recorder:
    """Stands in for a RetinaNet: notes its inputs and gives the scripted detections."""

    def __init__(self, scripted: list[dict[str, Tensor]]) -> None:
        self.transform = SimpleNamespace(min_size=(96, 128))
        self.scripted = scripted
        self.seen: list[Tensor] = []
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        (image,) = images
        self.seen.append(image)
        self.sizes.append(self.transform.min_size)
        return [self.scripted[len(self.seen) - 1]]


def found(*boxes: list[float]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "scores": torch.linspace(0.9, 0.5, len(boxes)),
        "labels": torch.arange(len(boxes)),
    }


def images(folder: Path, count: int) -> EvaluationSet:
    made = []
    for number in range(count):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.full((20, 30, 3), (0, 51, 10 * number), np.uint8))
        nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.bool_)
        made.append(VocImage(path, Annotation(str(number), 30, 20, *nothing)))
    return EvaluationSet.of(made, ("a", "b", "c"))


def test_detections_keep_their_image_and_lose_boxes_without_area(tmp_path: Path) -> None:
    network = Recorder(
        [
            found([0, 0, 5, 5], [7, 2, 7, 9], [1, 1, 4, 4]),  # the second has no width
            found(),
            found([3, 8, 9, 8], [2, 2, 30, 20]),  # the first has no height
        ]
    )
    test = images(tmp_path, 3)
    detections = detect(network, test, toy_retinanet(), WORLD, workers=0)  # type: ignore[arg-type]
    assert detections.image.tolist() == [0, 0, 2]
    assert detections.label.tolist() == [0, 2, 1]
    assert detections.box.tolist() == [[0, 0, 5, 5], [1, 1, 4, 4], [2, 2, 30, 20]]


def test_images_are_rgb_in_0_to_1_at_the_test_size(tmp_path: Path) -> None:
    network = Recorder([found(), found()])
    recipe = toy_retinanet()
    detect(network, images(tmp_path, 2), recipe, WORLD, workers=0)  # type: ignore[arg-type]
    for number, image in enumerate(network.seen):
        assert image.shape == (3, 20, 30)
        expected = torch.tensor([10 * number / 255, 0.2, 0.0])  # cv2 wrote blue, green, red
        torch.testing.assert_close(image.amax(dim=(1, 2)), expected)
    assert network.sizes == [(recipe.detector.test_size,)] * 2
    assert network.transform.min_size == (96, 128)
