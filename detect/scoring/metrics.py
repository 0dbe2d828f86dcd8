"""Both metrics of a split in one: what metrics.json holds."""

import json
from pathlib import Path
from typing import Any, Literal

from common.storage import write_text
from detect.scoring.coco import NAMES, score_coco
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches, match
from detect.scoring.voc import Recall, score_voc

CocoEngine = Literal["own", "pycocotools"]


def score(
    truth: GroundTruth,
    detections: Detections,
    iou: float = 0.5,
    coco: bool = True,
    *,
    matches: Matches | None = None,
    recall: Recall = "integer",
    engine: CocoEngine = "own",
) -> dict[str, Any]:
    """Score detections by VOC and by COCO.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        iou: The overlap that makes a hit for VOC, in (0, 1]; COCO has its own ten.
        coco: Whether to score by COCO.
        matches: Of detections and objects, where already computed.
        recall: How VOC's 11 points compare recall, as for `score_voc`.
        engine: Who scores by COCO; both give the same numbers, pycocotools takes long.

    Returns:
        `{"voc": ..., "coco": ...}`. AP values are fractions; None where nothing is counted,
        or for COCO if it is left out.
    """
    matches = matches or match(truth, detections)
    metrics = {"voc": score_voc(truth, detections, iou, matches, recall).metrics()}
    if not coco:
        return metrics | {"coco": dict.fromkeys(NAMES)}
    if engine == "own":
        return metrics | {"coco": score_coco(truth, detections, matches)}
    from detect.scoring import coco_by_pycocotools

    return metrics | {"coco": coco_by_pycocotools.score_coco(truth, detections)}


def write_metrics(metrics: dict[str, Any], file: Path) -> None:
    """Write metrics as JSON; what is not counted becomes null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    write_text(file, content)
