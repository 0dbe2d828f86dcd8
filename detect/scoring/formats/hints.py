"""What to say where detections hit next to nothing, but would if read in another way."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.boxes import to_corners
from detect.scoring.matches import Matches, match

_LITTLE, _TIMES = 0.05, 5
_IOU = 0.5


def hints(truth: GroundTruth, detections: Detections, matches: Matches) -> list[str]:
    """Say which other reading would find the most objects, if the one taken finds few."""
    counted = np.flatnonzero(~truth.difficult)
    if not len(detections.score):
        return ["there are no detections: no object is found"]
    if not len(counted):
        return []
    found = _found(truth, matches)
    if found > _LITTLE * len(counted):
        return []
    readings = _readings(truth, detections)
    better, remedy = max(
        ((_found(truth, match(truth, changed)), text) for changed, text in readings),
        key=lambda reading: reading[0],
    )
    if better <= max(_TIMES * found, _LITTLE * len(counted)):
        return []
    return [f"{found} of {len(counted)} objects are found; {better} would be found if {remedy}"]


def _found(truth: GroundTruth, matches: Matches) -> int:
    hit = np.unique(matches.nearest[matches.overlap >= _IOU])
    return int(np.count_nonzero(~truth.difficult[hit]))


def _readings(truth: GroundTruth, detections: Detections) -> Iterator[tuple[Detections, str]]:
    classes, images = len(truth.classes), len(truth.image_ids)
    for shift, text in ((1, "0: add 1 to each"), (-1, "2: take 1 from each")):
        label = detections.label + shift
        inside = (label >= 0) & (label < classes)
        yield (
            replace(detections, label=label).select(inside),
            f"class numbers counted from {text}",
        )
    for shift in (1, -1):
        image = detections.image + shift
        inside = (image >= 0) & (image < images)
        sign = "+" if shift > 0 else "-"
        yield (
            replace(detections, image=image).select(inside),
            f"places in the list of images were one off: write {sign}1, or ids",
        )
    size = detections.box[:, 2:] - detections.box[:, :2]
    yield (
        replace(detections, box=np.hstack([detections.box[:, :2], size])),
        "boxes were [x1, y1, x2, y2]: write [x, y, width, height] in COCO JSON",
    )
    yield (
        replace(detections, box=to_corners(detections.box, "corner and size")),
        "boxes were [x, y, width, height]: write xmin ymin xmax ymax in VOC text",
    )
    yield (
        replace(detections, box=detections.box[:, [1, 0, 3, 2]]),
        "x and y were exchanged: write x first",
    )
    width = truth.sizes[detections.image]
    for side in (300, 320, 416, 512, 640, 800, 1024):
        squares = detections.box * np.tile(width / side, 2)
        yield (
            replace(detections, box=squares),
            f"boxes were in images of {side} x {side}: scale them back",
        )
