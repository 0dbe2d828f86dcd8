"""A checkpoint is whole or absent, and cannot run code."""

import os
import pickle
import random
import resource
import signal
import time
import warnings
import zipfile
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.runs import checkpoints
from common.storage import previous


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "model": {"a": torch.randn(3, 4), "b": torch.arange(5)},
        "step": 7,
        "best": -0.5,
        "metrics": {"x": 0.25, "none": None},
        "random": [checkpoints.random_state(torch.device("cpu"))],
    }
    checkpoints.save(state, tmp_path / "last.pt")
    again = checkpoints.load(tmp_path / "last.pt")
    assert torch.equal(again["model"]["a"], state["model"]["a"])
    assert torch.equal(again["model"]["b"], state["model"]["b"])
    assert {k: again[k] for k in ("step", "best", "metrics")} == {
        "step": 7,
        "best": -0.5,
        "metrics": {"x": 0.25, "none": None},
    }
    assert again["random"][0]["python"] == random.getstate()
    assert files(tmp_path) == ["last.pt"]


def test_the_one_before_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    for step in range(2):
        checkpoints.save({"step": step}, path)
    assert files(tmp_path) == ["best.pt"]
    checkpoints.save({"step": 2}, path, keep_previous=True)
    assert checkpoints.load(previous(path)) == {"step": 1}


def test_a_name_of_a_class_is_short_and_a_text_may_be_long(tmp_path: Path) -> None:
    text = {"note": "x" * 1000}
    checkpoints.save(text, tmp_path / "text.pt")
    assert checkpoints.load(tmp_path / "text.pt") == text
    name = b"cos\n" + b"x" * 199 + b"\n."  # pickled: the class of this name, module os
    with pytest.raises(pickle.UnpicklingError, match="no class"):
        checkpoints.check_names(name)
    checkpoints.check_names(name.replace(b"os\nxxx", b"os\n"))


def test_the_reason_is_the_first_line_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save({}, tmp_path / "last.pt")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the cause\nadvice\nmore advice")

    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(InputError, match=r"give another \(the cause\)$"):
        checkpoints.load(tmp_path / "last.pt")


