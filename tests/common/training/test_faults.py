"""The training loop under every fault that a cluster has: kills, restarts, full disks.

A run that was killed and started again must end as the run that was not, to the bit.
"""

import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout
from common.command.flags import Options
from common.errors import InputError
from common.images.sampling import MicroBatch, Sampling
from common.method import focused_training
from common.method.focused_training import FocusedTraining, participates
from common.optimization.weight_average import WeightAverage
from common.processes import polling, ranks
from common.processes.ranks import World
from common.processes.signals import Terminated
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.runs.metrics_log import MetricsLog
from common.training import assembly, loop, steps
from common.training.task import Task

CPU = World(torch.device("cpu"))
NEVER = faults.Moments(10**9)
KILLED, TERMINATED = -signal.SIGKILL, 143
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 3
FOCUS = Focus(after="focus", participation_rate=0.6, weight_decay=0.05)  # in steps 0, 4 and 5
SETTINGS = Optimization(
    lr=0.1,
    batch_size=8,
    epochs=2,
    schedule="cosine",
    warmup_steps=2,
    clip_norm=1.0,
    ema_decay=0.9,
)  # batches of 8, 8, 5
LONG = replace(SETTINGS, batch_size=6, epochs=6)  # batches of 6, 6, 6, 3
Hook = Callable[[int], object]


def network(gamma: tuple[float, float] = (0.3, 0.6), dropout: float = 0.3) -> nn.Module:
    model = nn.Sequential()
    model.register_buffer("num_batches_tracked", torch.zeros(()))
    model.add_module("conv", nn.Conv2d(3, 4, 3))
    model.add_module("norm", nn.BatchNorm2d(4) if dropout else nn.GroupNorm(2, 4))
    model.add_module("relu", nn.ReLU())
    model.add_module("focus", FocusedDropout(gamma))
    model.add_module("dropout", nn.Dropout(dropout))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(4, 3))
    return model


def task(
    path: Path,
    model: nn.Module,
    settings: Optimization,
    moments: Any = NEVER,
    hook: Hook = lambda step: None,
    sign: int = 1,
) -> Task:
    """Make a task that draws from every generator and writes down which steps took part."""
    now = -1
    sampling = Sampling(num_images=21, batch_size=settings.batch_size, seed=0)
    total = settings.epochs * sampling.steps_per_epoch
    images = IMAGES.to(next(model.parameters()).dtype)

    def at_step(done: float) -> None:
        nonlocal now
        now = round(done * total)
        moments.at_step(now)

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images[m.indices], LABELS[m.indices]) for m in micro_batches)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        moments.pass_by("loss")
        hook(now)
        with faults.participation(path).open("a") as file:
            file.write(f"{now}:{model.get_submodule('focus').active}\n")
        model.get_buffer("num_batches_tracked").add_(1)
        draw = torch.tensor(random.random())
        return {"loss": F.cross_entropy(network(batch[0]), batch[1]), "draw": draw}

    def evaluate(network: nn.Module) -> dict[str, float]:
        """Return a score that rises, so that every evaluation saves its weights, or falls."""
        moments.pass_by("evaluation")
        with torch.inference_mode():
            loss = F.cross_entropy(network(images), LABELS).item()
        score = sign * network.get_buffer("num_batches_tracked").item()
        return {"val_score": score, "val_loss": loss}

    return Task(
        model=model,
        num_images=len(images),
        load=load,
        loss=loss,
        evaluate=evaluate,
        metric="val_score",
        at_step=at_step,
    )


