"""What each run found on each image: objects counted one by one, and so the runs compared."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detect.report.comparison import Comparison


@dataclass(frozen=True)
class Finds:
    """Who found what, each run at its own threshold."""

    comparison: Comparison
    """The runs."""
    scores: NDArray[np.float64]
    """(runs, objects) of the true detection of each object, -inf without one. A higher threshold
    takes true detections away and makes none, so from any threshold on the objects found are those
    with such a score."""

    @staticmethod
    def of(comparison: Comparison) -> "Finds":
        """Look up the true detection of every object."""
        scores = np.full((len(comparison.runs), len(comparison.truth.label)), -np.inf)
        for row, run in zip(scores, comparison.runs, strict=True):
            hits = run.voc.true_positive
            row[run.voc.match[hits]] = run.detections.score[hits]
        return Finds(comparison, scores)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """(objects,) those not marked difficult."""
        return ~self.comparison.truth.difficult

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """(runs, objects) at the thresholds of the runs."""
        thresholds = [run.analysis.threshold for run in self.comparison.runs]
        reached = self.scores >= np.array(thresholds)[:, None]
        return np.asarray(reached & np.isfinite(self.scores) & self.counted)

    @cached_property
    def found_on(self) -> NDArray[np.int64]:
        """(runs, images) counted objects found."""
        return np.stack([self._on_images(found) for found in self.found])

    @cached_property
    def missed_on(self) -> NDArray[np.int64]:
        """(runs, images) counted objects not found."""
        return np.stack([self._on_images(self.counted & ~found) for found in self.found])

    @cached_property
    def false_on(self) -> NDArray[np.int64]:
        """(runs, images) false detections."""
        images = len(self.comparison.truth.image_ids)
        rows = []
        for run in self.comparison.runs:
            shown = run.detections.score >= run.analysis.threshold
            false = shown & ~run.voc.true_positive & ~run.voc.ignored
            rows.append(np.bincount(run.detections.image[false], minlength=images))
        return np.stack(rows)

    def gained(self, run: int) -> NDArray[np.int64]:
        """Count, per image (images,), the objects that a run found and the first did not."""
        return self._on_images(self.found[run] & ~self.found[0])

    def lost(self, run: int) -> NDArray[np.int64]:
        """Count, per image (images,), the objects that the first run found and this one did not."""
        return self._on_images(self.found[0] & ~self.found[run])

    @cached_property
    def difference(self) -> NDArray[np.float64]:
        """(images,) how far the runs differ: objects that some found and some did not.

        False detections decide between equals. Of a single run: its errors.
        """
        some = np.asarray(self.found.any(axis=0) & ~self.found.all(axis=0))
        spread = self.false_on.max(axis=0) - self.false_on.min(axis=0)
        if len(self.found) == 1:
            return np.asarray(self.missed_on[0] + self.false_on[0], np.float64)
        return np.asarray(self._on_images(some) + spread / (1.0 + spread), np.float64)

    @cached_property
    def order(self) -> list[int]:
        """The images, the largest differences first, the earlier of equals."""
        return [int(image) for image in np.argsort(-self.difference, kind="stable")]

    def _on_images(self, objects: NDArray[np.bool_]) -> NDArray[np.int64]:
        truth = self.comparison.truth
        return np.bincount(truth.image[objects], minlength=len(truth.image_ids))


def choose(finds: Finds, number: int = 3) -> list[tuple[str, int]]:
    """Choose the images that a report opens with, and say why for each.

    Of several runs: where the last gained most, where it lost most, where all of them fail; of one:
    its worst, a usual one, its best. Of equals the earlier; none is chosen twice.
    """
    chosen: list[tuple[str, int]] = []

    def take(title: str, value: NDArray[np.float64] | NDArray[np.int64]) -> None:
        value = np.array(value, np.float64)
        value[[image for _, image in chosen]] = -np.inf
        if len(value) and len(chosen) < number and value.max() > 0:
            chosen.append((title, int(np.argmax(value))))

    last = len(finds.found) - 1
    name, everybody = finds.comparison.runs[last].label, "both" if last == 1 else "all"
    everyone = finds._on_images(finds.found.all(axis=0) & finds.counted)
    nobody = finds._on_images(~finds.found.any(axis=0) & finds.counted)
    errors = finds.missed_on[last] + finds.false_on[last]
    if last:
        some = finds._on_images(np.asarray(finds.found.any(axis=0) & ~finds.found.all(axis=0)))
        take(f"Most gained by {name}", finds.gained(last) - 0.5 * finds.lost(last))
        take(f"Most lost by {name}", finds.lost(last) - 0.5 * finds.gained(last))
        take(f"Most missed by {everybody}", nobody)
        take("Most found by some", some)
        take(f"Most found by {everybody}", everyone)
    else:
        take("Most errors", errors)
        take("Found, few errors", everyone / (1.0 + errors))
        take("Most missed", nobody)
    take("False detections", finds.false_on.max(axis=0))
    while len(chosen) < min(number, len(errors)):
        take("As it is", np.ones(len(errors)))
    return chosen
