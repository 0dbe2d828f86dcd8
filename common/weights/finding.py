"""Which network of a file is meant: containers, wrappers, averages, encoders, bodies of detectors.

A ResNet is found by the names of its first layers, whatever stands before them; of other networks
only the usual wrappers are taken off, where all names have them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from torch import Tensor

from common.errors import InputError

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
"""Where training scripts keep the average of the weights, which is what they evaluate."""
PARTS = (
    *AVERAGES,
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "backbone",
    "encoder",
)
"""Where they keep weights."""
_INNER = ("module", "state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_COMMON = (*_WRAPPERS, "model.", "net.", "network.", "backbone.", "encoder.", "ema.")
_FIRST = (("conv1.weight", "layer1.0.conv1.weight"), ("conv1.0.weight", "layer1.0.conv1.weight"))
_DETECTRON2 = (("stem.conv1.weight", "res2.0.conv1.weight"),)
_IMAGES = 4  # axes of the weight of a convolution


def is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Return whether this is a dictionary of tensors, and not an empty one."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def split_part(path: Path) -> tuple[Path, str | None]:
    """Split `FILE#NAME`, which asks for one of several networks; a file of that name is itself."""
    file, mark, part = str(path).rpartition("#")
    if not mark or path.exists():
        return path, None
    return Path(file), part


def find_container(content: Mapping[str, object], path: Path, part: str | None) -> str | None:
    """Find the entry that holds the weights; None where they lie open, or there are none.

    Args:
        content: What a file holds.
        path: Which, for the message.
        part: What the user asked for.

    Raises:
        InputError: If there are several, and no average among them, or not the one asked for.
    """
    found = list(containers(content))
    if part in found:
        return part
    averages = [name for name in found if name.partition(".")[0] in AVERAGES]
    if averages:
        return averages[0]
    if len(found) > 1:
        raise InputError(_question(path, found, part))
    return found[0] if found else None


def containers(content: Mapping[str, object]) -> dict[str, Mapping[str, Tensor]]:
    """Return the state dicts among the entries of a file, or one level below them."""
    found: dict[str, Mapping[str, Tensor]] = {}
    for name, value in content.items():
        if is_state_dict(value):
            found[name] = value
        elif isinstance(value, Mapping):
            inner = next((key for key in _INNER if is_state_dict(value.get(key))), None)
            if inner:
                found[f"{name}.{inner}"] = value[inner]
    # By a usual name; or a network by its convolutions, which, say, the centres of a loss lack.
    return {
        name: state
        for name, state in found.items()
        if name.partition(".")[0] in PARTS
        or any(tensor.ndim == _IMAGES for tensor in state.values())
    }


def find_prefix(tensors: Mapping[str, Tensor], path: Path, part: str | None) -> str:
    """Find what stands before the names of the network that is meant.

    Of a network and its average the average is meant, of MoCo's two encoders the one that learns.

    Args:
        tensors: A state dict.
        path: Where it came from, for the message.
        part: What the user asked for: a prefix, or a container found already.

    Raises:
        InputError: If there are several networks.
    """
    roots = _roots(tensors)
    if not roots:
        return _common_prefix(tensors, path)
    asked = [root for root in roots if part and root.startswith(f"{part.rstrip('.')}.")]
    learning = [root for root in roots if "encoder_q" in root.split(".")]
    averages = [root for root in roots if set(root.split(".")) & set(AVERAGES)]
    for chosen in (asked, learning, averages, roots):
        if len(chosen) == 1:
            return chosen[0]
    raise InputError(_question(path, [root.rstrip(".") or "(no prefix)" for root in roots], part))


def _roots(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes behind which a ResNet's first layers stand."""
    return [
        name.removesuffix(first)
        for name in tensors
        for first, second in (*_FIRST, *_DETECTRON2)
        if name.endswith(first) and name.removesuffix(first) + second in tensors
    ]


def _common_prefix(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Return the wrappers that stand before all names."""
    for wrapper in _WRAPPERS:
        if any(
            name.removeprefix(wrapper) in tensors for name in tensors if name.startswith(wrapper)
        ):
            raise InputError(
                f"{path} holds some weights twice, with and without {wrapper!r}: keep one of them"
            )
    first: str = next(iter(tensors), "")
    prefix = ""
    while True:
        rest = first.removeprefix(prefix)
        found = next((name for name in _COMMON if rest.startswith(name)), None)
        if found is None or not all(name.startswith(prefix + found) for name in tensors):
            return prefix
        prefix += found


def _question(path: Path, names: list[str], part: str | None) -> str:
    shown = ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")
    unknown = f", but no {part!r}" if part else ""
    return f"{path} holds {len(names)} networks ({shown}){unknown}: name one, as {path}#{names[-1]}"
