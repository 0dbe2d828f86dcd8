"""`inspect`: what a file or folder is, and what it fits."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection, get_model

from common.errors import InputError
from common.runs.certificate import fingerprint as certificate_of
from common.runs.certificate import weights_digest
from common.runs.metrics_log import read_metrics
from common.storage import read_json
from common.text import counted, in_line
from common.weights import reading
from common.weights.backbone import card_path, fingerprint, read_card
from common.weights.detectron2 import read_detectron2
from common.weights.finding import containers
from common.weights.layouts import detectron2_name
from common.weights.resnets import TIMM, TORCHVISION, body_shapes, recognise
from pretrain.networks import GROUPS, build_network
from pretrain.recipes import Block

_RETINANET = "head.classification_head.cls_logits.weight"
_ANCHORS = 9  # at each place, in RetinaNet
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def inspect(path: Path) -> list[str]:
    """Describe a backbone file, other weights, an ONNX graph, a checkpoint or a run folder.

    Nothing that it holds is run.

    Returns:
        Lines for a person.

    Raises:
        InputError: If it is none of these, or damaged.
    """
    if path.is_dir():
        return list(_run_folder(path))
    if not path.exists():
        raise InputError(f"{path} is not there: check the path")
    lines = [f"{path}: {path.stat().st_size:,} bytes"]
    if path.suffix == ".onnx":
        return [*lines, *_onnx(path), *_card(path)]
    if path.suffix == ".pkl":
        arrays = {name: _without_values(array) for name, array in read_detectron2(path).items()}
        return [*lines, *_detectron2(arrays), *_card(path)]
    content = reading.read_content(path)
    if reading.is_checkpoint(content):
        return [*lines, *_checkpoint(content)]
    weights = reading.weights_of(content, path)
    if "stem.conv1.weight" in weights.tensors:
        return [*lines, *_detectron2(weights.tensors), *_card(path)]
    lines.append(f"kind: {'safetensors' if path.suffix == '.safetensors' else 'torch file'}")
    if weights.describe():
        lines.append(f"found: {weights.describe()}")
    state = containers(content)[weights.part] if weights.part else content
    described = _detector if weights.prefix.endswith("backbone.body.") else _weights
    return [*lines, *described(weights, state, path), *_card(path, state)]


def _detector(weights: reading.Weights, state: Mapping[str, Tensor], path: Path) -> Iterator[str]:
    """Say what a detector of torchvision's keys is, ours or not, and who loads it."""
    yield from _numbers(state)
    body = recognise(weights.tensors)
    retina = any(name.endswith(_RETINANET) for name in state)
    kind = "a RetinaNet in torchvision's layout" if retina else "a detector"
    yield f"architecture: {kind}, body {body or 'not known'}, by keys and shapes"
    logits = next((v for name, v in state.items() if name.endswith(_RETINANET)), None)
    if body == "resnet50" and logits is not None and not len(logits) % _ANCHORS:
        classes = len(logits) // _ANCHORS
        for name in ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"):
            build = partial(detection.__dict__[name], num_classes=classes, weights_backbone=None)
            if _loads(build, state):
                yield f"fits: torchvision.models.detection.{name}, strictly (num_classes={classes})"
    yield "does not fit: a classifier of torchvision or timm, whose keys differ"
    if body in TORCHVISION:
        yield (
            f"fits: python -m detect train RECIPE --backbone {quote(str(path))} --body {body}, "
            "which takes the body; with --init, the heads, too"
        )


