"""Both metrics of a split in one: what metrics.json holds."""

import json
from pathlib import Path
from typing import Any

from common.storage import write_text
from detect.scoring.coco import NAMES, score_coco
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.voc import score_voc


def score(
    truth: GroundTruth, detections: Detections, iou: float = 0.5, coco: bool = True
) -> dict[str, Any]:
    """Scores detections by VOC and by COCO.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        iou: The overlap that makes a hit for VOC, in (0, 1]; COCO has its own ten.
        coco: Whether to score by COCO, which takes most of the time.

    Returns:
        `{"voc": ..., "coco": ...}`. AP values are fractions; None where nothing is counted,
        or for COCO if it is left out.
    """
    return {
        "voc": score_voc(truth, detections, iou).metrics(),
        "coco": score_coco(truth, detections) if coco else dict.fromkeys(NAMES),
    }


def write_metrics(metrics: dict[str, Any], file: Path) -> None:
    """Writes metrics as JSON; what is not counted becomes null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_text(file, content)
