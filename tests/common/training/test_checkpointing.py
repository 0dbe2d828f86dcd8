"""The state of a training by itself: how it begins, what a checkpoint keeps, what comes back."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Training
from torch import Tensor, nn

from common import FocusedDropout
from common.errors import InputError
from common.images.sampling import Sampling
from common.processes.ranks import World
from common.recipe import Focus, Optimization
from common.runs import checkpoints
from common.runs.folder import RunFolder
from common.training import checkpointing
from common.training.checkpointing import TrainingState, begin, extent_of, resume, save, save_best
from common.training.epoch_means import EpochSums
from common.training.task import Task

CPU = torch.device("cpu")
MAIN, OTHER = World(CPU), World(CPU, rank=1)
SETTINGS = Optimization(lr=0.1, batch_size=4, epochs=3)
SAMPLING = Sampling(num_images=10, batch_size=4, seed=0)  # of three steps an epoch
FOCUS = Focus(after="0", participation_rate=0.5, weight_decay=0.05)
ALL = replace(SETTINGS, ema_decay=0.5, precision="fp16")


def task(**changes: Any) -> Task:
    unused = {"load": None, "loss": None, "evaluate": None, "metric": "score"}
    model = nn.Sequential(nn.Linear(2, 2), FocusedDropout(), nn.Linear(2, 1))
    return Task(
        **{"model": model, "num_images": 10, "data": {"classes": "a, b"}, **unused, **changes}
    )


def made(settings: Optimization = SETTINGS, focus: Focus = FOCUS, **changes: Any) -> TrainingState:
    return begin(task(**changes), Training(settings, focus), SAMPLING, seed=7)


def moved(state: TrainingState) -> TrainingState:
    """Let everything differ from its beginning: two steps, sums, an evaluation."""
    for number in range(2):
        with state.focus.step(number) if state.focus else torch.enable_grad():
            state.optimizer.zero_grad()
            sum(p.square().sum() for p in state.model.parameters()).backward()  # type: ignore[union-attr]
            state.optimizer.step()
        if state.average:
            state.average.update(number)
        state.step += 1
    if state.focus:
        state.focus.layers[0].totals += torch.arange(5)
    state.sums.add({"loss": torch.tensor(1.5)}, 8)
    state.metrics, state.best, state.stale = {"score": 0.25}, 0.5, 3
    return state


# --------------------------------------------------------------------------- the beginning


@pytest.mark.parametrize(
    ("step", "epoch"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3), (9, 3)]
)
def test_epochs_begun(step: int, epoch: int) -> None:
    state = made()
    state.step = step
    assert state.epoch == epoch


def test_a_training_begins_with_nothing() -> None:
    state = made(focus=Focus())
    assert (state.step, state.metrics, state.best, state.stale) == (0, {}, float("-inf"), 0)
    assert state.focus is state.average is state.scaling is None and not state.cut_short
    assert state.sums.images == 0 and state.evaluated() is state.model
    assert state.extent == {"num_images": 10, "data": {"classes": "a, b"}, "steps_per_epoch": 3}


def test_what_the_recipe_asks_for_is_there() -> None:
    state = made(ALL)
    assert state.focus and state.average and state.scaling
    assert state.evaluated() is state.average.network() is not state.model
    focus = state.focus
    assert (focus.participation_rate, focus.weight_decay, focus.seed) == (0.5, 0.05, 7)
    assert focus.steps_per_epoch is None and len(focus.layers) == 1


@pytest.mark.parametrize(
    ("focus", "steps", "layers", "frozen"),
    [
        (replace(FOCUS, exact=True, participation_rate=0.4), 3, 1, 0),
        (replace(FOCUS, after=None), None, 0, 0),  # the decay alone
        (replace(FOCUS, freeze_bn_stats=True), None, 1, 1),
    ],
)
def test_the_method_is_that_of_the_recipe(
    focus: Focus, steps: int | None, layers: int, frozen: int
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), FocusedDropout(), nn.BatchNorm2d(2))
    state = made(focus=focus, model=model)
    assert state.focus is not None and state.focus.steps_per_epoch == steps
    assert (len(state.focus.layers), len(state.focus._norms)) == (layers, frozen)


@pytest.mark.parametrize(("compile", "ema"), [(True, 0.5), (True, None), (False, 0.5)])
def test_the_average_is_compiled_with_the_network(
    monkeypatch: pytest.MonkeyPatch, compile: bool, ema: float | None
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(checkpointing, "compile_network", compiled.append)
    state = made(replace(SETTINGS, compile=compile, ema_decay=ema))
    assert compiled == ([state.evaluated()] if compile and ema else [])


# --------------------------------------------------------------------------- what is kept


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    folder = RunFolder(tmp_path, {"stage": "test"})
    yield folder
    folder.close()


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("settings", [SETTINGS, ALL])
def test_the_content_of_a_checkpoint(folder: RunFolder, settings: Optimization) -> None:
    state = moved(made(settings))
    save(state, None, MAIN)
    assert not folder.last.exists()
    save(state, folder, World(CPU, size=1))
    content = checkpoints.load(folder.last)
    assert same(content.pop("model"), state.model.state_dict())
    assert content.pop("optimizer")["state"].keys() == {0, 1, 2, 3}
    if settings is ALL:
        average = content.pop("average")
        assert same(average, state.evaluated().state_dict())
        assert not same(average, state.model.state_dict())
        assert content.pop("scaling").keys() == {"skips", "streak", "scaler"}
    totals = [[0, 1, 2, 3, 4]]
    assert content == {
        **{"step": 2, "epoch": 1, "metrics": {"score": 0.25}, "best": 0.5, "stale": 3},
        **{"num_images": 10, "data": {"classes": "a, b"}, "steps_per_epoch": 3, "ranks": 1},
        "sums": {"images": 8, "sums": {"loss": 12.0}},
        "focus": {"seen": 2, "took_part": state.focus.counts()["took_part"], "totals": totals},  # type: ignore[union-attr]
    }
    state.step = 3
    save(state, folder, MAIN)
    kept = checkpoints.load(folder.last.with_name("last.previous.pt"))
    assert (kept["step"], checkpoints.load(folder.last)["step"]) == (2, 3)


def test_the_best_is_what_was_evaluated_and_no_more(folder: RunFolder) -> None:
    state = moved(made(ALL))
    save_best(state, folder)
    best = checkpoints.load(folder.best)
    assert same(best.pop("model"), state.evaluated().state_dict())
    assert best == {"step": 2, "epoch": 1, "metrics": {"score": 0.25}}


def test_counts_of_the_layers_are_summed_over_the_ranks(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole numbers; a training without the method has none."""

    def of_two(totals: Tensor) -> Tensor:
        assert totals.dtype == torch.int64
        return 2 * totals

    monkeypatch.setattr(checkpointing, "sum_over_ranks", of_two)
    save(moved(made()), folder, MAIN)
    assert checkpoints.load(folder.last)["focus"]["totals"] == [[0, 2, 4, 6, 8]]
    save(moved(made(focus=Focus())), folder, MAIN)
    assert checkpoints.load(folder.last)["focus"] is None


