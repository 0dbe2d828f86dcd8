"""How sure mAP is: 95% intervals from resampled images.

The images of the split are a sample, and another sample would have given another mAP. The
percentile bootstrap (Efron, 1979) draws many resamples of the images, with replacement, scores
each, and reports where the middle 95% of the mAPs lie. An image drawn twice
counts as two: all its objects and detections do.

Detections match objects of their own image only, so who hits whom is the same in every resample.
Scoring one therefore means counting each detection and object as often as its image was drawn,
copies of a detection in a row. A run of true positives only raises precision and one of false
positives only lowers it, so the last copy of each true positive holds all that AP asks for: of the
false ones only their number before each true one, a product of a sparse matrix with the draws.

The envelope of a curve takes the better of what chance offers, and copies offer it more chances: an
interval of AP lies a little high and need not hold the value in its middle. In a difference of two
detectors this cancels.

Two detectors are compared on the same resamples: the images that are hard for both then cancel in
the difference. What these intervals leave out is the training: another seed, another network.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.matches import Matches, match
from detect.scoring.voc import Recall, least_true, score_voc

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAPS = {"map_11point": "11-point", "map_area": "area"}
"""The two mAPs, and what they are called."""
SEED = 0
"""Of the draws behind what is written and reported: every run is scored on the same resamples."""
_ENDS = (2.5, 97.5)
_BLOCK = 2**18
"""Copies at a time: (true positives of a class, resamples) should stay near the processor."""
_EXACT = 2**20
_THREADS = 4
"""Classes scored at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value of the split and the middle 95% of its resamples."""

    value: float
    """Of the split as it is, a fraction; NaN without counted objects."""
    low: float
    """2.5th percentile, a fraction; NaN without counted objects."""
    high: float
    """97.5th."""

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside: of a difference, whether the two networks differ at 95%."""
        return self.low > 0 or self.high < 0


def bootstrap_map(
    truth: GroundTruth,
    detections: Detections,
    iou: float = 0.5,
    resamples: int = 1000,
    seed: int = SEED,
) -> dict[str, Interval]:
    """Estimate how far mAP depends on the choice of images.

    Resamples without counted objects have no mAP and are left out.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        iou: The overlap that makes a hit, in (0, 1].
        resamples: How many.
        seed: Of the random draws.

    Returns:
        Intervals of "map_11point" and "map_area".

    Raises:
        ValueError: `iou` is outside (0, 1], or there are no resamples.
    """
    draws = split_and_draws(truth, resamples, seed)
    return intervals_of(resampled_ap(truth, detections, draws, iou))


