"""The flags of detect's commands; free of torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.command.flags import RunFlags
from common.recipe import NOT_NEGATIVE, SHARE, Range, check
from detect.data.options import DataOptions
from detect.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainFlags(RunFlags[Recipe]):
    """What every fine-tuning takes, beside its recipe."""

    backbone: Path
    """Backbone file: our export, or the weights of a torchvision or timm ResNet; or the word
    scratch: random weights, all of them trained, BatchNorm too. Not with --init."""
    focused_dropout: str | None = None
    """Stage of the body, such as layer3, that FocusedDropout follows in fine-tuning, with ten times
    the weight decay in its steps: short for --focus.after and --focus.weight-decay."""
    data_options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(
        default_factory=DataOptions
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Flags of evaluate."""

    run: Path
    """Folder of a run."""
    data: Path
    """VOC devkit, VOC annotations in other folders, COCO or YOLO data: a folder, or the file that
    describes it."""
    split: str | None = None
    """Images to detect on, comma-separated: YEAR:SET of a devkit, such as 2007:test; of other data
    the name of a set, such as val; None: the set that validates."""
    data_options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(
        default_factory=DataOptions
    )
    out: Path
    """Folder for detections, metrics.json and what the report needs."""
    checkpoint: Literal["best", "last"] = "last"
    """Weights of the last epoch, or of the best evaluation (chosen on its split)."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ScoreFlags:
    """Flags of score."""

    detections: Path
    """Folder of VOC text files (comp4_det_test_<class>.txt) or of one text file per image, or a
    COCO results file (.json, .json.gz)."""
    data: Path
    """VOC devkit, VOC annotations in other folders, COCO or YOLO data: a folder, or the file that
    describes it."""
    split: str | None = None
    """Images that were detected on, comma-separated: YEAR:SET of a devkit, such as 2007:test; of
    other data the name of a set, such as val; None: the set that validates."""
    out: Path
    """Folder for metrics.json, analysis.json and what the report needs."""
    iou: Annotated[tuple[float, ...], Range(high=1, above=True)] = (0.5, 0.75)
    """Overlaps that make a hit; metrics.json has the first, analysis.json all."""
    bootstrap: Annotated[int, NOT_NEGATIVE] = 1000
    """Resamples of the images for the 95% intervals; 0 for none."""
    against: Path | None = None
    """Detections, or a folder of evaluate or score, on the same split: is the difference real?"""
    coco: bool = True
    """Score by COCO too; without, its values are null."""
    coco_engine: Literal["own", "pycocotools"] = "own"
    """Who scores by COCO: both give the same numbers, pycocotools takes far longer."""
    recall: Literal["integer", "float"] = "integer"
    """How the 11 points compare recall: 10 TP >= k objects in integers, or as py-faster-rcnn does,
    TP / objects >= 0.1 k in floating point, which misses 3/10, 6/10 and 7/10."""
    data_options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(
        default_factory=DataOptions
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.iou:
            raise ValueError("--iou needs an overlap, such as 0.5")
        if self.against and not self.bootstrap:
            raise ValueError("--against needs resamples: leave --bootstrap 0 out")


@dataclass(frozen=True, kw_only=True)
class PredictFlags:
    """Flags of predict."""

    run: Path
    """Folder of a run."""
    images: tuple[Path, ...]
    """Photos: files, folders (searched with those below them), patterns such as "photos/*.jpg"."""
    out: Path
    """Folder for predictions.json and pictures/."""
    score_threshold: Annotated[float | None, SHARE] = None
    """Boxes from this score on; None: that of the best F1 where the run was evaluated, else 0.5."""
    checkpoint: Literal["best", "last"] = "last"
    """Weights of the last epoch, or of the best evaluation (chosen on its split)."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""
    verbose: bool = False
    """Print a line for each photo: its size, and what was found."""

    def __post_init__(self) -> None:
        check(self)
        if not self.images:
            raise ValueError("--images needs a file, a folder or a pattern")


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Flags of export."""

    run: Path
    """Folder of a run."""
    out: Path
    """Target: NAME.safetensors or NAME.pth for torchvision, NAME.onnx, NAME.pt2 for torch-export;
    the card goes to NAME.json."""
    format: Literal["torchvision", "onnx", "torch-export"] = "torchvision"
    """Who will read it."""
    checkpoint: Literal["best", "last"] = "last"
    """Weights of the last epoch, or of the best evaluation (chosen on its split)."""
    preprocessing: bool = True
    """Of onnx and torch-export: images go in as they are, uint8; without, resized and normalised.
    """


@dataclass(frozen=True, kw_only=True)
class VerifyFlags:
    """Flags of verify."""

    data: Path
    """VOC devkit, VOC annotations in other folders, COCO or YOLO data: a folder, or the file that
    describes it."""
    split: str | None = None
    """Sets to check, comma-separated: YEAR:SET of a devkit, such as 2007:trainval; of other data
    their names, such as train; None: all there are."""
    data_options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(
        default_factory=DataOptions
    )
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as many as cores, 0: none but this one."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """Flags of compare."""

    baseline: tuple[Path, ...]
    """Folders that evaluate or score wrote, one per seed of the first method."""
    against: tuple[Path, ...]
    """Those of the second method."""
    out: Path | None = None
    """Folder for comparison.json; None: nothing is written."""
    data: Path | None = None
    """The data; None: where they were at the evaluation."""
    bootstrap: Annotated[int, Range(low=2)] = 1000
    """Resamples of the images."""

    def __post_init__(self) -> None:
        check(self)
        if not self.baseline or not self.against:
            raise ValueError("--baseline and --against need a folder each")


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Flags of report."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that evaluate or score wrote; the first is the baseline."""
    out: Path
    """The HTML file; the other files lie beside it under the same name."""
    data: Path | None = None
    """The data; None: where they were at the evaluation."""
    label: tuple[str, ...] = ()
    """Short names of the runs, one per folder; equal names mark seeds of one method. By default
    what distinguishes their titles."""
    gallery_mb: Annotated[float, NOT_NEGATIVE] = 10.0
    """Megabytes that the images to browse may take in the page; 0 for none."""

    def __post_init__(self) -> None:
        check(self)
