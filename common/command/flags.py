"""The flags that both `train` commands share; free of torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal

from tyro.conf import Fixed, Positional, Suppress, arg

from common.recipe import AT_LEAST_ONE, NOT_NEGATIVE, AnyRecipe, Range, check

_WEEK = 7 * 24 * 60
"""Minutes; torch overflows at more."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a training is carried out, as opposed to what is trained."""

    name: Annotated[str, Fixed, Suppress] = "train"
    """Of the recipe; what lines are printed under. No flag: it comes first on the command line."""
    seed: Annotated[int, Range(high=2**32 - 1)] = 0
    """Seed of weights, order, augmentation and participation."""
    init: Path | None = None
    """Run folder, checkpoint or file of weights (ours, torchvision's, timm's) to begin with; the
    head goes by the names of the classes. A resumed run continues from its own checkpoint."""
    resume: str = "auto"
    """auto: resume where RUN left off; never: refuse a RUN that exists; PATH: begin from a file."""
    evaluate_every: Annotated[int, AT_LEAST_ONE] = 1
    """Epochs between evaluations; the last epoch always counts."""
    patience: Annotated[int | None, AT_LEAST_ONE] = None
    """Stop after N evaluations in a row that are no better than the best; None: train to the end.
    """
    checkpoint_minutes: Annotated[float, NOT_NEGATIVE] = 5.0
    """A checkpoint is written at least this often; 0: after every step."""
    certify_steps: Annotated[int, AT_LEAST_ONE] = 1000
    """Steps between digests of the whole state in certificate.json; each checkpoint has one."""
    overfit_batches: Annotated[int | None, AT_LEAST_ONE] = None
    """Train on N batches only, drawn once: the loss must fall to zero."""
    log: str | None = None
    """Trackers beside metrics.jsonl, comma-separated: tensorboard, wandb, mlflow, trackio; none for
    none; None: tensorboard where it is installed."""
    quiet: bool = False
    """Print nothing but what goes wrong."""
    json: bool = False
    """Print a line of JSON an epoch, as in metrics.jsonl, and one at the end; what is for people
    goes to standard error."""
    dry_run: bool = False
    """Two steps, evaluate, save, load, exit; leaves nothing behind."""
    stop_step: Annotated[int | None, Fixed, Suppress] = None
    """Stop after so many optimizer steps. No flag: --dry-run sets it."""

    def __post_init__(self) -> None:
        check(self)
        if self.quiet and self.json:
            raise ValueError("--json prints lines for a program, --quiet none: give one of them")


@dataclass(frozen=True, kw_only=True)
class CheckFlags:
    """Flags of check."""

    run: Positional[Path]
    """Folder of a run."""
    steps: str | None = None
    """A:B, such as 0:100; None: from one checkpoint to the next, or to the non-finite step."""
    data: Path | None = None
    """Folder of the data; None: where the run had them."""
    device: str | None = None
    """auto, cpu, cuda or cuda:N; None: as the run was started."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images; None: as the run was started."""

    def __post_init__(self) -> None:
        check(self)

    def changed(self) -> dict[str, Any]:
        """Return the flags of the run that are to be others."""
        given = {"data": self.data, "device": self.device, "workers": self.workers}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """First in the help, as the base class that comes last."""

    data: Path
    """Folder of the data."""
    out: Path
    """Folder of the run; made if it is not there."""


@dataclass(frozen=True, kw_only=True)
class RunFlags(Options, _Folders, Generic[AnyRecipe]):
    """A run: what is trained, how, on which data and machine, in which folder."""

    recipe: Annotated[AnyRecipe, arg(name="")]
    """What is trained; the run's folder keeps it."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    workers: Annotated[int | None, NOT_NEGATIVE] = None
    """Processes that read images, per rank; None: the rank's share of the cores."""
    batch_size: Literal["auto"] | None = None
    """auto: the largest power of two whose steps fit into the GPU, in place of
    --optimization.batch-size; the learning rate goes with it."""
    skip_bad: Annotated[int, NOT_NEGATIVE] = 0
    """Train past at most N unreadable images, each printed once and kept in RUN/unreadable.txt; the
    next readable image of the data set takes its place. Neither evaluation nor a dry run skips."""
    timeout_minutes: Annotated[float, Range(high=_WEEK, above=True)] = 10.0
    """How long a rank waits for the others; then it takes them for dead and ends."""
    limit_images: Annotated[int | None, AT_LEAST_ONE] = None
    """Train and validate on at most N images each, of every class its share: a quick try."""
    deterministic: bool = False
    """Deterministic algorithms alone, and sums over ranks in a fixed order: a resumed run is then
    equal to the bit to one that was not interrupted, on a GPU, too, and a run on any number of
    ranks to others whose ranks times --optimization.accumulate are as many (seen on CPUs). Slower;
    a single process on a CPU is so without."""
    print_config: bool = False
    """Print the resolved recipe as JSON and exit."""
