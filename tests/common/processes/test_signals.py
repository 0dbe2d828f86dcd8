"""Being asked to end at every stage of a run: in set-up, in evaluation, on one of two ranks.

The ends in a training step are in test_resume.py.
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import faults
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout
from common.command.flags import Options, RunFlags
from common.errors import outcome
from common.images.sampling import MicroBatch
from common.processes import ranks
from common.processes.ranks import World
from common.processes.signals import StopRequest, Terminated, ending_at_once, stop_asked
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.training import launch, loop
from common.training.task import Task
from detect.data.batches import ImageBatch
from detect.data.dataset import Annotation, LabelledImage
from detect.recipes import toy_retinanet
from detect.task import EvaluationSet, detect
from pretrain.data.splits import Split
from pretrain.recipes import RECIPES
from pretrain.task import evaluate as evaluate_classifier

CPU = World(torch.device("cpu"))
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 3
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=3, milestones=(1, 2))  # batches of 8, 8, 5
FOCUS = Focus(after="focus", participation_rate=0.6, weight_decay=0.05)
AVERAGED = replace(SETTINGS, ema_decay=0.75)
FP16 = replace(SETTINGS, precision="fp16")
Hook = Callable[[int], None]


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def fork(work: Callable[[], object]) -> int:
    """Do some work in another process; return its exit code, 1 if nothing ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        work()
    finally:
        os._exit(1)


# --------------------------------------------------------------------------- the handlers


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C counts, also where a shell started the tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_request_is_remembered_and_told(number: int) -> None:
    before = handlers()
    request = StopRequest()
    assert not (request.asked or stop_asked())
    ask(number)
    assert request.asked
    assert stop_asked()
    request.close()
    assert handlers() == before
    assert not stop_asked()


def test_ctrl_c_ends_a_training_after_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a code of its own; the run continues as one that was not interrupted."""
    before = signal.getsignal(signal.SIGINT)
    train(tmp_path / "straight", network())
    with pytest.raises(Terminated, match="after step 5$") as caught:
        train(tmp_path / "cut", network(), in_step=ask_at(4, signal.SIGINT))
    assert outcome(caught.value)[0] == 130
    assert "Ctrl-C again ends at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) == before
    train(tmp_path / "cut", network())
    assert_same(tmp_path / "straight", tmp_path / "cut")


@pytest.mark.parametrize("launched", [False, True])
def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch, launched: bool) -> None:
    """Unless torchrun, which the terminal asks as well, may have repeated the first."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")

    def work() -> None:
        StopRequest()
        ask(signal.SIGINT)
        ask(signal.SIGINT)

    assert fork(work) == (1 if launched else 130)


def test_ctrl_c_of_another_is_not_heard() -> None:
    """A shell lets the commands in its background ignore it."""

    def work() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        request = StopRequest()
        ask(signal.SIGINT)
        os._exit(7 if request.asked else 0)

    assert fork(work) == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_ends_at_once_and_cleans_up(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever the work catches; the earlier handlers are back."""
    before, events = handlers(), []
    with pytest.raises(SystemExit) as caught, ending_at_once():
        try:
            ask(number)
            events.append("went on")
        except Exception:
            events.append("swallowed")
        finally:
            events.append("cleaned up")
    assert caught.value.code == 143
    assert events == ["cleaned up"]
    assert handlers() == before
    assert capfd.readouterr().err == "ended on request: there was nothing to save\n"


def test_a_second_signal_does_not_wait_for_the_cleaning(tmp_path: Path) -> None:
    def work() -> None:
        with ending_at_once():
            try:
                ask()
            finally:
                ask(signal.SIGUSR1)
                (tmp_path / "cleaned up").touch()

    assert fork(work) == 143
    assert not list(tmp_path.iterdir())


def test_a_forked_worker_cleans_nothing_up(tmp_path: Path) -> None:
    with ending_at_once():

        def work() -> None:
            try:
                ask()
            finally:
                (tmp_path / "cleaned up").touch()

        assert fork(work) == 143
    assert not list(tmp_path.iterdir())


def test_training_puts_the_handlers_back(tmp_path: Path) -> None:
    before = handlers()
    train(tmp_path / "whole", network())
    assert handlers() == before
    with pytest.raises(ConnectionError):
        train(tmp_path / "failed", network(), in_step=fail)
    assert handlers() == before
    model = nn.Linear(1, 1)  # has no layer for the method
    with pytest.raises(ValueError, match="FocusedDropout"):
        train(tmp_path / "refused", model)
    assert handlers() == before


# --------------------------------------------------------------------------- in set-up


def test_in_set_up_there_is_nothing_to_save(tmp_path: Path) -> None:
    """The folder is free again, and holds no checkpoint; with and without a dry run."""
    before = handlers()
    out = tmp_path / "runs" / "run"

    def build(world: World) -> Any:
        ask()
        raise AssertionError("set-up went on")

    recipe = Training(SETTINGS, FOCUS)
    for dry_run in (False, True):
        flags = RunFlags(data=tmp_path, out=out, recipe=recipe, device="cpu", dry_run=dry_run)
        with pytest.raises(SystemExit) as caught:
            launch.launch("test", flags, build)
        assert caught.value.code == 143
    assert handlers() == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    assert sorted(path.name for path in out.iterdir()) == ["recipe.json", "run.lock"]
    known = {"stage": "test", "recipe": recipe, "name": "train", "seed": 0}
    RunFolder(out, known | {"overfit_batches": None}).close()


def test_asked_while_the_checkpoint_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there stays as it is; no step is taken."""
    with pytest.raises(Terminated):
        train(tmp_path, network(), in_step=ask_at(1))
    content = (tmp_path / "last.pt").read_bytes()
    whole = checkpoints.load_last

    def load(path: Path) -> dict[str, Any]:
        ask()
        return whole(path)

    with monkeypatch.context() as patch, pytest.raises(Terminated, match="before step 2$"):
        patch.setattr(checkpoints, "load_last", load)
        train(tmp_path, network(), in_step=fail)
    assert (tmp_path / "last.pt").read_bytes() == content
    assert not (tmp_path / "last.previous.pt").exists()


# --------------------------------------------------------------------------- in an evaluation


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 3))
    model.add_module("norm", nn.BatchNorm2d(4))
    model.add_module("relu", nn.ReLU())
    model.add_module("focus", FocusedDropout((0.3, 0.6)))
    model.add_module("dropout", nn.Dropout(0.3))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(4, 3))
    return model


