"""VOC's development kit, loop by loop: the reference for `detect.scoring.voc`, slow on purpose."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Box = Sequence[float]
"""1-based inclusive pixels, xmin, ymin, xmax, ymax."""


def kit_overlap(bb: Box, bbgt: Box) -> float:
    """VOCevaldet.m: overlap in inclusive pixels, 1-based boxes."""
    iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]) + 1
    ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1]) + 1
    if iw <= 0 or ih <= 0:
        return -math.inf
    union = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
    union += (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
    return iw * ih / (union - iw * ih)


def kit_evaluation(
    objects: Sequence[tuple[int, int, Box, bool]],
    rows: Sequence[tuple[int, int, float, Box]],
    label: int,
) -> tuple[float | None, float | None, dict[int, str]]:
    """VOCevaldet.m and VOCap.m for one class.

    Args:
        objects: Image, class, box, whether difficult.
        rows: Detections: image, class, score, box.
        label: The class.

    Returns:
        The 11-point AP, the area, and a letter per detection, by row: T(rue), F(alse), I(gnored).
    """
    of_class: list[dict[str, Any]] = [
        {"image": image, "box": box, "hard": hard, "det": False}
        for image, cls, box, hard in objects
        if cls == label
    ]
    npos = sum(not o["hard"] for o in of_class)
    order = sorted((i for i, row in enumerate(rows) if row[1] == label), key=lambda i: -rows[i][2])
    letters = {}
    for i in order:
        image, _, _, bb = rows[i]
        ovmax, best = -math.inf, None
        for candidate in of_class:
            if candidate["image"] == image:
                ov = kit_overlap(bb, candidate["box"])
                if ov > ovmax:
                    ovmax, best = ov, candidate
        letters[i] = "F"
        if best is not None and ovmax >= 0.5:
            if best["hard"]:
                letters[i] = "I"
            elif not best["det"]:
                letters[i] = "T"
                best["det"] = True
    if npos == 0:
        return None, None, letters
    tp = fp = 0
    rec, prec = [], []
    for i in order:
        tp += letters[i] == "T"
        fp += letters[i] == "F"
        rec.append(Fraction(tp, npos))
        prec.append(tp / (tp + fp) if tp + fp else 0.0)
    ap_11point = 0.0
    for k in range(11):
        reached = [p for r, p in zip(rec, prec, strict=True) if r >= Fraction(k, 10)]
        ap_11point += max(reached, default=0.0) / 11
    mrec, mpre = [Fraction(0), *rec, Fraction(1)], [0.0, *prec, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    changes = [i + 1 for i in range(len(mrec) - 1) if mrec[i + 1] != mrec[i]]
    ap_area = sum(float(mrec[i] - mrec[i - 1]) * mpre[i] for i in changes)
    return ap_11point, ap_area, letters
