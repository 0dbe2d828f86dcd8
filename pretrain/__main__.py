"""`python -m pretrain`: train, evaluate and export classifiers."""

import inspect
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common import cli
from common.flags import RunFlags
from common.run_folder import to_json
from pretrain.recipes import RECIPES, Recipe

PROGRAM = "python -m pretrain"
OVERVIEW = f"""usage: {PROGRAM} COMMAND ...

Images to a trained classifier to a backbone file.

  list                      the recipes, one a line, with what each reproduces
  train RECIPE --data DIR --out RUN      train; goes on where RUN left off
  evaluate --run RUN --data DIR          score a run on the validation images
  export --run RUN --format torchvision --out FILE.safetensors

{PROGRAM} COMMAND --help shows the flags.
On G GPUs: torchrun --nproc-per-node G -m -- pretrain COMMAND ...

example: {PROGRAM} train cifar10-resnet20-fd --data cifar10 --out runs/fd"""

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class TrainFlags(RunFlags):
    """What every training takes, beside its recipe."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]


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
    workers: int | None = None
    """Processes that read images; None: as many as cores."""


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Flags of export."""

    run: Path
    """Folder of a run."""
    out: Path
    """Target: NAME.safetensors (NAME.pkl for detectron2); the card goes to NAME.json."""
    format: Literal["torchvision", "timm", "mmdet", "detectron2"] = "torchvision"
    """Who will read it; the first three have the same keys."""
    checkpoint: Checkpoint = "best"
    """Weights of the best evaluation, or the last ones."""


def _list(argv: list[str]) -> None:
    cli.print_recipes(RECIPES, argv, PROGRAM)


def _train(argv: list[str]) -> None:
    name, rest, program = cli.recipe_name(argv, RECIPES, PROGRAM)
    needed = cli.unless_printing(rest)
    flags = cli.parse(
        TrainFlags,
        rest,
        program,
        f"{inspect.getdoc(RECIPES[name])}\n\nexample: {program} --data DIR --out runs/{name}",
        default=TrainFlags(data=needed, out=needed, recipe=RECIPES[name]()),
    )
    if flags.print_config:
        print(to_json({"name": name, "seed": flags.seed, "recipe": asdict(flags.recipe)}), end="")
        return
    from pretrain.train import run

    cli.print_metrics(run(name, flags.recipe, flags))


def _evaluate(argv: list[str]) -> None:
    program = f"{PROGRAM} evaluate"
    example = f"Score a run on the validation images.\n\nexample: {program} --run RUN --data DIR"
    flags = cli.parse(EvaluateFlags, argv, program, example)
    from pretrain.runs import evaluate_run

    result = evaluate_run(flags.run, flags.data, flags.checkpoint, flags.device, flags.workers)
    if os.environ.get("RANK", "0") == "0":
        print(to_json(result), end="")


def _export(argv: list[str]) -> None:
    program = f"{PROGRAM} export"
    example = f"Write a backbone.\n\nexample: {program} --run RUN --out backbone.safetensors"
    flags = cli.parse(ExportFlags, argv, program, example)
    from pretrain.runs import export_run

    card = export_run(flags.run, flags.format, flags.out, flags.checkpoint)
    print(
        f"wrote {flags.out}: {card['architecture']}, {flags.checkpoint} checkpoint of epoch "
        f"{card['epoch']}, {' '.join(f'{k} {v:.4f}' for k, v in card['metrics'].items())}"
    )


def main() -> int:
    """Run the command line; return the exit code."""
    commands = {"list": _list, "train": _train, "evaluate": _evaluate, "export": _export}
    return cli.run(PROGRAM, commands, OVERVIEW, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