def test_a_reason_is_of_a_hundred_and_twenty_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, the kind of the error tells; and nothing but tensors is read, to the CPU."""
    checkpoints.save({}, tmp_path / "last.pt")
    given: list[dict[str, Any]] = []
    errors: list[Exception] = [ValueError(), ValueError("x" * 121), ValueError("x" * 120)]

    def fail(*_: object, **options: Any) -> None:
        given.append(options)
        raise errors.pop(0)

    monkeypatch.setattr("torch.load", fail)
    for told in ("ValueError", "x" * 120, "x" * 120):
        with pytest.raises(InputError, match=rf"give another \({told}\)$"):
            checkpoints.load(tmp_path / "last.pt")
    assert given == [{"map_location": "cpu", "weights_only": True}] * 3


def named(module: str, length: int, opcode: bytes = b"c") -> bytes:
    """Pickle the class of a name of so many characters, module included."""
    mark = b"(" if opcode == b"i" else b""
    name = "x" * (length - len(module) - 1)
    return mark + opcode + f"{module}\n{name}\n.".encode()


@pytest.mark.parametrize("opcode", [b"c", b"i"])
def test_a_name_of_two_hundred_characters_may_be_one(opcode: bytes) -> None:
    checkpoints.check_names(named("os", 200, opcode))
    too_long = named("os", 201, opcode)
    with pytest.raises(
        pickle.UnpicklingError, match=r"^it names os x{37}\.\.\., which is no class$"
    ):
        checkpoints.check_names(too_long)
    checkpoints.check_names(named("os", 9) + too_long)
    with pytest.raises(pickle.UnpicklingError, match="no class"):
        checkpoints.check_names(named("os", 9) + too_long, pickles=2)


def test_names_in_a_file_are_looked_at_before_torch_does(tmp_path: Path) -> None:
    checkpoints.save({"step": 1}, tmp_path / "whole.pt")
    for length, told in ((200, "Weights only load failed"), (201, "which is no class")):
        with (
            zipfile.ZipFile(tmp_path / "whole.pt") as whole,
            zipfile.ZipFile(tmp_path / f"{length}.pt", "w") as changed,
        ):
            for entry in whole.namelist():
                content = whole.read(entry)
                pickled = entry.endswith("data.pkl")
                changed.writestr(entry, named("os", length) if pickled else content)
        with pytest.raises(InputError, match=told):
            checkpoints.load(tmp_path / f"{length}.pt")


def test_parts_that_are_larger_than_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoints.save({"step": 1}, path)
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\1\2") + 24  # of the first part, in the list at the end
    content[size : size + 4] = len(content).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"give another \(its parts are larger than the whole\)$"):
        checkpoints.load(path)


RESUMED: list[tuple[dict[str, Any], str | None]] = [
    ({"model": {}, "optimizer": {}, "step": 1}, None),
    ({"model": {}, "optimizer": {}, "step": 1, "more": 2}, None),
    ({"model": {}, "epoch": 1, "metrics": {}}, "the weights of an evaluation, such as best.pt"),
    ({"model": {}, "epoch": 1, "metrics": {}, "step": 1}, "the weights of an evaluation"),
    ({"model": {}, "optimizer": {}}, "no checkpoint of this project"),
    ({"model": {}, "metrics": {}}, "no checkpoint of this project"),
    ({}, "no checkpoint of this project"),
    ({"weight": torch.ones(1), "epoch": 3}, "weights alone, no state of a training"),
]


@pytest.mark.parametrize(("content", "held"), RESUMED, ids=[str([*c]) for c, _ in RESUMED])
def test_what_a_training_resumes_from(
    tmp_path: Path, content: dict[str, Any], held: str | None
) -> None:
    checkpoints.save(content, tmp_path / "some.pt")
    if held is None:
        assert checkpoints.load_to_resume(tmp_path / "some.pt") == content
        return
    with pytest.raises(InputError, match=f"holds {held}.*: --resume takes the last.pt of a run$"):
        checkpoints.load_to_resume(tmp_path / "some.pt")


def test_where_the_one_before_is_damaged_too_nothing_is_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.pt"
    for step in range(2):
        checkpoints.save({"step": step}, path, keep_previous=True)
    for each in (path, previous(path)):
        each.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"last\.previous\.pt is not a checkpoint"):
        checkpoints.load_last(path)
    assert files(tmp_path) == ["last.previous.pt", "last.pt"]
    path.unlink()
    checkpoints.save({"step": 3}, previous(path))
    capsys.readouterr()
    assert checkpoints.load_last(path) == {"step": 3}
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(
        "last.pt is missing: its writing was cut short; resuming from last.previous.pt"
    )
    assert files(tmp_path) == ["last.previous.pt"]


def test_the_generator_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device, set_to = torch.device("cuda", 1), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda of: f"the state of {of}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: set_to.append(given))
    state = checkpoints.random_state(device)
    assert list(state) == ["python", "torch", "cuda"] and state["cuda"] == "the state of cuda:1"
    assert list(checkpoints.random_state(torch.device("cpu"))) == ["python", "torch"]
    checkpoints.restore_random_state(state, device)
    assert set_to == [("the state of cuda:1", device)]
    state.pop("cuda")
    checkpoints.restore_random_state(state, device)
    assert len(set_to) == 1


def test_random_state_goes_back_to_where_it_was() -> None:
    state = checkpoints.random_state(torch.device("cpu"))
    drawn = torch.rand(3), random.random()
    checkpoints.restore_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(3), drawn[0])
    assert random.random() == drawn[1]


class Unwilling:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoints.save({"step": 1}, path)
    with pytest.raises(RuntimeError, match="no"):
        checkpoints.save({"big": torch.zeros(1000), "bad": Unwilling()}, path, keep_previous=True)
    assert checkpoints.load(path) == {"step": 1}
    assert files(tmp_path) == ["last.pt"]


def test_a_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    """The system itself refuses to let the file grow; torch.save hides that OSError."""
    path = tmp_path / "last.pt"
    checkpoints.save({"step": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        message = (
            r"last\.pt could not be written \(File too large\).* \(40[0-9],[0-9]+ bytes needed"
        )
        with pytest.raises(InputError, match=message):
            checkpoints.save({"big": torch.zeros(100_000)}, path, keep_previous=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.load(path) == {"step": 1}
    assert files(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "garbage", "one bit"])
def test_the_previous_one_serves_when_the_last_is_damaged(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the damaged one never takes its place."""
    path = tmp_path / "last.pt"
    for step in range(3):
        checkpoints.save({"step": step, "weights": torch.ones(9)}, path, keep_previous=True)
    assert files(tmp_path) == ["last.previous.pt", "last.pt"]
    assert checkpoints.load_last(path)["step"] == 2
    assert capsys.readouterr().out == ""
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        weights = content.index(np.ones(9, np.float32).tobytes())
        flipped = content[:weights] + b"\1" + content[weights + 1 :]
        damages = {"cut": content[:-50], "empty": b"", "garbage": b"\x80\x02x" * 9}
        path.write_bytes(damages.get(damage, flipped))
    assert checkpoints.load_last(path)["step"] == 1
    assert "resuming from last.previous.pt" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"last\.pt is"):
        checkpoints.load(path)
    checkpoints.save({"step": 2}, path, keep_previous=True)
    assert checkpoints.load(previous(path))["step"] == 1
    damaged = [] if damage == "missing" else ["last.damaged.pt"]
    assert files(tmp_path) == [*damaged, "last.previous.pt", "last.pt"]


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    """A bit of every byte; the few bits that may flip, such as dates, change nothing."""
    path = tmp_path / "best.pt"
    state = {"weights": torch.randn(40), "step": 7, "metrics": {"val_accuracy": 0.5}}
    checkpoints.save(state, path)
    content = path.read_bytes()
    start = content.index(state["weights"].numpy().tobytes())
    seen = 0
    for place, byte in enumerate(content):
        with path.open("r+b") as file:  # in its place: to write all anew waits for the disk
            file.seek(max(0, place - 1))
            file.write(content[max(0, place - 1) : place])  # the byte before, as it was
            file.write(bytes([byte ^ 1 << place % 8]))
        try:
            again = checkpoints.load(path)
        except InputError as error:
            assert "best.pt is not a checkpoint that loads safely" in str(error)
            assert "\n" not in str(error)
            seen += 1
            continue
        assert not start <= place < start + 160
        assert torch.equal(again.pop("weights"), state["weights"])
        assert again == {"step": 7, "metrics": {"val_accuracy": 0.5}}
    assert seen > len(content) / 4