def train(
    path: Path,
    settings: Optimization = SETTINGS,
    *,
    world: World = CPU,
    make: Callable[[], nn.Module] = network,
    moments: Any = NEVER,
    hook: Hook = lambda step: None,
    every_step: bool = False,
    sign: int = 1,
) -> None:
    """Live one life of a run, in a process of its own; save after every step, or at each best."""
    polling.SECONDS = 0.0  # ranks ask after each step
    moments.watch()
    seed = 1000 if faults.resumes(path) else 1  # what is drawn before a resume may not matter
    faults.reseed(seed)
    model = make()
    faults.reseed(seed + world.rank)
    folder = RunFolder(path, {"stage": "test"}) if world.is_main else None
    try:
        stage = task(path, model, settings, moments, hook, sign)
        options = Options(checkpoint_minutes=0.0 if every_step else 5.0)
        loop.train(stage, Training(settings, FOCUS), options, world, folder)
    finally:
        if folder:
            folder.close()


def train_rank(moments: dict[int, Any], path: Path, rank: int, **options: Any) -> None:
    """Live the life of one of two ranks; `moments` holds those of the rank that dies."""
    with ranks.start("cpu") as world:
        train(path, LONG, world=world, moments=moments.get(rank, NEVER), **options)


def live(path: Path, *arguments: Any, code: int = 0, **options: Any) -> str:
    """Run `train` in a process of its own that ends with `code`; return what it printed."""
    printed = path.with_suffix(".txt")
    ended = faults.live(partial(train, path, *arguments, **options), printed)
    assert ended == code, printed.read_text()
    return printed.read_text()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Optimization], Any]:
    """Tell what a run came to that nobody disturbed."""
    outcomes: dict[Optimization, Any] = {}

    def run(settings: Optimization) -> Any:
        if settings not in outcomes:
            path = tmp_path_factory.mktemp("straight") / "run"
            live(path, settings)
            outcomes[settings] = faults.outcome(path)
        return outcomes[settings]

    return run


def kill_everywhere(
    path: Path, settings: Optimization, first: int = -1, **options: Any
) -> list[tuple[int, str]]:
    """Kill a run at each of its moments in turn, from a step on; return those, step and kind."""
    deaths: list[tuple[int, str]] = []
    journal, printed, fatal = path.with_suffix(".journal"), path.with_suffix(".txt"), (first, 0)
    while True:
        moments = faults.Moments(*fatal, journal=journal)
        life = partial(train, path, settings, moments=moments, **options)
        code = faults.live(life, printed)
        if code == 0:
            return deaths
        assert code == KILLED, printed.read_text()
        step, number, kind = faults.journal(journal)
        deaths.append((step, kind))
        fatal = (step, number + 1)


@pytest.mark.parametrize(
    ("settings", "every_step"),
    [(SETTINGS, True), (replace(SETTINGS, accumulate=2, ema_decay=None), False)],
    ids=["steps", "epochs, accumulating"],
)
def test_killed_at_every_moment_of_every_step(
    straight: Callable[[Optimization], Any],
    tmp_path: Path,
    settings: Optimization,
    every_step: bool,
) -> None:
    """In each step, in evaluation, in each call to the system of each save."""
    deaths = kill_everywhere(tmp_path / "run", settings, every_step=every_step)
    assert faults.different(straight(settings), faults.outcome(tmp_path / "run")) == set()

    def steps(kind: str) -> list[int]:
        return [step for step, name in deaths if kind in name]

    assert steps("loss") == sorted([*range(6)] * settings.accumulate)
    assert steps("before the update") == steps("after the update") == [*range(6)]
    assert steps("evaluation") == steps("to best.pt") == [2, 5]
    assert steps("to last.pt") == ([*range(6)] if every_step else [2, 5])
    for end in (2, 5):  # the last save is cut before its file is flushed, and before it is renamed
        kinds = [kind for step, kind in deaths if step == end]
        between = kinds[kinds.index("replace to best.pt") + 1 : kinds.index("replace to last.pt")]
        assert between.count("fsync") == 2


