"""The least recipe that the training loop takes."""

from dataclasses import dataclass, field

from common.recipe import Focus, Optimization


@dataclass(frozen=True)
class Training:
    optimization: Optimization
    focus: Focus = field(default_factory=Focus)

    @property
    def tied_to_epochs(self) -> str | None:
        return self.optimization.tied_to_epochs
