"""Reading the runs that a report compares: scored again, checked, with titles that differ.

A run is the output folder of `detect evaluate` or `detect score`: `metrics.json`, the detections,
and `evaluation.json`, which says of what. The curves are scored again from the detections, and
must give the AP of `metrics.json`; so a page never shows curves of one run and numbers of another.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.runs.metrics_log import read_metrics
from common.runs.results import flatten
from common.storage import read_json
from detect.data.dataset import Annotation, Entry, read_all
from detect.data.opening import open_data
from detect.report.labels import given_labels, short_labels, tell_apart
from detect.scoring.analysis import Analysis
from detect.scoring.bootstrap import Interval, intervals_of, intervals_of_difference
from detect.scoring.detections import Detections, GroundTruth, ground_truth
from detect.scoring.scored_folder import load_scored, options_of, recall_of
from detect.scoring.voc import VocScore, score_voc


@dataclass(frozen=True)
class Run:
    """One detector on the split."""

    folder: Path
    """Where it was read from."""
    title: str
    """Differs from that of every other run."""
    label: str
    """Short; differs from that of every other run."""
    arm: str
    """What seeds of one method share: a label without the seed."""
    evaluation: Mapping[str, Any]
    """What evaluation.json holds."""
    coco: Mapping[str, float | None]
    """The "coco" part of metrics.json."""
    detections: Detections
    """What was found."""
    voc: VocScore
    """The same as metrics.json has it, with the curves."""
    analysis: Analysis
    """Errors, confusion, thresholds and intervals."""
    training: Sequence[Mapping[str, Any]] | None
    """Records of the training, one per epoch; None where there are none."""
    resampled: NDArray[np.float64]
    """(resamples + 1, classes, 2) AP by 11 points and by area of the split and of its resamples,
    the same for all runs; NaN without counted objects."""
    analysis_file: Mapping[str, Any]
    """What analysis.json holds; empty without the file."""

    @property
    def seed(self) -> int | None:
        """The seed of its training, where one is recorded."""
        seed = self.evaluation.get("seed")
        return seed if isinstance(seed, int) else None

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """Of "map_11point" and "map_area"."""
        return intervals_of(self.resampled)

    def mean(self, kind: str) -> float | None:
        """Return the mAP; `kind` is "11point" or "area"."""
        value: float | None = self.voc.metrics()[f"map_{kind}"]
        return value

    @property
    def shown_from(self) -> str:
        """From which score on detections are drawn and in the confusion matrix, in words."""
        point = self.analysis.overall
        return f"from score {point.score_threshold:.2f}" if point else "all detections"


@dataclass(frozen=True)
class Comparison:
    """The runs of a report and what they are measured by."""

    pictures: Sequence[Path | None]
    """The files of the images; None where there is none."""
    truth: GroundTruth
    """The objects of the split."""
    runs: Sequence[Run]
    """At least one; the first is the baseline."""
    data: str
    """The data in words, as its annotations name it."""

    @property
    def kind(self) -> str:
        """The mAP that leads: "11point" for splits of 2007, whose devkit has it, else "area"."""
        years = {part.strip()[:4] for part in self.runs[0].evaluation["split"].split(",")}
        return "11point" if years == {"2007"} else "area"

    @property
    def leads_by_coco(self) -> bool:
        """Whether the data are COCO's, whose own metric comes first."""
        return self.runs[0].evaluation.get("metric") == "coco"

    @cached_property
    def differences(self) -> Sequence[Mapping[str, Interval]]:
        """Of each other run to the first, "map_11point" and "map_area"."""
        return [difference(self.runs[0], run) for run in self.runs[1:]]

    @cached_property
    def classes(self) -> Sequence[str]:
        """The classes that have counted objects."""
        scores = self.runs[0].voc.per_class
        return [name for name, score in scores.items() if score.objects]