def _loads(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> bool:
    """Return whether a network takes a state dict as it is, every key and shape."""
    with torch.device("meta"):
        network = build()
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError:  # its list of what differs
        return False
    return True


def _weights(weights: reading.Weights, state: Mapping[str, Tensor], path: Path) -> Iterator[str]:
    tensors = weights.tensors
    yield from _numbers(tensors)
    name = recognise(tensors)
    ours = None if name else small_network(tensors)
    if ours:
        network, block = ours
        kind = f"{network} of {block} blocks" if block else network
        argument = f', block="{block}"' if block else ""
        classes = len(tensors["fc.weight"])
        yield f"architecture: {kind}, by keys and shapes"
        yield (
            f'fits: pretrain.networks.build_network("{network}", num_classes={classes}{argument}); '
            "no detector, timm or mmdet"
        )
    elif name:
        yield f"architecture: {name}, by keys and shapes"
        yield from _fits(name, path, weights, state)
    else:
        first = ", ".join(list(tensors)[:3])
        yield f"architecture: not known (first keys: {first})"
        yield "fits: nothing that is known here; expected the keys of a torchvision ResNet"


def _numbers(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    learned = [v for name, v in tensors.items() if not name.endswith(_STATISTICS)]
    types = sorted({str(value.dtype).removeprefix("torch.") for value in learned})
    count = sum(value.numel() for value in learned)
    yield f"tensors: {len(tensors)}, with {count:,} parameters in {', '.join(types) or 'none'}"
    bad = reading.first_not_finite(tensors)
    if bad:
        yield f"damaged: NaN or infinite numbers, first in {in_line(bad)}; no program can use it"
    classifier = tensors.get("fc.weight", tensors.get("stem.fc.weight"))
    if classifier is None or classifier.ndim != 2:
        yield "classifier: none that is known"
    else:
        yield f"classifier: {counted(len(classifier), 'class')}"


def _fits(
    name: str, path: Path, weights: reading.Weights, state: Mapping[str, Tensor]
) -> Iterator[str]:
    """Say who reads a ResNet under torchvision's names."""
    plain = weights.part is None and weights.prefix in ("", "module.")  # mmdet takes that one off
    hindrances = _hindrances(weights)
    whose = f'timm.create_model("{name}")' if name in TIMM else f"torchvision.models.{name}"
    both = whose if name in TIMM else f"{whose} and timm"
    classes = len(weights.tensors.get("fc.weight", ()))
    build = partial(get_model, name, num_classes=classes) if name in TORCHVISION else None
    if hindrances:
        yield f"does not fit as it is: {both} ({', '.join(hindrances)})"
    elif build and not _loads(build, state):
        yield f"does not fit as it is: {both} (other keys or shapes beside the body)"
    elif name in TIMM:
        yield f"fits: {whose}; not torchvision"
    else:
        yield f"fits: {both}, strictly"
    if name in TORCHVISION:
        yield f"fits: python -m detect train RECIPE --backbone {quote(str(path))} --body {name}"
    else:
        yield f"does not fit: the detector here, which builds on {', '.join(TORCHVISION)}"
    if name in TIMM:
        return
    resnet = TORCHVISION[name]
    if resnet.groups == 1 and resnet.width != 64:
        yield "does not fit: mmdet, whose ResNeXt widens no block that has one group"
    elif path.suffix != ".safetensors" and plain:
        groups = f" of groups={resnet.groups}, base_width={resnet.width}"
        kind = "ResNet" if resnet.groups == 1 else f"ResNeXt{groups}"
        yield f'fits: mmdet, {kind}, depth={resnet.depth}, style="pytorch"'
    else:
        yield "does not fit: mmdet, which reads a plain .pth: export --format mmdet"
    yield "does not fit: detectron2, whose names differ: export --format detectron2"


def _hindrances(weights: reading.Weights) -> list[str]:
    """Say why no `load_state_dict` takes what a file holds, though the network is the right one."""
    found = [f"wrapped, its weights lie under {weights.part!r}"] if weights.part else []
    found += [f"wrapped, prefix {weights.prefix!r}"] if weights.prefix else []
    found += ["other tensors beside it"] if weights.left or weights.averaged else []
    found += [] if "fc.weight" in weights.tensors else ["it has no classifier (fc)"]
    return found


def small_network(tensors: Mapping[str, Tensor]) -> tuple[str, Block | None] | None:
    """Name a network of pretrain.networks, and its blocks, with just these keys and shapes."""
    head = tensors.get("fc.weight")
    if head is None:
        return None
    given = {name: value.shape for name, value in tensors.items()}
    for name in GROUPS:
        if name in TORCHVISION:
            continue
        blocks: tuple[Block | None, ...] = (None,)
        if name.startswith("cifar-resnet"):
            blocks = (None, *get_args(Block))
        for block in blocks:
            try:
                with torch.device("meta"):
                    network = build_network(name, len(head), block=block)
            except InputError:  # depths that a block does not have
                continue
            if {key: value.shape for key, value in network.state_dict().items()} == given:
                return name, block
    return None


def _without_values(array: NDArray[Any]) -> Tensor:
    """Return a tensor of the shape and type of an array, in whatever order its bytes are."""
    empty = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("=")))
    return torch.empty(array.shape, dtype=empty.dtype, device="meta")


