"""The folder that `detect evaluate` and `detect score` write.

```
metrics.json       VOC mAP and COCO AP
analysis.json      other overlaps, sizes, intervals, kinds of error, confusion, calibration
label_errors.json  likely errors of the annotations, ranked
matches.npz        detections and overlaps, computed once: the report starts from them
evaluation.json    what was evaluated, on what, and how
```

Free of torch: scoring detections takes no network. Free of pictures: annotations are enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.runs.environment import describe_environment
from common.storage import read_json, sole_writer, write_json
from common.text import counted, in_line, say
from detect.data.checks import coordinates_look
from detect.data.dataset import DetectionData, read_all
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.splits import scored_set
from detect.scoring import label_errors
from detect.scoring.analysis import analyse, bootstrap_record
from detect.scoring.bootstrap import (
    SEED,
    intervals_of_difference,
    resampled_ap,
    split_and_draws,
)
from detect.scoring.detections import Detections, GroundTruth, ground_truth
from detect.scoring.formats.hints import hints
from detect.scoring.formats.reading import read_detections
from detect.scoring.matches import match
from detect.scoring.matches_file import Scored, read_scored, truth_digest, write_scored
from detect.scoring.metrics import CocoEngine, score, write_metrics
from detect.scoring.voc import Recall


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """What is computed from detections."""

    ious: Sequence[float] = (0.5, 0.75)
    """Overlaps that make a hit, in (0, 1]; metrics.json has the first."""
    resamples: int = 1000
    """Of the bootstrap; 0 for no intervals."""
    coco: bool = True
    """Whether COCO's metric is."""
    engine: CocoEngine = "own"
    """Who computes it: both give the same numbers, pycocotools takes long."""
    recall: Recall = "integer"
    """How VOC's 11 points compare recall, as for `score_voc`."""
    against: Path | None = None
    """Detections, or an evaluated folder, to compare with on the same resamples."""


def read_truth(data: Path, split: str, options: DataOptions | None = None) -> GroundTruth:
    """Read the objects of a split; pictures need not be there.

    Raises:
        InputError: If the data cannot be read, or have no such split.
    """
    return truth_of(open_data(data, options), split)


def truth_of(data: DetectionData, split: str) -> GroundTruth:
    """Read the objects of a split of data that are open."""
    entries = data.listed(split)
    annotations = read_all(entries, lambda entry: entry.annotate()[0], split)
    names = [entry.name for entry in entries]
    return ground_truth(annotations, data.classes, data.category_ids, names)


def score_detections(
    path: Path,
    data: Path,
    split: str | None,
    out: Path,
    scoring: Scoring,
    options: DataOptions | None = None,
) -> dict[str, Any]:
    """Score the detections of any detector, in any format of `read_detections`.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: If the detections or the data cannot be read, or do not fit each other.
    """
    opened = open_data(data, options)
    split = scored_set(opened, split)
    truth = truth_of(opened, split)
    found = f"{split} of {counted(len(truth.image_ids), 'image')}"
    said = [
        f"{data}: {opened.kind}",
        found,
        *opened.notes,
        *coordinate_warnings(opened, truth, options),
    ]
    say("; ".join(map(in_line, said)))
    notes: list[str] = []
    detections = read_detections(path, truth, notes)
    unknown = "checkpoint epoch seconds images_per_second latency throughput training".split()
    facts = {
        "title": path.resolve().stem,
        "detections": str(path.resolve()),
        **dict.fromkeys([*unknown, "recipe", "environment", "backbone"]),
        "data_options": recorded(options),
        "metric": opened.metric,
        "data_fingerprint": data_fingerprint(truth, split),
        "command": describe_environment("cpu", 1)["command"],
    }
    with sole_writer(out):
        return score_into(out, truth, detections, data, split, facts, scoring, notes)


def coordinate_warnings(
    data: DetectionData, truth: GroundTruth, options: DataOptions | None
) -> list[str]:
    """Warn where boxes look counted in another way than they are read."""
    if data.metric != "voc":
        return []
    look = coordinates_look(truth.box, (options or DataOptions()).xml_coordinates)
    return [f"warning: {look}"] if look else []


