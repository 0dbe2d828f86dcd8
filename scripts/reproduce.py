"""Train what a table or figure of the paper needs, and render it; see `--help`."""

import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from reproduction.experiments import EXPERIMENTS, Experiment, Run, cells, plan, shortened
from reproduction.side_by_side import Job, Slot, find_slots, run_side_by_side
from reproduction.tables import render

from common.command import cli
from common.errors import InputError
from common.recipe import AT_LEAST_ONE, NOT_NEGATIVE, Optimization, Range, check
from common.runs.metrics_log import read_metrics
from common.runs.results import record_runs
from common.storage import write_text
from pretrain import paper
from pretrain.recipes import Block, Dataset, NetworkName, Recipe
from pretrain.results import Row, row_of

if TYPE_CHECKING:
    from pretrain.figures.commands import FigureName

H100_IMAGES_PER_SECOND: dict[NetworkName, float] = {}
"""Training images/s of one H100, by network, as measured: none was yet."""
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "python scripts/reproduce.py"
OVERVIEW = f"""usage: {PROGRAM} EXPERIMENT --data DIR [flags] [-- flags of every training]

Train what a table or figure of the paper needs, and render it beside the paper's numbers. Runs that
are done are not repeated, one that was interrupted is resumed.

  {", ".join(EXPERIMENTS)}
  table5     detection; flags of its own
  evidence   pictures and the README's short answer from the rows of all runs so far
  power      how many seeds a difference takes, what a number of seeds can see

{PROGRAM} EXPERIMENT --help shows the flags.

examples:
  {PROGRAM} table4 --data cifar-100-python.tar.gz
  {PROGRAM} table4 --data cifar10 --dataset cifar10 --networks resnet20 --scale 0.01"""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is run, and how."""

    data: Path
    """Folder or archive of the data set."""
    out: Path = Path("runs/reproduce")
    """Folder of the runs and of what is rendered."""
    seeds: Annotated[tuple[int, ...], NOT_NEGATIVE] = (0, 1, 2)
    """One training of every arm for each; the paper has three. Figures 2 and 4 draw a single seed,
    and train the first alone."""
    scale: Annotated[float, Range(high=1, above=True)] = 1.0
    """Share of the epochs, at least one; every table says so."""
    dataset: Dataset | None = None
    """Other data than the paper's."""
    networks: tuple[str, ...] = ()
    """Other networks than the paper's, or some of them: resnet20, resnet56, resnet110, vgg19,
    densenet100, wrn28."""
    arms: tuple[str, ...] = ()
    """Train these arms alone; the table shows all, with what was trained before."""
    held_out: Annotated[int, NOT_NEGATIVE] = 0
    """Choose the epoch by N training images that are kept back, not by the test images."""
    evaluate_every: Annotated[int, AT_LEAST_ONE] = 1
    """Epochs between evaluations; the last epoch always counts."""
    jobs: Annotated[int | None, AT_LEAST_ONE] = None
    """Trainings side by side; None: one per GPU (up to four on a single GPU), else one per core."""
    device: str = "auto"
    """auto (GPUs where there are any), cpu or cuda."""
    plan: bool = False
    """Show the plan and the results so far; train nothing."""
    results: Path = ROOT / "pretrain" / "results.csv"
    """Finished runs are appended to this table, and their metrics kept in logs/ beside it."""

    def __post_init__(self) -> None:
        check(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be at least one, each once")


def reproduce(name: str, argv: list[str]) -> None:
    """Plan, run and render an experiment."""
    mine, extra = argv, []
    if "--" in argv:
        mine, extra = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    program = f"{PROGRAM} {name}"
    flags = cli.parse(Flags, mine, program, f"{_describe(name)}\n\nexample: {program} --data DIR")
    experiment = _chosen(EXPERIMENTS[name], flags)

    def change(recipe: Recipe) -> Recipe:
        recipe = shortened(recipe, flags.scale)
        recipe = replace(recipe, images=replace(recipe.images, held_out=flags.held_out))
        return cli.parse(Recipe, extra, "flags behind --", "", default=recipe)

    seeds = flags.seeds[:1] if experiment.one_seed else flags.seeds
    runs = plan(cells(experiment), seeds, flags.out, change)
    if len({run.folder for run in runs}) < len(runs):
        raise InputError(
            f"the flags behind -- set what {experiment.title} varies, so that several of its "
            "trainings would be the same: leave that flag out"
        )
    wanted = _of_arms(runs, flags.arms)
    todo = [run for run in wanted if row_of(run.folder) is None]
    slots = find_slots(flags.device, flags.jobs, len(todo))
    _show_plan(wanted, todo, slots, flags)
    if not flags.plan:
        _run_all(todo, slots, flags)
    rows = {run.folder: row for run in runs if (row := row_of(run.folder))}
    record_runs(flags.results, Row, rows)
    table = render(experiment, runs, rows)
    target = flags.out / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, table)
    print(f"\n{table}")
    for path in (target, *_pictures(name, experiment, runs, rows, flags)):
        print(f"wrote {path}")


