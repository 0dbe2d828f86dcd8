"""A few test images with what a detector finds on them, for whoever follows a training."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from common.runs.trackers import Picture
from detect.data.dataset import LabelledImage
from detect.data.pixels import read_pixels
from detect.network.retinanet import BatchedRetinaNet
from detect.predictor import Predictor, prepare
from detect.recipes import Recipe
from detect.report.drawing import boxes

_IMAGES = 4
_BOXES = 20
_SCORE = 0.3
_SIDE = 480


def sample_pictures(
    images: Sequence[LabelledImage], classes: Sequence[str], recipe: Recipe
) -> Callable[[nn.Module], Mapping[str, Picture]]:
    """Return what draws the boxes of a detector on some images, evenly chosen.

    A picture shows what is found with a score of at least 0.3, 20 boxes at most, in the colours of
    the classes, and dashed the objects that are there.

    Args:
        images: To choose from.
        classes: Names.
        recipe: For sizes and precision.
    """
    places = np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).round().astype(int)
    chosen = [images[place] for place in places.tolist()]

    def draw(network: nn.Module) -> Mapping[str, Picture]:
        if not isinstance(network, BatchedRetinaNet):
            raise TypeError(f"expected a BatchedRetinaNet, not {type(network).__name__}")
        predictor = Predictor(network, recipe, classes, _SCORE, "")
        pixels = [read_pixels(image) for image in chosen]
        ready = (prepare(each, predictor.settings) for each in pixels)
        drawn = {}
        found = predictor.detect(ready)
        for image, each, (_, prediction) in zip(chosen, pixels, found, strict=True):
            labelled = [
                boxes.LabelledBox(
                    tuple(box),
                    f"{name} {score:.2f}",
                    boxes.OF_CLASSES[label % len(boxes.OF_CLASSES)],
                )
                for box, name, score, label in zip(
                    prediction.boxes[:_BOXES].tolist(),
                    prediction.names,
                    prediction.scores.tolist(),
                    prediction.labels.tolist(),
                    strict=False,
                )
            ]
            objects = image.annotation.boxes.tolist()
            labelled += [boxes.LabelledBox(tuple(box), "", boxes.IGNORED) for box in objects]
            drawn[f"samples/{image.annotation.image_id}"] = boxes.paint_boxes(each, labelled, _SIDE)
        return drawn

    return draw