def difference(first: Run, second: Run) -> Mapping[str, Interval]:
    """Return the differences second - first of both mAPs, on the same resamples of the images."""
    return intervals_of_difference(first.resampled, second.resampled)


@dataclass(frozen=True, slots=True)
class _Record:
    """The two JSON files of a folder."""

    folder: Path
    evaluation: dict[str, Any]
    voc: dict[str, Any]
    coco: dict[str, Any]


def read_runs(folders: Sequence[Path], data: Path | None, labels: Sequence[str] = ()) -> Comparison:
    """Read the images, the objects and the runs; `write_report` says what can be wrong."""
    if not folders:
        raise InputError("there is nothing to report: give the folders of one or more evaluations")
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise InputError(f"{folder} is given twice: give each evaluation once")
    records = [_read_record(folder) for folder in folders]
    arms = given_labels(labels, len(records)) if labels else _arms(records)
    _check_comparable(records)
    place = data or _recorded_data(records)
    opened = open_data(place, options_of(records[0].evaluation))
    classes = opened.classes
    if classes != tuple(records[0].voc["per_class"]):
        raise InputError(
            f"{records[0].folder} was scored with other classes than {place} has: "
            "give the data it was scored on with --data"
        )
    split = records[0].evaluation["split"]
    entries = opened.listed(split)
    read = read_all(entries, _read, split)
    annotations = [annotation for annotation, _ in read]
    file_names = [entry.name for entry in entries]
    truth = ground_truth(annotations, classes, opened.category_ids, file_names)
    shown = tell_apart(arms, [record.evaluation.get("seed") for record in records])
    titles = _distinct_titles(records)
    names = zip(titles, shown, arms, strict=True)
    runs = [_score(record, name, truth, place) for record, name in zip(records, names, strict=True)]
    pictures = [picture for _, picture in read]
    return Comparison(pictures, truth, runs, _name_of(entries[0].source, place))


def _read(entry: Entry) -> tuple[Annotation, Path | None]:
    """Read an annotation, and find its picture where there is one."""
    annotation, stated = entry.annotate()
    try:
        return annotation, entry.picture(stated)
    except InputError:
        return annotation, None


def _arms(records: Sequence[_Record]) -> list[str]:
    """Return a label for each run; seeds of one recipe with one title share it."""
    titles = [" ".join(record.evaluation["title"].split()) for record in records]
    labels = short_labels(titles)
    first = {title: records[titles.index(title)] for title in titles}
    names = []
    for index, (label, title, record) in enumerate(zip(labels, titles, records, strict=True)):
        same = record.evaluation.get("recipe") == first[title].evaluation.get("recipe")
        trained = record.evaluation.get("seed") is not None
        apart = titles.count(title) > 1 and not (same and trained)
        names.append(f"{label}, run {index + 1}" if apart else label)
    return names


def _name_of(path: Path, place: Path) -> str:
    """Return the name that an annotation gives the data (<database>), else the folder's."""
    try:
        with path.open("rb") as file:
            match = re.search(rb"<database>([^<>]{1,80})</database>", file.read(10_000))
    except OSError:
        match = None
    named = " ".join(match[1].decode("utf-8", "replace").split()) if match else ""
    named = re.sub("^The (.+) Database$", r"\1", named)
    return named if named.lower() not in ("", "unknown", "unspecified") else place.resolve().name


