"""The augmentation by torchvision against that by albumentations."""

import subprocess
import sys

import numpy as np
import pytest

from detect.data.augment import augment, make_augmentation

LIBRARIES = ("albumentations", "torchvision")


def random_image(rng):
    """Pixels, and up to four boxes, some of which reach out of the image or are empty."""
    height, width = rng.integers(8, 120, 2)
    corners = rng.uniform(-1, [width + 1, height + 1], (rng.integers(0, 5), 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    boxes[rng.random(len(boxes)) < 0.1, 2:] = 0
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, boxes, np.arange(len(boxes))


@pytest.mark.parametrize("colour", [0.0, 1.0])
@pytest.mark.parametrize("where", [{"crop": True}, {"crop": False, "window": 50}, {"crop": False}])
def test_both_libraries_give_the_same(where, colour):
    """The same crops, flips and boxes, so equal distributions; colours but for rounding.

    OpenCV keeps a hue as one of 180 numbers and a saturation in eight bits: some levels of 256.
    """
    rng = np.random.default_rng(0)
    both = [make_augmentation(flip=0.5, colour=colour, library=n, **where) for n in LIBRARIES]
    changed, difference = 0, 0.0
    for index in range(400):
        item = random_image(rng)
        (a, boxes, labels), (b, others, kept) = (augment(c, *item, 0, 0, index) for c in both)
        assert a.shape == b.shape and labels.tolist() == kept.tolist()
        np.testing.assert_allclose(boxes, others, rtol=0, atol=1e-4)
        if not colour:
            assert np.array_equal(a, b)
        elif not np.array_equal(a, b):
            changed += 1
            difference += np.abs(a.astype(int) - b).mean()
    assert changed == 0 if not colour else 150 < changed < 250
    assert difference <= 1.5 * changed


def test_one_library_does_without_the_other():
    code = (
        "import sys; sys.modules['albumentations'] = None; import detect.task\n"
        "from detect.data.augment import make_augmentation\n"
        "make_augmentation(True, 0.5, 1.0, library='torchvision')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
