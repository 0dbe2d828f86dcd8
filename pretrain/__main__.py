"""`python -m pretrain`: train, evaluate, export and inspect classifiers, draw their figures."""

import inspect
import sys

from common.command import cli
from common.command.flags import RunFlags
from common.processes import launcher
from common.runs.terminal import speaking
from common.storage import to_json
from common.text import in_line, say
from pretrain.flags import (
    EvaluateFlags,
    ExportFlags,
    FigureFlags,
    InspectFlags,
    PredictFlags,
    VerifyFlags,
)
from pretrain.recipes import RECIPES, Recipe
from pretrain.recipes.cost import describe

PROGRAM = "python -m pretrain"
OVERVIEW = f"""usage: {PROGRAM} COMMAND ...

Images to a trained classifier to a backbone file.

  list                      the recipes, one per line, with what each reproduces
  train RECIPE --data DIR --out RUN      train; resumes where RUN left off
  check RUN                              take steps again: does the run come out as it did?
  evaluate --run RUN --data DIR          score a run on the validation images
  predict --run RUN|--weights FILE --images PATH --out DIR      classes of your own photos
  export --run RUN --format torchvision --out FILE.safetensors
  inspect FILE                           what a file of weights or a run is, and what it fits
  verify --data DIR                      check every image before a training does
  figure NAME --runs RUN [RUN ...] --out FILE.png      draw what finished runs show

{PROGRAM} COMMAND --help shows the flags.
On G GPUs: torchrun --nproc-per-node G -m -- pretrain COMMAND ...

example: {PROGRAM} train cifar10-resnet20-fd --data cifar10 --out runs/fd"""

_FIGURES: dict[str, str] = {
    "channels": "Figure 2: which channel of the last layer is the strongest, by class.",
    "cam": "Figure 4: class activation maps, with the focused area outlined.",
    "curves": "Figure 5: validation accuracy and training loss by epoch.",
    "keep-ratio": "Section 5.2.2: the share of units that FocusedDropout keeps, by epoch.",
}


def _list(argv: list[str]) -> None:
    cli.print_recipes(RECIPES, argv, PROGRAM, describe)


def _train(argv: list[str]) -> None:
    name, rest, program = cli.recipe_name(argv, RECIPES, PROGRAM)
    needed = cli.unless_printing(rest)
    flags = cli.parse(
        RunFlags[Recipe],
        rest,
        program,
        f"{inspect.getdoc(RECIPES[name])}\n\nexample: {program} --data DIR --out runs/{name}",
        default=RunFlags(name=name, data=needed, out=needed, recipe=RECIPES[name]()),
    )
    if flags.print_config:
        cli.print_recipe(flags)
        return
    from pretrain.train import train

    with speaking(quiet=flags.quiet, json_lines=flags.json):
        train(flags, PROGRAM)


def _check(argv: list[str]) -> None:
    flags = cli.parse_check(argv, PROGRAM)
    from common.training.check import check_run
    from pretrain.train import train_classifier

    changed = flags.changed()
    check_run(flags.run, "pretrain", Recipe, RunFlags, train_classifier, flags.steps, changed)


def _evaluate(argv: list[str]) -> None:
    program = f"{PROGRAM} evaluate"
    example = f"Score a run on the validation images.\n\nexample: {program} --run RUN --data DIR"
    flags = cli.parse(EvaluateFlags, argv, program, example)
    from pretrain.evaluate import evaluate_run

    result = evaluate_run(flags.run, flags.data, flags.checkpoint, flags.device, flags.workers)
    if launcher.is_main():
        print(to_json(result), end="")


def _predict(argv: list[str]) -> None:
    program = f"{PROGRAM} predict"
    flags = cli.parse(
        PredictFlags,
        argv,
        program,
        "Classify photos: classes and scores, as CSV and as JSON.\n"
        "Exit code 2 if a photo could not be read; the others are done.\n\n"
        f"example: {program} --run RUN --images photos --out classified",
    )
    from pretrain.predict import predict_files

    source = flags.run or flags.weights
    assert source is not None
    predict_files(
        source,
        flags.images,
        flags.out,
        top_k=flags.top_k,
        checkpoint=flags.checkpoint,
        device=flags.device,
        workers=flags.workers,
        verbose=flags.verbose,
    )


def _export(argv: list[str]) -> None:
    program = f"{PROGRAM} export"
    example = f"Write a backbone.\n\nexample: {program} --run RUN --out backbone.safetensors"
    flags = cli.parse(ExportFlags, argv, program, example)
    from pretrain.export.backbone_file import export_run
    from pretrain.export.consumers import settings

    card = export_run(flags.run, flags.format, flags.out, flags.checkpoint, flags.results)
    say(
        f"wrote {flags.out}: {card['architecture']}, {flags.checkpoint} checkpoint of epoch "
        f"{card['epoch']}, {' '.join(f'{k} {v:.4f}' for k, v in card['metrics'].items())}"
    )
    say(f"to use it with {flags.format}:\n")
    # The card goes with its file; what is printed is for here.
    print("\n".join(f"  {line}" if line else "" for line in settings(card, flags.out)))


def _inspect(argv: list[str]) -> None:
    program = f"{PROGRAM} inspect"
    flags = cli.parse(
        InspectFlags,
        argv,
        program,
        "Tell what a file of weights, a checkpoint or a run is, and what it fits. Nothing in it is "
        f"run.\n\nexample: {program} backbone.safetensors",
    )
    from pretrain.export.inspection import inspect

    say("\n".join(map(in_line, inspect(flags.file))))


def _verify(argv: list[str]) -> None:
    program = f"{PROGRAM} verify"
    flags = cli.parse(
        VerifyFlags,
        argv,
        program,
        "Decode every image and check the layout; print each fault on a line, then a summary.\n"
        "Exit code 2 if there are faults.\n\n"
        f"example: {program} --data cifar10 --dataset cifar10",
    )
    from pretrain.data.verify import verify

    verify(flags.dataset, flags.data, flags.workers)


def _figure(argv: list[str]) -> None:
    program = f"{PROGRAM} figure"
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {program} NAME --runs RUN [RUN ...] --out FILE.png [flags]\n")
        print("\n".join(f"  {name:10}  {text}" for name, text in _FIGURES.items()))
        print(f"\n{program} NAME --help shows the flags.")
        return
    figure = cli.choose(argv[0], _FIGURES, "figure", f"`{program} --help`")
    example = f"example: {program} {figure} --runs RUN --out {figure}.png"
    example += "" if figure in ("curves", "keep-ratio") else " --data DIR"
    flags = cli.parse(
        FigureFlags, argv[1:], f"{program} {figure}", f"{_FIGURES[figure]}\n\n{example}"
    )
    from pretrain.figures.commands import draw_figure

    written = draw_figure(
        figure,  # type: ignore[arg-type]
        flags.runs,
        flags.data,
        flags.out,
        flags.device,
        checkpoint=flags.checkpoint,
        classes=flags.classes,
        num_images=flags.num_images,
        seed=flags.seed,
        workers=flags.workers,
    )
    for path in written:
        say(f"wrote {path}")


def main() -> int:
    """Run the command line; return the exit code."""
    commands = {
        "list": _list,
        "train": _train,
        "check": _check,
        "evaluate": _evaluate,
        "predict": _predict,
        "export": _export,
        "inspect": _inspect,
        "verify": _verify,
        "figure": _figure,
    }
    return cli.dispatch(PROGRAM, commands, OVERVIEW, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
