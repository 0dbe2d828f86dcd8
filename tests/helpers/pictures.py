"""PNG files as figures leave them."""

from pathlib import Path

import cv2
import numpy as np
import pytest


def read_png(path: Path, inches: tuple[float, float]) -> np.ndarray:
    """Read a picture of 150 pixels an inch that is drawn on."""
    pixels = cv2.imread(str(path))
    assert pixels.shape[1::-1] == pytest.approx(np.array(inches) * 150, abs=1)
    assert 0.02 < (pixels != pixels[0, 0]).any(2).mean() < 0.98  # drawn on, and not all over
    return pixels
