"""The report as a whole: what it holds in which order, and the files it is written to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.storage import write_text
from detect.report.comparison import Comparison, Run, read_runs
from detect.report.data_files import to_csv, to_json, write_charts
from detect.report.sections.diagrams import curves, errors, training
from detect.report.sections.gallery import galleries
from detect.report.sections.provenance import run_settings, speed
from detect.report.sections.tables import by_class, by_size, headline
from detect.report.writers.blocks import Block, Heading, Text, count
from detect.report.writers.markdown import to_markdown
from detect.report.writers.page import to_html
from detect.scoring.detections import GroundTruth


def write_report(folders: Sequence[Path], out: Path, data: Path | None = None) -> list[Path]:
    """Writes the report and what belongs to it.

    Beside the page lie its tables in Markdown (.md), all its numbers (.json), the classes of all
    runs (.csv), and its charts (-curves.png, -errors.png, -confusion.png).

    Args:
        folders: Output folders of `detect evaluate` or `detect score`; the first is the baseline.
        out: The page, ending in .html; the other files have the same name but for the ending.
        data: The devkit; by default the one that a run recorded and that is still there.

    Returns:
        The files, the page first.

    Raises:
        InputError: A folder is incomplete or does not fit its data, runs differ in split, classes
            or overlap, the data is gone, or a file cannot be written.
    """
    if out.suffix != ".html":
        raise InputError(f"the report {out} must end in .html: choose another --out")
    comparison = read_runs(folders, data)
    title = f"Detection results on {comparison.runs[0].evaluation['split']}"
    blocks = _document(title, comparison)
    texts = {
        ".html": to_html(title, blocks),
        ".md": to_markdown(blocks),
        ".json": to_json(title, comparison, blocks),
        ".csv": to_csv(comparison.runs),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        write_text(out.with_suffix(suffix), text)
    return [*map(out.with_suffix, texts), *write_charts(out, comparison.runs)]


def _document(title: str, comparison: Comparison) -> list[Block]:
    truth, runs = comparison.truth, comparison.runs
    return [
        Heading(1, title),
        Text(_overview(truth, runs)),
        *headline(comparison),
        by_size(comparison),
        *speed(runs),
        Heading(2, "Classes"),
        *by_class(runs),
        *curves(runs),
        *errors(runs),
        *galleries(comparison),
        *training(runs),
        *run_settings(runs),
        Heading(2, "How to read the numbers"),
        *map(Text, _definitions(runs[0].voc.iou)),
    ]


def _overview(truth: GroundTruth, runs: Sequence[Run]) -> str:
    difficult = int(np.count_nonzero(truth.difficult))
    return (
        f"{count(len(runs), 'run')} on {count(len(truth.image_ids), 'image')} with "
        f"{count(len(truth.difficult) - difficult, 'object')} in "
        f"{count(len(truth.classes), 'class', 'classes')}, and {difficult} more marked difficult."
    )


def _definitions(iou: float) -> tuple[str, ...]:
    return (
        f"VOC: a detection is true if the object of its class that it overlaps most, with an "
        f"intersection over union of {iou:g} or more, is not yet taken by one with a higher score; "
        "objects marked difficult are not counted, and detections of them neither help nor harm. "
        "AP (11-point), the measure of VOC 2007, is the mean over the recalls 0, 0.1, .., 1 of the "
        "highest precision at that recall or above; AP (area), the measure since VOC 2010, is the "
        "area under the same curve; mAP is the mean over the classes that have counted objects.",
        "95% intervals: 1,000 times as many images as there are were drawn from them with "
        "repetition, and scored; the interval holds the middle 95% of the scores. They lie a "
        "little high, so the score itself need not be in the middle. A difference is taken on the "
        "same drawn images for both runs, and decided if its interval leaves out 0. Intervals tell "
        "what other images would change, not what another seed of the training would.",
        "COCO: pycocotools; AP is the mean over the overlaps 0.50, 0.55, .., 0.95, AP50 and AP75 "
        "are those at 0.50 and 0.75; difficult objects are given as crowds (iscrowd), the nearest "
        "it has: not counted, and they absorb any number of detections. Small objects have an area "
        "of less than 32 x 32 pixels, large ones of more than 96 x 96; COCO's AP takes one of "
        "exactly that area in both sizes.",
        "Errors, by the rules of TIDE in its order: background (nothing there), localization "
        "(right class, overlap of 0.1 to 0.5), classification (overlap of 0.5 or more with another "
        "class), duplicate (its object is taken), both (wrong class and too little overlap), and "
        "missed, an object that no detection of the other kinds would find if it were mended.",
        "AP values and overlaps of mAP are in percent; n/a stands for a class without counted "
        "objects, or without a hit.",
    )
