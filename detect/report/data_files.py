"""The numbers of the page as JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from common.text import in_csv
from detect.report.comparison import Comparison, Run
from detect.report.sections.errors import BACKGROUND
from detect.report.verdicts import verdict
from detect.report.writers.blocks import Block, Details, Section, Table


def to_json(title: str, comparison: Comparison, blocks: Sequence[Block]) -> str:
    """Write every number of the page, unrounded, as strict JSON; AP values are fractions."""
    truth, runs = comparison.truth, comparison.runs
    content = {
        "title": title,
        "verdict": asdict(verdict(comparison)),
        "data": comparison.data,
        "split": runs[0].evaluation["split"],
        "images": len(truth.image_ids),
        "objects": int(np.count_nonzero(~truth.difficult)),
        "difficult": int(np.count_nonzero(truth.difficult)),
        "classes": truth.classes,
        "runs": [_run(run) for run in runs],
        "differences": [
            {
                "from": runs[0].title,
                "to": run.title,
                **{
                    kind: {**asdict(interval), "leaves_out_zero": interval.decided}
                    for kind, interval in intervals.items()
                },
            }
            for run, intervals in zip(runs[1:], comparison.differences, strict=True)
        ],
        "tables": [_table(table) for table in _tables(blocks)],
    }
    return json.dumps(_strict(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _run(run: Run) -> dict[str, Any]:
    analysis = run.analysis
    return {
        "title": run.title,
        "label": run.label,
        "voc": run.voc.metrics(),
        "coco": run.coco,
        "intervals": {kind: asdict(interval) for kind, interval in run.intervals.items()},
        "best_f1": analysis.overall and asdict(analysis.overall),
        "best_f1_by_class": {
            name: point and asdict(point) for name, point in analysis.by_class.items()
        },
        "errors": {"gain": analysis.errors.delta_ap, "counts": analysis.errors.counts},
        "confusion": {
            "threshold": analysis.threshold,
            "names": [*run.voc.per_class, BACKGROUND],
            "counts": analysis.confusion.tolist(),
        },
        "calibration": run.analysis_file.get("calibration"),
        "training": run.training,
        "evaluation": run.evaluation,
    }


def _tables(blocks: Sequence[Block]) -> list[Table]:
    found = []
    for block in blocks:
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Details | Section):
            found += _tables(block.blocks)
    return found


def _table(table: Table) -> dict[str, Any]:
    rows = (*table.rows, *([table.total] if table.total else []))
    return {
        "caption": table.caption,
        "columns": [{"name": column.name, "kind": column.kind} for column in table.columns],
        "rows": [[cell.value for cell in row] for row in rows],
    }


def _strict(value: Any) -> Any:
    """Turn NaN and infinities, which JSON lacks, into null."""
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(runs: Sequence[Run]) -> str:
    """Write the classes of all runs, one row for each class and run; AP values are fractions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    counted = ("objects", "difficult", "detections", "ap_11point", "ap_area")
    points = ("score_threshold", "f1", "precision", "recall", "true_positives", "false_positives")
    writer.writerow(("run", "class", *counted, *(f"best_{p}" for p in points)))
    for run in runs:
        for name, score in run.voc.per_class.items():
            point = run.analysis.by_class[name]
            values = [getattr(score, key) for key in counted]
            values += [getattr(point, key) if point else None for key in points]
            writer.writerow((in_csv(run.label), in_csv(name), *values))
    return file.getvalue()
