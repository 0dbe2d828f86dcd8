"""Benchmarks: ours and the alternative in turn, in one process, on random data; medians.

python scripts/bench.py layer      FocusedDropout against x * 1.0, forward and backward, CPU
python scripts/bench.py score      VOC metric, and pycocotools, on the size of VOC2007 test
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from common import FocusedDropout
from detect.coco_score import score_coco
from detect.detections import Detections, GroundTruth
from detect.voc import VOC_CLASSES
from detect.voc_score import score_voc


def seconds(call: Callable[[], object], repeats: int) -> str:
    """Time a call; return the median and the range."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f}, n={repeats})"


def synthetic(num_images: int, num_detections: int) -> tuple[GroundTruth, Detections]:
    """Make three objects an image, and detections: half near an object, half anywhere."""
    rng = np.random.default_rng(0)
    num_objects = 3 * num_images
    image = np.repeat(np.arange(num_images), 3)
    label = rng.integers(0, len(VOC_CLASSES), num_objects)
    corner = rng.integers(0, 250, (num_objects, 2))
    box = np.hstack([corner, corner + rng.integers(20, 200, (num_objects, 2))]).astype(np.float64)
    truth = GroundTruth(
        classes=VOC_CLASSES,
        image_ids=tuple(f"{number:06}" for number in range(num_images)),
        sizes=np.full((num_images, 2), 500),
        image=image,
        label=label,
        box=box,
        difficult=rng.random(num_objects) < 0.2,
    )
    source = rng.integers(0, num_objects, num_detections)
    near = rng.random(num_detections) < 0.5
    shift = rng.normal(0, np.where(near, 8, 120)[:, None], (num_detections, 2))
    detections = Detections(
        image=image[source],
        label=np.where(near, label[source], rng.integers(0, len(VOC_CLASSES), num_detections)),
        score=rng.random(num_detections),
        box=box[source] + np.hstack([shift, shift]),
    )
    return truth, detections


def score() -> None:
    """Time both metrics on 4,952 images with 200,000 detections of 20 classes."""
    truth, detections = synthetic(4952, 200_000)
    print("4,952 images, 14,856 objects, 200,000 detections, 20 classes")
    print(f"score_voc   {seconds(lambda: score_voc(truth, detections), 7)}")
    print(f"score_coco  {seconds(lambda: score_coco(truth, detections), 1)}  (pycocotools)")


def layer() -> None:
    """Time forward and backward of the active layer and of a copy, in turn, on one thread."""
    torch.set_num_threads(1)
    focused = FocusedDropout().train()
    focused.active = True
    for shape in ((128, 128, 16, 16), (32, 1024, 14, 14)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).relu().to(memory_format=layout).requires_grad_()
            gradient = torch.randn(shape).to(memory_format=layout)
            times: dict[str, list[float]] = {"x * 1.0": [], "layer": []}
            for _ in range(83):
                for name, call in (("x * 1.0", lambda x: x * 1.0), ("layer", focused)):
                    start = time.perf_counter()
                    call(x).backward(gradient)
                    times[name].append(time.perf_counter() - start)
                    x.grad = None
            copy, ours = (1e3 * statistics.median(seen[3:]) for seen in times.values())
            print(
                f"{'x'.join(map(str, shape)):15} {str(layout)[6:]:17} "
                f"x * 1.0 {copy:.1f} ms, layer {ours:.1f} ms, ratio {ours / copy:.2f}"
            )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["layer", "score"], help="what to measure")
    name = parser.parse_args().name
    print(f"{platform.machine()}, torch {torch.__version__}, numpy {np.__version__}")
    {"layer": layer, "score": score}[name]()


if __name__ == "__main__":
    main()
