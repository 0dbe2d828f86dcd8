"""Where curves go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow, trackio.

A tracker takes numbers and pictures at a step; it is a class of ten lines. One that fails is
reported once and left out: it never stops a training. RUN/trackers.json keeps what a resumed run
needs to continue the same curves.
"""

import contextlib
import importlib.util
import math
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.storage import read_json, write_json
from common.text import in_line

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
PROJECT = "focused-dropout"
"""Of trackers that sort runs by project, unless their own variable (WANDB_PROJECT, ...) is set."""
STEPS = "steps"
"""Group of the points within an epoch."""
_NOT_CURVES = ("epoch", "step")
_GROUPS = ("train", "val", "focus")
_MEMORY = "trackers.json"


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What a tracker learns about a run when it begins."""

    folder: Path
    name: str
    """Of the recipe."""
    step: int
    """Optimizer steps done; later points, from before a crash, come again."""
    config: Mapping[str, Any]
    """Settings, flat: a value a name."""
    id: str
    """Of this run, kept when it is resumed: letters and digits."""


class Tracker(Protocol):
    """Takes the curves of a run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take values at a step, by group/name."""

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:
        """Take pictures at a step, by group/name."""

    def close(self) -> None:
        """Wait until all is written."""


class TensorBoard:
    """Event files in RUN/tensorboard; `tensorboard --logdir RUN` shows them."""

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:  # noqa: D102
        for name, pixels in pictures.items():
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:  # noqa: D102
        self._writer.close()


class WandB:
    """Weights & Biases; with WANDB_MODE=offline, files in RUN/wandb to `wandb sync` later."""

    def __init__(self, run: Tracked) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=f"{run.name} {run.folder.name}",
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(console="off", quiet=True),
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:  # noqa: D102
        shown = {name: self._wandb.Image(pixels) for name, pixels in pictures.items()}
        self._run.log(shown, step=step)

    def close(self) -> None:  # noqa: D102
        self._run.finish()


class MLflow:
    """MLflow at MLFLOW_TRACKING_URI; without one, the database RUN/mlflow.db."""

    def __init__(self, run: Tracked) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric: Any = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self._client: Any = MlflowClient(uri or f"sqlite:///{run.folder.resolve()}/mlflow.db")
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            place = None if uri else (run.folder / "mlflow").resolve().as_uri()
            experiment = self._client.get_experiment(self._client.create_experiment(name, place))
        known = self._client.search_runs(
            [experiment.experiment_id], f"tags.focused_dropout_run = '{run.id}'"
        )
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        begun = self._client.create_run(
            experiment.experiment_id,
            tags={"focused_dropout_run": run.id},
            run_name=f"{run.name} {run.folder.name}",
        )
        self._run = begun.info.run_id
        for key, value in run.config.items():
            self._client.log_param(self._run, key, value)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        import time

        now = round(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics)

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:  # noqa: D102
        for name, pixels in pictures.items():
            self._client.log_image(self._run, pixels, key=name.replace("/", "-"), step=step)

    def close(self) -> None:  # noqa: D102
        self._client.set_terminated(self._run)


class Trackio:
    """Trackio's local database; `trackio show` opens it."""

    def __init__(self, run: Tracked) -> None:
        import trackio

        self._trackio: Any = trackio
        self._run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.id}",
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> None:  # noqa: D102
        shown = {name: self._trackio.Image(pixels) for name, pixels in pictures.items()}
        self._run.log(shown, step=step)

    def close(self) -> None:  # noqa: D102
        self._run.finish()


