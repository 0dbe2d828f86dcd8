"""`python -m pretrain train`: from a recipe and a data folder to a trained classifier."""

import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from common import distributed
from common.distributed import World
from common.errors import InputError
from common.loading import default_workers
from common.optimization import place_focused_dropout
from common.run_folder import RunFolder, describe_environment, to_json
from common.train_loop import Options, Stage, train
from pretrain.networks import build_network
from pretrain.recipes import Recipe
from pretrain.task import classification_loss, evaluate, open_split

_DRY_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of the command."""

    name: str
    recipe: Recipe
    data: Path
    out: Path
    seed: int = 0
    device: str = "auto"
    resume: str = "auto"
    workers: int | None = None
    evaluate_every: int = 1
    dry_run: bool = False
    overfit_batches: int | None = None


def run_job(job: Job) -> dict[str, float]:
    """Train as the job says; with `dry_run`, two steps in a folder that is removed again.

    Returns:
        The metrics of the last evaluation, and the best.

    Raises:
        InputError: If data or arguments are wrong.
    """
    with distributed.start(job.device) as world:
        if not job.dry_run:
            return _train(job, world)
        job.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dry-run-", dir=job.out.parent) as folder:
            dry = replace(job, out=Path(distributed.broadcast(folder)))
            _train(dry, world)
            metrics = _train(dry, world)  # goes on from the checkpoint that the first one saved
        if world.is_main:
            print("dry run: two steps, evaluation, save and load went well; nothing is kept")
        return metrics


def _train(job: Job, world: World) -> dict[str, float]:
    recipe = job.recipe
    folder = None
    if world.is_main:
        description = {
            "stage": "pretrain",
            "name": job.name,
            "seed": job.seed,
            "recipe": asdict(recipe),
            "overfit_batches": job.overfit_batches,
        }
        folder = RunFolder(job.out, description, job.resume)
    try:
        return _train_in(folder, job, world)
    finally:
        if folder:
            folder.close()


def _train_in(folder: RunFolder | None, job: Job, world: World) -> dict[str, float]:
    recipe = job.recipe
    splits = {
        split: open_split(
            recipe,
            job.data,
            split,
            training=split == "train",
            seed=job.seed,
            workers=default_workers(10**6) if job.workers is None else job.workers,
            device=world.device,
        )
        for split in ("train", "val")
    }
    if splits["val"].classes != splits["train"].classes:
        raise InputError(f"{job.data}: train and val do not have the same classes")
    torch.manual_seed(job.seed)
    network = build_network(recipe.network, len(splits["train"].classes), recipe.stem)
    place_focused_dropout(network, recipe.focus)
    network.to(world.device)
    if recipe.optimization.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.optimization.compile:
        network.compile()
    # Ranks start from the same weights and draw their own gammas.
    torch.manual_seed(job.seed * 1000 + world.rank)
    if folder:
        environment = describe_environment(str(world.device), world.size) | {
            "data": str(job.data.resolve()),
            "train_images": splits["train"].num_images,
            "val_images": splits["val"].num_images,
            "classes": list(splits["train"].classes),
        }
        (folder.path / "environment.json").write_text(to_json(environment))
    stage = Stage(
        model=network,
        num_images=splits["train"].num_images,
        load=splits["train"].load,
        loss=classification_loss(recipe),
        evaluate=partial(
            evaluate,
            split=splits["val"],
            recipe=recipe,
            world=world,
            limit=2 * recipe.optimization.batch_size if job.dry_run else None,
        ),
        metric="val_accuracy",
    )
    options = Options(
        seed=job.seed,
        resume=job.resume,
        label=job.name,
        evaluate_every=job.evaluate_every,
        stop_step=_DRY_STEPS if job.dry_run else None,
        overfit_batches=job.overfit_batches,
    )
    return train(stage, recipe.optimization, recipe.focus, world, folder, options)
