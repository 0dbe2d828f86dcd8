"""What a training changes from step to step, and how a checkpoint keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from common.errors import InputError, summary
from common.images.sampling import Sampling
from common.method.focused_training import FocusedTraining
from common.optimization.optimizer import build_optimizer, load_optimizer
from common.optimization.precision import LossScaling
from common.optimization.weight_average import WeightAverage
from common.processes.ranks import World, broadcast, sum_over_ranks
from common.recipe import Recipe
from common.runs import checkpoints
from common.runs.data_parts import changes
from common.runs.folder import RunFolder
from common.text import counted, say
from common.training.epoch_means import EpochSums
from common.training.network import compile_network
from common.training.task import Metrics, Task


@dataclass(kw_only=True)
class TrainingState:
    """The state of a training: all that a step depends on, beside the recipe and the seed.

    No generator's state belongs to it: what a step draws is a function of (seed, step, image).
    """

    model: nn.Module
    optimizer: Optimizer
    focus: FocusedTraining | None
    average: WeightAverage | None
    scaling: LossScaling | None
    extent: Mapping[str, Any]
    """What decides the images of a step (`extent_of`); a checkpoint with another is refused."""
    step: int = 0
    """Optimizer steps done."""
    sums: EpochSums = field(default_factory=EpochSums)
    """Of the epoch so far."""
    metrics: Metrics = field(default_factory=dict)
    """Of the last evaluation."""
    best: float = float("-inf")
    """The best value of the task's metric; minus infinity before there is one."""
    stale: int = 0
    """Evaluations since the best; `--patience` counts them."""
    cut_short: bool = False
    """Whether the checkpoint that was read is of an epoch that was not logged."""

    @property
    def epoch(self) -> int:
        """The number of epochs begun."""
        return -(-self.step // int(self.extent["steps_per_epoch"]))

    def evaluated(self) -> nn.Module:
        """Return the network that is evaluated and exported."""
        return self.average.network() if self.average else self.model

    def named(self) -> dict[str, Any]:
        """Return all that a checkpoint keeps of the training, tensors and plain values, by name.

        Counts and sums for the log are left out: their rounding depends on the ranks.
        """
        named: dict[str, Any] = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            values = self.optimizer.state.get(parameter, {})
            named |= {f"optimizer.{name}.{k}": v for k, v in values.items() if v is not None}
        if self.average:
            network = self.average.network()
            named |= {f"average.{k}": v for k, v in network.state_dict().items()}
        if self.scaling:
            named["scaling"] = self.scaling.state()["scaler"]
        return named

    def weights(self, network: nn.Module) -> dict[str, Any]:
        """Return what best.pt holds: a network, and where it comes from."""
        return {
            "model": network.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "metrics": dict(self.metrics),
        }


def begin(task: Task, recipe: Recipe, sampling: Sampling, seed: int) -> TrainingState:
    """Return the state before the first step; the network is as the task hands it over."""
    optimization, focus = recipe.optimization, recipe.focus
    model, steps_per_epoch = task.model, sampling.steps_per_epoch
    optimizer = build_optimizer(model, optimization)
    training = None
    if focus.enabled:
        training = FocusedTraining(
            model,
            optimizer,
            focus.participation_rate,
            focus.weight_decay,
            seed,
            steps_per_epoch=steps_per_epoch if focus.exact else None,
            decay_only=focus.after is None,
            freeze_bn_stats=focus.freeze_bn_stats,
        )
    average = WeightAverage(model, optimization.ema_decay) if optimization.ema_decay else None
    if average and optimization.compile:
        compile_network(average.network())
    device = optimizer.param_groups[0]["params"][0].device
    return TrainingState(
        model=model,
        optimizer=optimizer,
        focus=training,
        average=average,
        scaling=LossScaling(device) if optimization.precision == "fp16" else None,
        extent=extent_of(task, steps_per_epoch),
    )


def extent_of(task: Task, steps_per_epoch: int) -> dict[str, Any]:
    """Return what decides the images of a step; the steps of an epoch can depend on the ranks."""
    return {
        "num_images": task.num_images,
        "data": dict(task.data),
        "steps_per_epoch": steps_per_epoch,
    }


def save_best(state: TrainingState, folder: RunFolder) -> None:
    """Write best.pt, the weights that were evaluated."""
    checkpoints.save(state.weights(state.evaluated()), folder.best)


def save(state: TrainingState, folder: RunFolder | None, world: World) -> None:
    """Write last.pt on the main rank; to be called on all ranks."""
    sums = state.sums.state()
    focus = _focus_counts(state, world)
    if folder is None:
        return
    content = state.weights(state.model) | {
        "optimizer": state.optimizer.state_dict(),
        **state.extent,
        "best": state.best,
        "stale": state.stale,
        "sums": sums,
        "focus": focus,
        "ranks": world.size,
    }
    if state.average:
        content["average"] = state.average.network().state_dict()
    if state.scaling:
        content["scaling"] = state.scaling.state()
    checkpoints.save(content, folder.last, keep_previous=True)


def _focus_counts(state: TrainingState, world: World) -> dict[str, Any] | None:
    """Return the counts of the epoch, those of the layers summed over the ranks."""
    if not state.focus:
        return None
    counts = state.focus.counts()
    totals = torch.tensor(counts["totals"], dtype=torch.int64, device=world.device)
    return counts | {"totals": sum_over_ranks(totals).tolist()}


def resume(state: TrainingState, folder: RunFolder | None, asked: str, world: World) -> int | None:
    """Resume from the folder's checkpoint or the one asked for; rank 0 reads, all get it.

    Args:
        state: As a training begins; changed in place.
        folder: Where last.pt lies; None on all ranks but the main one.
        asked: "auto", "never" or the path of a checkpoint.
        world: This process among its peers.

    Returns:
        How many ranks saved the checkpoint; None if there is none.

    Raises:
        InputError: If it cannot be read, or does not fit.
    """
    content = broadcast(_read(folder, asked))
    if content is None:
        return None
    if asked not in ("auto", "never"):
        _check_network(state, content, asked)
    _check_data(state, content)
    try:
        _restore(state, content, world)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            "the checkpoint does not fit this recipe, these data or this number of processes "
            f"({summary(error)}): choose another --out, or start it as it was"
        ) from error
    if "random" in content:
        if world.is_main:
            say(
                f"the checkpoint of step {state.step} is of an older version, whose draws came "
                "from the states of generators: those from here on come from (seed, step, image)"
            )
        return len(content["random"])
    return int(content["ranks"])