TRACKERS: dict[str, tuple[Callable[[Tracked], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
    "trackio": (Trackio, "trackio"),
}
"""What `--log` takes: how it begins, and the package it needs."""


def chosen(asked: str | None) -> tuple[str, ...]:
    """Return the trackers that `--log` names, each once.

    Args:
        asked: Comma-separated; "none" for none; None: TensorBoard where it is installed.

    Raises:
        InputError: If one is unknown or not installed.
    """
    if asked is None:
        return ("tensorboard",) if _installed("tensorboard") else ()
    names = tuple(dict.fromkeys(name.strip() for name in asked.split(",")))
    if names == ("none",):
        return ()
    for name in names:
        if name not in TRACKERS:
            raise InputError(
                f"--log {in_line(name)} is no tracker: choose from {', '.join(TRACKERS)}, or none"
            )
        if not _installed(TRACKERS[name][1]):
            raise InputError(
                f"--log {name} needs a package that is missing: pip install {TRACKERS[name][1]}, "
                "or leave it out"
            )
    return names


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Trackers:
    """All trackers of a run; one that fails is reported once, and left out.

    Args:
        names: Keys of `TRACKERS`.
        folder: The run folder.
        name: Of the recipe.
        step: Optimizer steps done.
        config: Settings, flat.
        say: Prints a line.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        folder: Path,
        name: str,
        step: int,
        config: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._path = folder / _MEMORY
        self._open: dict[str, Tracker] = {}
        self._id, self._sent = "", step
        kept = [each for each in names if each != "tensorboard"]
        if kept:  # the others cannot take points back, so none is sent twice
            self._id, self._sent = self._remembered(step)
        for each in names:
            run = Tracked(folder=folder, name=name, step=step, config=config, id=self._id)
            with self._dropped_on_failure(each, "could not begin"):
                self._open[each] = TRACKERS[each][0](run)
        self._keeps = bool(kept)

    def __bool__(self) -> bool:
        """Return whether anything is to be sent."""
        return bool(self._open)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Send the record of an epoch, as metrics.jsonl has it."""
        self._send(record["step"], grouped(record))
        self._remember(record["step"])

    def within_epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Send means over the last steps."""
        self._send(step, {f"{STEPS}/{name}": value for name, value in values.items()})

    def pictures(self, step: int, draw: Callable[[], Mapping[str, Picture]]) -> None:
        """Send pictures; they are drawn only if somebody takes them."""
        if not self._open:
            return
        try:
            drawn = draw()
        except Exception as error:
            self._say(f"warning: no sample pictures for the trackers ({_reason(error)})")
            return
        for name in self._reached(step):
            with self._dropped_on_failure(name):
                self._open[name].pictures(step, drawn)

    def close(self) -> None:
        """End all of them."""
        for name in tuple(self._open):
            with self._dropped_on_failure(name):
                self._open[name].close()
        self._open = {}

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name in self._reached(step):
            with self._dropped_on_failure(name):
                self._open[name].numbers(step, finite)

    def _reached(self, step: int) -> tuple[str, ...]:
        """Name those that do not have this step yet, from before a crash."""
        return tuple(n for n in self._open if n == "tensorboard" or step > self._sent)

    @contextlib.contextmanager
    def _dropped_on_failure(self, name: str, what: str = "failed") -> Any:
        """Tell of a failure once, and leave that tracker out."""
        try:
            # What they print belongs to nobody's output.
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._open.pop(name, None)
            self._say(f"warning: {name} {what} and is left out ({_reason(error)})")

    def _remembered(self, step: int) -> tuple[str, int]:
        with contextlib.suppress(InputError, KeyError, TypeError, ValueError):
            kept = read_json(self._path)
            if step:
                return str(kept["id"]), max(step, int(kept["step"]))
        return secrets.token_hex(4), step

    def _remember(self, step: int) -> None:
        if self._keeps and step > self._sent:
            write_json(self._path, {"id": self._id, "step": step})


def grouped(record: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of an epoch's record by group: train/loss, val/accuracy, training/lr."""
    curves = {}
    for key, value in record.items():
        if key in _NOT_CURVES or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        group, _, name = key.partition("_")
        known = group in _GROUPS and name
        curves[f"{group}/{name}" if known else f"training/{key}"] = value
    return curves


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return in_line(f"{type(error).__name__}: {text}")[:160]