def test_killed_where_epochs_are_not_saved(tmp_path: Path) -> None:
    """Only the first evaluation is a best: lines of later epochs have no checkpoint behind them."""
    settings = replace(SETTINGS, epochs=3)
    live(tmp_path / "straight", settings, sign=-1)
    deaths = kill_everywhere(tmp_path / "run", settings, first=5, sign=-1)
    straight, killed = (faults.outcome(tmp_path / name) for name in ("straight", "run"))
    assert faults.different(straight, killed) == set()
    assert len(straight["log"]) == 3
    assert [step for step, kind in deaths if "evaluation" in kind] == [5, 8]
    assert [step for step, kind in deaths if "to last.pt" in kind] == [8]
    assert not any("to best.pt" in kind for _, kind in deaths)
    printed = (tmp_path / "run.txt").read_text()
    assert "resuming from step 3\n" in printed, "the last life began at the first epoch's end"


def test_killed_on_either_of_two_ranks(tmp_path: Path) -> None:
    """The dead one can be the one that writes; saved were ends of epochs, and a step within one."""
    deaths = [(1, 0, "loss"), (5, 1, "before the update"), (11, 1, "after the update")]
    deaths += [(15, 0, "evaluation"), (19, 0, "to last.pt"), (22, 1, "loss")]
    printed = tmp_path / "printed"
    begins = []

    def live_ranks(run: str, rank: int = 0, moments: Any = NEVER) -> list[int]:
        work = partial(train_rank, {rank: moments}, tmp_path / run, every_step=run == "killed")
        codes = faults.live_ranks(work, printed, rank)
        begins.extend(map(int, re.findall(r"resuming from step (\d+)\n", printed.read_text())))
        return codes

    assert live_ranks("straight") == [0, 0], printed.read_text()
    for step, rank, kind in deaths:
        codes = live_ranks("killed", rank, faults.Moments(step, kind=kind))
        assert codes[rank] == KILLED, printed.read_text()
        assert codes[1 - rank] != 0, printed.read_text()
    assert live_ranks("killed") == [0, 0], printed.read_text()
    assert len(begins) == 6
    assert begins == sorted(begins)
    assert any(begin % 4 for begin in begins)
    straight, killed = (faults.outcome(tmp_path / run) for run in ("straight", "killed"))
    assert straight["rest"]["ranks"] == 2
    assert faults.different(straight, killed) == set()


def forget_momentum() -> None:
    torch.optim.SGD.load_state_dict = lambda self, state: None


def after_loading(change: Callable[[nn.Module], object]) -> None:
    whole = nn.Module.load_state_dict

    def load(self: nn.Module, state: dict[str, Any], *rest: Any, **options: Any) -> None:
        whole(self, state, *rest, **options)
        change(self)

    nn.Module.load_state_dict = load


def forget_statistics() -> None:
    after_loading(lambda model: model.get_buffer("norm.running_mean").zero_())


def change_a_weight() -> None:
    after_loading(lambda model: model.get_parameter("fc.bias").data[:1].add_(1e-3))


def forget_generators() -> None:
    steps.seed_generators = lambda *_: None


def forget_the_generator_of_python() -> None:
    whole = steps.seed_generators

    def seed(*arguments: Any) -> None:
        whole(*arguments)
        random.seed(5)

    steps.seed_generators = seed


def forget_the_keys() -> None:
    FocusedTraining.draw_from = lambda self, keys: None


def keep_records_of_lost_steps() -> None:
    assembly.MetricsLog = lambda folder, step: MetricsLog(folder, 10**9)


def take_part_a_step_too_late() -> None:
    focused_training.participates = lambda rate, seed, step, per_epoch: participates(
        rate, seed, max(0, step - 1), per_epoch
    )


def forget_the_average() -> None:
    WeightAverage.restore = lambda self, state: None


EVALUATED = {"log", "best", "rest"}
TRAINED = {"parameters", "buffers", "momentum"} | EVALUATED


