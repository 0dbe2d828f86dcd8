"""Backbone file to a detector to a scored report."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError

if TYPE_CHECKING:
    from detect.predictor import Predictor


def load(run: str | Path, checkpoint: str = "last", device: str = "auto") -> "Predictor":
    """Open the detector of a run, to look at photos with.

    Args:
        run: Folder of a run of `python -m detect train`.
        checkpoint: "last" or "best".
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Returns:
        An object whose `predict` takes paths, arrays, tensors or images of Pillow.

    Raises:
        InputError: If the folder holds no such run or checkpoint, or the device is not there.
    """
    if not isinstance(run, str | Path):
        raise InputError(f"run is a {type(run).__name__}: give the folder of a run")
    from detect.predictor import Predictor  # here: to import this package needs no torch

    return Predictor.load(Path(run), checkpoint, device)
