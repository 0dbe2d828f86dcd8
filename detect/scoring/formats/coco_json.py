"""COCO results: one JSON list of `{"image_id", "category_id", "bbox", "score"}`.

`bbox` is [x, y, width, height] in continuous coordinates. `category_id` is that of the data's own
COCO annotations, else it counts the classes from 1. `image_id` is written as an integer, the VOC id
without its underscore ("2008_000008" is 2008000008, "000001" is 1), when every id of the split
converts and no two meet; otherwise it is the id itself. Where entries have a `file_name` or a
`category_name` of the data, too, these are what counts.

So write pycocotools, detectron2 (`coco_instances_results.json`), mmdetection (`--format-only`,
`*.bbox.json`), ultralytics (`save_json`) and torchvision's references, each with ids of its own;
`names` and `boxes` say how those are read.
"""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.images.hidden import is_hidden
from common.storage import decode_text, open_regular, parse_json
from common.text import shown
from detect.scoring.detections import Detections, GroundTruth, integer_ids
from detect.scoring.formats.boxes import are_finite, read_boxes
from detect.scoring.formats.memory import uncollected
from detect.scoring.formats.names import (
    UnknownNameError,
    classes_by_name,
    find_classes,
    find_images,
    images_by_file,
    refusal,
)

_LISTS = ("annotations", "detections", "predictions", "results")
_NUMBER = int | float
_SMALL, _RATIO = 10_000_000, 100
"""Bytes, and times its size, to which a packed file may unpack; detections come to 5 or 10."""


def read_coco_json(file: Path, truth: GroundTruth, notes: list[str]) -> Detections:
    """Read a results file, also one packed by gzip or zip; see `read_detections`."""
    entries = _entries(file)
    names, classes, score, box = _columns(entries, file)
    try:
        # Names beside the numbers, as `detect predict` writes them, say what numbers may not.
        files = _column(entries, "file_name")
        image = images_by_file(files, truth) if files != names else None
        label = classes_by_name(_column(entries, "category_name"), truth)
        image = find_images(names, truth, notes) if image is None else image
        label = find_classes(classes, truth, notes) if label is None else label
    except UnknownNameError as error:
        raise refusal(f"{file}, entry {error.place + 1}", error) from None
    box = read_boxes(box, truth.sizes[image], "corner and size", notes)
    return Detections(image, label, score, box)


def write_coco_json(detections: Detections, truth: GroundTruth, file: Path) -> None:
    """Write a COCO results file, in the order of `detections`."""
    image_ids = integer_ids(truth.image_ids) or truth.image_ids
    columns = zip(
        detections.image.tolist(),
        detections.label.tolist(),
        detections.score.tolist(),
        detections.box.tolist(),
        strict=True,
    )
    entries = [
        {
            "image_id": image_ids[image],
            "category_id": truth.category_ids[label] if truth.category_ids else label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, label, score, (x1, y1, x2, y2) in columns
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entries), encoding="utf-8")


def _entries(file: Path) -> list[Any]:
    try:
        with open_regular(file) as opened:
            content = opened.read()
        content = _unpacked(content, file)
    except InputError:
        raise
    except Exception as error:  # of damaged archives Python raises nearly anything
        raise InputError(f"{file} cannot be read ({error}): write or copy it again") from None
    if not content.strip():
        raise InputError(f"{file} is empty: write it again; a file without detections holds []")
    try:
        with uncollected():
            entries = parse_json(decode_text(content, file))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); write it again") from None
    if isinstance(entries, dict):
        lists = [entries[key] for key in _LISTS if isinstance(entries.get(key), list)]
        if len(lists) == 1:
            entries = lists[0]
    if not isinstance(entries, list):
        raise InputError(
            f"{file} is not a COCO results file: write one list of detections, each with "
            "image_id, category_id, bbox and score"
        )
    return entries


def _only_results(archive: zipfile.ZipFile, file: Path) -> str:
    """Find the results in an archive, such as those that COCO's server takes."""
    names = [name for name in archive.namelist() if name.lower().endswith(".json")]
    names = [name for name in names if not any(map(is_hidden, name.split("/")))]
    if len(names) != 1:
        raise InputError(
            f"{file} holds {len(names)} .json files, not one: unpack it and give the results"
        )
    return names[0]


def _unpacked(content: bytes, file: Path) -> bytes:
    """Unpack gzip or zip, if it is one; a few kilobytes can stand for any number."""
    most = max(_SMALL, _RATIO * len(content))
    if content.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            unpacked = packed.read(most + 1)
    elif content.startswith(b"PK\x03\x04"):
        archive = zipfile.ZipFile(io.BytesIO(content))
        with archive.open(_only_results(archive, file)) as inside:
            unpacked = inside.read(most + 1)
    else:
        return content
    if len(unpacked) > most:
        raise InputError(
            f"{file} unpacks to over {most:,} bytes, {_RATIO} times its size: unpack it yourself"
        )
    return unpacked


def _column(entries: list[Any], key: str) -> list[str]:
    """Return what all entries have under a key, if that is text; else nothing."""
    found = [entry.get(key) for entry in entries]
    return found if all(isinstance(value, str) for value in found) else []


def _columns(
    entries: list[Any], file: Path
) -> tuple[list[object], list[object], NDArray[np.float64], NDArray[np.float64]]:
    try:
        key = "image_id" if all("image_id" in entry for entry in entries) else "file_name"
        names = [entry[key] for entry in entries]
        classes = [entry["category_id"] for entry in entries]
        scores = [entry["score"] for entry in entries]
        boxes = [entry["bbox"] for entry in entries]
        if not all(isinstance(score, _NUMBER) for score in scores):
            raise TypeError
        score = np.array(scores, dtype=np.float64).reshape(-1)
        box = np.array(boxes or np.empty((0, 4)), dtype=np.float64)
        if box.shape != (len(entries), 4):
            raise ValueError
        if np.isfinite(score).all() and are_finite(box).all():
            return names, classes, score, box
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise _first_fault(entries, file)


def _lacking(entry: dict[str, Any]) -> str | None:
    image = "image_id" if "file_name" not in entry else "file_name"
    return next((k for k in (image, "category_id", "bbox", "score") if k not in entry), None)


def _first_fault(entries: list[Any], file: Path) -> InputError:
    """Say what is wrong with the first faulty entry."""
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, entry {number}"
        try:
            _ = entry["image_id"] if "image_id" in entry else entry["file_name"]
            _ = entry["category_id"]
            if not isinstance(entry["score"], _NUMBER):
                raise TypeError
            values = [float(entry["score"]), *map(float, entry["bbox"])]
            if len(values) != 5 or isinstance(entry["bbox"], str):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            hint = ""
            if isinstance(entry, dict) and "bbox" in entry and "score" not in entry:
                hint = "; annotations have no score, detections do"
            elif isinstance(entry, dict) and (lacking := _lacking(entry)):
                keys = ", ".join(map(shown, map(str, list(entry)[:8])))
                hint = f"; it has no {lacking}, but {keys or 'nothing'}"
            return InputError(
                f"{where}: not a detection with numbers for image_id, category_id, "
                f"bbox [x, y, width, height] and score{hint}: write it again"
            )
        if not are_finite(np.array(values)).all():
            return InputError(
                f"{where}: score and bbox must be finite numbers: leave it out or write it again"
            )
    return InputError(f"{file} is not a COCO results file: write it again")
