"""`python -m detect`: fine-tune, evaluate, score and report detectors."""

import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.command import cli
from common.command.flags import RunFlags
from common.processes import launcher
from common.recipe import NOT_NEGATIVE, SHARE, Range, check
from common.runs.terminal import speaking
from common.storage import read_json
from common.text import counted, in_line
from detect.data.options import DataOptions
from detect.recipes import RECIPES, SCRATCH, Recipe, describe

PROGRAM = "python -m detect"
OVERVIEW = f"""usage: {PROGRAM} COMMAND ...

Backbone file to a detector to a scored report.

  list                      the recipes, one per line
  train RECIPE --backbone FILE --data VOCDEVKIT --out RUN      fine-tune; resumes where RUN left off
  check RUN                     take steps again: does the run come out as it did?
  evaluate --run RUN --data VOCDEVKIT --split 2007:test --out DIR      detect, write, score
  predict --run RUN --images PATH --out DIR      boxes on your own photos, drawn and as JSON
  verify --data VOCDEVKIT --split 2007:trainval,2012:trainval      check every file beforehand
  score --detections PATH --data VOCDEVKIT --split 2007:test --out DIR      anybody's detections
  compare --baseline DIR ... --against DIR ...      two methods, several seeds each: which is better
  export --run RUN --format torchvision|onnx|torch-export --out FILE      for other programs
  report DIR [DIR ...] --out report.html      compare evaluated folders; the first is the baseline

--data takes VOC devkits, other folders of VOC annotations, COCO and YOLO data.
{PROGRAM} COMMAND --help shows the flags.
On G GPUs: torchrun --nproc-per-node G -m -- detect COMMAND ...

example: {PROGRAM} score --detections comp4/ --data VOCdevkit --split 2007:test --out scored"""


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
    workers: int | None = None
    """Processes that read images; None: as many as cores."""


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
    """VOC devkit; None: where it was at the evaluation."""
    label: tuple[str, ...] = ()
    """Short names of the runs, one per folder; equal names mark seeds of one method. By default
    what distinguishes their titles."""
    gallery_mb: Annotated[float, NOT_NEGATIVE] = 10.0
    """Megabytes that the images to browse may take in the page; 0 for none."""

    def __post_init__(self) -> None:
        check(self)


def _list(argv: list[str]) -> None:
    cli.print_recipes(RECIPES, argv, PROGRAM, describe)


def _train(argv: list[str]) -> None:
    name, rest, program = cli.recipe_name(argv, RECIPES, PROGRAM)
    needed = cli.unless_printing(rest)
    recipe = RECIPES[name]()
    # These change defaults of the recipe, which flags of their own override still.
    if cli.given(rest, "--backbone") == SCRATCH:
        recipe = recipe.from_scratch()
    begun = cli.given(rest, "--init") is not None  # with a backbone of its own
    stage = cli.given(rest, "--focused-dropout")
    if stage is not None:
        recipe = recipe.focused(stage, cli.given(rest, "--optimization.weight-decay"))
    flags = cli.parse(
        TrainFlags,
        rest,
        program,
        f"{inspect.getdoc(RECIPES[name])}\n\nexample: {program} "
        f"--backbone backbone.safetensors --data VOCdevkit --out runs/{name}",
        default=TrainFlags(
            name=name,
            data=needed,
            out=needed,
            backbone=Path(SCRATCH) if begun else needed,
            recipe=recipe,
        ),
    )
    if flags.print_config:
        cli.print_recipe(flags)
        return
    from detect.train import train

    backbone = None if flags.backbone == Path(SCRATCH) else flags.backbone
    with speaking(quiet=flags.quiet, json_lines=flags.json):
        train(flags, PROGRAM, backbone, flags.data_options)


def _check(argv: list[str]) -> None:
    flags = cli.parse_check(argv, PROGRAM)
    from common.training.check import check_run
    from detect.train import train_detector

    def train(given: TrainFlags, watch: Any) -> None:
        backbone = None if given.backbone == Path(SCRATCH) else given.backbone
        train_detector(given, backbone, given.data_options, watch)

    check_run(flags.run, "detect", Recipe, TrainFlags, train, flags.steps, flags.changed())


