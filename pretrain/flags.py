"""The flags of pretrain's commands; free of torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.recipe import AT_LEAST_ONE, NOT_NEGATIVE, check
from pretrain.recipes import Dataset

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Flags of evaluate."""

    run: Path
    """Folder of a run."""
    data: Path
    """Folder of the data set."""
    checkpoint: Checkpoint = "best"
    """Weights of the best evaluation, or the last ones."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PredictFlags:
    """Flags of predict."""

    images: tuple[Path, ...]
    """Photos: files, folders (searched with those below them), patterns such as "photos/*.jpg"."""
    out: Path
    """Folder for predictions.csv and predictions.json."""
    run: Path | None = None
    """Folder of a run; or --weights."""
    weights: Path | None = None
    """File of weights that inspect knows: our exports, checkpoints, ResNets of torchvision and
    timm."""
    top_k: Annotated[int, AT_LEAST_ONE] = 5
    """Classes of a photo, the likeliest first."""
    checkpoint: Checkpoint = "best"
    """Of a run: weights of the best evaluation, or the last ones."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""
    verbose: bool = False
    """Print a line for each photo: its name, and its likeliest class."""

    def __post_init__(self) -> None:
        check(self)
        if not self.images:
            raise ValueError("--images needs a file, a folder or a pattern")
        if self.run and self.weights:
            raise ValueError("--run and --weights name two classifiers: give one of them")
        if not (self.run or self.weights):
            raise ValueError("predict needs a classifier: give --run or --weights")


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Flags of export."""

    run: Path
    """Folder of a run."""
    out: Path
    """Target: NAME.safetensors or NAME.pth; NAME.pkl or .pth for detectron2, NAME.pth for mmdet,
    NAME.onnx for onnx. The cards go to NAME.json and NAME.md."""
    format: Literal["torchvision", "timm", "detectron2", "mmdet", "onnx"] = "torchvision"
    """Who will read it."""
    checkpoint: Checkpoint = "best"
    """Weights of the best evaluation, or the last ones."""
    results: Path | None = None
    """CSV file of finished runs, for the error bars of the model card; None: one run, no error bar.
    """


@dataclass(frozen=True, kw_only=True)
class InspectFlags:
    """Flags of inspect."""

    file: tyro.conf.Positional[Path]
    """A backbone file, other weights, an ONNX graph, a checkpoint or the folder of a run."""


@dataclass(frozen=True, kw_only=True)
class FigureFlags:
    """Flags of figure."""

    runs: tuple[Path, ...]
    """Folders of runs; those of one recipe with several seeds make one line in curves."""
    out: Path
    """The picture, .png; the numbers behind it go to a .csv beside it."""
    data: Path | None = None
    """Folder of the data set, for channels and cam."""
    classes: tuple[str, ...] = ()
    """Classes that channels shows; none: four, evenly spaced."""
    num_images: Annotated[int, AT_LEAST_ONE] = 8
    """Validation images that cam shows."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Which images these are."""
    checkpoint: Checkpoint = "best"
    """Weights of the best evaluation, or the last ones, for channels and cam."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class VerifyFlags:
    """Flags of verify."""

    data: Path
    """Folder of the data set."""
    dataset: Dataset = "folders"
    """What it is."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""

    def __post_init__(self) -> None:
        check(self)
