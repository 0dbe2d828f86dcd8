"""Reading the detections of any detector, whatever of the known formats they are in."""

from pathlib import Path

import numpy as np

from common.errors import InputError
from common.images.hidden import children
from common.text import shown
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.formats.boxes import faults
from detect.scoring.formats.class_texts import class_files, read_class_texts
from detect.scoring.formats.coco_json import read_coco_json
from detect.scoring.formats.image_texts import image_files, read_image_texts

_PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".npy", ".npz")
_RESULTS = ("coco_instances_results.json", "detections.json", "predictions.json")
_FORMS = "a folder of VOC text, one text file per image, or a COCO .json file"


def read_detections(path: Path, truth: GroundTruth, notes: list[str] | None = None) -> Detections:
    """Read detections of any detector.

    What a file leaves open is read where there is one reading, and said in `notes`: numbers of
    classes or images that count from 0, file names for ids, boxes as shares of the image or as
    corners. A box without area is a detection that nothing can make right.

    Args:
        path: A folder of VOC text (`class_texts`) or of one text file per image (`image_texts`), a
            COCO results file (`coco_json`), or a folder that holds one.
        truth: The split that was searched; it names the images and classes.
        notes: Gains a line for each thing that the user should know of the reading.

    Returns:
        The detections, within a class in the order of the file.

    Raises:
        InputError: The path or a class file is missing; a line or entry (counted from 1) is
            malformed, names an unknown image or class, or has a score or box that is not finite.
    """
    notes = [] if notes is None else notes
    detections = _read(path, truth, notes)
    notes += _remarks(truth, detections)
    return detections


def _read(path: Path, truth: GroundTruth, notes: list[str]) -> Detections:
    if path.is_dir():
        files = class_files(path, truth.classes)
        if files is not None:
            return read_class_texts(files, truth, notes)
        texts = image_files(path)
        if texts:
            return read_image_texts(texts, truth, notes)
        results = [path / name for name in _RESULTS if (path / name).is_file()]
        results = results or children(path, "*.json")
        if len(results) == 1:
            return read_coco_json(results[0], truth, notes)
        if results:
            told = ", ".join(shown(file.name) for file in results[:5])
            raise InputError(f"{path} holds {len(results)} .json files ({told}): give one of them")
        raise InputError(
            f"{path} holds no comp4_det_test_<class>.txt, no text file of an image and no COCO "
            ".json file: give the folder or file that does"
        )
    if not path.exists():
        raise InputError(f"{path} does not exist; give {_FORMS}")
    if path.suffix.lower() in _PICKLES:
        raise InputError(
            f"{path} is no text, and opening a pickle can run anything: write a COCO .json file "
            "(mmdetection: test_evaluator.format_only=True, formerly --format-only)"
        )
    if path.name.lower().endswith((".json", ".json.gz", ".zip")):
        return read_coco_json(path, truth, notes)
    if path.suffix.lower() == ".txt":
        raise InputError(f"{path} is one of several texts: give the folder that it lies in")
    raise InputError(f"{path} is not {_FORMS}; write one of these")


def _remarks(truth: GroundTruth, detections: Detections) -> list[str]:
    """List what is odd about detections that could be read."""
    count = len(detections.score)
    if not count:  # which the hints say
        return []
    lines = []
    flat, out = faults(detections.box, truth.sizes[detections.image])
    if len(flat):
        image = truth.image_ids[detections.image[flat[0]]]
        lines.append(
            f"boxes without area: {len(flat)} of {count}, the first in image {image!r}; each "
            "counts as a false detection"
        )
    if len(out) > count / 20:
        lines.append(
            f"{len(out)} of {count} boxes have their middle outside the image: boxes must be in "
            "pixels of the original image, not of a resized one"
        )
    low, high = float(np.min(detections.score)), float(np.max(detections.score))
    if low < 0 or high > 1:
        lines.append(
            f"scores reach from {low:g} to {high:g}: AP needs only their order, but calibration "
            "and likely label errors need probabilities; divide percentages by 100"
        )
    return lines
