"""`--init`: beginning a training with the weights of another one, which may have other classes.

Tensors of the same name and shape are taken. Of a layer with a row for each class, the rows of the
classes that both know by name are taken; the others stay as they were initialised.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.runs.folder import has_checkpoint
from common.storage import read_json
from common.text import say
from common.weights import reading
from common.weights.backbone import fingerprint, read_card
from common.weights.finding import split_part
from common.weights.layouts import torchvision_name
from common.weights.resnets import recognise

_RUN = ("best.pt", "last.pt")
_BODY = "backbone.body."
"""What the names of a detector's ResNet begin with."""
_SYNONYMS = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "tv": "tvmonitor",
}
"""Classes of COCO under the names that VOC has for them, spaces aside."""


@dataclass(frozen=True, slots=True)
class Initial:
    """Weights to begin with."""

    source: Path
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None
    """Names of the classes, in the order of the rows; None: not known."""
    pixels: Mapping[str, Any] | None
    """Mean and std of the pixels in their training; None: not known."""
    note: str = ""
    """What was taken of the file."""


def locate(source: Path) -> Path:
    """Return the file to read: of a run folder the best checkpoint, or else the last.

    Raises:
        InputError: If there is none.
    """
    if not source.is_dir():
        return source
    found = next((source / name for name in _RUN if (source / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{source} holds no best.pt and no last.pt: give a run or a file of weights"
        )
    return found


def describe_origin(source: Path | None, out: Path, resume: str) -> dict[str, str]:
    """Return the digest of the weights to begin with, for the description of a run.

    A resumed run continues from its own checkpoint, whatever is given.

    Args:
        source: What `--init` was given.
        out: The run folder.
        resume: What `--resume` was given.

    Returns:
        "init": the SHA-256 of the file; empty without `--init`.

    Raises:
        InputError: If the file is not there.
    """
    if resumes(out, resume):
        described = out / "recipe.json"
        known = read_json(described).get("init") if described.is_file() else None
        return {} if known is None else {"init": str(known)}
    return {} if source is None else {"init": fingerprint(locate(source))}


def resumes(out: Path, resume: str) -> bool:
    """Return whether a run would resume from a checkpoint."""
    return has_checkpoint(out) or resume not in ("auto", "never")


def pixels_of_resumed_run(out: Path, resume: str) -> dict[str, Any] | None:
    """Return the pixel settings of the run that is resumed; None for a new one."""
    folder = out if resume in ("auto", "never") else Path(resume).parent
    environment = folder / "environment.json"
    if not resumes(out, resume) or not environment.is_file():
        return None
    pixels = read_json(environment).get("pixels")
    return pixels if isinstance(pixels, dict) else None


def initial_unless_resumed(
    source: Path | None, out: Path, resume: str, *, loud: bool
) -> Initial | None:
    """Read what `--init` was given; None where nothing was, or the run is resumed.

    Args:
        source: What `--init` was given.
        out: The run folder.
        resume: What `--resume` was given.
        loud: Whether to print that a resumed run passes it over.
    """
    if source is None:
        return None
    if resumes(out, resume):
        if loud:
            say(f"{out} resumes from its own checkpoint: --init {source} is ignored")
        return None
    return read_initial(source)


def read_initial(source: Path) -> Initial:
    """Read the weights of a run, a checkpoint, an export, or a file of torchvision or timm.

    Args:
        source: A run folder or a file; `FILE#NAME` names one of several networks.

    Raises:
        InputError: If it holds no weights, or several networks.
    """
    path, part = split_part(locate(source))
    if path.suffix == ".pkl":
        weights = reading.read_weights(path)
        return Initial(source, _named(weights.tensors), None, None, weights.describe())
    content = reading.read_content(path)
    if reading.is_checkpoint(content):
        average = "average" in content  # it is what was evaluated
        known = path.parent / "environment.json"
        facts = read_json(known) if known.is_file() else {}
        classes = facts.get("classes")
        return Initial(
            source,
            dict(content["average" if average else "model"]),
            tuple(map(str, classes)) if isinstance(classes, list) else None,
            facts.get("pixels"),
            "took the average of the weights" if average else "",
        )
    found = _detector_in(content)
    if found is not None:
        detector, prefix = found
        note = f"took the prefix {prefix!r} off" if prefix else ""
        return Initial(source, detector, _coco_classes(detector), None, note)
    weights = reading.weights_of(content, path, part)
    card = read_card(path, fingerprint(path))
    classes = card.get("classes")
    return Initial(
        source,
        _named(weights.tensors),
        tuple(map(str, classes)) if isinstance(classes, list) else None,
        card.get("preprocessing"),
        weights.describe(),
    )


def _detector_in(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str] | None:
    """Return a detector's whole state dict, of ours or of torchvision; None if there is none.

    Beside it, the prefix that a wrapper such as DataParallel or Lightning had put before its names.
    """
    for state in (content, content.get("model"), content.get("state_dict")):
        if not isinstance(state, Mapping):
            continue
        names = [name for name in state if isinstance(name, str)]
        prefixes = {name.partition(_BODY)[0] for name in names if _BODY in name}
        if len(prefixes) != 1:  # none, or several detectors
            continue
        (prefix,) = prefixes
        own = {name.removeprefix(prefix): state[name] for name in names if name.startswith(prefix)}
        # Pyramids of torchvision before 0.12 lack one level in these names.
        return {_pyramid(name): value for name, value in own.items()}, prefix
    return None


def _pyramid(name: str) -> str:
    for kind in ("inner_blocks", "layer_blocks"):
        before, mark, after = name.partition(f".fpn.{kind}.")
        if mark and after.count(".") == 1:
            number, _, last = after.partition(".")
            return f"{before}{mark}{number}.0.{last}"
    return name


def _coco_classes(detector: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """Return COCO's names where a detector of torchvision has their number of rows."""
    logits = detector.get("head.classification_head.cls_logits.bias")
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    names = tuple(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    anchors = 9  # of every published RetinaNet
    return names if logits is not None and len(logits) == anchors * len(names) else None


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "stem.conv1.weight" not in tensors:
        return dict(tensors)
    return {torchvision_name(name): value for name, value in tensors.items()}


def load_initial(
    network: nn.Module,
    initial: Initial,
    classes: Sequence[str],
    head: Sequence[str],
    under: Sequence[str] = ("", _BODY),
) -> str:
    """Load weights into a network that may have other classes.

    Args:
        network: As it was initialised; loaded into.
        initial: As `read_initial` returns it.
        classes: Names of the network's classes, in the order of its rows.
        head: Names of the layers that have a row for each class, or for each anchor and class.
        under: Prefixes under which the given names may stand in the network; by default those of a
            classifier in the body of a detector.

    Returns:
        What was taken and what not, for a person.

    Raises:
        InputError: If less than half of the weights fit: they are of another network.
    """
    wanted = network.state_dict()
    given = {name: value for name, value in initial.tensors.items() if not _counts(name)}
    prefix = max(under, key=lambda p: sum(p + name in wanted for name in given))
    given = {prefix + name: value for name, value in given.items()}
    ours, theirs = recognise(_body_of(wanted)), recognise(_body_of(given))
    if reading.is_detector(given) and not reading.is_detector(wanted):
        given = {name.removeprefix(_BODY): value for name, value in given.items()}
    if ours and theirs and ours != theirs:
        raise InputError(
            f"{initial.source} holds a {theirs}, and the recipe builds a {ours}: give weights of "
            "the recipe's network, or choose the recipe that they are of"
        )
    used = {name: value for name, value in given.items() if name in wanted}
    reading.check_finite(used, initial.source)
    rows = {f"{layer}.{kind}" for layer in head for kind in ("weight", "bias")}
    names = [name for name in wanted if not _counts(name) and name not in rows]
    taken = [n for n in names if n in given and given[n].shape == wanted[n].shape]
    anew = [name for name in names if name not in taken]
    body = [name for name in names if name.startswith(prefix)]
    if 2 * len([name for name in taken if name.startswith(prefix)]) < len(body):
        other = next((n for n in body if n in given and n not in taken), next(iter(given), "none"))
        raise InputError(
            f"{initial.source} is of another network ({len(taken)} of {len(names)} weights fit; "
            f"not {other!r}): give weights of the recipe's, or the recipe that they are of"
        )
    with torch.no_grad():
        for name in taken:
            wanted[name].copy_(given[name])
        shared = _copy_rows(wanted, given, sorted(rows), initial.classes, classes)
    said = [initial.note] if initial.note else []
    said.append(f"{len(taken)} of {len(names)} weights")
    said.append(_about_head(shared, classes, initial.classes))
    if anew:
        said.append(f"new: {', '.join(anew[:3])}{', ...' if len(anew) > 3 else ''}")
    return f"begins with {initial.source}: {'; '.join(said)}"


def _body_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the ResNet in a detector, or all of a classifier."""
    prefix = _BODY if reading.is_detector(state) else ""
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # frozen norms have none


def _copy_rows(
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    layers: Sequence[str],
    before: Sequence[str] | None,
    classes: Sequence[str],
) -> list[str]:
    """Copy the rows of the classes that both know; return these."""
    if before is None:
        return []
    same = {i: before.index(name) for i, name in enumerate(classes) if name in before}
    # Other spellings of a name, where one class alone is meant on either side: 1.5 is not 15.
    rest = _only([(i, name) for i, name in enumerate(classes) if i not in same])
    left = _only([(j, name) for j, name in enumerate(before) if j not in same.values()])
    same |= {i: left[plain] for plain, i in rest.items() if plain in left}
    ours = sorted(same)
    theirs = [same[i] for i in ours]
    fitting = []
    for name in layers:
        if name not in wanted or name not in given:
            continue
        # A row for each class, or for each anchor and within that for each class.
        new = wanted[name].unflatten(0, (-1, len(classes)))
        if len(given[name]) % len(before):
            continue
        old = given[name].unflatten(0, (-1, len(before)))
        if new.shape[0] == old.shape[0] and new.shape[2:] == old.shape[2:]:
            fitting.append((new, old))
    for new, old in fitting:
        new[:, ours] = old[:, theirs].to(new)
    return [classes[i] for i in ours] if fitting else []


def _only(names: Sequence[tuple[int, str]]) -> dict[str, int]:
    """Return the places of names without their signs, those that only one has."""
    counts = Counter(_plain(name) for _, name in names)
    return {plain: i for i, name in names if counts[plain := _plain(name)] == 1 and plain}


def _plain(name: str) -> str:
    plain = "".join(c for c in name.casefold() if c.isalnum())
    return _SYNONYMS.get(plain, plain)


def _about_head(shared: list[str], classes: Sequence[str], before: Sequence[str] | None) -> str:
    if len(shared) == len(classes):
        return f"the head of all {len(classes)} classes"
    if not shared:
        why = "the names of its classes are not known" if before is None else "it shares no class"
        return f"the head of all {len(classes)} classes new, for {why}"
    shown = ", ".join(map(repr, shared[:5])) + (", ..." if len(shared) > 5 else "")
    return f"the head of {len(shared)} of {len(classes)} classes ({shown}), the others new"
