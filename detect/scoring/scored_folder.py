"""The folder that `detect evaluate` and `detect score` write.

```
metrics.json       VOC mAP and COCO AP
analysis.json      other overlaps, sizes, intervals, kinds of error, confusion, counts per class
evaluation.json    what was evaluated, on what, and how
```

Free of torch: scoring detections takes no network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.runs.environment import describe_environment
from common.storage import read_json, write_json
from detect.data.dataset import LabelledImage
from detect.data.voc import read_classes, read_split
from detect.scoring.analysis import analyse, compare
from detect.scoring.detections import Detections, GroundTruth, ground_truth, read_detections
from detect.scoring.metrics import score, write_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """What is computed of detections.

    Attributes:
        ious: Overlaps that make a hit, in (0, 1]; metrics.json has the first.
        resamples: Of the bootstrap; 0 for no intervals.
        coco: Whether COCO's metric is, which takes most of the time.
        against: Detections, or an evaluated folder, to compare with on the same resamples.
    """

    ious: Sequence[float] = (0.5, 0.75)
    resamples: int = 1000
    coco: bool = True
    against: Path | None = None


def score_detections(
    path: Path, data: Path, split: str, out: Path, scoring: Scoring
) -> dict[str, Any]:
    """Score anybody's detections: VOC text or a COCO results file.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: If the detections or the data cannot be read, or do not fit each other.
    """
    classes = read_classes(data)
    images = read_split(data, split, classes)
    truth = ground_truth([image.annotation for image in images], classes)
    detections = read_detections(path, truth)
    unknown = "checkpoint epoch seconds images_per_second latency throughput training".split()
    facts = {
        "title": path.resolve().stem,
        "detections": str(path.resolve()),
        **dict.fromkeys([*unknown, "recipe", "environment", "backbone"]),
        "data_fingerprint": data_fingerprint(images, split),
        "command": describe_environment("cpu", 1)["command"],
    }
    return score_into(out, truth, detections, data, split, facts, scoring)


def score_into(
    out: Path,
    truth: GroundTruth,
    detections: Detections,
    data: Path,
    split: str,
    facts: Mapping[str, Any],
    scoring: Scoring,
) -> dict[str, Any]:
    """Write the three files; `facts` are those of evaluation.json that differ by origin.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: If what to compare with cannot be read or is of another split.
    """
    baseline = scoring.against and _read_baseline(scoring.against, truth, split)
    metrics = score(truth, detections, scoring.ious[0], scoring.coco)
    analysis = analyse(truth, detections, scoring.ious, scoring.resamples)
    if baseline:
        difference = compare(truth, baseline, detections, scoring.ious[0], scoring.resamples)
        analysis["against"] = {"detections": str(scoring.against), **difference}
    write_metrics(metrics, out / "metrics.json")
    write_metrics(analysis, out / "analysis.json")
    evaluation = {**facts, "data": str(data.resolve()), "split": split}
    evaluation |= {"images": len(truth.image_ids), "classes": list(truth.classes)}
    # The last of the three: with it the folder is whole.
    write_json(out / "evaluation.json", evaluation)
    return metrics


def _read_baseline(path: Path, truth: GroundTruth, split: str) -> Detections:
    """Read detections, or those that an evaluated folder names."""
    record = path / "evaluation.json"
    if not record.is_file():
        return read_detections(path, truth)
    evaluation = read_json(record)
    if evaluation.get("split") != split:
        raise InputError(
            f"{path} was evaluated on {evaluation.get('split')}, not {split}: compare on one split"
        )
    if not isinstance(evaluation.get("detections"), str):
        raise InputError(f"{record}: 'detections' is not a text: evaluate again")
    return read_detections(path / evaluation["detections"], truth)


def data_fingerprint(images: Sequence[LabelledImage], split: str) -> str:
    """Return a SHA-256 over the split's name, the ids in order, and their files' sizes in bytes.

    Both files of an image count, JPEG and annotation; their content is not read.
    """
    digest = sha256(f"{split}\n".encode())
    for image in images:
        image_id = image.annotation.image_id
        annotation = image.path.parents[1] / "Annotations" / f"{image_id}.xml"
        sizes = image.path.stat().st_size, annotation.stat().st_size
        digest.update(f"{image_id} {sizes[0]} {sizes[1]}\n".encode())
    return digest.hexdigest()