def test_a_checkpoint_needs_nothing_but_torch(tmp_path: Path) -> None:
    checkpoints.save({"weights": torch.arange(3)}, tmp_path / "last.pt")
    again = torch.load(tmp_path / "last.pt", weights_only=True)
    assert again["weights"].tolist() == [0, 1, 2]


def test_without_a_previous_one_the_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"last\.pt is missing"):
        checkpoints.load_last(tmp_path / "last.pt")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_compressed_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    """A hundred megabytes of zeros would fit in a hundred kilobytes."""
    checkpoints.save({"step": 1, "weights": torch.zeros(1000)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in whole.namelist():
            bomb.writestr(entry, whole.read(entry))
    assert torch.load(tmp_path / "bomb.pt")["step"] == 1, "torch itself reads it"
    with pytest.raises(InputError, match="compressed, which torch.save never does"):
        checkpoints.load(tmp_path / "bomb.pt")


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"model": {}, "bomb": Bomb(tmp_path / "fired")}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="not a checkpoint that loads safely") as caught:
        checkpoints.load(tmp_path / "last.pt")
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["last.pt"]
    torch.load(tmp_path / "last.pt", weights_only=False)  # the bomb is live
    assert files(tmp_path) == ["fired", "last.pt"]


def test_something_else_than_a_dictionary(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds a list: give a checkpoint of a run"):
        checkpoints.load(tmp_path / "list.pt")


def fork_saver(path: Path) -> int:
    """Fork a process that saves until it is killed; starting one anew would take seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    try:
        for step in count():
            state = {"step": step, "weights": torch.full((300_000,), float(step))}
            checkpoints.save(state, path, keep_previous=True)
    finally:
        os._exit(1)


def test_a_kill_during_a_save_leaves_something_that_loads(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"{number}.pt"
        pid = fork_saver(path)
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.0137 * number)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        state = checkpoints.load_last(path)
        assert torch.equal(state["weights"], torch.full((300_000,), float(state["step"])))


def test_a_checkpoint_of_a_gpu_restores_the_generators_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda *_: pytest.fail("there is no GPU"))
    state = checkpoints.random_state(torch.device("cpu")) | {"cuda": torch.zeros(16)}
    drawn = random.random(), torch.rand(3).tolist()
    checkpoints.restore_random_state(state, torch.device("cpu"))
    assert (random.random(), torch.rand(3).tolist()) == drawn