def _describe(name: str) -> str:
    experiment = EXPERIMENTS[name]
    compared = cells(experiment)
    arms = ", ".join(dict.fromkeys(cell.arm for cell in compared))
    whose = ", which the paper lacks" if name in ("controls", "rates") else " of the paper"
    return (
        f"{experiment.title}{whose}: {len(compared)} trainings for each seed.\n\n"
        f"Arms: {arms}. Flags behind -- change each within its arm: --focus.after moves a layer\n"
        "where there is one, and a baseline stays one."
    )


def _chosen(experiment: Experiment, flags: Flags) -> Experiment:
    """Apply --dataset and --networks."""
    dataset = flags.dataset or experiment.dataset
    if dataset not in paper.DATASETS:
        raise InputError(
            f"--dataset {dataset} has no recipes of the paper's networks: choose from "
            f"{', '.join(paper.DATASETS)}"
        )
    known = ("resnet110",) if dataset == "tiny-imagenet" else EXPERIMENTS["table1"].networks
    networks = flags.networks or experiment.networks
    for network in networks:
        if network not in known:
            raise InputError(f"--networks {network}: for {dataset} choose from {', '.join(known)}")
    return replace(experiment, dataset=dataset, networks=networks)


def _of_arms(runs: Sequence[Run], arms: Sequence[str]) -> list[Run]:
    """Choose the runs of some arms; of all if none is named."""
    known = dict.fromkeys(run.cell.arm for run in runs)
    for arm in arms:
        if arm not in known:
            raise InputError(f"--arms {arm}: choose from {', '.join(known)}")
    return [run for run in runs if run.cell.arm in (arms or known)]


def _show_plan(
    runs: Sequence[Run], todo: Sequence[Run], slots: Sequence[Slot], flags: Flags
) -> None:
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them done")
    print(f"all of them on one H100: {_cost_on_h100(runs, flags)}")
    if not todo:
        return
    device = slots[0].device
    seconds = [_estimate(run.recipe, flags, device) for run in todo]
    for run, estimate in zip(todo, seconds, strict=True):
        epochs = run.recipe.optimization.epochs
        plural = "" if epochs == 1 else "s"
        print(f"  {_name(run)}, {epochs} epoch{plural}: about {_duration(estimate)}")
    # Side by side on a CPU they share what one would have; a GPU has room for more.
    share = 1 if device == "cpu" else len({s.environment["CUDA_VISIBLE_DEVICES"] for s in slots})
    print(
        f"about {_duration(sum(seconds) / share)} in all on {device}, {len(slots)} side by side",
        flush=True,
    )


def _cost_on_h100(runs: Sequence[Run], flags: Flags) -> str:
    """Say how long one H100 would take, by measured rates alone."""
    if any(run.recipe.network not in H100_IMAGES_PER_SECOND for run in runs):
        return "not measured"
    seconds = 0.0
    for run in runs:
        images = run.recipe.images
        train = _num_images(images.dataset, flags.data)[0] - images.held_out
        rate = H100_IMAGES_PER_SECOND[run.recipe.network]
        seconds += run.recipe.optimization.epochs * train / rate
    return f"about {_duration(seconds)}, without evaluations"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _estimate(recipe: Recipe, flags: Flags, device: str) -> float:
    """Estimate the seconds of a training and its evaluations from a few steps."""
    train, val = _num_images(recipe.images.dataset, flags.data)
    if held_out := recipe.images.held_out:
        train, val = train - held_out, held_out
    o = recipe.optimization
    alike = Optimization(
        lr=o.lr,
        epochs=1,
        batch_size=o.batch_size if device == "cuda" else 32,
        precision=o.precision,
        channels_last=o.channels_last,
    )
    seconds = _seconds_per_image(recipe.network, recipe.block, recipe.images.size, alike, device)
    return recipe.optimization.epochs * seconds * (train + val / 3 / flags.evaluate_every)


@lru_cache
def _num_images(dataset: Dataset, data: Path) -> tuple[int, int]:
    from pretrain.data.datasets import load

    train, val = (len(load(dataset, data, split).labels) for split in ("train", "val"))
    return train, val


