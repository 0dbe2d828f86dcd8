"""How often the interval of `detect compare` holds the true difference, by simulation.

Two methods are detectors that find an object with some chance; a seed of the training moves that
chance, an image moves it for all runs, and the rest is luck of the run. The true difference is that
of very many runs on very many images. Intervals of 95 % should hold it in 95 of 100 comparisons.

    python -m benchmarks.coverage [--comparisons 400]      from scripts/
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from detect.scoring.bootstrap import mean_of_classes, resampled_ap, split_and_draws
from detect.scoring.detections import Detections, GroundTruth
from detect.scoring.over_seeds import compare_runs

IMAGES, RESAMPLES = 200, 300
CHANCE, GAIN, OF_IMAGE = 0.6, 0.03, 0.15
CASES = ((3, 3, 0.0), (3, 3, 0.02), (3, 3, 0.05), (5, 5, 0.02), (3, 5, 0.02))
"""Runs of each method, and the standard deviation of a seed's chance."""


def split(rng: np.random.Generator, images: int) -> tuple[GroundTruth, np.ndarray]:
    """Make images of three objects of one class, and how hard each image is."""
    corner = np.tile(np.array([[0, 0], [100, 0], [200, 0]], np.float64), (images, 1))
    truth = GroundTruth(
        classes=("thing",),
        image_ids=tuple(map(str, range(images))),
        sizes=np.full((images, 2), 300),
        image=np.repeat(np.arange(images), 3),
        label=np.zeros(3 * images, np.int64),
        box=np.hstack([corner, corner + 50]),
        difficult=np.zeros(3 * images, np.bool_),
    )
    return truth, rng.normal(0, OF_IMAGE, images)


def simulate_run(
    rng: np.random.Generator, truth: GroundTruth, hard: np.ndarray, chance: float
) -> Detections:
    """Detect: objects that are found, and a false detection in every second image."""
    found = np.flatnonzero(rng.random(len(truth.image)) < chance + hard[truth.image])
    false = np.flatnonzero(rng.random(len(truth.image_ids)) < 0.5)
    box = np.tile([0.0, 200.0, 50.0, 250.0], (len(false), 1))
    score = np.append(rng.beta(3, 2, len(found)), rng.beta(2, 3, len(false)))
    image = np.append(truth.image[found], false)
    return Detections(
        image, np.zeros(len(image), np.int64), score, np.vstack([truth.box[found], box])
    )


def true_difference(deviation: float) -> float:
    """Return the difference of the means over many seeds on many images."""
    rng = np.random.default_rng(12345)
    truth, hard = split(rng, 20_000)
    draws = np.ones((1, len(truth.image_ids)), np.int64)
    means = []
    for gain in (0.0, GAIN):
        chances = CHANCE + gain + deviation * np.linspace(-2.5, 2.5, 11)
        weights = np.exp(-(np.linspace(-2.5, 2.5, 11) ** 2) / 2)
        values = [
            mean_of_classes(resampled_ap(truth, simulate_run(rng, truth, hard, c), draws, 0.5))[
                0, 1
            ]
            for c in chances
        ]
        means.append(np.average(values, weights=weights))
    return float(means[1] - means[0])


def coverage(first: int, second: int, deviation: float, comparisons: int) -> tuple[float, float]:
    """Return the share of intervals that hold the true difference, and their mean length."""
    target = true_difference(deviation)
    held, length = 0, 0.0
    for number in range(comparisons):
        rng = np.random.default_rng(number)
        truth, hard = split(rng, IMAGES)
        draws = split_and_draws(truth, RESAMPLES, number)
        ours, others = (
            [
                mean_of_classes(
                    resampled_ap(
                        truth,
                        simulate_run(rng, truth, hard, CHANCE + gain + deviation * rng.normal()),
                        draws,
                        0.5,
                    )
                )[:, 1]
                for _ in range(runs)
            ]
            for runs, gain in ((first, 0.0), (second, GAIN))
        )
        difference = compare_runs(ours, others, seed=number)
        held += difference.low <= target <= difference.high
        length += difference.high - difference.low
    return held / comparisons, length / comparisons


def main() -> None:
    """Print a row per case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--comparisons", type=int, default=400)
    comparisons = parser.parse_args().comparisons
    print(f"{IMAGES} images, {RESAMPLES} resamples, {comparisons} comparisons a row")
    print("runs    deviation of a seed    held    error of that    mean length, points")
    for first, second, deviation in CASES:
        held, length = coverage(first, second, deviation, comparisons)
        error = math.sqrt(held * (1 - held) / comparisons)
        print(
            f"{first} + {second}   {deviation:20.2f}   {100 * held:5.1f}%   {100 * error:13.1f}%"
            f"   {100 * length:20.2f}"
        )


if __name__ == "__main__":
    main()
