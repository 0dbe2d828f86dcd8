"""From which score on a detector's boxes are worth showing, as its own evaluation found."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.runs.finished import FinishedRun
from common.storage import read_json, write_json
from detect.recipes import Recipe

UNKNOWN = 0.5
"""Where a run was not evaluated."""
_RECORD = "evaluations.json"


def remember_evaluation(run: Path, out: Path) -> None:
    """Note in a run's folder where it was evaluated; a folder that cannot be written stays so."""
    folders = [*_remembered(run), str(out.resolve())]
    with contextlib.suppress(InputError):
        write_json(run / _RECORD, {"folders": list(dict.fromkeys(folders))})


def best_threshold(run: FinishedRun[Recipe]) -> tuple[float, str]:
    """Return the score of the best F1 over all classes, and where it is from, in words.

    Evaluations of these weights are looked for in the run's folder, beside it, and where
    `detect evaluate` noted that it wrote them; the newest counts.
    """
    found, without = [], []
    for folder in _evaluations(run.folder):
        try:
            evaluation = read_json(folder / "evaluation.json")
            confusion = read_json(folder / "analysis.json").get("confusion")
            when = (folder / "evaluation.json").stat().st_mtime
        except (InputError, OSError):
            continue
        within = run.folder.resolve() in folder.resolve().parents
        ours = within or evaluation.get("training") == str(run.folder.resolve())
        score: Any = confusion.get("score_threshold") if isinstance(confusion, dict) else None
        if not ours or evaluation.get("epoch") != run.state["epoch"]:
            continue
        split = evaluation.get("split")
        if isinstance(score, float):
            found.append((when, score, f"the best F1 on {split} ({folder})"))
        elif isinstance(confusion, dict):
            without.append((when, f"no detection on {split} was a hit ({folder})"))
    if found:
        _, score, origin = max(found)
        return score, origin
    if without:
        return UNKNOWN, max(without)[1]
    return (
        UNKNOWN,
        "no evaluation of these weights is known (detect evaluate finds their threshold)",
    )


def _evaluations(run: Path) -> Iterator[Path]:
    """Yield the folders that may hold an evaluation of a run, each once."""
    folders = [run, *map(Path, _remembered(run))]
    for around in (run, run.resolve().parent):
        with contextlib.suppress(OSError):
            folders += sorted(around.iterdir())
    for folder in dict.fromkeys(folders):
        if (folder / "evaluation.json").is_file():
            yield folder


def _remembered(run: Path) -> list[str]:
    try:
        folders = read_json(run / _RECORD).get("folders")
    except InputError:
        return []
    return [name for name in folders if isinstance(name, str)] if isinstance(folders, list) else []
