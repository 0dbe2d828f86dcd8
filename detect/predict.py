"""Photos through a trained detector into files: a COCO results file, and pictures."""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import cv2
from tqdm import tqdm

from common.errors import InputError, os_reason
from common.images.hidden import descendants
from common.images.photos import Photos, Unreadable, find_photos, stream_photos
from common.images.predicting import (
    append,
    refuse_ranks,
    refuse_unreadable,
    say_passed_over,
    write_predictions,
)
from common.text import counted, in_line, say
from detect.predictor import Photo, Prediction, Predictor, prepare
from detect.report.drawing import boxes
from detect.scoring.detections import integer_ids

PICTURE_SIDE = 1600
"""Longest side of a drawn picture, pixels."""
_QUALITY = 90


def predict_files(
    run: Path,
    sources: Sequence[Path],
    out: Path,
    *,
    score_threshold: float | None = None,
    checkpoint: str = "last",
    device: str = "auto",
    workers: int | None = None,
    verbose: bool = False,
) -> None:
    """Find objects on photos; write `predictions.json`, and pictures below `pictures/`.

    `predictions.json` is a COCO results file, one entry per box, with "file_name" and
    "category_name" besides.

    Args:
        run: Folder of a run.
        sources: Files, folders and patterns.
        out: Target folder.
        score_threshold: From which score on boxes are written and drawn; None: the run's own.
        checkpoint: "last" or "best".
        device: As in training.
        workers: Processes that read photos; None: as many as cores.
        verbose: Print a line for each photo.

    Raises:
        InputError: If the run or a source is not there; at the end, if photos could not be read.
        BaseException: As `write_predictions`.
    """
    refuse_ranks()
    photos = find_photos(sources, without=out / "pictures")
    predictor = Predictor.load(run, checkpoint, device)
    say_passed_over(photos)
    threshold = predictor.threshold if score_threshold is None else score_threshold
    origin = predictor.threshold_origin if score_threshold is None else "as asked for"
    say(f"boxes from score {threshold:.4g} on: {origin}")
    work = _Work(predictor, photos, out / "pictures", threshold, workers, verbose)
    write_predictions(out, [".json"], photos, work.write)
    say(
        f"{counted(work.boxes, 'box')} on {counted(work.done, 'photo')}: "
        f"{out / 'predictions.json'}, pictures in {out / 'pictures'}"
    )
    former = [p for p in _files(out / "pictures") if p not in work.drawn]
    if former:
        say(
            f"{out / 'pictures'} also holds {counted(len(former), 'file')} of an earlier call, "
            f"such as {in_line(former[0].name)}: remove what you do not need"
        )
    refuse_unreadable(work.unreadable, photos)


class _Work:
    """Photos on their way through a detector into files."""

    def __init__(
        self,
        predictor: Predictor,
        photos: Photos,
        folder: Path,
        threshold: float,
        workers: int | None,
        verbose: bool,
    ) -> None:
        self.predictor, self.photos, self.folder = predictor, photos, folder
        self.threshold, self.workers, self.verbose = threshold, workers, verbose
        self.boxes = self.done = self.unreadable = 0
        self.drawn: set[Path] = set()
        self.made: set[Path] = set()  # folders; one that is gone was taken away, and stays so

    def write(self, files: Sequence[BinaryIO]) -> Iterator[None]:
        """Detect and draw, and write the entries of each photo as soon as they are known."""
        (file,) = files
        names = self.photos.names
        pictures, ids = picture_names(names), image_ids(names)
        readable: list[int] = []  # positions of photos that are in the detector
        found = self.predictor.detect(self._readable(readable), self.threshold)
        yield
        for photo, prediction in found:
            index = readable.pop(0)
            for entry in _entries(prediction, ids[index], names[index]):
                append(file, json.dumps(entry).encode())
            self._draw(photo, prediction, self.folder / pictures[index])
            self.done += 1
            self.boxes += len(prediction.scores)
            if self.verbose:
                tqdm.write(f"{in_line(names[index])} {_described(prediction)}", file=sys.stdout)
            yield

    def _readable(self, readable: list[int]) -> Iterator[Photo]:
        read = partial(prepare, detector=self.predictor.settings, picture_side=PICTURE_SIDE)
        for index, photo in enumerate(stream_photos(self.photos.paths, read, self.workers)):
            if isinstance(photo, Unreadable):
                self.unreadable += 1
                tqdm.write(in_line(photo.reason), file=sys.stderr)
            else:
                readable.append(index)
                yield photo

    def _draw(self, photo: Photo, prediction: Prediction, path: Path) -> None:
        assert photo.canvas is not None
        scaled = prediction.boxes * (photo.canvas.shape[1] / prediction.size[0])
        labelled = [
            boxes.LabelledBox(
                tuple(box), f"{name} {score:.2f}", boxes.OF_CLASSES[label % len(boxes.OF_CLASSES)]
            )
            for box, name, score, label in zip(
                scaled.tolist(),
                prediction.names,
                prediction.scores.tolist(),
                prediction.labels.tolist(),
                strict=True,
            )
        ]
        long_side = max(boxes.LONG_SIDE, *photo.canvas.shape[:2])
        picture = boxes.paint_boxes(photo.canvas, labelled, long_side)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        try:
            if path.parent not in self.made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.made.add(path.parent)
            path.write_bytes(content.tobytes())
            self.drawn.add(path)
        except OSError as error:
            raise InputError(
                f"{path} could not be written, so the rest is left undone: {os_reason(error)}"
            ) from error


def _files(folder: Path) -> list[Path]:
    return list(filter(Path.is_file, descendants(folder)))


def _entries(prediction: Prediction, image_id: int | str, name: str) -> Iterator[dict[str, Any]]:
    columns = zip(
        prediction.labels.tolist(),
        prediction.names,
        prediction.boxes.tolist(),
        prediction.scores.tolist(),
        strict=True,
    )
    for label, category, (x1, y1, x2, y2), score in columns:
        yield {
            "image_id": image_id,
            "file_name": name,
            "category_id": label + 1,
            "category_name": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }


def _described(prediction: Prediction) -> str:
    counts: dict[str, int] = {}
    for name in prediction.names:
        counts[name] = counts.get(name, 0) + 1
    found = ", ".join(f"{count} {in_line(name)}" for name, count in counts.items())
    return f"{prediction.size[0]}x{prediction.size[1]}: {found or 'nothing'}"


def image_ids(names: Sequence[str]) -> list[int] | list[str]:
    """Number images as COCO and VOC do, where all names are numbers, such as 000000000139.jpg.

    Else an image is called by its name without suffix, or, where two have the same, by its path:
    that of `Photos.names`.
    """
    stems = [PurePosixPath(name).stem for name in names]
    return integer_ids(stems) or (stems if len(set(stems)) == len(stems) else list(names))


def picture_names(names: Sequence[str]) -> list[str]:
    """Name a picture for each photo, .jpg, no two alike, whatever a file system makes of case."""
    taken = {str(folder).casefold() for name in names for folder in PurePosixPath(name).parents}
    chosen = []
    for name in names:
        path = PurePosixPath(name)
        options = [str(path.with_suffix(".jpg")), f"{name}.jpg"]
        number = 2
        while options[0].casefold() in taken:
            options = options[1:] or [f"{name}.{number}.jpg"]
            number += len(options) == 1
        taken.add(options[0].casefold())
        chosen.append(options[0])
    return chosen
