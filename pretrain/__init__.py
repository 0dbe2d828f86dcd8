"""Images to a trained classifier to a backbone file."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError

if TYPE_CHECKING:
    from pretrain.predictor import Predictor

__all__ = ["load"]


def load(source: str | Path, checkpoint: str = "best", device: str = "auto") -> "Predictor":
    """Open a classifier, to look at photos with.

    Args:
        source: Folder of a run of `python -m pretrain train`, or a file of weights that `inspect`
            knows: an export of ours, a checkpoint, weights of a torchvision or timm ResNet.
        checkpoint: Of a run: "best" or "last".
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Returns:
        An object whose `predict` takes paths, arrays, tensors or images of Pillow.

    Raises:
        InputError: If it holds no classifier that is known, or the device is not there.
    """
    if not isinstance(source, str | Path):
        raise InputError(
            f"source is a {type(source).__name__}: give the folder of a run or a file of weights"
        )
    from pretrain.predictor import load_predictor  # here: to import this package needs no torch

    return load_predictor(Path(source), checkpoint, device)
