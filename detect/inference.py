"""How long a detector takes for one image."""

import time

import numpy as np
import torch

from detect.network.retinanet import BatchedRetinaNet
from detect.recipes import Recipe
from detect.task import EvaluationSet, detect_batch

IMAGES = 50
"""At most this many are timed, spread evenly over the set."""
SECONDS = 30.0
"""Seconds, after which no further image is started."""
WARM_UP = 3
"""Untimed runs of the first image."""


def measure_latency(
    network: BatchedRetinaNet, test: EvaluationSet, recipe: Recipe, device: torch.device
) -> dict[str, float | int] | None:
    """Time single images, from resized pixels in memory to detections in memory.

    Copying to the device, normalising, the network and post-processing count; reading and resizing
    do not.

    Args:
        network: In eval mode.
        test: The images.
        recipe: For sizes and precision.
        device: Where the network is.

    Returns:
        `batch_size` (1), `p50_ms`, `p90_ms` and `images`, how many were timed; None without images.
    """
    count = min(IMAGES, len(test.images))
    if count == 0:
        return None
    chosen = np.linspace(0, len(test.images) - 1, count).round().astype(np.int64)
    batches = [chosen[:1]] * WARM_UP + list(chosen[:, None])
    started, times = time.perf_counter(), []
    loaded = test.stream(batches, recipe.detector, device, workers=0)
    for batch, collated in zip(batches, loaded, strict=True):
        before = time.perf_counter()
        detect_batch(network, batch, collated, recipe, device).cpu()
        times.append(1000 * (time.perf_counter() - before))
        if len(times) > WARM_UP and time.perf_counter() - started > SECONDS:
            break
    timed = times[WARM_UP:]
    p50, p90 = np.percentile(timed, [50, 90])
    return {"batch_size": 1, "p50_ms": float(p50), "p90_ms": float(p90), "images": len(timed)}
