"""Calibration: whether detections of a score are true as often as the score says."""

from collections.abc import Mapping, Sequence

from detect.report.comparison import Run
from detect.report.drawing import charts, panels
from detect.report.writers.blocks import (
    Block,
    Cell,
    Chart,
    Column,
    Details,
    Drawing,
    Drawings,
    Note,
    Section,
    Table,
)


def calibration(runs: Sequence[Run]) -> list[Section]:
    """Build the section, if a run has been analysed for it."""
    bins = reliability(runs)
    if not bins:
        return []
    of_runs = [bins.get(index, []) for index in range(len(runs))]
    panel = panels.reliability_panel(of_runs)
    legend = [Drawing(panels.line_sample(index), runs[index].label) for index in bins]
    rows = [
        (Cell(runs[index].label), Cell(_error(runs[index])), Cell(sum(b.detections for b in part)))
        for index, part in bins.items()
    ]
    columns = (
        Column("Run"),
        Column("Calibration error (ECE), points", "percent"),
        Column("Detections", "count"),
    )
    blocks: tuple[Block, ...] = (
        Note(
            "The share of the detections near each score that are true. Below the diagonal a "
            "detector is overconfident. The error (ECE) is the mean distance, by detections."
        ),
        Drawings("legend", "Lines", tuple(legend)),
        Drawings("grid", "Calibration", (Drawing(panel, "All classes"),)),
        Chart("calibration.png", "Calibration"),
        Table("Calibration errors", columns, tuple(rows)),
        Details("Bins in numbers", tuple(_bins(runs[index].label, part) for index, part in
                                         bins.items())),
    )  # fmt: skip
    return [Section("calibration", "Calibration", blocks)]


def reliability(runs: Sequence[Run]) -> dict[int, list[charts.Bin]]:
    """Return the bins of the runs whose analysis has them, by the places of the runs."""
    found = {}
    for index, run in enumerate(runs):
        known = run.analysis_file.get("calibration")
        parts = known.get("bins") if isinstance(known, Mapping) else None
        bins = [_bin(part) for part in parts] if isinstance(parts, list) else []
        whole = [part for part in bins if part is not None]
        if whole:
            found[index] = whole
    return found


def _bin(part: object) -> charts.Bin | None:
    """Read a bin with detections, as analysis.json has it."""
    if not isinstance(part, Mapping):
        return None
    number, score, precision = (part.get(key) for key in ("detections", "score", "precision"))
    if not isinstance(number, int) or not number:
        return None
    if not isinstance(score, int | float) or not isinstance(precision, int | float):
        return None
    return charts.Bin(number, score, precision)


def _error(run: Run) -> float | None:
    known = run.analysis_file.get("calibration")
    value = known.get("ece") if isinstance(known, Mapping) else None
    return value if isinstance(value, int | float) else None


def _bins(label: str, bins: Sequence[charts.Bin]) -> Table:
    columns = (
        Column("Mean score", "number"),
        Column("Share true, percent", "percent"),
        Column("Detections", "count"),
    )
    rows = tuple((Cell(b.score), Cell(b.precision), Cell(b.detections)) for b in bins)
    return Table(f"Calibration of {label}", columns, rows)