@pytest.mark.parametrize(
    ("sabotage", "expected"),
    [
        (lambda: None, set()),
        (forget_statistics, {"buffers"} | EVALUATED),
        (forget_momentum, TRAINED),
        (forget_the_average, EVALUATED),
        (forget_generators, TRAINED),
        (forget_the_generator_of_python, {"log"}),
        (forget_the_keys, TRAINED),
        (keep_records_of_lost_steps, {"log"}),
        (take_part_a_step_too_late, TRAINED | {"participation"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_resume_is_seen(
    straight: Callable[[Optimization], Any],
    tmp_path: Path,
    sabotage: Callable[[], None],
    expected: set[str],
) -> None:
    """The comparison of this file fails for each part that a resume can get wrong."""
    path = tmp_path / "run"
    # The epoch's record is written, its checkpoint is not.
    live(path, moments=faults.Moments(2, kind="to last.pt"), every_step=True, code=KILLED)

    def resume() -> None:
        sabotage()
        train(path)

    assert faults.live(resume, tmp_path / "printed") == 0, (tmp_path / "printed").read_text()
    assert faults.different(straight(SETTINGS), faults.outcome(path)) == expected


def test_a_changed_weight_is_seen(straight: Callable[[Optimization], Any], tmp_path: Path) -> None:
    """What else it changes depends on what the weight is worth."""
    path = tmp_path / "run"
    live(path, moments=faults.Moments(2, kind="to last.pt"), every_step=True, code=KILLED)

    def resume() -> None:
        change_a_weight()
        train(path)

    assert faults.live(resume, tmp_path / "printed") == 0, (tmp_path / "printed").read_text()
    assert "parameters" in faults.different(straight(SETTINGS), faults.outcome(path))


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def train_on_a_slow_disk(path: Path, settings: Optimization, hook: Hook) -> None:
    """Train in a process of its own; on a fast disk chance would hit next to no save."""
    sync = os.fsync

    def slow(file: int) -> None:
        time.sleep(0.005)
        sync(file)

    os.fsync = slow  # type: ignore[assignment]
    train(path, settings, hook=hook, every_step=True)


def test_killed_fifty_times_at_random(
    straight: Callable[[Optimization], Any], tmp_path: Path
) -> None:
    """No save that was done is lost, no temporary file outlives the next start."""
    settings = replace(SETTINGS, batch_size=2, epochs=30)
    path, printed, chance = tmp_path / "run", tmp_path / "printed", random.Random(0)
    left = 0
    for _ in range(50):
        source, sink = os.pipe()
        hook = partial(tell_step, sink, path, [])
        pid = faults.start(partial(train_on_a_slow_disk, path, settings, hook), printed)
        os.close(sink)
        for _ in range(chance.randint(2, 4)):
            begun, told = time.monotonic(), os.read(source, 2)
        time.sleep(chance.uniform(0, 1.5) * (time.monotonic() - begun))  # within a step or so
        os.kill(pid, signal.SIGKILL)
        assert faults.end(pid) == KILLED, printed.read_text()
        step = int.from_bytes((told + os.read(source, 10_000))[-2:])
        os.close(source)
        left += len(temporaries(path))
        assert not step or checkpoints.load_last(path / "last.pt")["step"] in (step, step + 1)
    assert left > 0
    live(path, settings)
    assert temporaries(path) == []
    assert faults.different(straight(settings), faults.outcome(path)) == set()


def tell_step(sink: int, path: Path, told: list[int], step: int) -> None:
    """Tell which checkpoint is complete by now; look at what the start left standing."""
    assert told or not temporaries(path)
    told.append(step)
    os.write(sink, step.to_bytes(2))


def exact_network() -> nn.Module:
    """Make a network whose mean over a batch is that over its parts, whoever computes them."""
    return network(gamma=(0.4, 0.4), dropout=0.0).double()


def test_two_ranks_end_on_request_and_one_goes_on(tmp_path: Path) -> None:
    """Same steps, same participation, same weights but for the order of sums."""

    def ask(rank: int, step: int) -> None:
        if (rank, step) == (1, 8):
            os.kill(os.getpid(), signal.SIGTERM)

    def work(rank: int) -> None:
        train_rank({}, tmp_path / "run", rank, make=exact_network, hook=partial(ask, rank))

    live(tmp_path / "straight", LONG, make=exact_network)
    printed = tmp_path / "printed"
    assert faults.live_ranks(work, printed) == [TERMINATED, TERMINATED], printed.read_text()
    stopped = checkpoints.load(tmp_path / "run" / "last.pt")["step"]
    assert stopped == 9
    told = live(tmp_path / "run", LONG, make=exact_network)
    assert f"train: resuming from step {stopped} of a run on 2 ranks\n" in told
    straight, run = (faults.outcome(tmp_path / name) for name in ("straight", "run"))
    assert straight["rest"]["step"] == run["rest"]["step"] == 24
    assert straight["participation"] == run["participation"]
    assert len({word.split(":")[0] for word in run["participation"]}) == 24
    for name, value in straight["parameters"].items():
        torch.testing.assert_close(run["parameters"][name], value, rtol=0, atol=1e-9)
    for mine, theirs in zip(straight["log"], run["log"], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"train_draw"}:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-9), name


def test_a_full_disk_ends_the_run_and_harms_nothing(
    straight: Callable[[Optimization], Any], tmp_path: Path
) -> None:
    """The system itself refuses to let any file grow from step 4 on."""
    path, kept = tmp_path / "run", tmp_path / "kept"

    def fill(step: int) -> None:
        if step == 4:
            kept.write_bytes((path / "last.pt").read_bytes())
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    printed = live(path, hook=fill, every_step=True, code=2)
    assert printed.count("error: ") == 1
    assert "last.pt could not be written (File too large): free space" in printed
    assert (path / "last.pt").read_bytes() == kept.read_bytes()
    assert temporaries(path) == []
    assert "train: resuming from step 4\n" in live(path)
    assert faults.different(straight(SETTINGS), faults.outcome(path)) == set()


def said_by(work: Callable[[int], object], printed: Path) -> list[str]:
    """Let two ranks fail; return what each printed, which ended with exit code 2."""
    assert faults.live_ranks(work, printed) == [2, 2], printed.read_text()
    return [file.read_text() for file in (printed, printed.with_suffix(".1"))]


@pytest.mark.parametrize("difference", [{"num_images": 20}, {"data": {"labels": "others"}}])
def test_ranks_with_other_images_say_so(tmp_path: Path, difference: dict[str, Any]) -> None:
    def work(rank: int) -> None:
        with ranks.start("cpu") as world:
            stage = task(tmp_path, network(), LONG)
            stage = replace(stage, **difference) if rank else stage
            loop.train(stage, Training(LONG, FOCUS), Options(), world, None)

    (line,) = "".join(said_by(work, tmp_path / "printed")).splitlines()  # of the first to end
    assert line.startswith("error: the processes found different training images")


def test_what_one_rank_finds_ends_all(tmp_path: Path) -> None:
    def fail(rank: int, step: int) -> None:
        if (rank, step) == (1, 2):
            raise InputError("image 7 is cut off")

    def work(rank: int) -> None:
        train_rank({}, tmp_path / "run", rank, hook=partial(fail, rank))

    first, second = said_by(work, tmp_path / "printed")
    assert second == "error: image 7 is cut off\n"
    assert first.splitlines()[-1].startswith("PeerFailed: rank 1 has ended with exit code 2")


def test_no_rank_ends_before_the_checkpoint_is_written(tmp_path: Path) -> None:
    """torchrun sends SIGTERM to all that are left when the first one ends."""
    whole = checkpoints.save

    def slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(1)
        whole(*arguments, **options)

    def work(rank: int) -> None:
        checkpoints.save = slowly
        try:
            train_rank({}, tmp_path / "run", rank, hook=ask)
        except (Terminated, SystemExit):  # what the first rank has told the other does not repeat
            (tmp_path / f"{rank} saw").write_text(str((tmp_path / "run" / "last.pt").exists()))
            raise

    def ask(step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    printed = tmp_path / "printed"
    assert faults.live_ranks(work, printed) == [TERMINATED, TERMINATED], printed.read_text()
    assert [(tmp_path / f"{rank} saw").read_text() for rank in (0, 1)] == ["True", "True"]
