"""Runs that were interrupted against runs that were not."""

import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faults import records, same
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout
from common.command.flags import Options
from common.errors import InputError
from common.images.loading import stream
from common.images.sampling import MicroBatch
from common.optimization.weight_average import WeightAverage
from common.processes import signals
from common.processes.ranks import World
from common.processes.signals import StopRequest, Terminated
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.runs.metrics_log import read_metrics
from common.storage import read_json
from common.training import loop, steps
from common.training.checkpointing import TrainingState
from common.training.task import Task

CPU = torch.device("cpu")
IMAGES = torch.randn(21, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(21) % 3
FOCUS = Focus(after="focus", participation_rate=0.6, weight_decay=0.05)  # in steps 0, 4 and 5
SETTINGS = Optimization(lr=0.1, batch_size=8, epochs=2)  # batches of 8, 8, 5
COSINE = replace(SETTINGS, schedule="cosine", warmup_steps=2, clip_norm=1.0)
ADAMW = replace(SETTINGS, optimizer="adamw", lr=0.01, accumulate=2)
Hook = Callable[[int], None]


def network(seed: int = 1, channels: int = 4) -> nn.Module:
    """Make a network that draws gammas and dropout; the seed moves weights and generator."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, channels, 3))
    model.add_module("norm", nn.BatchNorm2d(channels))
    model.add_module("relu", nn.ReLU())
    model.add_module("focus", FocusedDropout((0.3, 0.6)))
    model.add_module("dropout", nn.Dropout(0.3))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(channels, 3))
    return model


def another_process() -> nn.Module:
    """Make the network anew: other weights, and a generator that stands elsewhere."""
    return network(seed=1234)


def load(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
    def read(epoch: int, position: int) -> tuple[Tensor, Tensor]:
        return IMAGES[position], LABELS[position]

    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*items, strict=True)
        return torch.stack(images), torch.stack(labels)

    return stream(read, micro_batches, collate, workers=0, device=CPU)


def evaluate(model: nn.Module) -> dict[str, float]:
    with torch.inference_mode():
        return {"val_score": -F.cross_entropy(model(IMAGES), LABELS).item()}


def batches_seen(model: nn.Module) -> float:
    return model.get_buffer("norm.num_batches_tracked").item()


def stage(model: nn.Module, hook: Hook = lambda call: None) -> Task:
    """Make a task; `hook` gets the number of the loss call, from 0."""
    calls = 0

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        hook(calls)
        calls += 1
        logits = network(batch[0])
        right = (logits.argmax(1) == batch[1]).float().mean()
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": right}

    return Task(
        model=model,
        num_images=len(IMAGES),
        load=load,
        loss=loss,
        evaluate=evaluate,
        metric="val_score",
    )


def train(
    path: Path, task: Task, settings: Optimization = SETTINGS, **options: Any
) -> dict[str, float]:
    folder = RunFolder(path, {"stage": "test"}, options.get("resume", "auto"))
    try:
        return loop.train(task, Training(settings, FOCUS), Options(**options), World(CPU), folder)
    finally:
        folder.close()


def interrupt(at: int) -> Hook:
    def hook(call: int) -> None:
        if call == at:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook


def crash(at: int) -> Hook:
    def hook(call: int) -> None:
        if call == at:
            raise ConnectionError

    return hook


def straight_and_resumed(
    folder: Path, settings: Optimization, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last checkpoint of a whole run, and of one that was ended after `step` steps."""
    train(folder / "straight", stage(network()), settings)
    straight = checkpoints.load(folder / "straight" / "last.pt")
    call = step * settings.accumulate - 1
    with pytest.raises(Terminated, match=f"after step {step}$"):
        train(folder / "resumed", stage(network(), interrupt(call)), settings)
    halfway = checkpoints.load(folder / "resumed" / "last.pt")
    assert halfway["step"] == step
    assert step == 6 or not same(halfway["model"], straight["model"])
    train(folder / "resumed", stage(another_process()), settings)
    return straight, checkpoints.load(folder / "resumed" / "last.pt")


@pytest.mark.parametrize("settings", [COSINE, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_run_ends_as_if_it_were_not(
    tmp_path: Path, settings: Optimization, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights, BatchNorm, optimizer, sums: all to the bit."""
    straight, resumed = straight_and_resumed(tmp_path, settings, step)
    assert straight.keys() == resumed.keys()
    for part in straight:
        assert same(straight[part], resumed[part]), part
    assert records(tmp_path / "straight") == records(tmp_path / "resumed")
    assert same(*(checkpoints.load(tmp_path / run / "best.pt") for run in ("straight", "resumed")))
    assert f"train: resuming from step {step}\n" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_the_generators_it_would_end_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "seed_generators", lambda *_: None)
    straight, resumed = straight_and_resumed(tmp_path, COSINE, 2)
    assert not same(straight["model"], resumed["model"])


def test_a_crash_costs_only_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "straight", stage(network()), checkpoint_minutes=0.0)
    with pytest.raises(ConnectionError):
        train(tmp_path / "crashed", stage(network(), crash(4)), checkpoint_minutes=0.0)
    assert checkpoints.load(tmp_path / "crashed" / "last.pt")["step"] == 4
    train(tmp_path / "crashed", stage(another_process()), checkpoint_minutes=0.0)
    assert same(*(checkpoints.load(tmp_path / run / "last.pt") for run in ("straight", "crashed")))


@pytest.mark.parametrize("save", [1, 2, 3, 4])
def test_a_crash_in_any_save_leaves_the_best_weights_in_the_end(
    tmp_path: Path, save: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation is better than the one before, so each epoch saves best and last."""

    def rising(model: nn.Module) -> dict[str, float]:
        return {"val_score": batches_seen(model)}

    whole = checkpoints.save
    saves = 0

    def failing(*args: Any, **options: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == save:
            raise ConnectionError
        whole(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(checkpoints, "save", failing)
        train(tmp_path / "crashed", replace(stage(network()), evaluate=rising))
    for name in ("straight", "crashed"):
        train(tmp_path / name, replace(stage(network()), evaluate=rising))
    assert same(*(checkpoints.load(tmp_path / run / "best.pt") for run in ("straight", "crashed")))
    assert records(tmp_path / "straight") == records(tmp_path / "crashed")


def test_goes_on_from_a_file_elsewhere(tmp_path: Path) -> None:
    """The best of the other folder was better than all to come, but its weights stay there."""

    def falling(model: nn.Module) -> dict[str, float]:
        return {"val_score": -batches_seen(model)}

    train(tmp_path / "long", stage(network()))
    with pytest.raises(Terminated):
        train(tmp_path / "a", replace(stage(network(), interrupt(3)), evaluate=falling))
    task = replace(stage(another_process()), evaluate=falling)
    train(tmp_path / "b", task, resume=str(tmp_path / "a" / "last.pt"))
    assert same(*(checkpoints.load(tmp_path / run / "last.pt")["model"] for run in ("long", "b")))
    assert checkpoints.load(tmp_path / "b" / "best.pt")["epoch"] == 2
    with pytest.raises(InputError, match=r"no\.pt is missing"):
        train(tmp_path / "c", stage(network()), resume=str(tmp_path / "no.pt"))


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = train(tmp_path, stage(network()))
    content = (tmp_path / "last.pt").read_bytes(), read_metrics(tmp_path)
    assert train(tmp_path, stage(another_process(), crash(0))) == first
    assert ((tmp_path / "last.pt").read_bytes(), read_metrics(tmp_path)) == content


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train(tmp_path, stage(network()))
    message = r"does not fit this recipe.* \(.*conv\.weight.*: choose another --out, or start it as"
    with pytest.raises(InputError, match=message) as caught:
        train(tmp_path, stage(network(channels=5)))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_stage_is_named_for_what_it_is(tmp_path: Path) -> None:
    train(tmp_path, stage(network()))
    other = stage(nn.Sequential(network()))
    message = r"last\.pt is of another network \(0 of \d+ weights have the same names\): give"
    with pytest.raises(InputError, match=message):
        train(tmp_path / "new", other, resume=str(tmp_path / "last.pt"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("best.pt", None, "best.pt holds the weights of an evaluation, such as best.pt, without"),
        ("", None, "is a folder: .*, such as .*/last.pt$"),
        ("absent.pt", None, "absent.pt is missing: "),
        ("w.safetensors", b"{}", "w.safetensors holds weights alone, no state of a training: "),
        ("w.pth", {"fc.weight": torch.ones(2)}, "w.pth holds weights alone, no state of a train"),
        ("other.pt", {"epoch": 3}, "other.pt holds no checkpoint of this project: "),
        ("notes.pt", b"text", "notes.pt is not a checkpoint that loads safely: .*; "),
    ],
)
def test_resume_from_what_is_no_checkpoint(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    """A line says what it is, and what serves."""
    train(tmp_path, stage(network()), replace(SETTINGS, epochs=1))
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content:
        torch.save(content, tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        train(tmp_path / "new", stage(network()), resume=str(tmp_path / name))
    assert "--resume takes the last.pt of a run" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_going_on_in_more_parts_than_the_last_batch_has_images_is_refused(tmp_path: Path) -> None:
    """The 5 images of the third batch do for 1 part, not for 6: an epoch would have 2 steps."""
    with pytest.raises(Terminated):
        train(tmp_path, stage(network(), interrupt(1)))
    message = r"does not fit .* \(steps_per_epoch was 3, is now 2\)"
    with pytest.raises(InputError, match=message):
        train(tmp_path, stage(network()), replace(SETTINGS, accumulate=6))


def test_another_checkpoint_brings_no_settings_along(tmp_path: Path) -> None:
    """Momentum comes from the file; its factor and the weight decay are those now asked for."""
    train(tmp_path / "a", stage(network()), replace(SETTINGS, epochs=1))
    other = replace(SETTINGS, weight_decay=0.04, momentum=0.5)
    train(tmp_path / "b", stage(network()), other, resume=str(tmp_path / "a" / "last.pt"))
    (group,) = checkpoints.load(tmp_path / "b" / "last.pt")["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["momentum"]) == (0.04, 0.5)


def test_a_crash_behind_a_cut_evaluation_repeats_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(model: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(model)

    with pytest.raises(Terminated):
        train(tmp_path, replace(stage(network()), evaluate=asked))
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(checkpoints, "save", lambda *_, **__: crash(0)(0))
        train(tmp_path, stage(network()))
    assert [record["step"] for record in read_metrics(tmp_path)] == [3]
    train(tmp_path, stage(network()))
    assert [record["step"] for record in read_metrics(tmp_path)] == [3, 6]


def die_by(*sent: int, after: float) -> int:
    """Send signals to a process that trains; return how it ended, 0 if it continues."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if not pid:
        try:
            stop = StopRequest()
            signals.ONE_REQUEST = after
            for number in sent:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
            os._exit(0 if stop.asked else 1)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_same_signal_again_ends_the_process_at_once(number: int) -> None:
    """Not the other one: clusters send SIGUSR1 first and SIGTERM later."""
    assert die_by(signal.SIGTERM, signal.SIGUSR1, after=0.0) == 0
    assert die_by(signal.SIGTERM, signal.SIGUSR1, number, after=0.0) == 143


def test_a_signal_that_a_launcher_repeats_is_one_request() -> None:
    assert die_by(signal.SIGTERM, signal.SIGTERM, after=signals.ONE_REQUEST) == 0


def lengthen(path: Path, settings: Optimization, epochs: int) -> None:
    """Train as a command does, which writes the recipe down."""
    recipe = Training(replace(settings, epochs=epochs), FOCUS)
    folder = RunFolder(path, {"stage": "test", "recipe": recipe})
    try:
        loop.train(stage(network()), recipe, Options(), World(CPU), folder)
    finally:
        folder.close()


def test_a_finished_run_is_lengthened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends as the one that was as long from the start, to the bit."""
    settings = replace(SETTINGS, schedule="step", milestones=(1, 3))
    lengthen(tmp_path / "long", settings, 4)
    lengthen(tmp_path / "short", settings, 2)
    capsys.readouterr()
    lengthen(tmp_path / "short", settings, 4)
    assert f"{tmp_path / 'short'}: lengthened from 2 epochs to 4\n" in capsys.readouterr().out
    ours, theirs = (checkpoints.load(tmp_path / run / "last.pt") for run in ("short", "long"))
    assert [key for key in theirs if not same(ours[key], theirs[key])] == []
    assert read_json(tmp_path / "short" / "recipe.json")["recipe"]["optimization"]["epochs"] == 4
    with pytest.raises(InputError, match=r"optimization\.epochs was 4, is now 3"):
        lengthen(tmp_path / "short", settings, 3)
    other = replace(settings, lr=0.3)
    with pytest.raises(InputError, match="holds another run"):
        lengthen(tmp_path / "short", other, 5)


def test_a_schedule_that_ends_with_the_run_is_not_lengthened(tmp_path: Path) -> None:
    settings = replace(SETTINGS, schedule="cosine", milestones=())
    lengthen(tmp_path, settings, 1)
    message = r"holds a run of 1 epoch, which cannot be lengthened: the cosine schedule depends on"
    with pytest.raises(InputError, match=message):
        lengthen(tmp_path, settings, 2)
    lengthen(tmp_path, settings, 1)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    def of(classes: str, images: int = len(IMAGES)) -> Task:
        return replace(stage(network()), data={"class list": classes}, num_images=images)

    train(tmp_path, of("ant, bee"))
    train(tmp_path, of("ant, bee"))
    what = "the checkpoint is of other data, what changed is the class list: ant, bee then, {} now"
    for task, told in (
        (of("ant, cat"), what.format("ant, cat") + ": give the data as they were, or choose"),
        (of("ant", 20), what.format("ant") + "; 21 images then, 20 now: give the data"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(told)}"):
            train(tmp_path, task)
    with pytest.raises(InputError, match=r"does not fit .*num_images was 21, is now 20"):
        train(tmp_path, of("ant, bee", 20))


def test_a_checkpoint_of_a_version_that_kept_generators_is_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, stage(network()))
    content = checkpoints.load(tmp_path / "last.pt")
    assert content.pop("ranks") == 1
    checkpoints.save(content | {"random": [{}]}, tmp_path / "last.pt")
    capsys.readouterr()
    train(tmp_path, stage(network()))
    said = "the checkpoint of step 6 is of an older version, whose draws came from the states of"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), []),  # its momentum is None
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), ["momentum_buffer"]),
        (torch.optim.AdamW, ["step", "exp_avg", "exp_avg_sq"]),
    ],
)
@pytest.mark.parametrize("decay", [None, 0.9])
def test_what_a_state_is_made_of_has_names(
    optimizer: Callable[..., torch.optim.Optimizer], kept: list[str], decay: float | None
) -> None:
    """A certificate digests it: the very tensors, all of them, and nothing twice."""
    model = network()
    average = WeightAverage(model, decay) if decay else None
    steps = optimizer(model.parameters())
    model(IMAGES[:4]).sum().backward()
    steps.step()
    state = TrainingState(
        model=model, optimizer=steps, focus=None, average=average, scaling=None, extent={}
    )
    expected = {f"model.{key}": value for key, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        expected |= {f"optimizer.{name}.{key}": steps.state[parameter][key] for key in kept}
    if average:
        averages = average.network().state_dict()
        expected |= {f"average.{key}": value for key, value in averages.items()}
    named = state.named()
    assert list(named) == list(expected)
    assert [key for key, value in named.items() if not torch.equal(value, expected[key])] == []
