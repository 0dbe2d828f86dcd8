"""Writing the certificate of a run while it trains."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from common.command.flags import RunFlags
from common.processes.ranks import World
from common.runs import certificate
from common.runs.certificate import Certificate
from common.runs.data_parts import Parts, digest
from common.storage import to_json
from common.training.checkpointing import TrainingState

_NOT_KEPT = ("name", "recipe", "out", "resume", "dry_run", "print_config", "stop_step")


class Certifying:
    """A `Watch` that keeps certificate.json, on the main rank.

    Args:
        folder: The run folder.
        description: Of the run, as recipe.json has it.
        flags: How it is trained.
        world: This process.
    """

    def __init__(
        self, folder: Path, description: Mapping[str, Any], flags: RunFlags[Any], world: World
    ) -> None:
        self._folder, self._world, self._every = folder, world, flags.certify_steps
        self._parts = world.size * flags.recipe.optimization.accumulate
        self._description = {"recipe": recipe_digest(description), "flags": kept(flags)}
        self._certificate: Certificate | None = None

    def begin(self, state: TrainingState, data: Parts) -> None:
        """Note the code, the environment and the data that the run has from this step on."""
        part = {
            "step": state.step,
            "micro_batches": self._parts,
            "code": certificate.code(),
            "environment": certificate.environment(self._world.device, self._world.size),
        }
        described = {**self._description, "data": dict(data)}
        self._certificate = Certificate(self._folder, described, part)

    def after_step(self, state: TrainingState) -> None:
        """Certify every so many steps."""
        if state.step % self._every == 0:
            self.saved(state)

    def saved(self, state: TrainingState) -> None:
        """Certify a state."""
        if self._certificate and not self._certificate.has(state.step):
            self._certificate.add(record_of(state))


def record_of(state: TrainingState) -> dict[str, Any]:
    """Describe the state of a training, as a certificate has it."""
    evaluated = "average." if state.average else "model."
    return certificate.state_record(state.step, state.named(), evaluated)


def recipe_digest(description: Mapping[str, Any]) -> str:
    """Digest a run's recipe."""
    return digest([to_json(description["recipe"])])


def kept(flags: Any) -> dict[str, Any]:
    """Return the flags that a check needs, as plain values; paths become absolute."""
    values = {f.name: getattr(flags, f.name) for f in fields(flags) if f.name not in _NOT_KEPT}
    return {
        name: kept(value) if is_dataclass(value) else certificate.plain(value)
        for name, value in values.items()
    }
