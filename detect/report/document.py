"""The report as a whole: what it holds in which order, and the files it is written to."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.storage import sole_writer, write_text
from detect.report.comparison import read_runs
from detect.report.data_files import to_csv, to_json
from detect.report.figures import write_figures
from detect.report.sections.calibration import calibration
from detect.report.sections.classes import classes
from detect.report.sections.diagrams import curves, training
from detect.report.sections.errors import confusion, errors
from detect.report.sections.finds import Finds, choose
from detect.report.sections.gallery import gallery
from detect.report.sections.label_errors import label_errors
from detect.report.sections.photographs import drawings, with_pictures, write_pictures
from detect.report.sections.provenance import provenance, speed
from detect.report.sections.summary import summary
from detect.report.verdicts import arms_of
from detect.report.writers.blocks import Block, Heading
from detect.report.writers.markdown import to_markdown
from detect.report.writers.page import to_html

GALLERY_MB = 10.0


def write_report(
    folders: Sequence[Path],
    out: Path,
    data: Path | None = None,
    labels: Sequence[str] = (),
    gallery_mb: float = GALLERY_MB,
) -> list[Path]:
    """Write the report and what belongs to it.

    Beside the page lie its tables in Markdown (.md), all its numbers (.json), the classes of all
    runs (.csv), and a folder of its charts (-figures), each as PNG, SVG and CSV.

    Args:
        folders: Output folders of `detect evaluate` or `detect score`; the first is the baseline.
        out: The page, ending in .html; the other files have the same name except for the ending.
        data: The data; by default those that a run recorded and that are still there.
        labels: Short names of the runs, one per folder; equal ones mark seeds of one method. By
            default what differs between their titles.
        gallery_mb: The most megabytes that the images to browse may take in the page.

    Returns:
        The files, the page first.

    Raises:
        InputError: A folder is incomplete or does not fit its data, runs differ in split, classes
            or overlap, the data is gone, or a file cannot be written, or another command writes it.
    """
    if out.suffix != ".html":
        raise InputError(f"the report {out} must end in .html: choose another --out")
    comparison = read_runs(folders, data, labels)
    arms = arms_of(comparison)
    runs = f" ({len(comparison.runs)} runs)" if len(arms) < len(comparison.runs) else ""
    title = f"Detection report: {', '.join(arms)}{runs}"
    finds = Finds.of(comparison)
    chosen = with_pictures(finds, choose(finds))
    blocks = document(title, finds, chosen, gallery_mb)
    charts = out.with_name(f"{out.stem}-figures")
    texts = {
        ".html": to_html(title, blocks),
        ".md": to_markdown(blocks, charts.name),
        ".json": to_json(title, comparison, blocks),
        ".csv": to_csv(comparison.runs),
    }
    with sole_writer(charts):  # of this report; others may go to the same folder
        for suffix, text in texts.items():
            write_text(out.with_suffix(suffix), text)
        written = [*map(out.with_suffix, texts), *write_figures(comparison, charts)]
        return written + write_pictures(finds, [image for _, image in chosen], charts)


def document(
    title: str, finds: Finds, chosen: Sequence[tuple[str, int]], gallery_mb: float
) -> list[Block]:
    """Build the report as blocks: a title and sections."""
    comparison, runs = finds.comparison, finds.comparison.runs
    return [
        Heading(1, title),
        summary(comparison, drawings(finds, chosen)),
        classes(comparison),
        curves(comparison),
        errors(runs),
        confusion(runs),
        *calibration(runs),
        *label_errors(finds),
        gallery(finds, gallery_mb),
        *speed(runs),
        *training(runs),
        provenance(comparison),
    ]
