"""`detect compare`: evaluated folders of two methods, several seeds each, against each other."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.storage import read_json, write_json
from detect.scoring.bootstrap import MAPS, mean_of_classes
from detect.scoring.detections import GroundTruth
from detect.scoring.over_seeds import compare_runs, verdict
from detect.scoring.scored_folder import load_scored, options_of, read_truth, recall_of

NAME = "comparison.json"


def compare_folders(
    baseline: Sequence[Path],
    against: Sequence[Path],
    out: Path | None = None,
    data: Path | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Compare two methods over seeds and images.

    Args:
        baseline: Output folders of evaluate or score, one per seed of the first method.
        against: Those of the second.
        out: Folder for comparison.json; None to write nothing.
        data: The data; None: where they were at the evaluation.
        resamples: How many resamples of the images.

    Returns:
        The content of comparison.json; fractions, None where not defined.

    Raises:
        InputError: A folder is incomplete or given twice, or they differ in split, classes,
            overlap, recall or data.
    """
    folders = [*baseline, *against]
    records = _records(folders)
    truth = _truth(folders[0], records[0], data)
    means = []
    for folder, record in zip(folders, records, strict=True):
        ap = load_scored(folder, truth, record["iou"], resamples).resampled
        assert ap is not None  # resamples is positive
        means.append(mean_of_classes(ap))
    counts, images = (len(baseline), len(against)), len(truth.image_ids)
    result: dict[str, Any] = {
        "images": images,
        "runs": list(counts),
        "resamples": resamples,
        "iou": records[0]["iou"],
        "split": records[0]["split"],
        "baseline": [str(folder) for folder in baseline],
        "against": [str(folder) for folder in against],
    }
    for column, kind in enumerate(MAPS):
        values = [mean[:, column] for mean in means]
        first, second = values[: counts[0]], values[counts[0] :]
        difference = compare_runs(first, second)
        numbers = asdict(difference)
        result[kind] = {
            "baseline": [_known(float(run[0])) for run in first],
            "against": [_known(float(run[0])) for run in second],
            "difference": _known(numbers.pop("value")),
            **{key: _known(number) for key, number in numbers.items()},
            "verdict": verdict(difference, counts, images),
        }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / NAME, result)
    return result


def _records(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read what each folder says of its evaluation; refuse those of several kinds."""
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise InputError(f"{folder} is given twice: give the folder of each seed once")
    records = [_record(folder) for folder in folders]
    for folder, record in zip(folders[1:], records[1:], strict=True):
        for key in ("split", "classes", "iou", "recall"):
            if record[key] != records[0][key]:
                raise InputError(
                    f"{folders[0]} and {folder} differ in their {key}, {records[0][key]} and "
                    f"{record[key]}: compare evaluations of one kind"
                )
    return records


def _record(folder: Path) -> dict[str, Any]:
    files = [folder / name for name in ("evaluation.json", "metrics.json")]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{file} is missing: give an output folder of detect evaluate or detect score"
            )
    evaluation, metrics = map(read_json, files)
    voc = metrics.get("voc")
    voc = voc if isinstance(voc, dict) else {}
    iou = voc.get("iou")
    sound = isinstance(iou, int | float) and 0 < iou <= 1 and isinstance(voc.get("per_class"), dict)
    if not sound or not all(isinstance(evaluation.get(key), str) for key in ("data", "split")):
        raise InputError(f"{folder} is not what detect score writes: evaluate again")
    return {
        **evaluation,
        "classes": list(voc["per_class"]),
        "iou": iou,
        "recall": recall_of(folder),
    }


def _truth(folder: Path, record: dict[str, Any], data: Path | None) -> GroundTruth:
    """Read the objects that an evaluation was scored against, wherever the data are now."""
    place = data or Path(record["data"])
    if not place.exists():
        raise InputError(f"{place}, the data of {folder}, is gone: say with --data where it is now")
    truth = read_truth(place, record["split"], options_of(record))
    if list(truth.classes) != record["classes"]:
        raise InputError(
            f"{folder} was scored with other classes than {place} has: give the data of that "
            "time with --data"
        )
    return truth


def _known(number: float | None) -> float | None:
    """Convert numbers to what JSON has."""
    return None if number is None or math.isnan(number) else number
