"""Exporting a run: the detector in a layout of others, and a card that says what it is."""

import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from common.errors import InputError
from common.runs.certificate import certified
from common.runs.finished import FinishedRun, open_run
from common.weights.backbone import check_card_is_free, write_backbone
from detect.evaluate import build_detector
from detect.export.graph import DetectionGraph, export_program
from detect.export.onnx import INPUT, OPSET, OUTPUTS, onnx_bytes
from detect.export.torchvision_layout import torchvision_lines, torchvision_weights
from detect.network.retinanet import BatchedRetinaNet
from detect.operating_point import best_threshold
from detect.recipes import Recipe

ENDINGS = {
    "torchvision": (".safetensors", ".pth"),
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
}


def export_run(
    folder: Path, layout: str, out: Path, checkpoint: str = "last", *, preprocessing: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Write the detector of a run, and a card beside it.

    Args:
        folder: The run.
        layout: "torchvision", "onnx" or "torch-export".
        out: Target, with an ending that the layout has.
        checkpoint: "last" or "best".
        preprocessing: Of a graph: whether it resizes and normalises.

    Returns:
        The card, and its lines of use with `out` as it is given: the card goes with its file.

    Raises:
        InputError: If the run cannot be read, the name ends wrongly, the card would replace a file
            that is none, or what writes ONNX is not installed.
    """
    if out.suffix not in ENDINGS[layout]:
        raise InputError(f"{out}: the name must end in {' or '.join(ENDINGS[layout])} for {layout}")
    check_card_is_free(out)
    run = open_run(folder, "detect", Recipe, checkpoint)
    recipe, network = run.recipe, build_detector(run)
    card = _card(run, layout, checkpoint)
    use: Callable[[Path], list[str]]
    if layout == "torchvision":
        use = partial(_torchvision_lines, network, recipe, run.fact("pixels"))
        content = _state_dict(network, recipe, safe=out.suffix == ".safetensors")
    else:
        card["preprocessing_inside"] = preprocessing
        kind = "uint8, 0 to 255" if preprocessing else "float32, resized and normalised"
        card["input"] = {"name": INPUT, "shape": ["N", 3, "H", "W"], "values": f"RGB, {kind}"}
        card["outputs"] = list(OUTPUTS)
        lines = _onnx_lines if layout == "onnx" else _program_lines
        use = partial(lines, preprocessing=preprocessing)
        if layout == "onnx":
            card["opset"] = OPSET
            content = onnx_bytes(network, recipe.detector, preprocessing=preprocessing)
        else:
            graph = DetectionGraph(network, recipe.detector, preprocessing=preprocessing)
            file = io.BytesIO()
            torch.export.save(export_program(graph), file)
            content = file.getvalue()
    card["use"] = use(Path(out.name))
    return write_backbone(content, card, out), use(out)


def _card(run: FinishedRun[Recipe], layout: str, checkpoint: str) -> dict[str, Any]:
    recipe, detector = run.recipe, run.recipe.detector
    threshold, origin = best_threshold(run)
    return {
        "architecture": f"RetinaNet-FPN on {recipe.body}",
        "layout": layout,
        "recipe_name": run.name,
        "seed": run.seed,
        "checkpoint": checkpoint,
        "epoch": run.state["epoch"],
        "metrics": run.state["metrics"],
        "classes": run.fact("classes"),
        "labels": "position in classes, from 0",
        "score_threshold": {"show_from": threshold, "because": origin},
        "returned_above": detector.score_threshold,
        "nms_iou": detector.nms_iou,
        "detections_per_image": detector.detections_per_image,
        "sizes": {"short_side": detector.test_size, "longest_side": detector.max_size},
        "preprocessing": {"channel_order": "RGB", "input_range": [0.0, 1.0], **run.fact("pixels")},
        "torch": torch.__version__,
        "certificate": certified(run.folder, run.state.get("step", 0), run.state["model"]),
    }


def _state_dict(network: BatchedRetinaNet, recipe: Recipe, *, safe: bool) -> bytes:
    weights = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in torchvision_weights(network, recipe).items()
    }
    if safe:
        content: bytes = save(weights, {"format": "pt"})
        return content
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def _quoted(file: Path) -> str:
    return json.dumps(str(file), ensure_ascii=False)  # Python reads no pairs of surrogates


def _torchvision_lines(
    network: BatchedRetinaNet, recipe: Recipe, pixels: Mapping[str, Any], file: Path
) -> list[str]:
    name = _quoted(file)
    safe = file.suffix == ".safetensors"
    load = f"load_file({name})" if safe else f"torch.load({name}, weights_only=True)"
    return torchvision_lines(network, recipe, pixels, load)


def _onnx_lines(file: Path, preprocessing: bool) -> list[str]:
    kind = "uint8" if preprocessing else "float32"
    return [
        "import numpy as np",
        "import onnxruntime",
        "",
        f"session = onnxruntime.InferenceSession({_quoted(file)})",
        f"images = np.zeros((1, 3, 480, 640), np.{kind})  # one or more of one size",
        f'{", ".join(OUTPUTS)} = session.run(None, {{"{INPUT}": images}})',
    ]


def _program_lines(file: Path, preprocessing: bool) -> list[str]:
    kind = "uint8" if preprocessing else "float32"
    return [
        "import torch",
        "import torchvision  # has the operator of NMS",
        "",
        f"program = torch.export.load({_quoted(file)})",
        "model = program.module(check_guards=False)  # images of any size",
        f"images = torch.zeros(1, 3, 480, 640, dtype=torch.{kind})  # one or more of one size",
        f"{', '.join(OUTPUTS)} = model(images)",
    ]
