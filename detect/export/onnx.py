"""Detectors as ONNX graphs, which need no torch: from pixels to boxes, NMS inside.

torch writes down the network, its anchors and candidates; what comes before and after stands here
in ONNX's own text. pytorch/vision#9306 and #9462, which are open, are avoided so: torchvision's
`batched_nms` chooses its way by the number of boxes, which a graph cannot, but ONNX's own operator
knows images and classes; and sizes are computed in doubles, as Python computes them, on which a
pixel can hang.
"""

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from detect.data.batches import SHAPE_MULTIPLE, SMALLEST_SIDE
from detect.export.graph import Candidates
from detect.network.retinanet import BatchedRetinaNet
from detect.recipes import Detector

OPSET = 18
IR_VERSION = 10
INPUT = "images"
OUTPUTS = ("boxes", "scores", "labels", "image_numbers")
_EXAMPLE = (2, 3, 10, SHAPE_MULTIPLE, 14, SHAPE_MULTIPLE)

_HEAD = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>'

# Sides as `resized_shape` computes them, and pixels as the network wants them.
_RESIZE = """
  shape = Shape <start = 2, end = 4> (images)
  original = Cast <to = 11> (shape)
  lowest = ReduceMin <keepdims = 1> (original)
  highest = ReduceMax <keepdims = 1> (original)
  short = Constant <value = double[1] {{{short}}}> ()
  long = Constant <value = double[1] {{{long}}}> ()
  by_short = Div (short, lowest)
  by_long = Div (long, highest)
  factor = Min (by_short, by_long)
  wanted = Mul (original, factor)
  whole = Floor (wanted)
  one = Constant <value = double[1] {{1}}> ()
  network = Max (whole, one)
  sides = Cast <to = 7> (network)
  shape_as_float = Cast <to = 1> (shape)
  sides_as_float = Cast <to = 1> (sides)
  steps = Div (shape_as_float, sides_as_float)
  scalar_zero = Constant <value = int64 {{0}}> ()
  scalar_one = Constant <value = int64 {{1}}> ()
  half = Constant <value = float {{0.5}}> ()
  nought = Constant <value = float {{0}}> ()
  unit = Constant <value = float {{1}}> ()
  axis_of_columns = Constant <value = int64[1] {{1}}> ()
  {rows_of_resize}
  {columns_of_resize}
  resized = Identity (columns_mixed)
  centred = Sub (resized, mean)
  pixels = Div (centred, std)
"""
# One axis of a bilinear resize, in torch's own float32 arithmetic: the operator Resize rounds the
# places of pixels otherwise, which moves boxes on large photos by some thousandths of a pixel.
_AXIS = """
  {name}_count = Gather (sides, scalar_{number})
  {name}_size = Gather (shape, scalar_{number})
  {name}_step = Gather (steps, scalar_{number})
  {name}_whole = Range (scalar_zero, {name}_count, scalar_one)
  {name}_float = Cast <to = 1> ({name}_whole)
  {name}_middle = Add ({name}_float, half)
  {name}_scaled = Mul ({name}_middle, {name}_step)
  {name}_shifted = Sub ({name}_scaled, half)
  {name}_place = Max ({name}_shifted, nought)
  {name}_floor = Floor ({name}_place)
  {name}_low = Cast <to = 7> ({name}_floor)
  {name}_next = Add ({name}_low, scalar_one)
  {name}_last = Sub ({name}_size, scalar_one)
  {name}_high = Min ({name}_next, {name}_last)
  {name}_far = Sub ({name}_place, {name}_floor)
  {name}_near = Sub (unit, {name}_far)
  {name}_first_raw = Gather <axis = {axis}> ({source}, {name}_low)
  {name}_second_raw = Gather <axis = {axis}> ({source}, {name}_high)
  {name}_first = Cast <to = 1> ({name}_first_raw)
  {name}_second = Cast <to = 1> ({name}_second_raw)
  {weights}
  {name}_a = Mul ({name}_first, {name}_weight_near)
  {name}_b = Mul ({name}_second, {name}_weight_far)
  {name}_mixed = Add ({name}_a, {name}_b)
"""
_OF_ROWS = """
  rows_weight_near = Unsqueeze (rows_near, axis_of_columns)
  rows_weight_far = Unsqueeze (rows_far, axis_of_columns)
"""
_OF_COLUMNS = """
  columns_weight_near = Identity (columns_near)
  columns_weight_far = Identity (columns_far)
"""
_AS_IT_IS = """
  sides = Shape <start = 2, end = 4> (images)
  original = Cast <to = 11> (sides)
  network = Identity (original)
  pixels = Identity (images)
"""
# Zeros at the right and bottom; a tile is {multiple} pixels, so that torch has simple sizes.
_PAD = """
  multiple = Constant <value = int64[1] {{{multiple}}}> ()
  almost = Constant <value = int64[1] {{{almost}}}> ()
  more = Add (sides, almost)
  tiles_of = Div (more, multiple)
  padded_to = Mul (tiles_of, multiple)
  added = Sub (padded_to, sides)
  none = Constant <value = int64[6] {{0, 0, 0, 0, 0, 0}}> ()
  pads = Concat <axis = 0> (none, added)
  padded = Pad (pixels, pads)
  first = Constant <value = int64[1] {{0}}> ()
  second = Constant <value = int64[1] {{1}}> ()
  rows = Gather (tiles_of, first)
  columns = Gather (tiles_of, second)
  front = Constant <value = int64[2] {{-1, 3}}> ()
  split = Concat <axis = 0> (front, rows, multiple, columns, multiple)
  tiles = Reshape (padded, split)
"""
# A score below any threshold stands where there is no box.
_SELECT = """
  turned = Constant <value = int64[4] {{1, 0, 1, 0}}> ()
  edge_of = Gather (network, turned)
  edge = Cast <to = 1> (edge_of)
  zero = Constant <value = float[1] {{0}}> ()
  not_below = Max (box, zero)
  inside = Min (not_below, edge)
  classes = Constant <value = int64[1, {num_classes}, 1] {{{numbers}}}> ()
  middle = Constant <value = int64[1] {{1}}> ()
  of_label = Unsqueeze (label, middle)
  is_class = Equal (of_label, classes)
  of_score = Unsqueeze (score, middle)
  nothing = Constant <value = float[1] {{-1}}> ()
  by_class = Where (is_class, of_score, nothing)
  most = Constant <value = int64[1] {{{limit}}}> ()
  iou = Constant <value = float[1] {{{iou}}}> ()
  threshold = Constant <value = float[1] {{{threshold}}}> ()
  selected = NonMaxSuppression (inside, by_class, most, iou, threshold)
  columns_of = Constant <value = int64[2] {{0, 2}}> ()
  where = Gather <axis = 1> (selected, columns_of)
  stays = GatherND (score, where)
  scores_shape = Shape (score)
  empty = ConstantOfShape <value = float[1] {{-1}}> (scores_shape)
  all = ScatterND (empty, where, stays)
  candidates = Shape <start = 1, end = 2> (score)
  kept = Min (most, candidates)
  best, place = TopK <axis = 1, sorted = 1> (all, kept)
  last = Constant <value = int64[1] {{-1}}> ()
  place_of = Unsqueeze (place, last)
  four = Constant <value = int64[3] {{1, 1, 4}}> ()
  places = Expand (place_of, four)
  their_boxes = GatherElements <axis = 1> (inside, places)
  their_labels = GatherElements <axis = 1> (label, place)
  doubles = Cast <to = 11> (their_boxes)
  scale = Div (original, network)
  scale_of = Gather (scale, turned)
  scaled = Mul (doubles, scale_of)
  border = Gather (original, turned)
  cut = Min (scaled, border)
  low, high = Split <axis = 2, num_outputs = 2> (cut)
  lengths = Sub (high, low)
  shortest = ReduceMin <keepdims = 0> (lengths, last)
  smallest = Constant <value = double[1] {{{smallest}}}> ()
  has_area = GreaterOrEqual (shortest, smallest)
  is_there = Greater (best, threshold)
  valid = And (has_area, is_there)
  found = NonZero (valid)
  which = Transpose <perm = [1, 0]> (found)
  floats_of = Cast <to = 1> (cut)
  boxes = GatherND (floats_of, which)
  scores = GatherND (best, which)
  labels = GatherND (their_labels, which)
  number_of = Slice (which, first, middle, middle)
  image_numbers = Squeeze (number_of, middle)
"""


