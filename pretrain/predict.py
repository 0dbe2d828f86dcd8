"""Photos through a trained classifier into files: classes and scores, as CSV and as JSON."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.images.photos import Unreadable, find_photos, stream_photos
from common.images.predicting import (
    append,
    refuse_ranks,
    refuse_unreadable,
    say_passed_over,
    write_predictions,
)
from common.text import counted, in_csv, in_line, say
from pretrain.predictor import Prediction, load_predictor

HEAD = ("file_name", "rank", "class", "class_id", "score")


def predict_files(
    source: Path,
    photos_at: Sequence[Path],
    out: Path,
    *,
    top_k: int = 5,
    checkpoint: str = "best",
    device: str = "auto",
    workers: int | None = None,
    verbose: bool = False,
) -> None:
    """Classify photos; write `predictions.csv` and `predictions.json`.

    The CSV file has a row for each photo and class, the likeliest first; `rank` counts from 1.

    Args:
        source: Folder of a run, or a file of weights.
        photos_at: Files, folders and patterns.
        out: Target folder.
        top_k: Classes of a photo.
        checkpoint: Of a run: "best" or "last".
        device: As in training.
        workers: Processes that read photos; None: as many as cores.
        verbose: Print a line for each photo.

    Raises:
        InputError: If the classifier or a photo is not there; at the end, if photos could not be
            read.
        BaseException: As `write_predictions`.
    """
    refuse_ranks()
    photos = find_photos(photos_at)
    predictor = load_predictor(source, checkpoint, device)
    say_passed_over(photos)
    for note in predictor.notes:
        say(note)
    done: list[str] = []
    unreadable: list[str] = []

    def squares() -> Iterator[NDArray[np.uint8]]:
        read = stream_photos(photos.paths, predictor.pixels.square, workers)
        for name, square in zip(photos.names, read, strict=True):
            if isinstance(square, Unreadable):
                unreadable.append(name)
                tqdm.write(in_line(square.reason), file=sys.stderr)
            else:
                done.append(name)
                yield square

    def write(files: Sequence[BinaryIO]) -> Iterator[None]:
        table, listed = files
        _write_row(table, HEAD)
        yield
        for number, prediction in enumerate(predictor.classify(squares(), top_k)):
            for row in _rows(done[number], prediction):
                _write_row(table, row)
            append(listed, json.dumps(_entry(done[number], prediction)).encode())
            if verbose:
                best = f"{in_line(prediction.names[0])} {prediction.scores[0]:.3f}"
                tqdm.write(f"{in_line(done[number])}: {best}", file=sys.stdout)
            yield

    write_predictions(out, [".csv", ".json"], photos, write)
    say(f"{counted(len(done), 'photo')}: {out / 'predictions.csv'}, {out / 'predictions.json'}")
    refuse_unreadable(len(unreadable), photos)


def _rows(name: str, prediction: Prediction) -> Iterator[tuple[str, ...]]:
    columns = zip(
        prediction.names, prediction.labels.tolist(), prediction.scores.tolist(), strict=True
    )
    for rank, (category, label, score) in enumerate(columns, start=1):
        yield in_csv(name), str(rank), in_csv(category), str(label), repr(score)


def _entry(name: str, prediction: Prediction) -> dict[str, object]:
    columns = zip(
        prediction.names, prediction.labels.tolist(), prediction.scores.tolist(), strict=True
    )
    found = [
        {"class": category, "class_id": label, "score": score} for category, label, score in columns
    ]
    return {"file_name": name, "predictions": found}


def _write_row(table: BinaryIO, row: Sequence[str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    table.write(text.getvalue().encode())