def fail(call: int) -> None:
    raise ConnectionError


def ask_at(call: int, number: int = signal.SIGTERM) -> Hook:
    return lambda now: ask(number) if now == call else None


def train(
    path: Path,
    model: nn.Module,
    settings: Optimization = SETTINGS,
    *,
    world: World = CPU,
    in_step: Hook = lambda call: None,
    in_evaluation: Hook = lambda call: None,
    aborts: bool = False,
    **options: Any,
) -> None:
    """Train; the hooks get the number of the step or evaluation, from 0.

    With `aborts` an evaluation raises where the run was asked to end, as the detector's does.
    """
    calls = {"step": 0, "evaluation": 0}
    done = -1.0

    def at_step(share: float) -> None:
        nonlocal done
        done = share

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[m.indices], LABELS[m.indices]) for m in micro_batches)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        in_step(calls["step"])
        calls["step"] += 1
        return {"loss": F.cross_entropy(network(batch[0]).float(), batch[1])}

    def evaluate(network: nn.Module) -> dict[str, float]:
        """Draw, so that an evaluation moves the generator."""
        drawn = torch.rand(()).item()
        in_evaluation(calls["evaluation"])
        calls["evaluation"] += 1
        stopped = ranks.any_rank(stop_asked(), world.device)
        if stopped and aborts:
            raise Terminated("in the midst of it")
        with torch.inference_mode():
            loss = F.cross_entropy(network(IMAGES).float(), LABELS).item()
        return {"val_score": 99.0 if stopped else -loss, "val_drawn": drawn, "val_done": done}

    stage = Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=evaluate,
        metric="val_score",
        at_step=at_step,
    )
    folder = RunFolder(path, {"stage": "test"}) if world.is_main else None
    try:
        loop.train(stage, Training(settings, FOCUS), Options(**options), world, folder)
    finally:
        if folder:
            folder.close()


