"""Opening the folder of a run again, to evaluate or export it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from torch import nn

from common.errors import InputError, summary
from common.recipe import AnyRecipe
from common.runs import checkpoints
from common.runs.folder import read_description
from common.storage import read_json


@dataclass(frozen=True)
class FinishedRun(Generic[AnyRecipe]):
    """A run folder with a checkpoint."""

    folder: Path
    name: str
    seed: int
    recipe: AnyRecipe
    environment: dict[str, Any]
    state: dict[str, Any]

    def fact(self, name: str) -> Any:
        """Return what environment.json says.

        Raises:
            InputError: If it says nothing of the kind.
        """
        if name not in self.environment:
            raise InputError(f"{self.folder / 'environment.json'} lacks {name!r}: train again")
        return self.environment[name]

    def load_into(self, network: nn.Module) -> None:
        """Load the weights.

        Raises:
            InputError: If they do not fit.
        """
        try:
            network.load_state_dict(self.state["model"])
        except RuntimeError as error:
            raise InputError(
                f"{self.folder} holds weights that do not fit, train again: {summary(error)}"
            ) from error


def open_run(
    folder: Path, program: str, kind: type[AnyRecipe], checkpoint: str
) -> FinishedRun[AnyRecipe]:
    """Read a run folder.

    Args:
        folder: As `train` wrote it.
        program: "pretrain" or "detect".
        kind: Dataclass of its recipes.
        checkpoint: "best" or "last".

    Raises:
        InputError: If the folder holds no such run or checkpoint.
    """
    name, seed, recipe = read_description(folder, program, kind)
    state = checkpoints.load(folder / f"{checkpoint}.pt")
    if not {"model", "epoch", "metrics"} <= set(state):
        raise InputError(f"{folder / f'{checkpoint}.pt'} is no checkpoint of a run: train again")
    state["model"] = state.get("average", state["model"])  # as evaluated; best.pt has only these
    return FinishedRun(folder, name, seed, recipe, read_json(folder / "environment.json"), state)