class _OfTiles(nn.Module):
    """Candidates of pixels that come in tiles: sizes of the maps are then simple in its number."""

    def __init__(self, network: BatchedRetinaNet) -> None:
        super().__init__()
        self.candidates = Candidates(network)

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = tiles.shape[2] * SHAPE_MULTIPLE, tiles.shape[4] * SHAPE_MULTIPLE
        found: tuple[Tensor, Tensor, Tensor] = self.candidates(
            tiles.reshape(tiles.shape[0], 3, height, width)
        )
        return found


def onnx_bytes(network: BatchedRetinaNet, detector: Detector, *, preprocessing: bool) -> bytes:
    """Return a detector as an ONNX file; the rest as `DetectionGraph`.

    The input "images" is (N, 3, H, W), the outputs are those of `OUTPUTS`.

    Raises:
        InputError: If onnx or onnxscript is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files need {' and '.join(missing)}: pip install 'focused-dropout[onnx]'"
        )
    import onnx

    core = _core(network)
    kind = "uint8" if preprocessing else "float"
    texts = [(_RESIZE if preprocessing else _AS_IT_IS) + _PAD, _SELECT]
    head = network.head.classification_head
    values = {
        "short": detector.test_size,
        "long": detector.max_size,
        "multiple": SHAPE_MULTIPLE,
        "almost": SHAPE_MULTIPLE - 1,
        "num_classes": head.num_classes,
        "numbers": ", ".join(map(str, range(head.num_classes))),
        "limit": detector.detections_per_image,
        "iou": detector.nms_iou,
        "threshold": detector.score_threshold,
        "smallest": SMALLEST_SIDE,
    }
    axes = (
        ("rows", "zero", 2, "images", _OF_ROWS),
        ("columns", "one", 3, "rows_mixed", _OF_COLUMNS),
    )
    values |= {
        f"{name}_of_resize": _AXIS.format(
            name=name, number=number, axis=axis, source=source, weights=weights
        )
        for name, number, axis, source, weights in axes
    }
    before, after = (text.format(**values) for text in texts)
    outputs = "float[D, 4] boxes, float[D] scores, int64[D] labels, int64[D] image_numbers"
    first = _parsed(
        f"before ({kind}[N, 3, H, W] {INPUT}) => (float[N, 3, R, 32, C, 32] tiles)", before
    )
    last = _parsed(
        f"after (float[N, M] score, int64[N, M] label, float[N, M, 4] box) => ({outputs})", after
    )
    graph = onnx.helper.make_graph(
        [*first.node, *core.graph.node, *last.node],
        "detector",
        first.input,
        last.output,
        [*_pixel_numbers(network, preprocessing), *core.graph.initializer],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    for part in (model, model.graph, *model.graph.node):
        del part.metadata_props[:]  # among them the source lines, with the paths of this machine
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _core(network: BatchedRetinaNet) -> Any:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.onnx.export(
            _OfTiles(network).eval(),
            (torch.zeros(_EXAMPLE),),
            dynamo=True,
            input_names=["tiles"],
            output_names=["score", "label", "box"],
            dynamic_shapes=({0: dynamic, 2: dynamic, 4: dynamic},),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return program.model_proto


def _parsed(head: str, body: str) -> Any:
    from onnx import parser

    return parser.parse_model(f"{_HEAD}\n{head}\n{{{body}}}").graph


def _pixel_numbers(network: BatchedRetinaNet, preprocessing: bool) -> Sequence[Any]:
    from onnx import numpy_helper

    if not preprocessing:
        return []
    numbers = (("mean", network.pixel_mean), ("std", network.pixel_std))
    return [numpy_helper.from_array(value.float().cpu().numpy(), name) for name, value in numbers]
