"""The parts of `check`: which steps are taken again, and what is said of a difference."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Training
from torch import nn

from common.command.flags import RunFlags
from common.errors import InputError
from common.recipe import Focus, Optimization
from common.runs import certificate, checkpoints
from common.storage import write_json
from common.training import check
from common.training.certifying import record_of
from common.training.check import StateDiffers
from common.training.checkpointing import TrainingState

RUN = Path("run")


def content(*steps: int) -> dict[str, Any]:
    return {"states": [{"step": step} for step in steps]}


def starts(*steps: int) -> dict[int, Path | None]:
    return dict.fromkeys((0, *steps))


@pytest.mark.parametrize(
    ("asked", "starting", "known", "bad", "expected"),
    [
        (None, (4, 8), (4, 8, 12), None, (8, 12)),
        (None, (4, 8), (4, 8), None, (4, 8)),  # not from 8 to 8
        (None, (), (4, 8), None, (0, 8)),
        (None, (4, 8), (), 8, (8, 8)),
        (None, (4, 8), (), 7, (4, 7)),
        ("0:8", (4, 8), (4, 8, 12), None, (0, 8)),
        ("5:11", (4, 8), (4, 8, 12), None, (5, 8)),
        ("3:4", (4, 8), (4, 8), None, (3, 4)),
        ("4:99", (4, 8), (4, 8, 12), 7, (4, 12)),
    ],
)
def test_which_steps(
    asked: str | None,
    starting: tuple[int, ...],
    known: tuple[int, ...],
    bad: int | None,
    expected: tuple[int, int],
) -> None:
    assert check._asked(RUN, asked, starts(*starting), content(*known), bad) == expected


@pytest.mark.parametrize(
    ("asked", "known", "message"),
    [
        (None, (), r"run/certificate.json has no state yet: train further first"),
        ("4", (4,), r"--steps 4: write two numbers, the smaller first, such as 0:100"),
        ("4:", (4,), "write two numbers"),
        (":4", (4,), "write two numbers"),
        ("-1:4", (4,), "write two numbers"),
        ("4:4", (4,), "write two numbers"),
        ("5:4", (4,), "write two numbers"),
        ("5:6", (4, 7), r"no state from step 5 to 6 \(it has 4, 7\): give other steps"),
        ("3:3000", (), r"no state from step 1 to 3000 \(it has none\)"),
        ("4:5", tuple(range(10, 18)), r"5 \(it has 10, 11, 12, 13, 14, 15, 16, 17\)"),
        ("4:5", tuple(range(10, 19)), r"5 \(it has 10, 11, 12, 13, 14, 15, 16, 17 \.\.\.\)"),
    ],
)
def test_steps_that_cannot_be_taken(
    asked: str | None, known: tuple[int, ...], message: str
) -> None:
    begun = starts(4) if known else starts()
    with pytest.raises(InputError, match=message):
        check._asked(RUN, asked, begun, content(*known), None)


@pytest.mark.parametrize(
    ("then", "size", "expected"),
    [
        ({"micro_batches": 6, "environment": {"ranks": 7}}, 1, 6),
        ({"micro_batches": 6, "environment": {"ranks": 7}}, 2, 3),
        ({"environment": {"ranks": 2}}, 1, 10),  # of an older version
        ({"environment": {"ranks": 2}}, 5, 2),
    ],
)
def test_parts_of_a_step(
    then: Mapping[str, Any], size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(size))
    assert check._accumulate(RUN, then, 5) == expected
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"have (6|10) parts, which 4 processes cannot share"):
        check._accumulate(RUN, then, 5)


def test_where_steps_can_start_from(tmp_path: Path) -> None:
    assert check._starts(tmp_path) == {0: None}
    last, before = tmp_path / "last.pt", tmp_path / "last.previous.pt"
    for path, step in ((last, 8), (before, 4)):
        checkpoints.save({"step": step}, path)
    assert check._starts(tmp_path) == {0: None, 4: before, 8: last}
    assert check._non_finite_step(tmp_path) is None
    write_json(tmp_path / "non_finite.json", {"step": 9})
    assert check._non_finite_step(tmp_path) == 9


def state(step: int, weight: float = 1.0) -> TrainingState:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight[:] = weight
        model.bias[:] = weight
    return TrainingState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        focus=None,
        average=None,
        scaling=None,
        extent={"steps_per_epoch": 5},
        step=step,
    )


def part(step: int, **environment: Any) -> dict[str, Any]:
    now = certificate.environment(torch.device("cpu"), 1) | environment
    return {"step": step, "code": certificate.code(), "environment": now}


def comparing(*parts: Mapping[str, Any], last: int = 6, recipe: str = "r") -> check._Comparing:
    states = [record_of(state(step)) for step in (0, 2, 4)]
    known = {"states": states, "parts": list(parts), "data": {}, "recipe": "r"}
    return check._Comparing(known, parts[0], last, recipe)


def test_equal_states_are_counted_and_the_last_step_ends_it() -> None:
    watch = comparing(part(0), last=5)
    watch.begin(state(0), {})
    for step in (1, 2, 3, 4):
        watch.after_step(state(step, 1.0 if step % 2 == 0 else 7.0))
    watch.saved(state(4, 7.0))
    with pytest.raises(check._Done):
        watch.after_step(state(5))
    assert (watch.steps, watch.seen) == ([0, 2, 4], 3)


def said(watch: check._Comparing, step: int, weight: float = 3.0) -> str:
    with pytest.raises(StateDiffers) as caught:
        watch.after_step(state(step, weight))
    assert caught.value.exit_code == 1
    return str(caught.value)


WITHOUT_CAUSE = "code, recipe and environment are as they were, so a file or a memory was changed"


def test_the_first_state_that_differs_is_named() -> None:
    watch = comparing(part(0))
    with pytest.raises(StateDiffers) as caught:
        watch.begin(state(2, 3.0), {})
    assert str(caught.value) == (
        f"step 2: model.weight and 1 more differ in the checkpoint; {WITHOUT_CAUSE}"
    )
    watch = comparing(part(0))
    watch.begin(state(1), {})
    assert said(watch, 2) == f"step 2: model.weight and 1 more differ now; {WITHOUT_CAUSE}"
    watch.after_step(state(2))
    one = state(4)
    with torch.no_grad():
        one.model.bias[:] = 2  # type: ignore[operator, index]
    with pytest.raises(StateDiffers, match=r"step 4: model.bias differ now, and equal at step 2;"):
        watch.after_step(one)


def test_what_changed_is_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    watch = comparing(part(0, torch="1.0"), recipe="another")
    watch.begin(state(0), {"class list": "a"})
    now = certificate.environment(torch.device("cpu"), 1)["torch"]
    changed = (
        f"not as it was: torch (1.0 then, {now} now); the class list, which one of them lacks; "
        "recipe.json"
    )
    assert capsys.readouterr().out == f"{changed}\n"
    assert said(watch, 2).endswith(f"; {changed}")


@pytest.mark.parametrize(("second", "told"), [(0, False), (2, True), (3, True), (4, False)])
def test_a_resume_with_another_version_between_is_the_reason(second: int, told: bool) -> None:
    watch = comparing(part(0), part(second, torch="9.9"))
    watch.begin(state(0), {})
    reason = said(watch, 4).partition("; ")[2]
    assert reason.startswith(
        f"the run itself was continued at step {second} with other torch ("
    ) == (told)
    assert (reason == WITHOUT_CAUSE) != told


def test_environments_that_come_to_the_same() -> None:
    def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
        return check._changed({**part(0, **then)}, {**part(0, **now)})

    fixed = {"deterministic": True}
    assert changed({"ranks": 4, **fixed}, {"ranks": 1}) == []  # a CPU alone is deterministic
    assert changed({"ranks": 4, **fixed}, {"ranks": 2, **fixed}) == []
    assert changed({"ranks": 1}, {"ranks": 2, **fixed}) == ["deterministic (False then, True now)"]
    assert changed({"ranks": 4}, {"ranks": 1}) == ["ranks (4 then, 1 now)"]
    assert changed({"ranks": 1}, {"ranks": 4}) == ["ranks (1 then, 4 now)"]
    on_gpu = {"device": "A", "ranks": 1}
    assert changed(on_gpu | fixed, on_gpu) == ["deterministic (True then, False now)"]
    assert changed(fixed, {}) == []
    parts = [{**part(0), "micro_batches": number} for number in (2, 3)]
    assert check._changed(*parts) == ["parts of a step (2 then, 3 now)"]
    assert check._changed(parts[0], parts[0]) == check._changed(parts[0], part(0)) == []


def test_flags_come_back_from_json() -> None:
    kept = {
        "data": "a/b",
        "init": None,
        "seed": 3,
        "log": "none",
        "gone": 1,
        "recipe": {"optimization": {"lr": 0.5, "batch_size": 8, "epochs": 2, "milestones": [1]}},
    }
    rebuilt = check._rebuilt(RunFlags, {**kept, "recipe": None})
    assert {name: rebuilt[name] for name in ("data", "init", "seed", "log")} == {
        "data": Path("a/b"),
        "init": None,
        "seed": 3,
        "log": "none",
    }
    assert "gone" not in rebuilt
    inner = check._rebuilt(Training, {"focus": {"gamma": [0.25, 0.5]}, **kept["recipe"]})  # type: ignore[dict-item]
    assert inner["focus"] == Focus(gamma=(0.25, 0.5))
    assert inner["optimization"] == Optimization(lr=0.5, batch_size=8, epochs=2, milestones=(1,))


def test_one_process_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        check._say(f"rank {rank}")
    assert capsys.readouterr().out == "rank 0\n"
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held))
    monkeypatch.setenv("RANK", "0")
    check._say("at once")
    assert held.getvalue() == b"at once\n"
