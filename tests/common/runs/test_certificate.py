"""What a certificate says, and in which words it tells what differs."""

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from common.runs import certificate
from common.runs.certificate import (
    Certificate,
    certified,
    combined_digest,
    differences,
    digest_of,
    fingerprint,
    first_difference,
    plain,
    read_certificate,
    state_record,
    weights_digest,
)

PART = {"step": 0, "micro_batches": 1, "code": {}, "environment": {}}


def digested(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def of_pieces(*pieces: str) -> str:
    """Digest pieces, each behind its length."""
    data = [piece.encode() for piece in pieces]
    return digested(b"".join(len(piece).to_bytes(8, "little") + piece for piece in data))


def test_the_digest_of_a_value_is_that_of_its_type_shape_and_bits() -> None:
    tensor = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    content = b"torch.float32 (2, 3)" + tensor.numpy().tobytes()
    assert digest_of(tensor) == digested(content) and len(digest_of(tensor)) == 32
    assert digest_of(tensor.requires_grad_()) == digest_of(tensor)
    strided = tensor.detach().t().contiguous().t()
    assert not strided.is_contiguous() and digest_of(strided) == digest_of(tensor)
    others = [
        tensor.reshape(3, 2),
        tensor.view(torch.int32),
        -tensor,
        torch.tensor([0.0]),
        torch.tensor([-0.0]),
        torch.tensor(0.0),
        torch.zeros(0),
    ]
    assert len({digest_of(value) for value in (tensor, *others)}) == 8
    assert digest_of(0.1) == digested(b"0.1") != digest_of("0.1") == digested(b"'0.1'")


def test_digests_are_taken_together_by_their_names() -> None:
    assert combined_digest({"b": "2", "a": "1"}) == of_pieces("a", "1", "b", "2")
    assert combined_digest({"a": "2", "b": "1"}) != combined_digest({"a": "1", "b": "2"})


def test_the_record_of_a_state() -> None:
    state = {"model.w": torch.ones(2), "average.w": torch.zeros(2), "lr": 0.1}
    digests = {name: digest_of(value) for name, value in state.items()}
    assert state_record(7, state, "average.") == {
        "step": 7,
        "digest": combined_digest(digests),
        "weights": weights_digest({"w": torch.zeros(2)}),
        "tensors": {name: value[:8] for name, value in digests.items()},
    }
    assert weights_digest({"w": torch.zeros(2)}) == of_pieces("w", digests["average.w"])


def record(step: int, **values: float) -> dict[str, Any]:
    values = values or {"a": step, "b": 0}
    return state_record(step, {f"model.{name}": v for name, v in values.items()}, "model.")


def steps(folder: Path, kind: str) -> list[int]:
    return [one["step"] for one in read_certificate(folder)[kind]]


def test_a_certificate_returns_what_was_added(tmp_path: Path) -> None:
    """Also a state of other tensors than the first, of which the digits are left out."""
    kept = Certificate(tmp_path, {"recipe": "r", "data": {"d": "1"}}, PART)
    assert not kept.has(0) and not (tmp_path / certificate.NAME).exists()
    states = [record(2), record(4), record(6, a=6, c=1), record(8)]
    for state in states:
        assert not kept.has(state["step"])
        kept.add(state)
        assert kept.has(state["step"]) and kept.has(state["step"] - 1)
    written = json.loads((tmp_path / certificate.NAME).read_text())
    assert written["states"][0]["tensors"] == "".join(states[0]["tensors"].values())
    states[2]["tensors"] = {}
    assert read_certificate(tmp_path) == {
        "format": 1,
        "recipe": "r",
        "data": {"d": "1"},
        "parts": [PART],
        "tensors": ["model.a", "model.b"],
        "states": states,
    }


@pytest.mark.parametrize(
    ("step", "states", "parts"),
    [
        (0, [9], [0]),  # anew
        (3, [2, 9], [0, 3]),
        (4, [2, 4, 9], [0, 4]),
        (5, [2, 4, 9], [0, 5]),
        (6, [2, 4, 6, 9], [0, 6]),
    ],
)
def test_a_resume_keeps_what_came_before_it(
    tmp_path: Path, step: int, states: list[int], parts: list[int]
) -> None:
    kept = Certificate(tmp_path, {"recipe": "before"}, PART)
    for done in (2, 4, 6):
        kept.add(record(done))
    resumed = Certificate(tmp_path, {"recipe": "now"}, PART | {"step": step})
    assert resumed.has(6) == (step == 6)
    resumed.add(record(9))
    assert (steps(tmp_path, "states"), steps(tmp_path, "parts")) == (states, parts)
    again = Certificate(tmp_path, {"recipe": "now"}, PART | {"step": step})
    again.add(record(10))
    assert steps(tmp_path, "parts") == parts  # a start without a state of its own is no part
    assert read_certificate(tmp_path)["recipe"] == "now"
    assert read_certificate(tmp_path)["tensors"] == ["model.a", "model.b"]
    (tmp_path / certificate.NAME).unlink()
    Certificate(tmp_path, {}, PART | {"step": 5}).add(record(6))
    assert (steps(tmp_path, "states"), steps(tmp_path, "parts")) == ([6], [5])


def test_tensors_in_another_order_are_others(tmp_path: Path) -> None:
    """Digits are told apart by their place alone."""
    kept = Certificate(tmp_path, {}, PART)
    kept.add(record(2, a=1, b=2))
    kept.add(record(4, b=2, a=1))
    told = [one["tensors"] for one in read_certificate(tmp_path)["states"]]
    assert told == [record(2, a=1, b=2)["tensors"], {}]


def test_a_resume_takes_what_a_certificate_has_and_a_start_not_even_a_damaged_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / certificate.NAME
    path.write_text("{}")
    Certificate(tmp_path, {}, PART | {"step": 3}).add(record(4))
    assert (steps(tmp_path, "states"), steps(tmp_path, "parts")) == ([4], [3])
    path.write_text("{")
    with pytest.raises(InputError, match=r"certificate\.json"):
        Certificate(tmp_path, {}, PART | {"step": 3})
    kept = Certificate(tmp_path, {}, PART)
    assert path.read_text() == "{"  # until there is a state
    kept.add(record(1))
    assert (steps(tmp_path, "states"), steps(tmp_path, "parts")) == ([1], [0])


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"parts": None},
        {"states": None},
        {"states": [3]},
        {"states": [{}]},
        {"tensors": None},
        {"tensors": ["model.a"]},
        {"tensors": ["model.a", "model.b", "model.c"]},
        {"step": None},
        {"step": "three"},
        {"digest": None},
        {"weights": None},
        {"digits": "0" * 17},
        {"digits": 5},
    ],
)
def test_a_damaged_certificate_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    """A field set to None here is left out."""
    Certificate(tmp_path, {}, PART).add(record(2))
    path = tmp_path / certificate.NAME
    content = json.loads(path.read_text())
    ((name, value),) = change.items()
    of_state = name in ("step", "digest", "weights", "digits")
    part = content["states"][0] if of_state else content
    name = "tensors" if name == "digits" else name
    part.pop(name)
    if value is not None:
        part[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"certificate\.json is damaged \(\w+\): train again$"):
        read_certificate(tmp_path)


