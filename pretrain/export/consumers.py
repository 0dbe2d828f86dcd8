"""What the users of an exported backbone must set, in their own language."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.weights.resnets import TORCHVISION

LANGUAGES = {"detectron2": "yaml"}
"""Of the settings; Python where a consumer is not listed."""
_RANGE = 255  # detectron2 and mmdet count pixels from 0 to 255


def settings(card: Mapping[str, Any], path: Path) -> list[str]:
    """Return the lines that a consumer of a backbone file needs.

    For torchvision, timm and ONNX they run as they stand, where the path leads to the file.

    Args:
        card: Of the export; its layout chooses the lines.
        path: The file, as the lines are to name it.
    """
    if card["layout"] == "onnx":
        return _onnx(card, path)
    if card["layout"] == "detectron2":
        return _detectron2(card, path)
    if card["layout"] == "mmdet":
        return _mmdet(card, path)
    return [*_network(card, path), "model.eval()", *_images("torch", card), *_logits()]


def quoted(name: str) -> str:
    """Write a file's name as a string that Python and YAML read alike."""
    return json.dumps(name, ensure_ascii=False)  # neither reads JSON's pairs of surrogates


def _network(card: Mapping[str, Any], path: Path) -> list[str]:
    name, count = card["architecture"], len(card["classes"])
    if card["layout"] == "timm":
        return [
            "import timm",
            "import torch",
            "",
            "model = timm.create_model(",
            f'    "{name}", num_classes={count}, checkpoint_path={quoted(str(path))}',
            ")",
            *_class_map(card, path),
            *_stem(card),
        ]
    safe = path.suffix == ".safetensors"
    weights = f"load_file({quoted(str(path))})"
    if not safe:
        weights = f"torch.load({quoted(str(path))}, weights_only=True)"
    ours = name not in TORCHVISION
    block = f', block="{card["block"]}"' if card.get("block") else ""
    return [
        "import torch",
        *(["from safetensors.torch import load_file"] if safe else []),
        *([] if ours else [f"from torchvision.models import {name}"]),
        *(
            ["", "from pretrain.networks import build_network  # of focused-dropout"]
            if ours
            else []
        ),
        "",
        f'model = build_network("{name}", num_classes={count}{block})'
        if ours
        else f"model = {name}(num_classes={count})",
        *_stem(card),
        f"model.load_state_dict({weights})",
    ]


def class_map_path(path: Path) -> Path:
    """Name the class map of a backbone file for timm: a class a line, in the order of outputs."""
    return path.with_suffix(".classes.txt")


def class_map(card: Mapping[str, Any]) -> str | None:
    """Return the text of the class map; None if timm would read other names from it."""
    names = card["classes"]
    if any(name.strip() != name or len(name.splitlines()) != 1 for name in names):
        return None
    return "".join(f"{name}\n" for name in names)


def _class_map(card: Mapping[str, Any], path: Path) -> list[str]:
    """Return how to make timm's commands use this order: theirs is 9, 10 where ours is 10, 9."""
    if class_map(card) is None:
        return ["# The classes are in the order of the card; timm cannot read a map of such names."]
    name = quoted(str(class_map_path(path)))
    return [
        f"# for its train.py and validate.py: --num-classes {len(card['classes'])} "
        f"--class-map {name}"
    ]


def _stem(card: Mapping[str, Any]) -> list[str]:
    lines = []
    if card["architecture"] in TORCHVISION and card["stem"] != "imagenet":
        lines.append("model.maxpool = torch.nn.Identity()  # the stem that it was trained with")
        if card["stem"] == "small":
            lines.append("model.conv1.stride = (1, 1)")
    return lines


def _images(module: str, card: Mapping[str, Any]) -> list[str]:
    pixels = card["preprocessing"]
    size, mean, std = pixels["image_size"], list(pixels["mean"]), list(pixels["std"])
    if module == "torch":
        return [
            "",
            f"mean = torch.tensor({mean}).view(3, 1, 1)",
            f"std = torch.tensor({std}).view(3, 1, 1)",
            f"images = torch.rand(2, 3, {size}, {size})  # RGB, from 0 to 1",
        ]
    return [
        "",
        f"mean = np.array({mean}, np.float32).reshape(3, 1, 1)",
        f"std = np.array({std}, np.float32).reshape(3, 1, 1)",
        f"images = np.random.rand(2, 3, {size}, {size}).astype(np.float32)  # RGB, from 0 to 1",
    ]


def _logits() -> list[str]:
    return ["with torch.inference_mode():", "    logits = model((images - mean) / std)"]


def _onnx(card: Mapping[str, Any], path: Path) -> list[str]:
    return [
        "import numpy as np",
        "import onnxruntime",
        "",
        "session = onnxruntime.InferenceSession(",
        f'    {quoted(str(path))}, providers=["CPUExecutionProvider"]',
        ")",
        *_images("numpy", card),
        '(logits,) = session.run(None, {"images": (images - mean) / std})',
    ]


def _detectron2(card: Mapping[str, Any], path: Path) -> list[str]:
    resnet, pixels = TORCHVISION[card["architecture"]], card["preprocessing"]
    lines = [
        *_other_stem(card),
        "MODEL:",
        f"  WEIGHTS: {quoted(str(path))}",
        f"  PIXEL_MEAN: {_scaled(pixels['mean'])}  # RGB",
        f"  PIXEL_STD: {_scaled(pixels['std'])}",
        "  RESNETS:",
        f"    DEPTH: {resnet.depth}",
        "    STRIDE_IN_1X1: False",
    ]
    if not resnet.bottleneck:
        lines.append("    RES2_OUT_CHANNELS: 64")
    return [*lines, "INPUT:", '  FORMAT: "RGB"']


def _mmdet(card: Mapping[str, Any], path: Path) -> list[str]:
    depth, pixels = TORCHVISION[card["architecture"]].depth, card["preprocessing"]
    return [
        *_other_stem(card),
        "model = dict(",
        "    data_preprocessor=dict(",
        '        type="DetDataPreprocessor",',
        f"        mean={_scaled(pixels['mean'])},  # RGB",
        f"        std={_scaled(pixels['std'])},",
        "        bgr_to_rgb=True,",
        "        pad_size_divisor=32,",
        "    ),",
        "    backbone=dict(",
        f'        type="ResNet", depth={depth}, style="pytorch",',
        '        norm_cfg=dict(type="BN", requires_grad=True), norm_eval=True, frozen_stages=1,',
        f'        init_cfg=dict(type="Pretrained", checkpoint={quoted(str(path))}),',
        "    ),",
        ")",
    ]


def _other_stem(card: Mapping[str, Any]) -> list[str]:
    if card["stem"] == "imagenet":
        return []
    return [
        f'# Trained with the stem "{card["stem"]}"; here the stem has a stride of 4: fine-tune it.'
    ]


def _scaled(values: Sequence[float]) -> list[float]:
    return [round(value * _RANGE, 4) for value in values]
