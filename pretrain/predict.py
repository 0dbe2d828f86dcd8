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

from common.errors import InputError
from common.images.photos import Unreadable, find_photos, stream_photos
from common.processes import launcher
from common.storage import sole_writer, write_atomically
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
    """
    if launcher.size() > 1:
        raise InputError("predict is the work of one process: start it without torchrun")
    photos = find_photos(photos_at)
    predictor = load_predictor(source, checkpoint, device)
    if photos.passed_over:
        example = in_line(str(photos.passed_over[0]))
        say(f"{counted(len(photos.passed_over), 'other file')} skipped, such as {example}")
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

    def write(table: BinaryIO, listed: BinaryIO) -> None:
        _write_row(table, HEAD)
        begin = b"[\n"
        for number, prediction in enumerate(predictor.classify(squares(), top_k)):
            for row in _rows(done[number], prediction):
                _write_row(table, row)
            listed.write(begin + json.dumps(_entry(done[number], prediction)).encode())
            begin = b",\n"
            if verbose:
                best = f"{in_line(prediction.names[0])} {prediction.scores[0]:.3f}"
                tqdm.write(f"{in_line(done[number])}: {best}", file=sys.stdout)
        listed.write(b"[]\n" if begin == b"[\n" else b"\n]\n")

    with sole_writer(out):
        write_atomically(
            out / "predictions.csv",
            lambda table: write_atomically(
                out / "predictions.json", lambda listed: write(table, listed)
            ),
        )
    say(f"{counted(len(done), 'photo')}: {out / 'predictions.csv'}, {out / 'predictions.json'}")
    if unreadable:
        raise InputError(
            f"{len(unreadable)} of {counted(len(photos.paths), 'photo')} could not be read, named "
            "above; what could be is done: fetch the rest again"
        )


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