def score_into(
    out: Path,
    truth: GroundTruth,
    detections: Detections,
    data: Path,
    split: str,
    facts: Mapping[str, Any],
    scoring: Scoring,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the files of the folder.

    Args:
        out: The folder.
        truth: The objects of the split.
        detections: What a detector found in it.
        data: Where the data lie.
        split: Of the data.
        facts: The entries of evaluation.json that depend on where the detections come from.
        scoring: What is computed.
        notes: What was said when the detections were read.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: If what to compare with cannot be read or is of another split.
    """
    iou, recall = scoring.ious[0], scoring.recall
    baseline = scoring.against and _read_baseline(scoring.against, truth, split)
    matches = match(truth, detections)
    draws = split_and_draws(truth, scoring.resamples, SEED) if scoring.resamples else None
    resampled = (
        None if draws is None else resampled_ap(truth, detections, draws, iou, matches, recall)
    )
    metrics = score(
        truth,
        detections,
        iou,
        scoring.coco,
        matches=matches,
        recall=recall,
        engine=scoring.engine,
    )
    analysis = analyse(truth, detections, scoring.ious, matches, resampled, recall)
    analysis["reading"] = [*notes, *hints(truth, detections, matches)]
    if baseline and draws is not None and resampled is not None:
        before = resampled_ap(truth, baseline, draws, iou, recall=recall)
        difference = intervals_of_difference(before, resampled)
        record = bootstrap_record(difference, scoring.resamples)
        analysis["against"] = {"detections": str(scoring.against), **record}
    suspected = label_errors.find_label_errors(truth, detections, matches)
    analysis["label_errors"] = label_errors.counts(suspected)
    write_metrics(metrics, out / "metrics.json")
    write_metrics(analysis, out / "analysis.json")
    write_json(out / "label_errors.json", label_errors.describe(truth, detections, suspected))
    source = out / facts["detections"]
    write_scored(out, Scored(detections, matches, resampled), truth, source, iou, recall)
    evaluation = {**facts, "data": str(data.resolve()), "split": split}
    evaluation |= {"images": len(truth.image_ids), "classes": list(truth.classes)}
    # The last one: with it the folder is whole.
    write_json(out / "evaluation.json", evaluation)
    return metrics


def recorded(options: DataOptions | None) -> dict[str, Any] | None:
    """Return the options by which data were read, for evaluation.json."""
    if options is None:
        return None
    images = options.images and str(options.images.resolve())
    return {**asdict(options), "images": images}


def options_of(evaluation: Mapping[str, Any]) -> DataOptions | None:
    """Return the options by which the data of an evaluated folder were read."""
    record = evaluation.get("data_options")
    if not isinstance(record, dict):
        return None
    known = {f.name: record[f.name] for f in fields(DataOptions) if f.name in record}
    try:
        if known.get("images"):
            known["images"] = Path(known["images"])
        return DataOptions(**known)
    except (AttributeError, TypeError, ValueError):
        return None


def load_scored(folder: Path, truth: GroundTruth, iou: float, resamples: int = 1000) -> Scored:
    """Load what scoring a folder computed, or compute it again where it was not kept.

    Args:
        folder: As `score_into` wrote it.
        truth: The objects of the split.
        iou: The overlap that makes a hit.
        resamples: Of the images; 0 for none.

    Raises:
        InputError: If the folder is incomplete, or its detections are gone or do not fit.
    """
    source, recall = folder / detections_of(folder), recall_of(folder)
    scored = read_scored(folder, truth, source if source.exists() else None, iou, recall)
    if scored is None:
        detections = read_detections(source, truth)
        scored = Scored(detections, match(truth, detections), None)
    if resamples and (scored.resampled is None or len(scored.resampled) != resamples + 1):
        draws = split_and_draws(truth, resamples, SEED)
        found, matches = scored.detections, scored.matches
        ap = resampled_ap(truth, found, draws, iou, matches, recall)
        scored = Scored(found, matches, ap)
    return scored


def detections_of(folder: Path) -> str:
    """Read where the detections of an evaluated folder lie."""
    record = folder / "evaluation.json"
    if not record.is_file():
        raise InputError(f"{record} is missing: give a folder of detect evaluate or detect score")
    named = read_json(record).get("detections")
    if not isinstance(named, str):
        raise InputError(f"{record}: 'detections' is not a text: evaluate again")
    return named


def recall_of(folder: Path) -> Recall:
    """Read how the 11 points of a folder compared recall."""
    file = folder / "analysis.json"
    record = read_json(file).get("recall") if file.is_file() else None
    return "float" if isinstance(record, dict) and record.get("rule") == "float" else "integer"


def _read_baseline(path: Path, truth: GroundTruth, split: str) -> Detections:
    """Read detections, or those that an evaluated folder names."""
    record = path / "evaluation.json"
    if not record.is_file():
        return read_detections(path, truth)
    scored_on = read_json(record).get("split")
    if scored_on != split:
        raise InputError(f"{path} was evaluated on {scored_on}, not {split}: compare on one split")
    return read_detections(path / detections_of(path), truth)


def data_fingerprint(truth: GroundTruth, split: str) -> str:
    """Return a SHA-256 over the split's name, its classes, and its ids and objects in order."""
    return sha256(f"{split}\n{truth_digest(truth)}".encode()).hexdigest()