def resampled_ap(
    truth: GroundTruth,
    detections: Detections,
    draws: NDArray[np.integer],
    iou: float,
    matches: Matches | None = None,
    recall: Recall = "integer",
) -> NDArray[np.float64]:
    """Score every class of every resample.

    Args:
        truth: The objects of the split.
        detections: What a detector found in it.
        draws: (resamples, images) how often each resample holds each image.
        iou: The overlap that makes a hit, in (0, 1].
        matches: Of detections and objects, where already computed.
        recall: How the 11 points compare recall, as for `score_voc`.

    Returns:
        (resamples, classes, 2) 11-point AP and area; NaN without counted objects.
    """
    matches = matches or match(truth, detections)
    result = score_voc(truth, detections, iou, matches)
    ap = np.full((len(draws), len(truth.classes), 2), np.nan)
    # float32 is exact below 2**24 copies, and no resample has sixteen times what the split has.
    most = int(np.diff(matches.bounds).max(initial=0))
    exact: type[np.floating] = np.float32 if most < _EXACT else np.float64
    found = []  # of each class: see _average_precision
    for start, stop in pairwise(matches.bounds.tolist()):
        rows = matches.order[start:stop]
        rows = rows[~result.ignored[rows]]
        image, true = detections.image[rows], np.flatnonzero(result.true_positive[rows])
        found.append((image[true], _between(image, true, len(truth.image_ids), exact)))
    objects = _per_class_and_image(truth).astype(exact)
    step = max(1, _BLOCK // max(1, *(len(image) for image, _ in found)))
    with ThreadPoolExecutor(_THREADS) as pool:  # numpy and scipy let go of the interpreter
        for start in range(0, len(draws), step):
            block = slice(start, start + step)
            copies: NDArray[np.floating] = np.ascontiguousarray(draws[block].T, dtype=exact)
            of_class: NDArray[np.floating] = np.asarray(objects @ copies)
            score = partial(_average_precision, copies, recall)
            for label, values in enumerate(pool.map(score, *zip(*found, strict=True), of_class)):
                ap[block, label] = np.where(of_class[label, :, None] > 0, values, np.nan)
    return ap


def _per_class_and_image(truth: GroundTruth) -> NDArray[np.int64]:
    """Count the objects (classes, images) that are not difficult."""
    images = len(truth.image_ids)
    cell = (truth.label * images + truth.image)[~truth.difficult]
    return np.bincount(cell, minlength=len(truth.classes) * images).reshape(
        len(truth.classes), images
    )


def mean_of_classes(ap: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the mean of (resamples, classes, 2) over the classes that have a value, else NaN."""
    known = ~np.isnan(ap)
    classes = known.sum(axis=1)
    total = np.where(known, ap, 0.0).sum(axis=1)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def split_and_draws(truth: GroundTruth, resamples: int, seed: int) -> NDArray[np.int32]:
    """Draw resamples of the images of a split: as many as there are, with replacement.

    Returns:
        (resamples + 1, images) how often each resample holds each image; the first is the split as
        it is, each image once.

    Raises:
        ValueError: There are no resamples.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is needed")
    images = len(truth.image_ids)
    draws = np.ones((resamples + 1, images), np.int32)
    rng = np.random.default_rng(seed)
    for row in draws[1:] if images else ():
        row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
    return draws


def intervals_of(ap: NDArray[np.float64]) -> dict[str, Interval]:
    """Return the intervals of both mAPs.

    Args:
        ap: (resamples + 1, classes, 2), the first being that of the split, as `resampled_ap` gives
            it of `split_and_draws`.
    """
    return _intervals(mean_of_classes(ap))


def intervals_of_difference(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> dict[str, Interval]:
    """Return the intervals of the differences of both mAPs, second - first, of the same draws."""
    return _intervals(mean_of_classes(second) - mean_of_classes(first))


def _intervals(sampled: NDArray[np.float64]) -> dict[str, Interval]:
    """Return the intervals of (resamples + 1, 2) values, the first being those of the split."""
    intervals = {}
    for name, (value, *resampled) in zip(MAPS, sampled.T.tolist(), strict=True):
        known = [number for number in resampled if not math.isnan(number)]
        low, high = np.percentile(known, _ENDS).tolist() if known else (math.nan, math.nan)
        intervals[name] = Interval(value, low, high)
    return intervals


def _average_precision(
    copies: NDArray[np.floating],
    recall: Recall,
    image: NDArray[np.int64],
    between: "csr_array",
    objects: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return 11-point AP and area (resamples, 2) of one class, for resamples with counted objects.

    Args:
        copies: (images, resamples) how often each image is there.
        recall: How the 11 points compare recall.
        image: (t,) of each true positive, by falling score.
        between: (t, images) as `_between` gives it.
        objects: (resamples,) counted objects.
    """
    true_copies = copies[image]
    hits = np.cumsum(true_copies, axis=0)
    found = np.asarray(between @ copies)
    np.cumsum(found, axis=0, out=found)
    precision = hits.astype(np.float64)
    precision /= np.maximum(found, 1, out=found)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    objects = np.maximum(objects, 1)
    ap_area = np.einsum("ij,ij->j", true_copies, envelope) / objects
    counts, which = np.unique(objects.astype(np.int64), return_inverse=True)
    least = np.stack([least_true(count, recall) for count in counts.tolist()], axis=1)
    reached = _first_at(hits, least[:, which])
    ended = np.vstack([envelope, np.zeros((1, len(objects)))])
    return np.stack([ended[reached, np.arange(len(objects))].sum(axis=0) / 11, ap_area], axis=1)


def _first_at(rising: NDArray[np.floating], least: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row (k, n) where a column of `rising` (t, n) is at `least` (k, n), else t.

    All columns are bisected at once.
    """
    rows, columns = len(rising), np.arange(rising.shape[1])
    below = np.zeros(least.shape, np.int64)
    for power in reversed(range(rows.bit_length())):
        ahead = below + 2**power
        lower = (ahead <= rows) & (rising[np.minimum(ahead, rows) - 1, columns] < least)
        below = np.where(lower, ahead, below)
    return below


def _between(
    image: NDArray[np.int64], true: NDArray[np.int64], images: int, dtype: type[np.floating]
) -> "csr_array":
    """Return how many detections (t, images) follow one true positive up to the next, itself too.

    Args:
        image: (points,) of each counted detection of a class, by falling score.
        true: (t,) which of them are true positives.
        images: Of the split.
        dtype: Of the counts.
    """
    from scipy.sparse import csr_array

    bounds = np.append(0, true + 1)
    return csr_array(
        (np.ones(bounds[-1], dtype), image[: bounds[-1]], bounds), shape=(len(true), images)
    )
