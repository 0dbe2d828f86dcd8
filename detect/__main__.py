"""`python -m detect`: fine-tune, evaluate, score and report detectors."""

import inspect
import sys
from pathlib import Path
from typing import Any

from common.command import cli
from common.processes import launcher
from common.runs.terminal import speaking
from common.storage import read_json
from common.text import counted, in_line, say
from detect.flags import (
    CompareFlags,
    EvaluateFlags,
    ExportFlags,
    PredictFlags,
    ReportFlags,
    ScoreFlags,
    TrainFlags,
    VerifyFlags,
)
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

    if flags.format != "torchvision":
        say("writing the network down as a graph, which takes a minute or more")
    card, lines = export_run(
        flags.run, flags.format, flags.out, flags.checkpoint, preprocessing=flags.preprocessing
    )
    origin = f"{card['architecture']}, {flags.checkpoint} checkpoint of epoch {card['epoch']}"
    metrics = [f"{name} {value:.4f}" for name, value in card["metrics"].items()]
    say(f"wrote {flags.out}: {', '.join([origin, *metrics])}")
    say(f"to use it with {flags.format}:\n")
    print("\n".join(f"  {line}" if line else "" for line in lines))


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
    from detect.scoring.label_errors import TRUSTED_MAP

    analysis = read_json(out / "analysis.json")
    voc, coco, intervals = metrics["voc"], metrics["coco"], analysis["intervals"]
    for note in analysis["reading"]:
        say(f"note: {note}")
    for name, values in voc["per_class"].items():
        objects = counted(values["objects"], "object")
        say(f"{in_line(name):14} {_percent(values['ap_11point'])}  of {objects}")
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
    say(f"{by_voc}; {by_coco}; written to {out / 'metrics.json'}")
    recall = analysis["recall"]
    if recall["differs"]:
        rule, other = (
            ("integers", "float") if recall["rule"] == "integer" else ("floats", "integer")
        )
        theirs = "py-faster-rcnn's comparison" if other == "float" else "integers"
        say(
            f"11-point recall compared in {rule}; {theirs} would give "
            f"{_percent(recall[other]['map_11point']).strip()} "
            f"({', '.join(map(in_line, recall['differs']))} differ); --recall {other} scores so"
        )
    suspected = sum(analysis["label_errors"].values())
    if suspected:
        weak = (voc["map_area"] or 0.0) < TRUSTED_MAP
        own = "; at this mAP most are the detector's own" if weak else ""
        ranked = f"for label errors, ranked: {out / 'label_errors.json'}{own}"
        say(f"{counted(suspected, 'candidate')} {ranked}")
    if analysis["against"]:
        lines = [
            f"{_points(analysis['against'][name])} ({kind} mAP)" for name, kind in MAPS.items()
        ]
        say(f"against {analysis['against']['detections']}: {'; '.join(lines)}")


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
        say(f"{kind} mAP: {first} against {second}")
        if numbers["low"] is not None:
            value, low, high = (100 * numbers[name] for name in ("difference", "low", "high"))
            better = 100 * numbers["probability_better"]
            say(
                f"  {value:+.2f} points [{low:+.2f}, {high:+.2f}], "
                f"better with a probability of {better:.1f}%"
            )
        say(f"  {numbers['verdict']}")
    if flags.out:
        say(f"written to {flags.out / NAME}")


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
    charts = [file for file in files if file.parent != flags.out.parent]
    for file in files[: -len(charts)]:
        say(f"wrote {file}")
    say(f"wrote {len(charts)} files of charts to {charts[0].parent}")
    say(in_line(read_json(flags.out.with_suffix(".json"))["verdict"]["sentence"]))


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