def _evaluate(argv: list[str]) -> None:
    program = f"{PROGRAM} evaluate"
    flags = cli.parse(
        EvaluateFlags,
        argv,
        program,
        "Detect with a run's weights, write the detections as VOC text and COCO JSON, score them."
        f"\n\nexample: {program} --run RUN --data VOCdevkit --split 2007:test --out RUN/test",
    )
    from detect.evaluate import evaluate_run

    metrics = evaluate_run(
        flags.run,
        flags.data,
        flags.split,
        flags.out,
        flags.checkpoint,
        flags.device,
        flags.workers,
        flags.data_options,
    )
    if metrics and launcher.is_main():
        _print(metrics, flags.out)


def _predict(argv: list[str]) -> None:
    program = f"{PROGRAM} predict"
    flags = cli.parse(
        PredictFlags,
        argv,
        program,
        "Find objects on photos: pictures with boxes, and a COCO results file with file names.\n"
        "Exit code 2 if a photo could not be read; the others are done.\n\n"
        f"example: {program} --run RUN --images photos --out found",
    )
    from detect.predict import predict_files

    predict_files(
        flags.run,
        flags.images,
        flags.out,
        score_threshold=flags.score_threshold,
        checkpoint=flags.checkpoint,
        device=flags.device,
        workers=flags.workers,
        verbose=flags.verbose,
    )


def _export(argv: list[str]) -> None:
    program = f"{PROGRAM} export"
    flags = cli.parse(
        ExportFlags,
        argv,
        program,
        "Write a detector for other programs, and a card that says how to use it.\n\n"
        f"example: {program} --run RUN --format onnx --out detector.onnx",
    )
    from detect.export.detector_file import export_run

    card = export_run(
        flags.run, flags.format, flags.out, flags.checkpoint, preprocessing=flags.preprocessing
    )
    print(
        f"wrote {flags.out}: {card['architecture']}, {flags.checkpoint} checkpoint of epoch "
        f"{card['epoch']}, {' '.join(f'{k} {v:.4f}' for k, v in card['metrics'].items())}"
    )
    print(f"to use it with {flags.format}:\n")
    print("\n".join(f"  {line}" if line else "" for line in card["use"]))


def _verify(argv: list[str]) -> None:
    program = f"{PROGRAM} verify"
    flags = cli.parse(
        VerifyFlags,
        argv,
        program,
        "Check ids, annotations and images; print each fault on a line, then a summary.\n"
        "Exit code 2 if there are faults.\n\n"
        f"example: {program} --data VOCdevkit --split 2007:trainval,2012:trainval",
    )
    from detect.data.verify import verify

    verify(flags.data, flags.split, flags.workers, flags.data_options)


def _score(argv: list[str]) -> None:
    program = f"{PROGRAM} score"
    flags = cli.parse(
        ScoreFlags,
        argv,
        program,
        "Score the detections of any detector.\n\n"
        f"example: {program} --detections comp4/ --data VOCdevkit --split 2007:test --out scored",
    )
    from detect.scoring.scored_folder import Scoring, score_detections

    scoring = Scoring(
        ious=flags.iou,
        resamples=flags.bootstrap,
        coco=flags.coco,
        engine=flags.coco_engine,
        recall=flags.recall,
        against=flags.against,
    )
    metrics = score_detections(
        flags.detections, flags.data, flags.split, flags.out, scoring, flags.data_options
    )
    _print(metrics, flags.out)