@lru_cache
def _seconds_per_image(
    network: NetworkName, block: Block | None, size: int, optimization: Optimization, device: str
) -> float:
    """Time two training steps behind one that warms up."""
    import torch

    from common.optimization.precision import autocast
    from pretrain.networks import build_network

    model = build_network(network, 10, block=block).to(device)
    images = torch.randn(optimization.batch_size, 3, size, size, device=device)
    if optimization.channels_last:
        model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with autocast(optimization, torch.device(device)):
            loss = model(images).float().square().mean()
        loss.backward()
        loss.item()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:]) / optimization.batch_size


def _job(run: Run, flags: Flags, device: str) -> Job:
    """Return the commands of a training; one with held-out images ends with scoring the others."""
    common = ["--data", str(flags.data.resolve()), "--device", device]
    program = [sys.executable, "-m", "pretrain"]
    folder = str(run.folder.resolve())
    train = ["train", run.cell.name, "--out", folder, "--seed", str(run.seed), *run.flags()]
    every = ["--evaluate-every", str(flags.evaluate_every)]
    commands = [[*program, *train, *every, *common]]
    if run.recipe.images.held_out:
        commands.append([*program, "evaluate", "--run", folder, *common])
    return Job(name=_name(run), commands=commands, log=run.folder / "console.log")


def _name(run: Run) -> str:
    return f"{run.cell.label} of {run.cell.network}, seed {run.seed}"


def _run_all(todo: Sequence[Run], slots: Sequence[Slot], flags: Flags) -> None:
    """Train what is not done, and add each run to the table of results as it ends."""
    from common.training.non_finite import NonFiniteError

    by_name = {_name(run): run for run in todo}
    start = time.monotonic()
    ended: list[str] = []

    def done(job: Job, code: int) -> None:
        ended.append(job.name)
        row = row_of(by_name[job.name].folder)
        if row is None and code != NonFiniteError.exit_code:
            raise InputError(f"{job.name} failed, see {job.log}: {_last_line(job.log)}")
        left = (time.monotonic() - start) / len(ended) * (len(todo) - len(ended))
        head = f"[{len(ended)}/{len(todo)}] {job.name}:"
        if row is None:
            print(f"{head} ended with exit code {code}: {_last_line(job.log)}", flush=True)
            return
        record_runs(flags.results, Row, {by_name[job.name].folder: row})
        print(
            f"{head} best {row.best_accuracy:.2%} (epoch {row.best_epoch}), "
            f"last {row.last_accuracy:.2%}, {_duration(row.seconds)}; "
            f"about {_duration(left)} left",
            flush=True,
        )

    def status(running: list[Job]) -> None:
        shown = (f"{job.name}: epoch {_epoch(by_name[job.name])}" for job in running)
        print(f"  running: {'; '.join(shown)}", flush=True)

    run_side_by_side([_job(run, flags, slots[0].device) for run in todo], slots, done, status)


def _pictures(
    name: str,
    experiment: Experiment,
    runs: Sequence[Run],
    rows: Mapping[Path, Row],
    flags: Flags,
) -> list[Path]:
    """Draw the figures that can be drawn from what is done."""
    done = [run for run in runs if run.folder in rows]
    out = flags.out / f"{name}.png"
    if not done or name.startswith(("table", "controls")):
        return []
    from reproduction.sweep_picture import draw_sweep

    from pretrain.figures.commands import draw_figure

    if experiment.varied:
        return draw_sweep(experiment, runs, rows, out)
    folders, claim = [run.folder for run in done], experiment.claim
    if name == "figure5":
        written = draw_figure("curves", folders, None, out, claim=claim)
        focused = [run.folder for run in done if rows[run.folder].keep_ratio is not None]
        if focused:
            written += draw_figure(
                "keep-ratio", focused, None, out.with_name(f"{name}-keep-ratio.png")
            )
        return written
    figure: FigureName = "channels" if name == "figure2" else "cam"
    return draw_figure(figure, folders, flags.data, out, flags.device, claim=claim)


def _epoch(run: Run) -> str:
    records = read_metrics(run.folder)
    epoch = records[-1]["epoch"] if records else 0
    return f"{epoch}/{run.recipe.optimization.epochs}"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _other(module: str, function: str, argv: list[str]) -> None:
    getattr(importlib.import_module(module), function)(argv)  # torch is not imported before


def main() -> int:
    """Run the command line; return the exit code."""
    commands = {
        **{name: partial(reproduce, name) for name in EXPERIMENTS},
        "table5": partial(_other, "reproduction.table5", "run"),
        "evidence": partial(_other, "reproduction.evidence", "run_evidence"),
        "power": partial(_other, "reproduction.power", "run_power"),
    }
    return cli.dispatch(PROGRAM, commands, OVERVIEW, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