def _read(folder: RunFolder | None, asked: str) -> dict[str, Any] | None:
    if folder is None:
        return None
    content: dict[str, Any] | None = None
    if asked != "never" and folder.checkpoint_exists():
        content = checkpoints.load_last(folder.last)
    elif asked not in ("auto", "never"):
        content = checkpoints.load_to_resume(Path(asked))
    if content is not None and not folder.best.exists():
        content["best"] = float("-inf")  # of another folder, which kept its best.pt
    return content


def _check_network(state: TrainingState, content: Mapping[str, Any], asked: str) -> None:
    """Refuse the checkpoint of another network in a sentence of its own: its data differ, too."""
    own, other = state.model.state_dict().keys(), content["model"].keys()
    if own != other:
        raise InputError(
            f"--resume {asked} is of another network ({len(own & other)} of {len(own)} weights "
            "have the same names): give the last.pt of a run of this recipe"
        )


def _check_data(state: TrainingState, content: Mapping[str, Any]) -> None:
    if changed := changes(content.get("data", {}), state.extent["data"]):
        images = content.get("num_images", 0), state.extent["num_images"]
        if images[0] != images[1]:
            changed.append(f"{counted(images[0], 'image')} then, {images[1]:,} now")
        raise InputError(
            f"the checkpoint is of other data, what changed is {'; '.join(changed)}: give the "
            "data as they were, or choose another --out"
        )


def _restore(state: TrainingState, content: dict[str, Any], world: World) -> None:
    """Take over what a checkpoint holds."""
    for name, value in state.extent.items():
        if name != "data" and content[name] != value:
            raise ValueError(f"{name} was {content[name]}, is now {value}")
    state.model.load_state_dict(content["model"])
    load_optimizer(state.optimizer, content["optimizer"])
    if state.average:
        state.average.restore(content["average"])
    if state.scaling:
        state.scaling.restore(content["scaling"])
    state.step, state.best, state.metrics = content["step"], content["best"], content["metrics"]
    state.stale = content.get("stale", 0)  # older checkpoints do not have it
    state.cut_short = content["sums"]["images"] > 0
    state.sums.restore(content["sums"], world.device, is_main=world.is_main)
    if state.focus:
        if not world.is_main:  # the checkpoint holds the sums over the ranks
            content["focus"]["totals"] = [[0] * len(t) for t in content["focus"]["totals"]]
        state.focus.restore_counts(content["focus"])