def _read_record(folder: Path) -> _Record:
    files = folder / "evaluation.json", folder / "metrics.json"
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{file} is missing: give an output folder of detect evaluate or detect score"
            )
    evaluation, metrics = map(read_json, files)
    record = _Record(folder, evaluation, metrics.get("voc", {}), metrics.get("coco", {}))
    for key in ("title", "data", "split", "detections"):
        if not isinstance(evaluation.get(key), str) or not evaluation[key].strip():
            raise InputError(f"{files[0]}: {key!r} is not a text: evaluate again")
    coco = record.coco.values() if isinstance(record.coco, dict) else [math.nan]
    sound = isinstance(record.voc, dict) and isinstance(record.voc.get("per_class"), dict)
    if not sound or not all(value is None or _is_fraction(value) for value in coco):
        raise InputError(f"{files[1]} is not what detect score writes: evaluate again")
    if not _is_fraction(record.voc.get("iou")) or not record.voc["iou"]:
        raise InputError(f"{files[1]}: the overlap 'iou' is not in (0, 1]: evaluate again")
    return record


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _check_comparable(records: Sequence[_Record]) -> None:
    first = records[0]
    for other in records[1:]:
        text = (
            f"{first.folder} and {other.folder} cannot be compared, leave one out: they differ in"
        )
        splits = first.evaluation["split"], other.evaluation["split"]
        if splits[0] != splits[1]:
            raise InputError(f"{text} the split, {splits[0]} and {splits[1]}")
        if list(first.voc["per_class"]) != list(other.voc["per_class"]):
            names = [", ".join(record.voc["per_class"]) for record in (first, other)]
            raise InputError(f"{text} the classes, {names[0]} and {names[1]}")
        if first.voc["iou"] != other.voc["iou"]:
            raise InputError(f"{text} the overlap, {first.voc['iou']} and {other.voc['iou']}")
        rules = recall_of(first.folder), recall_of(other.folder)
        if rules[0] != rules[1]:
            raise InputError(f"{text} --recall, {rules[0]} and {rules[1]}")


def _recorded_data(records: Sequence[_Record]) -> Path:
    places = [Path(record.evaluation["data"]) for record in records]
    for place in places:
        if place.exists():  # a JSON is data, too
            return place
    raise InputError(
        f"{places[0]}, the data that {records[0].folder} was evaluated on, is gone: "
        "say with --data where they are now"
    )


def _distinct_titles(records: Sequence[_Record]) -> list[str]:
    """Make titles distinct: a repeated one gains the end of its folder's path."""
    titles = [" ".join(record.evaluation["title"].split()) for record in records]
    parts = [record.folder.resolve().parts for record in records]
    length = 1
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return [
        f"{title} ({Path(*part[-length:]).as_posix()})" if titles.count(title) > 1 else title
        for title, part in zip(titles, parts, strict=True)
    ]


def _score(
    record: _Record,
    names: tuple[str, str, str],
    truth: GroundTruth,
    place: Path,
) -> Run:
    path = record.folder / record.evaluation["detections"]
    scored = load_scored(record.folder, truth, record.voc["iou"])
    detections, matches = scored.detections, scored.matches
    rule = recall_of(record.folder)
    voc = score_voc(truth, detections, record.voc["iou"], matches, rule)
    recorded = flatten(record.voc)
    for key, value in flatten(voc.metrics()).items():
        if key not in recorded or not _agree(value, recorded[key]):
            raise InputError(
                f"{record.folder / 'metrics.json'} does not fit {path} on {place}: {key} is "
                f"{recorded.get(key)} there and {value} here; evaluate again, or give the data "
                "it was scored on with --data"
            )
    file = record.folder / "analysis.json"
    analysis_file = read_json(file) if file.is_file() else {}
    return Run(
        record.folder,
        *names,
        record.evaluation,
        record.coco,
        detections,
        voc,
        Analysis.of(truth, detections, voc, matches),
        _training(record.evaluation.get("training")),
        scored.resampled if scored.resampled is not None else np.empty((0, 0, 2)),
        analysis_file if isinstance(analysis_file, Mapping) else {},
    )


def _training(folder: object) -> Sequence[Mapping[str, Any]] | None:
    """Read the log of a run folder; None for other detections, or where the folder is gone."""
    if not isinstance(folder, str) or not (Path(folder) / "metrics.jsonl").is_file():
        return None
    return read_metrics(Path(folder))


def _agree(here: object, there: object) -> bool:
    if isinstance(here, float) and isinstance(there, int | float):
        return math.isclose(here, there, abs_tol=1e-9)
    return here == there
