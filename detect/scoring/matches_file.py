"""`matches.npz`: what scoring computed once, kept for the report and for comparisons.

Detections as columns, their overlaps with the objects, and the AP of every class in every resample.
The file names what it was computed from, by digests of the objects and of the detections' files; of
anything else it is not read.
"""

from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.storage import write_atomically
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches
from detect.scoring.voc import Recall

NAME = "matches.npz"
_VERSION = 2


@dataclass(frozen=True, slots=True)
class Scored:
    """Detections of a split and what was computed from them."""

    detections: Detections
    """What was found."""
    matches: Matches
    """Its overlaps with the objects."""
    resampled: NDArray[np.float64] | None
    """(resamples + 1, classes, 2) AP by 11 points and by area, the split itself first; None without
    resamples. The draws are those of seed 0."""


def write_scored(
    folder: Path,
    scored: Scored,
    truth: GroundTruth,
    source: Path | None,
    iou: float,
    recall: Recall = "integer",
) -> None:
    """Write `matches.npz`; `source` are the detections' files."""
    detections, matches = scored.detections, scored.matches
    arrays = {
        **{f"detections_{f.name}": getattr(detections, f.name) for f in fields(Detections)},
        **{f"matches_{f.name}": getattr(matches, f.name) for f in fields(Matches)},
    }
    small = {name: _compact(array) for name, array in arrays.items()}
    if scored.resampled is not None:
        small["resampled"] = scored.resampled
    small["of"] = np.array([*_facts(truth, iou, recall), digest_of(source) if source else ""])
    write_atomically(folder / NAME, lambda file: np.savez(file, allow_pickle=False, **small))


def read_scored(
    folder: Path,
    truth: GroundTruth,
    source: Path | None,
    iou: float,
    recall: Recall = "integer",
) -> Scored | None:
    """Read `matches.npz`; None if it is not there, or was computed from something else.

    Args:
        folder: As `write_scored` had it.
        truth: The objects of the split.
        source: The detections' files; None not to look at them.
        iou: The overlap that makes a hit in the resamples.
        recall: How the 11 points compared recall.
    """
    try:
        with (folder / NAME).open("rb") as content, np.load(content, allow_pickle=False) as file:
            *facts, source_digest = file["of"].tolist()
            if facts != _facts(truth, iou, recall):
                return None
            if source is not None and source_digest != digest_of(source):
                return None
            detections = Detections(**_columns_of(file, "detections", Detections))
            matches = Matches(**_columns_of(file, "matches", Matches))
            resampled = file["resampled"] if "resampled" in file.files else None
            scored = Scored(detections, matches, resampled)
            _check(scored, truth)
    except Exception:  # of damaged archives and headers numpy raises nearly anything
        return None
    return scored


def _check(scored: Scored, truth: GroundTruth) -> None:
    """Check that columns fit each other and refer to existing images, classes and objects.

    Raises:
        ValueError: They do not.
    """
    found, matches, resampled = scored.detections, scored.matches, scored.resampled
    count, objects, classes = len(found.score), len(truth.label), len(truth.classes)
    indices = {
        "image": (found.image, (count,), 0, len(truth.image_ids)),
        "label": (found.label, (count,), 0, classes),
        "falling": (matches.falling, (count,), 0, count),
        "order": (matches.order, (count,), 0, count),
        "bounds": (matches.bounds, (classes + 1,), 0, count + 1),
        "nearest": (matches.nearest, (count,), -1, objects),
        "other_nearest": (matches.other_nearest, (count,), -1, objects),
        "pairs": (matches.pairs[:, :1], (len(matches.pairs), 1), 0, count),
        "objects": (matches.pairs[:, 1:], (len(matches.pairs), 1), 0, objects),
    }
    for name, (column, shape, low, end) in indices.items():
        inside = column.shape == shape and column.dtype == np.int64
        if not inside or (column.size and not low <= column.min() <= column.max() < end):
            raise ValueError(f"{name} leads to nothing")
    numbers = (
        (found.score, (count,)),
        (found.box, (count, 4)),
        (matches.overlap, (count,)),
        (matches.other_overlap, (count,)),
    )
    for values, shape in numbers:
        if values.shape != shape or values.dtype != np.float64 or not np.isfinite(values).all():
            raise ValueError("numbers are missing")
    if resampled is not None and (
        resampled.dtype != np.float64 or resampled.shape[1:] != (classes, 2)
    ):
        raise ValueError("resamples are of other classes")


def _columns_of(file: Any, prefix: str, kind: type) -> dict[str, Any]:
    return {f.name: _wide(file[f"{prefix}_{f.name}"]) for f in fields(kind)}


def digest_of(path: Path) -> str:
    """Return a SHA-256 over a file, or over the files of a folder and their names."""
    digest = sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def truth_digest(truth: GroundTruth) -> str:
    """Return a SHA-256 over the classes, images and objects of a split."""
    digest = sha256("\0".join([*truth.classes, "", *truth.image_ids]).encode())
    for column in (truth.sizes, truth.image, truth.label, truth.box, truth.difficult):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _facts(truth: GroundTruth, iou: float, recall: Recall) -> list[str]:
    return [str(_VERSION), truth_digest(truth), repr(float(iou)), recall]


def _compact(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Convert indices to int32, which they fit."""
    fits = array.dtype == np.int64 and (not array.size or abs(array).max() < 2**31)
    return array.astype(np.int32) if fits else array


def _wide(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array.astype(np.int64) if array.dtype == np.int32 else array