def assert_same(one: Path, other: Path) -> None:
    """Compare two finished runs to the bit: checkpoints, best weights, log."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = checkpoints.load(one / name), checkpoints.load(other / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not faults.same(ours[key], theirs[key])] == []
    assert faults.records(one) == faults.records(other)


@pytest.mark.parametrize("evaluation", [0, 1, 2])
@pytest.mark.parametrize(
    ("settings", "aborts"),
    [(SETTINGS, False), (SETTINGS, True), (AVERAGED, False), (FP16, False)],
    ids=["returns", "raises", "averaged", "fp16"],
)
def test_an_evaluation_that_was_cut_is_made_up_for(
    tmp_path: Path, evaluation: int, settings: Optimization, aborts: bool
) -> None:
    train(tmp_path / "straight", network(), settings)
    with pytest.raises(Terminated, match=f"after step {3 * evaluation + 3}$"):
        train(
            tmp_path / "cut",
            network(),
            settings,
            in_evaluation=ask_at(evaluation),
            aborts=aborts,
        )
    assert len(read_metrics(tmp_path / "cut")) == evaluation, "the cut epoch is not in the log"
    state = checkpoints.load(tmp_path / "cut" / "last.pt")
    assert (state["step"], state["sums"]["images"]) == (3 * evaluation + 3, 21)
    assert state["best"] < 0
    train(tmp_path / "cut", network(seed=1234), settings)
    assert_same(tmp_path / "straight", tmp_path / "cut")


def test_cut_three_times_in_the_same_evaluation(tmp_path: Path) -> None:
    train(tmp_path / "straight", network())
    for seed in (1, 5, 77):
        with pytest.raises(Terminated, match="after step 3$"):
            train(tmp_path / "cut", network(seed), in_evaluation=ask_at(0))
    train(tmp_path / "cut", network(seed=1234))
    assert_same(tmp_path / "straight", tmp_path / "cut")


def test_an_epoch_without_an_evaluation_is_not_logged_twice(tmp_path: Path) -> None:
    """The signal comes in the last step of an epoch that is saved and not evaluated."""
    train(tmp_path / "straight", network(), evaluate_every=2)
    with pytest.raises(Terminated, match="after step 3$"):
        train(tmp_path / "cut", network(), in_step=ask_at(2), evaluate_every=2)
    train(tmp_path / "cut", network(seed=1234), evaluate_every=2)
    assert_same(tmp_path / "straight", tmp_path / "cut")


def rank_main(path: Path, rank: int, *, in_evaluation: Hook) -> None:
    with ranks.start("cpu") as world:
        model = network()
        faults.reseed(rank)  # a fork seeds Python's generator anew
        train(path, model, AVERAGED, world=world, in_evaluation=in_evaluation, aborts=True)


def test_two_ranks_agree_when_one_is_asked(tmp_path: Path) -> None:
    """Both abandon the second evaluation; the average of the weights is kept as well."""
    printed = tmp_path / "printed"

    def live(run: str, asked: int | None = None) -> list[int]:
        def work(rank: int) -> None:
            hook = ask_at(1) if rank == asked else lambda call: None
            rank_main(tmp_path / run, rank, in_evaluation=hook)

        return list(faults.live_ranks(work, printed))

    assert live("straight") == [0, 0], printed.read_text()
    assert live("cut", asked=1) == [143, 143], printed.read_text()
    told = [file.read_text() for file in (printed, printed.with_suffix(".1"))]
    assert "".join(told).count("Terminated: ended on request after step 6\n") == 1, told
    assert len(read_metrics(tmp_path / "cut")) == 1
    assert live("cut") == [0, 0], printed.read_text()
    assert "resuming from step 6\n" in printed.read_text()
    assert_same(tmp_path / "straight", tmp_path / "cut")
    last = checkpoints.load(tmp_path / "cut" / "last.pt")
    assert not torch.equal(last["average"]["conv.weight"], last["model"]["conv.weight"])


def test_the_classifiers_evaluation_ends_after_a_batch() -> None:
    seen: list[int] = []

    def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        for micro_batch in micro_batches:
            count = len(micro_batch.indices)
            yield torch.zeros(count, 3, 2, 2, dtype=torch.uint8), torch.zeros(count).long()

    class Asks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            if len(seen) == 2:
                ask()
            return torch.zeros(len(images), 7)

    split = Split(num_images=1200, classes=tuple("abcdefg"), source="drawn", load=load)
    request = StopRequest()
    try:
        evaluate_classifier(Asks(), split, RECIPES["toy-resnet18"](), CPU)
    finally:
        request.close()
    assert seen == [250, 250]
    seen.append(0)
    evaluate_classifier(Asks(), split, RECIPES["toy-resnet18"](), CPU)
    assert seen[3:] == [250, 250, 250, 250, 200], "outside of a training nothing is cut"


def test_the_detectors_evaluation_ends_after_a_batch(tmp_path: Path) -> None:
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.bool_)
    images = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
        images.append(LabelledImage(path, Annotation(str(number), 30, 20, *nothing)))
    seen: list[int] = []

    class Asks:
        def __call__(self, images: ImageBatch, targets: None) -> list[dict[str, Tensor]]:
            seen.append(len(images.pixels))
            if len(seen) == 2:
                ask()
            empty = torch.empty(0)
            return [{"boxes": torch.empty(0, 4), "scores": empty, "labels": empty}]

    recipe = toy_retinanet()
    recipe = replace(recipe, detector=replace(recipe.detector, test_batch_size=1))
    request = StopRequest()
    try:
        with pytest.raises(Terminated):
            detect(Asks(), EvaluationSet.of(images, ("a",)), recipe, CPU, workers=0)  # type: ignore[arg-type]
    finally:
        request.close()
    assert len(seen) == 2