def _detectron2(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    yield "kind: detectron2 weights"
    yield from _numbers(tensors)
    given = {
        name: tuple(value.shape)
        for name, value in tensors.items()
        if not name.startswith("stem.fc.") and not name.endswith("num_batches_tracked")
    }
    for name, resnet in TORCHVISION.items():
        if {detectron2_name(key): shape for key, shape in body_shapes(resnet).items()} == given:
            yield f"architecture: {name}, by keys and shapes"
            yield f"fits: detectron2, RESNETS.DEPTH {resnet.depth}, STRIDE_IN_1X1 False"
            yield "does not fit: torchvision, timm, mmdet, the detector here: export for them"
            return
    yield f"architecture: not known (first keys: {', '.join(list(tensors)[:3])})"


def _onnx(path: Path) -> Iterator[str]:
    try:
        import onnx
    except ImportError:
        raise InputError(
            f"{path}: reading ONNX files needs onnx: pip install 'focused-dropout[onnx]'"
        ) from None
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and onnx's own kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} is not a readable ONNX file, export again: {reason[0][:150]}"
        ) from error
    graph = model.graph
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), "not said")
    count = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    yield f"kind: ONNX graph, opset {opset}, {len(graph.node)} operations"
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    yield (
        f"tensors: {len(graph.initializer)}, with {count:,} numbers in "
        f"{', '.join(sorted(types)).lower() or 'none'}"
    )
    for title, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            shape = ", ".join(d.dim_param or str(d.dim_value) for d in dims)
            yield f"{title}: {value.name} ({shape})"
    yield "fits: onnxruntime and others that run this opset; no training, no detector here"


def _card(path: Path, tensors: Mapping[str, Tensor] | None = None) -> Iterator[str]:
    card = read_card(path, fingerprint(path))
    if not card:
        yield "card: none beside it"
        return
    metrics = _object(card, "metrics", card_path(path))
    parts = [
        f"{card.get('architecture')} for {card.get('layout')}",
        f"recipe {card.get('recipe_name')}, seed {card.get('seed')}",
        f"{card.get('checkpoint')} checkpoint of epoch {card.get('epoch')}",
        *([_metrics(metrics)] if metrics else []),
        "SHA-256 right",
    ]
    yield f"card: {', '.join(parts)}"
    proof = _object(card, "certificate", card_path(path))
    if proof:
        same = tensors is not None and str(proof.get("weights")) in map(
            weights_digest, _as_kept(tensors)
        )
        matches = (
            "the weights are those of it" if same else "which cannot be compared in this layout"
        )
        if not same and card.get("layout") == "torchvision":
            matches = "these are other weights"
        yield f"certificate: {proof.get('digest')}, step {proof.get('step')}; {matches}"


def _as_kept(tensors: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """Yield weights as a checkpoint may hold them: frozen norms count no batches there."""
    yield tensors
    yield {n: v for n, v in tensors.items() if not (n.endswith(_STATISTICS[2]) and not v)}


def _checkpoint(content: Mapping[str, Any]) -> Iterator[str]:
    weights = content.get("average", content["model"])
    kind = "a training can resume from it" if "optimizer" in content else "weights only"
    detector = any(name.startswith("backbone.") for name in weights)
    yield f"kind: checkpoint of epoch {content['epoch']}, step {content['step']}; {kind}"
    yield f"metrics: {_metrics(content['metrics'])}"
    yield from _numbers(weights)
    name = recognise(weights) or (small_network(weights) or ("not known",))[0]
    yield f"architecture: {'a detector' if detector else name}, by keys and shapes"
    if detector:
        yield "fits: python -m detect evaluate"
    else:
        yield "fits: nothing as it is: python -m pretrain export --run RUN --out NAME.safetensors"


def _run_folder(folder: Path) -> Iterator[str]:
    description = read_json(folder / "recipe.json")
    program, name = description.get("stage"), description.get("name")
    yield f"{folder}: run of `python -m {program} train {name}`, seed {description.get('seed')}"
    recipe = _object(description, "recipe", folder / "recipe.json")
    optimization = _object(recipe, "optimization", folder / "recipe.json")
    if program == "pretrain":
        yield f"architecture: {recipe.get('network')}, stem {recipe.get('stem')}"
    epochs = read_metrics(folder)
    done = epochs[-1].get("epoch") if epochs else 0
    yield f"epochs: {done} of {optimization.get('epochs')}"
    if epochs:
        yield f"metrics: {_metrics({k: v for k, v in epochs[-1].items() if k.startswith('val_')})}"
    files = [name for name in ("last.pt", "best.pt") if (folder / name).is_file()]
    yield f"checkpoints: {', '.join(files) or 'none yet'}"
    proof, run = certificate_of(folder), quote(str(folder))
    if proof:
        yield f"certificate: {proof}; to check the run: python -m {program} check {run}"
    if program == "pretrain" and files:
        yield f"to use it: python -m pretrain export --run {run} --out NAME.safetensors"


def _object(values: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """Return the JSON object of a name; empty where there is none."""
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: {name!r} is no JSON object: correct it, or export or train again"
        )
    return value


def _metrics(metrics: Mapping[str, Any]) -> str:
    numbers = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not abs(value) >= 2**63  # some ints are no float
    }
    return ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()) or "none"
