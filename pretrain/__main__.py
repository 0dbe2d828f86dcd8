"""`python -m pretrain`: train, evaluate and export classifiers."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common import cli
from common.run_folder import to_json
from pretrain.recipes import RECIPES, Recipe

PROGRAM = "python -m pretrain"
OVERVIEW = f"""usage: {PROGRAM} COMMAND ...

Images to a trained classifier to a backbone file.

  list                      the recipes, one a line, with what each reproduces
  train RECIPE --data DIR --out RUN      train; goes on where RUN left off
  evaluate --run RUN --data DIR          score a run on the validation images
  export --run RUN --format torchvision --out FILE.safetensors

{PROGRAM} COMMAND --help shows the flags; torchrun --nproc-per-node G -m pretrain ... uses G GPUs.

example: {PROGRAM} train cifar10-resnet20-fd --data cifar10 --out runs/fd"""

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """What every training takes, beside its recipe."""

    data: Path
    """Folder of the data set."""
    out: Path
    """Folder of the run; made if it is not there."""
    seed: int = 0
    """Seed of weights, order, augmentation and participation."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    resume: str = "auto"
    """auto: go on where RUN left off; never: refuse a folder with a run; PATH: from that file."""
    workers: int | None = None
    """Processes that read images, per rank; None: the rank's share of the cores."""
    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch always counts."""
    dry_run: bool = False
    """Two steps, evaluate, save, load, exit; leaves nothing behind."""
    overfit_batches: int | None = None
    """Train on the first N batches only: the loss must fall to zero."""
    print_config: bool = False
    """Print the resolved recipe as JSON and exit."""
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
    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        print(f"{name:{width}}  {(recipe.__doc__ or '').splitlines()[0]}")


def _train(argv: list[str]) -> None:
    name, rest, program = cli.recipe_name(argv, RECIPES, PROGRAM)
    needed = Path() if "--print-config" in rest else tyro.MISSING
    flags = cli.parse(
        TrainFlags,
        rest,
        program,
        f"{RECIPES[name].__doc__}\n\nexample: {program} --data DIR --out runs/{name} --seed 0",
        default=TrainFlags(data=needed, out=needed, recipe=RECIPES[name]()),
    )
    if flags.print_config:
        print(to_json({"name": name, "seed": flags.seed, "recipe": asdict(flags.recipe)}), end="")
        return
    from pretrain.train import Job, run_job

    given = {key: getattr(flags, key) for key in vars(flags) if key != "print_config"}
    metrics = run_job(Job(name=name, **given))
    if os.environ.get("RANK", "0") == "0":
        print(" ".join(f"{key} {value:.4f}" for key, value in metrics.items()))


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