# --------------------------------------------------------------------------- what comes back


def test_all_comes_back(folder: RunFolder) -> None:
    before = moved(made(ALL))
    save(before, folder, MAIN)
    save_best(before, folder)
    state = made(ALL)
    assert resume(state, folder, "auto", MAIN) == 1
    again = {**state.named()}
    assert all(torch.equal(v, again[k]) for k, v in before.named().items() if isinstance(v, Tensor))
    for name in ("step", "best", "metrics", "stale", "extent"):
        assert getattr(state, name) == getattr(before, name), name
    assert state.cut_short and state.sums.state() == before.sums.state()
    assert state.focus and before.focus and state.focus.counts() == before.focus.counts()


def test_of_several_ranks_the_main_one_has_the_sums(folder: RunFolder) -> None:
    save(moved(made()), folder, MAIN)
    main, other = made(), made()
    resume(main, folder, "auto", MAIN)
    resume(other, folder, "auto", OTHER)
    assert (main.sums.images, other.sums.images) == (8, 0)
    totals = [state.focus.layers[0].totals.tolist() for state in (main, other)]  # type: ignore[union-attr]
    assert totals == [[0, 1, 2, 3, 4], [0] * 5]
    assert other.cut_short and other.focus and other.focus.counts()["seen"] == 2


