"""How long one waits: for a help, and for the first step of a training."""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from toy_data import Sizes, make_toy_data

from benchmarks.measure import ROOT, Comparison, Settings
from benchmarks.timing import in_turn

HELP_SECONDS, STEP_SECONDS = 1.5, 10.0
FIRST_STEP = """
import os, runpy, sys
from common.optimization.step import StepParts
update = StepParts.update
def stop(parts):
    update(parts)
    os._exit(0)
StepParts.update = stop
sys.argv[0] = "pretrain"
runpy.run_module("pretrain", run_name="__main__")
sys.exit("no step was trained")
"""
"""Ends the command right behind its first update of the weights."""


def call(*arguments: str) -> None:
    """Run python with these arguments; what it prints is dropped.

    Raises:
        CalledProcessError: If it fails.
    """
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def run(settings: Settings) -> list[Comparison]:
    """Time whole processes in turn with one that does nothing, or that imports torch."""
    rounds, warm_up = (1, 0) if settings.tiny else (3, 1)
    nothing = {"python -c pass": partial(call, "-c", "pass")}
    importing = {
        "python -c 'import torch, torchvision'": partial(call, "-c", "import torch, torchvision")
    }
    comparisons = []
    for stage in ("pretrain", "detect"):
        name = f"python -m {stage} --help"
        sides = {name: partial(call, "-m", stage, "--help")} | nothing
        comparisons.append(
            Comparison(
                case="help",
                seconds=in_turn(sides, rounds, warm_up=warm_up),
                limit=HELP_SECONDS,
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        sizes = Sizes(train_per_class=16, val_per_class=2, trainval=2, test=2)
        make_toy_data(
            Path(folder) / "data", sizes=sizes if settings.tiny else Sizes(trainval=2, test=2)
        )
        train = ["train", "toy-resnet18-fd", "--resume", "never"]
        paths = ["--data", f"{folder}/data/imagenet", "--out", f"{folder}/run"]
        sides = {"to the first step": partial(call, "-c", FIRST_STEP, *train, *paths)} | importing
        comparisons.append(
            Comparison(
                case="python -m pretrain train toy-resnet18-fd",
                seconds=in_turn(sides, min(rounds, 3), warm_up=warm_up),
                limit=STEP_SECONDS,
            )
        )
    return comparisons