def test_weights_are_those_of_the_certificate_at_their_step(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {"w": torch.ones(2)}
    assert certified(tmp_path, 4, weights) is None and fingerprint(tmp_path) is None
    kept = Certificate(tmp_path, {}, PART)
    for step, value in ((2, 0.0), (4, 1.0)):
        kept.add(state_record(step, {"model.w": torch.full((2,), value)}, "model."))
    content = (tmp_path / certificate.NAME).read_bytes()
    assert fingerprint(tmp_path) == digested(len(content).to_bytes(8, "little") + content)
    assert certified(tmp_path, 4, weights) == {
        "digest": fingerprint(tmp_path),
        "step": 4,
        "weights": weights_digest(weights),
    }
    assert certified(tmp_path, 3, weights) is None
    with pytest.raises(InputError, match=r"certificate\.json has other weights at step 2 than"):
        certified(tmp_path, 2, weights)


def test_what_code_and_environments_differ_in() -> None:
    before = {"torch": "2.11", "threads": 1, "gone": 3, "commit": "a" * 40, "dirty": {"a.py": "1"}}
    assert differences(before, before) == []
    assert differences(before, before | {"commit": "b" * 40, "dirty": {}}) == []
    now = {"torch": "2.12", "threads": 1, "new": 4}
    assert differences(before, now) == [
        "torch (2.11 then, 2.12 now)",
        "gone (3 then, None now)",
        "new (None then, 4 now)",
    ]
    sources = {"sources": "0", "commit": "a" * 40, "dirty": {"a.py": "1", "b.py": "2"}}
    changed = "the code (aaaaaaaaaaaa with changes to a.py, b.py then, bbbbbbbbbbbb now)"
    assert differences(sources, {"sources": "1", "commit": "b" * 40, "dirty": {}}) == [changed]
    unknown = "the code (aaaaaaaaaaaa with changes to a.py, b.py then, None now)"
    assert differences(sources, {"sources": "1"}) == [unknown]


def test_the_first_tensor_that_differs_is_named_and_all_are_counted() -> None:
    before = record(3, a=1, b=2, c=3)
    assert first_difference(before, before) is None
    assert first_difference(before, record(3, a=1, b=5, c=6)) == ("model.b", 2)
    assert first_difference(before, record(3, a=1, b=2, c=3, d=4)) == ("model.d", 1)
    assert first_difference(before, record(3, a=1, b=2)) == ("the set of tensors", 1)


def test_flags_become_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").touch()
    given = {"a": (Path("there"), Path("gone")), "b": "text", "c": {"d": {1}}, "e": None, "f": 0.5}
    assert plain(given) == {
        "a": [str(tmp_path.resolve() / "there"), "gone"],
        "b": "text",
        "c": {"d": [1]},
        "e": None,
        "f": 0.5,
    }


def test_code_and_environment_are_those_of_this_process() -> None:
    code = certificate.code()
    assert code.keys() == {"commit", "dirty", "sources"} and len(code["sources"]) == 32
    assert all(name.endswith(".py") for name in code["dirty"])
    root = Path(certificate.__file__).parents[2]
    files = sorted(
        p for top in ("common", "pretrain", "detect") for p in (root / top).rglob("*.py")
    )
    state = blake2b(digest_size=16)
    for path in files:
        for piece in (str(path.relative_to(root)).encode(), path.read_bytes()):
            state.update(len(piece).to_bytes(8, "little") + piece)
    assert code["sources"] == state.hexdigest()
    told = certificate.environment(torch.device("cpu"), 3)
    known = {"device": "cpu", "cuda": None, "cudnn": None, "ranks": 3, "deterministic": False}
    assert known.items() <= told.items() and told["threads"] == torch.get_num_threads()
    assert {"torch", "numpy", "python", "machine", "cpu_capability"} <= told.keys()


def test_code_is_a_commit_and_what_differs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the three packages count, however deep they lie; without git there is no commit."""
    content = {"common/a.py": b"a", "common/deep/b.py": b"bb", "detect/c.py": b"ccc"}
    for name, data in {**content, "common/notes.md": b"n", "scripts/d.py": b"d"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    answers = {
        ("rev-parse", "HEAD"): "abc",
        ("diff", "--name-only", "HEAD", "--", "*.py"): "detect/c.py\ncommon/gone.py\nx.txt\n",
    }
    monkeypatch.setattr(certificate, "_ROOT", tmp_path)
    monkeypatch.setattr(certificate, "run_git", lambda *words: answers[words])
    sources = digested(
        b"".join(
            len(piece).to_bytes(8, "little") + piece
            for name, data in content.items()
            for piece in (name.encode(), data)
        )
    )
    of_c = digested((3).to_bytes(8, "little") + b"ccc")
    code = certificate.code.__wrapped__
    assert code() == {
        "commit": "abc",
        "dirty": {"detect/c.py": of_c, "common/gone.py": None},
        "sources": sources,
    }
    monkeypatch.setattr(certificate, "run_git", lambda *words: None)
    assert code() == {"commit": None, "dirty": {}, "sources": sources}


def test_the_environment_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device, on_cpu = torch.device("cuda", 1), certificate.environment(torch.device("cpu"), 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device: f"a GPU, number {device.index}"
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert certificate.environment(device, 2) == on_cpu | {
        "device": "a GPU, number 1",
        "cuda": "13.0",
        "cudnn": 91000,
        "deterministic": True,
        "ranks": 2,
    }
    again = certificate.environment(torch.device("cpu"), 1)
    assert again == on_cpu | {"deterministic": True}
    assert list(again) == list(on_cpu)
