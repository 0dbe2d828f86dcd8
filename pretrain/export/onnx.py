"""Classifiers as ONNX graphs."""

import importlib.util
import logging

import torch
from torch import nn

from common.errors import InputError

OPSET = 18
INPUT, OUTPUT = "images", "logits"


def onnx_bytes(network: nn.Module, size: int) -> bytes:
    """Return a network in evaluation as an ONNX file.

    The input "images" is (N, 3, size, size), normalised, with N free; the output is "logits".
    BatchNorm is folded into the convolutions, and nothing is left of FocusedDropout.

    Args:
        network: On the CPU; is put into eval mode.
        size: Side of the images, pixels.

    Raises:
        InputError: If onnx or onnxscript is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files need {' and '.join(missing)}: pip install 'focused-dropout[onnx]'"
        )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, size, size),),  # one image would make a constant of the batch
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]  # among them the source lines, with the paths of this machine
    content: bytes = model.SerializeToString()
    return content
