"""Exported detectors: torchvision built by the card's lines, onnxruntime and a loaded program."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from detectors import PIXELS, confident, small_recipe, write_detector_run
from torch import Tensor, nn

import detect
from common.errors import InputError
from common.runs import checkpoints
from detect import __main__ as command
from detect.data.batches import ImageBatch, padded_shape, resized_shape, to_original
from detect.export import onnx as onnx_export
from detect.export.detector_file import export_run
from detect.export.graph import DetectionGraph
from detect.export.torchvision_layout import torchvision_lines, torchvision_weights
from detect.network.retinanet import BatchedRetinaNet, build_retinanet

pytestmark = pytest.mark.usefixtures("narrow_bodies")
SIZES = [(1, 60, 90), (3, 64, 64), (2, 200, 101), (1, 20, 33), (1, 130, 40)]
"""Images, height and width: maps of a single pixel, and images that grow and shrink."""


def drawn(**settings: Any) -> tuple[BatchedRetinaNet, Any]:
    torch.manual_seed(0)
    recipe = small_recipe(**settings)
    network = build_retinanet(recipe.detector, "resnet18", 3, PIXELS["mean"], PIXELS["std"])
    confident(network)
    return network.eval(), recipe


def photos(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    small = torch.rand(count, 3, 1 + height // 8, 1 + width // 8, generator=generator)
    smooth = nn.functional.interpolate(small, (height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().byte()


def normalised(network: BatchedRetinaNet, images: Tensor) -> Tensor:
    pixels: Tensor = (images - network.pixel_mean) / network.pixel_std
    return pixels


def assert_same(found: Any, expected: Any) -> None:
    """Compare detections: boxes within 1e-3 pixels, scores within 1e-4, labels and images equal."""
    boxes, scores, labels, numbers = (torch.as_tensor(np.asarray(value)) for value in found)
    assert len(boxes) == len(expected[0]) > 10
    torch.testing.assert_close(boxes, expected[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-4)
    assert torch.equal(labels, expected[2]) and torch.equal(numbers, expected[3])


# ---- torchvision --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "batch", "trainable_stages": 3},
        {"norm": "batch", "trainable_stages": 5, "fpn_channels": 64, "head_norm": "group"},
    ],
    ids=["frozen", "batch", "as wide as C5, groups"],
)
def test_torchvision_is_built_by_the_lines(settings: dict[str, Any]) -> None:
    network, recipe = drawn(**settings, detections_per_image=30)
    weights = torchvision_weights(network, recipe)
    lines = torchvision_lines(network, recipe, PIXELS, "weights")
    assert max(map(len, lines)) < 300
    scope: dict[str, Any] = {"weights": weights}
    exec("\n".join(lines), scope)  # load_state_dict is strict
    image = photos(1, 64, 96)  # at the size of the recipe: neither side resizes
    with torch.inference_mode():
        (expected,) = network(ImageBatch(image.clone(), torch.tensor([[64, 96]])))
        (found,) = scope["model"]([image[0] / 255])
    assert len(found["boxes"]) == 30
    assert torch.equal(found["labels"], expected["labels"])
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["d.safetensors", "d.pth", "d \N{SAFETY VEST}.pth"])
def test_a_torchvision_file_and_its_card(
    tmp_path: Path, name: str, call_command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = write_detector_run(tmp_path / "run", ("cat", 'a "b"'))
    code, out, _ = call_command(command, "export", "--run", folder, "--out", tmp_path / name)
    assert code == 0
    card = json.loads((tmp_path / name).with_suffix(".json").read_text())
    assert card["classes"] == ["cat", 'a "b"'] and card["epoch"] == 1
    assert card["score_threshold"]["show_from"] == 0.5 and card["returned_above"] == 0.05
    assert card["sizes"] == {"short_side": 64, "longest_side": 96}
    recipe = json.loads((folder / "recipe.json").read_text())["recipe"]["detector"]
    assert recipe["nms_iou"] != recipe["score_threshold"]
    for key in ("nms_iou", "detections_per_image"):
        assert card[key] == recipe[key]
    assert card["metrics"]["val_map_area"] == 0.5
    # The card names the file beside it; what is printed, the path as it was given.
    printed = [line.replace(f'"{name}"', f'"{tmp_path / name}"') for line in card["use"]]
    assert printed != card["use"] and all(line.strip() in out for line in printed)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec("\n".join(card["use"]), {})
    finally:
        os.chdir(before)


def test_a_run_without_validation_has_no_metrics_to_tell(
    tmp_path: Path, call_command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = write_detector_run(tmp_path / "run")
    for metrics, end in (
        ({}, "epoch 1\n"),
        ({"val_coco_ap": 0.25}, "epoch 1, val_coco_ap 0.2500\n"),
    ):
        checkpoints.save(
            checkpoints.load(folder / "last.pt") | {"metrics": metrics}, folder / "last.pt"
        )
        out = tmp_path / "d.pth"
        code, told, _ = call_command(command, "export", "--run", folder, "--out", out)
        assert code == 0 and f"last checkpoint of {end}" in told


def test_what_cannot_be_exported(
    tmp_path: Path, call_command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = write_detector_run(tmp_path / "run")
    for out, layout in (("a.txt", "torchvision"), ("a.pth", "onnx"), ("a.onnx", "torch-export")):
        code, _, err = call_command(
            command, "export", "--run", folder, "--out", tmp_path / out, "--format", layout
        )
        assert code == 2 and "the name must end in" in err and err.count("\n") == 1
    # Before the network is written down, which takes minutes.
    (tmp_path / "b.json").write_text('{"sha256": "0", "file": "b.pth"}')
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(InputError, match=r"is the card of b\.pth, which would lose it"),
    ):
        patch.setattr("detect.export.detector_file.onnx_bytes", lambda *_, **__: 1 / 0)
        export_run(folder, "onnx", tmp_path / "b.onnx")
    (folder / "last.pt").unlink()
    with pytest.raises(InputError, match=r"last\.pt is missing"):
        export_run(folder, "torchvision", tmp_path / "a.pth")
    export_run(folder, "torchvision", tmp_path / "a.pth", "best")


# ---- graphs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocessing", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_graph_is_the_detector(preprocessing: bool, size: tuple[int, int, int]) -> None:
    """With the detector's own padding, and with boxes taken back by the pipeline's function."""
    network, recipe = drawn()
    settings = recipe.detector
    count, *shape = size
    images = photos(*size)
    resized = resized_shape((shape[0], shape[1]), settings.test_size, settings.max_size)
    pixels = nn.functional.interpolate(images.float(), resized, mode="bilinear")
    padded = torch.zeros(count, 3, *padded_shape(resized))
    padded[..., : resized[0], : resized[1]] = pixels
    graph = DetectionGraph(network, settings, preprocessing=preprocessing)
    with torch.inference_mode():
        expected = network(ImageBatch(padded, torch.tensor([resized] * count)))
        found = graph(images if preprocessing else normalised(network, pixels))
    for number, one in enumerate(expected):
        mine = [value[found[3] == number] for value in found]
        target = shape if preprocessing else resized
        sizes = np.array(resized[::-1]), np.array(target[::-1])
        box, kept = to_original(one["boxes"].double().numpy(), *sizes)
        assert kept.sum() > 10  # those with an area
        boxes = torch.from_numpy(box[kept]).float()
        torch.testing.assert_close(mine[0], boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(mine[1], one["scores"][kept], rtol=0, atol=1e-5)
        assert torch.equal(mine[2], one["labels"][kept])


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, narrow_bodies: None
) -> Iterator[tuple[Path, Path]]:
    """A run and its graphs, each traced once: it takes seconds."""
    root = tmp_path_factory.mktemp("exported")
    folder = write_detector_run(root / "run", ("a", "b", "c"))
    traced: list[Any] = []
    trace = onnx_export._core

    def once(network: BatchedRetinaNet) -> Any:
        if not traced:
            traced.append(trace(network))
        return traced[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_core", once)
        export_run(folder, "onnx", root / "whole.onnx")
        export_run(folder, "onnx", root / "network.onnx", preprocessing=False)
    yield folder, root


def graph_of(folder: Path, *, preprocessing: bool) -> DetectionGraph:
    opened = detect.load(folder, device="cpu")
    return DetectionGraph(opened._network, opened.settings, preprocessing=preprocessing)


@pytest.mark.parametrize("size", SIZES)
def test_onnxruntime_finds_what_torch_finds(
    exported: tuple[Path, Path], size: tuple[int, int, int]
) -> None:
    folder, root = exported
    images = photos(*size)
    for name, preprocessing in (("whole", True), ("network", False)):
        graph = graph_of(folder, preprocessing=preprocessing)
        given = images
        if not preprocessing:
            given = (images - graph.mean) / graph.std
        session = onnxruntime.InferenceSession(root / f"{name}.onnx")
        with torch.inference_mode():
            expected = graph(given)
        assert_same(session.run(None, {"images": given.numpy()}), expected)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch 2.11
def test_a_loaded_program_finds_what_torch_finds(exported: tuple[Path, Path]) -> None:
    folder, root = exported
    # With preprocessing it takes four times as long, and its sizes are those of the test above.
    export_run(folder, "torch-export", root / "program.pt2", preprocessing=False)
    program = torch.export.load(root / "program.pt2").module(check_guards=False)  # in seconds
    graph = graph_of(folder, preprocessing=False)
    for size in SIZES:
        images = (photos(*size) - graph.mean) / graph.std
        with torch.inference_mode():
            expected, found = graph(images), program(images)
        assert_same(found, expected)


class Suppressing(nn.Module):
    """The part of a program whose sizes are data."""

    def __init__(self, graph: DetectionGraph) -> None:
        super().__init__()
        self.whole = graph

    def forward(self, box: torch.Tensor, score: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.whole._suppress(box, score, image, torch.zeros_like(image), 100)


@pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")
def test_a_program_takes_images_on_which_one_or_no_object_is_found() -> None:
    network, recipe = drawn()
    given = torch.tensor([[5.0, 5, 9, 9], [5, 5, 9, 9], [20, 20, 40, 30]]), torch.ones(3)
    given = *given, torch.tensor([0, 1, 1])
    graph = DetectionGraph(network, recipe.detector, preprocessing=True)
    rows = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Suppressing(graph), given, dynamic_shapes=(rows, rows, rows))
    suppress = program.module(check_guards=False)
    assert [len(suppress(*(value[:n] for value in given))) for n in (3, 2, 1, 0)] == [3, 2, 1, 0]


def test_the_lines_of_the_cards_run(
    exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, root = exported
    monkeypatch.chdir(root)
    for name in ("whole.onnx", "network.onnx"):  # the program is loaded above
        lines = (root / name).with_suffix(".json")
        scope: dict[str, Any] = {}
        exec("\n".join(json.loads(lines.read_text())["use"]), scope)
        assert scope["boxes"].shape[1] == 4
    for trace in (b".py", b"/home", str(Path(torch.__file__).parent).encode()):
        assert trace not in (root / "whole.onnx").read_bytes()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"onnx": object(), "onnxscript": None}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found[name])
    network, recipe = drawn()
    with pytest.raises(InputError, match=r"need onnxscript: pip install 'focused-dropout\[onnx\]'"):
        onnx_export.onnx_bytes(network, recipe.detector, preprocessing=True)
