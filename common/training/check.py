"""`check`: whether steps of a run, taken again, lead to the states in its certificate."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from common.command.flags import RunFlags
from common.errors import InputError
from common.processes import launcher
from common.recipe import AnyRecipe
from common.runs import certificate, checkpoints
from common.runs.data_parts import Parts, changes, digest
from common.runs.folder import read_description
from common.storage import previous, read_json, to_json
from common.training.certifying import record_of
from common.training.checkpointing import TrainingState
from common.training.non_finite import NonFiniteError
from common.training.task import Watch

T = TypeVar("T")
Train = Callable[[Any, Watch], object]
_NEVER = 10**9


class StateDiffers(Exception):  # noqa: N818 - named for what was found
    """A step taken again came to another state."""

    exit_code = 1


class _Done(Exception):  # noqa: N818 - no error
    """All steps that were asked for are taken."""


def check_run(
    folder: Path,
    program: str,
    kind: type[AnyRecipe],
    flags: type[RunFlags[AnyRecipe]],
    train: Train,
    steps: str | None = None,
    changed: Mapping[str, Any] | None = None,
) -> None:
    """Take steps of a run again, and compare the states with its certificate.

    It starts from the last checkpoint before them, in a folder of its own. One process can check
    what several have trained with `--deterministic`: it accumulates as many parts as they had. A
    run that ended non-finite is taken again up to that step.

    Args:
        folder: The run.
        program: "pretrain" or "detect".
        kind: Dataclass of its recipes.
        flags: Dataclass of its `train`.
        train: Trains, observed by a `Watch`.
        steps: "A:B"; None: the steps between the two checkpoints, or to the non-finite one.
        changed: Flags in place of the run's, such as where the data are.

    Raises:
        InputError: If the run has no certificate, or it does not reach so far.
        StateDiffers: If a state is another.
    """
    content = certificate.read_certificate(folder)
    name, seed, recipe = read_description(folder, program, kind)
    bad = _non_finite_step(folder)
    starts = _starts(folder)
    first, last = _asked(folder, steps, starts, content, bad)
    start = max(step for step in starts if step <= first)
    checkpoint = starts[start]
    parts = [one for one in content["parts"] if one["step"] <= start] or content["parts"][:1]
    then = parts[-1]
    accumulate = _accumulate(folder, then, recipe.optimization.accumulate)
    shared = replace(recipe.optimization, accumulate=accumulate)
    kept = {**content["flags"], **(changed or {})}
    with tempfile.TemporaryDirectory(prefix="check-") as scratch:
        given = {
            **_rebuilt(flags, kept),
            "name": name,
            "recipe": replace(recipe, optimization=shared),  # type: ignore[type-var]
            "seed": seed,
            "out": Path(scratch) / "run",
            "resume": str(checkpoint) if checkpoint else "auto",
            "evaluate_every": _NEVER,
            "checkpoint_minutes": float(_NEVER),
        }
        if checkpoint:
            given["init"] = None
        recorded = digest([to_json(read_json(folder / "recipe.json")["recipe"])])
        watch = _Comparing(content, then, last if bad is None else bad + 1, recorded)
        source = checkpoint.name if checkpoint else "the start"
        _say(f"{folder}: taking steps {start} to {last} again, from {source}")
        try:
            train(flags(**given), watch)
        except _Done:
            pass
        except NonFiniteError as error:
            if bad is None:
                raise
            _say(f"non-finite again: {error}")
            return
    if bad is not None:
        raise StateDiffers(
            f"step {bad} was non-finite in the run and is not now: no fault of data or recipe, so "
            "look at the machine's memory and at what changed"
        )
    _say(f"equal: {watch.seen} states of steps {', '.join(map(str, watch.steps))}")


def _accumulate(folder: Path, then: Mapping[str, Any], before: int) -> int:
    """Return the micro-batches of each process by which a step has as many parts as it had.

    Args:
        folder: The run, for the message.
        then: Part of its certificate.
        before: Micro-batches by its recipe.json. The processes then may have had others.
    """
    parts = then.get("micro_batches", then["environment"]["ranks"] * before)
    size = launcher.size()
    if parts % size:
        raise InputError(
            f"{folder}: its steps have {parts} parts, which {size} processes cannot share evenly: "
            "give the same command without torchrun"
        )
    return int(parts // size)


def _non_finite_step(folder: Path) -> int | None:
    path = folder / "non_finite.json"
    return int(read_json(path)["step"]) if path.is_file() else None


def _starts(folder: Path) -> dict[int, Path | None]:
    """Return where steps can be taken from: the start, and the checkpoints."""
    starts: dict[int, Path | None] = {0: None}
    last = folder / "last.pt"
    for path in (previous(last), last):
        if path.is_file():
            starts[int(checkpoints.load(path)["step"])] = path
    return starts


def _asked(
    folder: Path,
    steps: str | None,
    starts: Mapping[int, Path | None],
    content: Mapping[str, Any],
    bad: int | None,
) -> tuple[int, int]:
    """Return the first and the last step to take again.

    Raises:
        InputError: If these are none, or the certificate does not reach them.
    """
    known = [state["step"] for state in content["states"]]
    if steps is None:
        if bad is not None:
            return max(step for step in starts if step <= bad), bad
        if not known:
            raise InputError(f"{folder / certificate.NAME} has no state yet: train further first")
        before = [step for step in starts if step < known[-1]]
        return max(before, default=0), known[-1]
    first, colon, last = steps.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InputError(f"--steps {steps}: write two numbers, the smaller first, such as 0:100")
    start = max(step for step in starts if step <= int(first))
    reached = [step for step in known if start < step <= int(last)]
    if not reached:
        near = ", ".join(map(str, known[:8])) or "none"
        raise InputError(
            f"--steps {steps}: the certificate has no state from step {start + 1} to {last} (it "
            f"has {near}{' ...' if len(known) > 8 else ''}): give other steps"
        )
    return int(first), reached[-1]


class _Comparing:
    """A `Watch` that compares the states with those of a certificate.

    Args:
        content: The certificate.
        then: Its part that the steps belong to.
        last: The step after which to end.
        recipe: Digest of the run's recipe as it is now.
    """

    def __init__(
        self, content: Mapping[str, Any], then: Mapping[str, Any], last: int, recipe: str
    ) -> None:
        self._content, self._then, self._last, self._recipe = content, then, last, recipe
        self._states = {state["step"]: state for state in content["states"]}
        self._begun: int | None = None
        self._equal: int | None = None
        self._because: list[str] = []
        self.steps: list[int] = []

    @property
    def seen(self) -> int:
        """Number of states that were equal."""
        return len(self.steps)

    def begin(self, state: TrainingState, data: Parts) -> None:
        """Say what is not as it was, and compare the state of the checkpoint."""
        device = next(state.model.parameters()).device
        now = certificate.environment(device, launcher.size())
        found = _changed(self._then, {"environment": now, "code": certificate.code()})
        found += changes(self._content["data"], data)
        if self._content["recipe"] != self._recipe:
            found.append("recipe.json")
        self._begun, self._because = state.step, found
        if found:
            _say(f"not as it was: {'; '.join(found)}")
        self._compare(state)

    def after_step(self, state: TrainingState) -> None:
        """Compare where the certificate has a state; end after the last."""
        self._compare(state)
        if state.step >= self._last:
            raise _Done

    def saved(self, state: TrainingState) -> None:
        """Do nothing: the state is compared already."""

    def _compare(self, state: TrainingState) -> None:
        expected = self._states.get(state.step)
        if expected is None:
            return
        found = certificate.first_difference(expected, record_of(state))
        if found is None:
            self._equal = state.step
            self.steps.append(state.step)
            return
        name, count = found
        more = f" and {count - 1} more" if count > 1 else ""
        where = "in the checkpoint" if state.step == self._begun else "now"
        since = "" if self._equal is None else f", and equal at step {self._equal}"
        raise StateDiffers(
            f"step {state.step}: {name}{more} differ {where}{since}; {self._reason(state.step)}"
        )

    def _reason(self, step: int) -> str:
        if self._because:
            return f"not as it was: {'; '.join(self._because)}"
        for part in self._content["parts"]:
            if self._then["step"] < part["step"] < step and (found := _changed(self._then, part)):
                return f"the run itself was continued at step {part['step']} with other {found[0]}"
        return "code, recipe and environment are as they were, so a file or a memory was changed"


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in what two parts of a run differ that can change its states, a phrase each."""
    before, after = dict(then["environment"]), now["environment"]
    if all(one["deterministic"] or one["ranks"] == 1 for one in (before, after)):
        before["ranks"] = after["ranks"]  # sums were taken in order, whatever their number
    if after["device"] == "cpu" and after["ranks"] == 1:
        before["deterministic"] = after["deterministic"]  # a CPU alone is so in any case
    found = certificate.differences(before, after)
    found += certificate.differences(then["code"], now["code"])
    pieces = then.get("micro_batches"), now.get("micro_batches")
    if None not in pieces and pieces[0] != pieces[1]:
        found.append(f"parts of a step ({pieces[0]} then, {pieces[1]} now)")
    return found


def _rebuilt(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass of flags from JSON, those that it has."""
    hints, built = get_type_hints(kind), {}
    for field in fields(kind):
        if field.name not in values:
            continue
        hint, value = hints[field.name], values[field.name]
        if is_dataclass(hint):
            value = hint(**_rebuilt(hint, value))  # type: ignore[operator, arg-type]
        elif isinstance(value, str) and "Path" in str(hint):
            value = Path(value)
        built[field.name] = tuple(value) if isinstance(value, list) else value
    return built


def _say(text: str) -> None:
    if launcher.is_main():
        print(text, flush=True)
