"""What a run was made of, and what it came to at which step, as digests.

```
certificate.json
  recipe, data, flags      what was trained: digests, parts as the data have them, flags as given
  parts                    [{step, micro_batches, code, environment}]: of the start, and of every
                           resume; micro_batches are those of a step, over all ranks
  tensors                  names of the tensors of the state, in order
  states                   [{step, digest, weights, tensors}]: the whole state after some steps
```

A state's `digest` covers weights, optimizer, averages and loss scaling; no generator belongs to it,
since draws are functions of (seed, step, image). `weights` covers the network that is evaluated and
exported, and `tensors` has eight digits of each tensor, which tell the one that differs.
"""

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.runs.data_parts import digest
from common.runs.environment import installed_versions, run_git
from common.storage import read_json, write_json

NAME = "certificate.json"
_ROOT = Path(__file__).parents[2]
_CODE = ("common", "pretrain", "detect")
_SHORT = 8  # digits of one tensor
_CERTAIN = 32
State = Mapping[str, Any]


def digest_of(value: Any) -> str:
    """Digest a tensor, bit for bit and with shape and type, or a plain value."""
    state = blake2b(digest_size=_CERTAIN // 2)
    if isinstance(value, Tensor):
        state.update(f"{value.dtype} {tuple(value.shape)}".encode())
        # Of reshape, so that memory format does not count.
        whole = value.detach().cpu().reshape(-1)
        state.update(whole.view(torch.uint8).numpy().data)
    else:
        state.update(repr(value).encode())
    return state.hexdigest()


def combined_digest(digests: Mapping[str, str]) -> str:
    """Digest digests under their names, whatever their order."""
    return digest(word for name in sorted(digests) for word in (name, digests[name]))


def state_record(step: int, state: Mapping[str, Any], evaluated: str) -> dict[str, Any]:
    """Describe a state.

    Args:
        step: Optimizer steps done.
        state: Its tensors and plain values by name.
        evaluated: How the names of the evaluated network's tensors begin.
    """
    digests = {name: digest_of(value) for name, value in state.items()}
    weights = {
        name.removeprefix(evaluated): value
        for name, value in digests.items()
        if name.startswith(evaluated)
    }
    return {
        "step": step,
        "digest": combined_digest(digests),
        "weights": combined_digest(weights),
        "tensors": {name: value[:_SHORT] for name, value in digests.items()},
    }


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest the tensors of a network as `state_record` does under "weights"."""
    return combined_digest({name: digest_of(tensor) for name, tensor in tensors.items()})


@cache
def code() -> dict[str, Any]:
    """Return the commit, the files that differ from it, and the digest of all code."""
    files = sorted(path for top in _CODE for path in (_ROOT / top).rglob("*.py"))
    changed = run_git("diff", "--name-only", "HEAD", "--", "*.py") or ""
    return {
        "commit": run_git("rev-parse", "HEAD"),
        "dirty": {
            name: _file_digest(_ROOT / name) for name in changed.splitlines() if name.endswith("py")
        },
        "sources": digest(
            piece for path in files for piece in (str(path.relative_to(_ROOT)), path.read_bytes())
        ),
    }


def _file_digest(path: Path) -> str | None:
    return digest([path.read_bytes()]) if path.is_file() else None


def environment(device: torch.device, ranks: int) -> dict[str, Any]:
    """Return what rounds: versions, processor, threads, processes."""
    cuda = device.type == "cuda"
    return {
        **installed_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "ranks": ranks,
    }


class Certificate:
    """The certificate of a run folder, kept as it trains.

    Args:
        folder: The run folder.
        description: Recipe, data and flags.
        part: Step, code and environment of this start.
    """

    def __init__(
        self, folder: Path, description: Mapping[str, Any], part: Mapping[str, Any]
    ) -> None:
        self._path = folder / NAME
        before = read_json(self._path) if self._path.exists() and part["step"] else {}
        states = [one for one in before.get("states", []) if one["step"] <= part["step"]]
        self._content: dict[str, Any] = {
            "format": 1,
            **description,
            "parts": [*(p for p in before.get("parts", []) if p["step"] < part["step"]), part],
            "tensors": before.get("tensors", []),
            "states": states,
        }

    def has(self, step: int) -> bool:
        """Tell whether the state after a number of steps is in it."""
        states = self._content["states"]
        return bool(states) and states[-1]["step"] >= step

    def add(self, record: State) -> None:
        """Add a state later than those that are there, and write the file."""
        states = self._content["states"]
        if not self._content["tensors"]:
            self._content["tensors"] = list(record["tensors"])
        whole = list(record["tensors"]) == self._content["tensors"]
        digits = "".join(record["tensors"].values()) if whole else None
        states.append({**record, "tensors": digits})
        write_json(self._path, self._content)


def read_certificate(folder: Path) -> dict[str, Any]:
    """Read the certificate of a run, with names to the digits of each tensor.

    Raises:
        InputError: If it has none, or it is damaged.
    """
    path = folder / NAME
    if folder.is_dir() and not path.exists():
        raise InputError(
            f"{folder} has no {NAME}: give the folder of a run; one of an older version cannot be "
            "checked, train again"
        )
    content = read_json(path)
    try:
        names = content["tensors"]
        for state in content["states"]:
            digits = state["tensors"]
            cut = range(0, len(digits or ""), _SHORT)
            state["tensors"] = dict(
                zip(names, (digits[i : i + _SHORT] for i in cut), strict=bool(digits))
            )
            int(state["step"]), str(state["digest"]), str(state["weights"])
        if not content["parts"]:
            raise ValueError("no parts")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): train again") from error
    return content


def fingerprint(folder: Path) -> str | None:
    """Return the digest of a run's certificate; None where there is none."""
    return _file_digest(folder / NAME)


def certified(folder: Path, step: int, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return what a card says of the certificate; None where the run has none.

    Args:
        folder: The run folder.
        step: Of the checkpoint.
        weights: What was exported, under the names of the network.

    Raises:
        InputError: If the certificate has other weights at this step.
    """
    if not (folder / NAME).is_file():
        return None
    states = read_certificate(folder)["states"]
    known = next((state["weights"] for state in states if state["step"] == step), None)
    if known is None:
        return None
    if known != weights_digest(weights):
        raise InputError(
            f"{folder / NAME} has other weights at step {step} than the checkpoint: one of the two "
            f"was changed; `check {folder}` shows what"
        )
    return {"digest": fingerprint(folder), "step": step, "weights": known}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in what code or environment differ, a phrase each."""
    phrases = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if old == new or name in ("commit", "dirty"):
            continue
        if name == "sources":
            phrases.append(f"the code ({_commit(before)} then, {_commit(now)} now)")
        else:
            phrases.append(f"{name} ({old} then, {new} now)")
    return phrases


def _commit(code: Mapping[str, Any]) -> str:
    dirty = ", ".join(code.get("dirty") or ())
    return f"{str(code.get('commit'))[:12]}{f' with changes to {dirty}' if dirty else ''}"


def first_difference(before: State, now: State) -> tuple[str, int] | None:
    """Name the first tensor that differs between two records of a step, and count all.

    Returns:
        None if the states are equal.
    """
    if before["digest"] == now["digest"]:
        return None
    names = [n for n, value in now["tensors"].items() if before["tensors"].get(n) != value]
    return (names[0], len(names)) if names else ("the set of tensors", 1)


def plain(value: Any) -> Any:
    """Return a flag's value as JSON has it; paths that are there become absolute."""
    if isinstance(value, Path):
        return str(value.resolve() if value.exists() else value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value