def _print(metrics: dict[str, Any], out: Path) -> None:
    """Print what a scored folder holds."""
    from detect.scoring.bootstrap import MAPS

    analysis = read_json(out / "analysis.json")
    voc, coco, intervals = metrics["voc"], metrics["coco"], analysis["intervals"]
    for note in analysis["reading"]:
        print(f"note: {note}")
    for name, values in voc["per_class"].items():
        objects = counted(values["objects"], "object")
        print(f"{in_line(name):14} {_percent(values['ap_11point'])}  of {objects}")
    means = [
        f"{_percent(voc[name])}{_ends(intervals and intervals[name])} ({kind})"
        for name, kind in MAPS.items()
    ]
    if intervals:
        means[-1] += f", 95% intervals from {intervals['resamples']} resamples"
    by_voc, by_coco = f"VOC mAP {', '.join(means)}", f"COCO AP {_percent(coco['ap'])}"
    if read_json(out / "evaluation.json").get("metric") == "coco":
        by_coco += f", AP50 {_percent(coco['ap50'])}, AP75 {_percent(coco['ap75'])}"
        by_voc, by_coco = by_coco, by_voc
    print(f"{by_voc}; {by_coco}; written to {out / 'metrics.json'}")
    recall = analysis["recall"]
    if recall["differs"]:
        rule, other = (
            ("integers", "float") if recall["rule"] == "integer" else ("floats", "integer")
        )
        theirs = "py-faster-rcnn's comparison" if other == "float" else "integers"
        print(
            f"11-point recall compared in {rule}; {theirs} would give "
            f"{_percent(recall[other]['map_11point']).strip()} "
            f"({', '.join(map(in_line, recall['differs']))} differ); --recall {other} scores so"
        )
    suspected = sum(analysis["label_errors"].values())
    if suspected:
        print(f"{suspected} likely label errors, ranked: {out / 'label_errors.json'}")
    if analysis["against"]:
        told = [f"{_points(analysis['against'][name])} ({kind} mAP)" for name, kind in MAPS.items()]
        print(f"against {analysis['against']['detections']}: {'; '.join(told)}")


def _ends(interval: dict[str, Any] | None) -> str:
    """Return the ends of an interval in percent; nothing without."""
    if not interval or interval["low"] is None:
        return ""
    return f" [{100 * interval['low']:.2f}, {100 * interval['high']:.2f}]"


def _points(difference: dict[str, Any]) -> str:
    """Say whether two networks differ: "+0.91 points [-0.10, +1.92]: not decided"."""
    if difference["low"] is None:
        return "n/a"
    value, low, high = (f"{100 * difference[key]:+.2f}" for key in ("value", "low", "high"))
    verdict = "these two networks differ at 95%" if difference["excludes_zero"] else "not decided"
    return f"{value} points [{low}, {high}]: {verdict}"


def _percent(value: float | None) -> str:
    return "  n/a" if value is None else f"{100 * value:5.2f}"


def _compare(argv: list[str]) -> None:
    program = f"{PROGRAM} compare"
    flags = cli.parse(
        CompareFlags,
        argv,
        program,
        "Compare two methods, several seeds each, over seeds and images.\n\n"
        f"example: {program} --baseline base-0/test base-1/test --against fd-0/test fd-1/test",
    )
    from detect.scoring.bootstrap import MAPS
    from detect.scoring.comparison import NAME, compare_folders

    result = compare_folders(flags.baseline, flags.against, flags.out, flags.data, flags.bootstrap)
    for key, kind in MAPS.items():
        numbers = result[key]
        first, second = (
            " ".join(_percent(value).strip() for value in numbers[side])
            for side in ("baseline", "against")
        )
        print(f"{kind} mAP: {first} against {second}")
        if numbers["low"] is not None:
            value, low, high = (100 * numbers[name] for name in ("difference", "low", "high"))
            better = 100 * numbers["probability_better"]
            print(
                f"  {value:+.2f} points [{low:+.2f}, {high:+.2f}], "
                f"better with a probability of {better:.1f}%"
            )
        print(f"  {numbers['verdict']}")
    if flags.out:
        print(f"written to {flags.out / NAME}")


def _report(argv: list[str]) -> None:
    program = f"{PROGRAM} report"
    flags = cli.parse(
        ReportFlags,
        argv,
        program,
        "Compare evaluated folders in one HTML file; beside it the same as markdown, JSON and\n"
        "CSV, and the charts as PNG, SVG and CSV.\n\n"
        f"example: {program} baseline/test fd/test --out report.html",
    )
    from detect.report import write_report

    files = write_report(flags.folders, flags.out, flags.data, flags.label, flags.gallery_mb)
    for file in files:
        if file.parent == flags.out.parent:
            print(f"wrote {file}")
    print(f"wrote {len(files) - 4} files of charts to {files[-1].parent}")
    print(in_line(read_json(files[2])["verdict"]["sentence"]))


def main() -> int:
    """Run the command line; return the exit code."""
    commands = {
        "list": _list,
        "train": _train,
        "check": _check,
        "evaluate": _evaluate,
        "predict": _predict,
        "export": _export,
        "verify": _verify,
        "score": _score,
        "compare": _compare,
        "report": _report,
    }
    return cli.dispatch(PROGRAM, commands, OVERVIEW, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
