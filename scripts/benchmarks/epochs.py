"""What the end of an epoch costs: short epochs beside a long one of as many steps.

The set is as large as CIFAR-10, the network is its ResNet-20. A step takes 8 images of its batch,
as long as it may take on a GPU; the evaluation is left out.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.loops import random_images, recipe_for
from benchmarks.measure import Comparison, Run, Settings
from benchmarks.timing import StepTimes
from common.command.flags import Options
from common.images.sampling import MicroBatch
from common.processes import memory
from common.processes.ranks import World
from common.recipe import Focus
from common.runs.folder import RunFolder
from common.training.loop import train
from common.training.task import Task
from pretrain.data.augment import ResidentImages
from pretrain.data.splits import Batch
from pretrain.networks import build_network
from pretrain.task import classification_loss

LOOPS = ("short", "long")
TAKEN = 8
"""Images of a step that are trained on."""
WARM_UP = 10


def sizes(settings: Settings) -> tuple[int, int, int, int]:
    """Return images of the set, steps of a short epoch, short epochs, processes of each side."""
    return (100, 5, 5, 1) if settings.tiny else (50_000, 5, 40, 3)


def one(settings: Settings) -> Run:
    """Train with short epochs or a long one; the time is of as many steps as a short one has."""
    images, steps, epochs, _ = sizes(settings)
    per_epoch = steps if settings.loop == "short" else steps * epochs
    if settings.device.type == "cpu":
        memory.keep_freed_memory()
    recipe = recipe_for("cifar-resnet20", images // per_epoch, "fp32")
    data = random_images(images)
    resident = ResidentImages(data, recipe.images.padding, seed=0, device=settings.device)
    times = StepTimes(settings.device, steps * epochs - WARM_UP - 1, 1, WARM_UP)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for micro_batch in micro_batches:
            yield resident.train_batch(micro_batch.epoch, micro_batch.indices[:TAKEN])

    network = build_network("cifar-resnet20", len(data.classes))
    task = Task(
        model=network.to(settings.device).to(memory_format=torch.channels_last),
        num_images=images,
        load=lambda micro_batches: times.watch(load(micro_batches)),
        loss=classification_loss(recipe),
        evaluate=lambda model: {"val_accuracy": 0.0},
        metric="val_accuracy",
    )
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(Path(path), {"stage": "benchmark"})
        optimization = replace(recipe.optimization, epochs=steps * epochs // per_epoch)
        recipe = replace(recipe, optimization=optimization, focus=Focus())
        train(task, recipe, Options(), World(settings.device), folder)
        folder.close()
    run = Run.of(times, settings.device)
    of_epoch, host = ([of_step * steps for of_step in its] for its in (run.seconds, run.host))
    return Run(of_epoch, host, run.notes)


def run(settings: Settings) -> list[Comparison]:
    """Time both in turn, each in a process of its own."""
    images, steps, _, rounds = sizes(settings)
    shared = ["epochs", *settings.flags()]
    return [
        measure.of_runs(
            measure.in_processes(
                {
                    "with the end of an epoch": [*shared, "--loop", "short"],
                    "within an epoch": [*shared, "--loop", "long"],
                },
                rounds,
            ),
            case=f"ResNet-20, {images:,} images, {steps} steps",
        )
    ]