def test_nothing_to_resume_from(folder: RunFolder) -> None:
    for asked in ("auto", "never"):
        assert resume(made(), folder, asked, MAIN) is None
    assert resume(made(), None, "somewhere/last.pt", MAIN) is None  # rank 0 reads


def test_the_best_of_a_file_is_left_where_its_best_is_not(folder: RunFolder) -> None:
    save(moved(made()), folder, MAIN)
    state = made()
    resume(state, folder, "auto", MAIN)
    assert state.best == float("-inf")
    save_best(state, folder)
    resume(state, folder, "auto", MAIN)
    assert state.best == 0.5


def changed(folder: RunFolder, **values: Any) -> None:
    content = checkpoints.load(folder.last)
    for name, value in values.items():
        content[name] = value
        if value is None:
            del content[name]
    checkpoints.save(content, folder.last)


def test_what_older_checkpoints_lack(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    save(moved(made()), folder, MAIN)
    changed(folder, stale=None, sums={"images": 0, "sums": {}}, random=[{}, {}], ranks=None)
    state = made()
    state.stale = 9
    assert resume(state, folder, "auto", MAIN) == 2
    assert state.stale == 0 and not state.cut_short
    told = "the checkpoint of step 2 is of an older version, whose draws came from the states of"
    assert told in " ".join(capsys.readouterr().out.split())
    assert resume(made(), folder, "auto", OTHER) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("images", "cut"), [(0, False), (1, True)])
def test_an_epoch_of_which_an_image_was_seen_was_cut_short(
    folder: RunFolder, images: int, cut: bool
) -> None:
    save(moved(made()), folder, MAIN)
    changed(folder, sums={"images": images, "sums": {"loss": 2.0}})
    state = made()
    resume(state, folder, "auto", MAIN)
    assert (state.cut_short, state.sums.images) == (cut, images)


def test_parts_of_a_state_are_given_by_their_names() -> None:
    given = inspect.signature(TrainingState).parameters.values()
    assert {parameter.kind for parameter in given} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_images": 9}, "num_images was 9, is now 10"),
        ({"steps_per_epoch": 4}, "steps_per_epoch was 4, is now 3"),
        ({"optimizer": None}, "'optimizer'"),
        ({"model": {}}, "Missing key"),
        ({"focus": {"seen": 1, "took_part": 0, "totals": []}}, "shorter than"),
        ({"sums": {"images": "x"}}, "'>' not supported"),
    ],
)
def test_what_does_not_fit_is_refused(folder: RunFolder, values: dict[str, Any], told: str) -> None:
    save(moved(made()), folder, MAIN)
    changed(folder, **values)
    with pytest.raises(InputError, match="does not fit this recipe, these data or this") as caught:
        resume(made(), folder, "auto", MAIN)
    reason = str(caught.value).partition("processes (")[2].rpartition("): choose another --out")[0]
    assert told in reason and len(reason) <= 200 and "\n" not in reason


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (10, "what changed is the classes: a, b then, a, c now: give"),
        (1000, "the classes: a, b then, a, c now; 1,000 images then, 10 now: give"),
        (1, "the classes: a, b then, a, c now; 1 image then, 10 now: give"),
    ],
)
def test_other_data_are_named(folder: RunFolder, images: int, told: str) -> None:
    save(moved(made()), folder, MAIN)
    changed(folder, num_images=images)
    with pytest.raises(InputError, match=f"^the checkpoint is of other data, .*{told}"):
        resume(made(data={"classes": "a, c"}), folder, "auto", MAIN)


def test_images_that_no_checkpoint_counted_are_none() -> None:
    with pytest.raises(InputError, match="0 images then, 10 now: give the data as they were"):
        checkpointing._check_data(made(data={"classes": "a, c"}), {"data": {"classes": "a, b"}})


def test_the_extent_is_of_data_and_steps() -> None:
    assert extent_of(task(num_images=5, data={}), 2) == {
        "num_images": 5,
        "data": {},
        "steps_per_epoch": 2,
    }
    assert EpochSums().state() == made().sums.state()
